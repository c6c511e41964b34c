package vspheresim

import (
	"fmt"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// hostState is what the simulator knows about a host beyond its properties.
type hostState struct {
	gpus []GPU
}

const (
	hostCPUMHz    = 2600
	hostNUMANodes = 2
	maxVMCPUs     = 768      // vSphere 8 configuration maximums, hardware version 21
	maxVMMemoryMB = 25149440 // the same: 24 TB and a little
	maxHostVMs    = 1024     // configuration maximums: virtual machines per host
	maxHostVCPUs  = 4096     // configuration maximums: virtual CPUs per host
)

func (g GPU) withDefaults(i int) GPU {
	if g.Address == "" {
		g.Address = fmt.Sprintf("0000:%02x:00.0", 0x3b+i*0x10)
	}
	if g.Class == 0 {
		g.Class = 0x0302
	}
	if g.Vendor == "" {
		g.Vendor = "NVIDIA Corporation"
	}
	if g.Product == "" {
		g.Product = fmt.Sprintf("Device %04x", g.DeviceID)
	}
	return g
}

// furnish gives the hosts and the services what a vSphere 8 installation has, and adds the machines.
func (s *Sim) furnish() error {
	ctx := s.newContext()
	for _, h := range s.allHosts() {
		s.furnishHost(ctx, h)
	}
	s.repairEvents()
	s.furnishBrowsers()
	for _, e := range s.registry().All("ClusterComputeResource") {
		c := s.cluster(e.Reference())
		if cfg, ok := c.ConfigurationEx.(*types.ClusterConfigInfoEx); ok {
			cfg.DrsConfig.Enabled = types.NewBool(s.licensed(FeatureDRS))
			cfg.DrsConfig.DefaultVmBehavior = types.DrsBehaviorFullyAutomated
			cfg.DasConfig.Enabled = types.NewBool(false)
		}
	}
	s.furnishLicences()
	s.furnishGuestOperations()
	return s.furnishVMs(ctx)
}

func (s *Sim) furnishHost(ctx *simulator.Context, h *simulator.HostSystem) {
	reg := s.registry()
	s.hosts[h.Self] = &hostState{gpus: s.cfg.GPUs}
	memory := s.cfg.HostMemoryMB << 20
	cores := int16(s.cfg.HostCores)

	s.lock(ctx, h, func() {
		hw := h.Summary.Hardware
		hw.NumCpuCores, hw.NumCpuThreads, hw.NumCpuPkgs = cores, cores*2, hostNUMANodes
		hw.CpuMhz, hw.MemorySize = hostCPUMHz, memory
		hw.CpuModel = "Intel(R) Xeon(R) Gold 6348 CPU @ 2.60GHz"
		h.Summary.QuickStats.OverallCpuUsage, h.Summary.QuickStats.OverallMemoryUsage = 0, 2048

		full := clone(*h.Hardware)
		full.CpuInfo = types.HostCpuInfo{NumCpuPackages: hostNUMANodes, NumCpuCores: cores, NumCpuThreads: cores * 2, Hz: hostCPUMHz * 1_000_000}
		full.MemorySize = memory
		full.NumaInfo = numaInfo(s.cfg)
		full.PciDevice = append(full.PciDevice, pciDevices(s.cfg.GPUs)...)
		h.Hardware = &full

		c := h.Config
		c.Product.Version, c.Product.ApiVersion, c.Product.Build = s.release().version, s.release().api, s.release().build
		c.Product.FullName = "VMware ESXi 8.0.3 build-24280767"
		product := c.Product
		h.Summary.Config.Product = &product
		// Which keys a host reports is believed; that VT-x and EPT are among the feature capabilities is documented
		// in HostConfigInfo.featureCapability.
		c.FeatureCapability = []types.HostFeatureCapability{
			{Key: "cpuid.Intel", FeatureName: "cpuid.Intel", Value: "1"},
			{Key: "cpuid.VMX", FeatureName: "cpuid.VMX", Value: "1"},
			{Key: "hv.capable", FeatureName: "hv.capable", Value: "1"},
			{Key: "vt.realmode", FeatureName: "vt.realmode", Value: "1"},
		}
		setPassthroughInfo(h, s.cfg.GPUs)

		cap := clone(*h.Capability)
		yes := true
		cap.MaxSupportedVcpus, cap.MaxHostSupportedVcpus, cap.MaxSupportedVmMemory = maxVMCPUs, maxHostVCPUs, maxVMMemoryMB
		cap.MaxSupportedVMs, cap.MaxRunningVMs, cap.MaxHostRunningVms, cap.MaxRegisteredVMs = maxHostVMs, maxHostVMs, maxHostVMs, 4*maxHostVMs
		cap.VmotionSupported, cap.StorageVMotionSupported, cap.VmotionWithStorageVMotionSupported = true, true, true
		cap.NestedHVSupported, cap.VPMCSupported, cap.MaintenanceModeSupported = true, true, true
		cap.CloneFromSnapshotSupported, cap.DeltaDiskBackingsSupported = true, true
		cap.CpuHwMmuSupported, cap.AssignableHardwareSupported, cap.VmDirectPathGen2Supported = &yes, &yes, &yes
		h.Capability = &cap
	})

	pci := &mo.HostPciPassthruSystem{PciPassthruInfo: h.Config.PciPassthruInfo}
	pci.Self = ref{Type: "HostPciPassthruSystem", Value: "passthru-" + h.Self.Value}
	gfx := &mo.HostGraphicsManager{
		GraphicsInfo: h.Config.GraphicsInfo, GraphicsConfig: h.Config.GraphicsConfig,
		SharedPassthruGpuTypes: h.Config.SharedPassthruGpuTypes, SharedGpuCapabilities: h.Config.SharedGpuCapabilities,
	}
	gfx.Self = ref{Type: "HostGraphicsManager", Value: "graphics-" + h.Self.Value}
	dt := &mo.HostDateTimeSystem{DateTimeInfo: types.HostDateTimeInfo{TimeZone: types.HostDateTimeSystemTimeZone{Key: "UTC", Name: "UTC", Description: "UTC"}}}
	dt.Self = ref{Type: "HostDateTimeSystem", Value: "datetime-" + h.Self.Value}
	for _, o := range []mo.Reference{pci, gfx, dt} {
		reg.Put(o)
	}
	h.ConfigManager.PciPassthruSystem, h.ConfigManager.GraphicsManager, h.ConfigManager.DateTimeSystem = &pci.Self, &gfx.Self, &dt.Self

	if c := s.computeOfHost(h); c != nil {
		s.summarize(ctx, c)
	}
}

// summarize adds up the hosts of a cluster, as in ComputeResourceSummary: effective numbers leave out hosts in maintenance mode and hosts that are
// not connected.
func (s *Sim) summarize(ctx *simulator.Context, c *mo.ComputeResource) {
	var obj mo.Reference = c
	if cl, ok := s.registry().Get(c.Self).(*simulator.ClusterComputeResource); ok {
		obj = cl
	}
	s.lock(ctx, obj, func() {
		sum := c.Summary.GetComputeResourceSummary()
		sum.TotalCpu, sum.TotalMemory, sum.NumCpuCores, sum.NumCpuThreads = 0, 0, 0, 0
		sum.EffectiveCpu, sum.EffectiveMemory, sum.NumHosts, sum.NumEffectiveHosts = 0, 0, 0, 0
		for _, r := range c.Host {
			h := s.host(r)
			if h == nil {
				continue
			}
			hw := h.Summary.Hardware
			sum.TotalCpu += hw.CpuMhz * int32(hw.NumCpuCores)
			sum.TotalMemory += hw.MemorySize
			sum.NumCpuCores += hw.NumCpuCores
			sum.NumCpuThreads += hw.NumCpuThreads
			sum.NumHosts++
			if usable(h) {
				sum.EffectiveCpu += hw.CpuMhz * int32(hw.NumCpuCores)
				sum.EffectiveMemory += hw.MemorySize >> 20
				sum.NumEffectiveHosts++
			}
		}
	})
}

// usable reports whether a host runs machines.
func usable(h *simulator.HostSystem) bool {
	return !h.Runtime.InMaintenanceMode && h.Runtime.ConnectionState == types.HostSystemConnectionStateConnected
}

func numaInfo(cfg Config) *types.HostNumaInfo {
	info := &types.HostNumaInfo{Type: "NUMA", NumNodes: hostNUMANodes}
	per := cfg.HostCores * 2 / hostNUMANodes
	for n := range hostNUMANodes {
		node := types.HostNumaNode{TypeId: byte(n), MemorySize: cfg.HostMemoryMB << 20 / hostNUMANodes}
		for cpu := range per {
			node.CpuID = append(node.CpuID, int16(n*per+cpu))
		}
		for _, g := range cfg.GPUs {
			if g.NUMANode == n {
				node.PciId = append(node.PciId, g.Address)
			}
		}
		info.NumaNode = append(info.NumaNode, node)
	}
	return info
}

// pciDevices is the list of PCI devices of the GPUs. API reference: HostPciDevice; the IDs are xsd:short, so those above 0x7fff
// are negative.
func pciDevices(gpus []GPU) []types.HostPciDevice {
	var out []types.HostPciDevice
	for _, g := range gpus {
		var domain, bus, slot, function int
		_, _ = fmt.Sscanf(g.Address, "%x:%x:%x.%x", &domain, &bus, &slot, &function)
		class := map[uint16]string{0x0300: "VGA compatible controller", 0x0302: "3D controller", 0x0200: "Ethernet controller", 0x1200: "Processing accelerators"}[g.Class]
		out = append(out, types.HostPciDevice{
			Id: g.Address, ClassId: int16(g.Class), Bus: byte(bus), Slot: byte(slot), Function: byte(function),
			VendorId: int16(g.VendorID), DeviceId: int16(g.DeviceID), SubVendorId: int16(g.VendorID),
			VendorName: g.Vendor, DeviceName: g.Product, DeviceClassName: class,
			PhysicalSlot: int32(slot), ParentBridge: "0000:00:01.0",
		})
	}
	return out
}

// setPassthroughInfo fills in what a host reports about its devices. API reference: HostConfigInfo.pciPassthruInfo, graphicsInfo, graphicsConfig,
// sharedPassthruGpuTypes, sharedGpuCapabilities.
func setPassthroughInfo(h *simulator.HostSystem, gpus []GPU) {
	c := h.Config
	c.PciPassthruInfo, c.GraphicsInfo, c.SharedPassthruGpuTypes, c.SharedGpuCapabilities = nil, nil, nil, nil
	isGPU := map[string]GPU{}
	for _, g := range gpus {
		isGPU[g.Address] = g
	}
	for _, d := range h.Hardware.PciDevice {
		g, ok := isGPU[d.Id]
		info := types.HostPciPassthruInfo{Id: d.Id, DependentDevice: d.Id, PassthruCapable: ok && !g.NoPassthrough}
		info.PassthruEnabled, info.PassthruActive = ok && g.Passthrough, ok && g.Passthrough
		if ok && g.VirtualFunctions > 0 {
			c.PciPassthruInfo = append(c.PciPassthruInfo, &types.HostSriovInfo{
				HostPciPassthruInfo: info, SriovCapable: true, MaxVirtualFunctionSupported: int32(g.VirtualFunctions),
			})
			continue
		}
		if d.ClassId == 0x0200 { // a NIC: the model's NICs can be cut into virtual functions
			c.PciPassthruInfo = append(c.PciPassthruInfo, &types.HostSriovInfo{
				HostPciPassthruInfo: types.HostPciPassthruInfo{Id: d.Id, DependentDevice: d.Id, PassthruCapable: true},
				SriovCapable:        true, MaxVirtualFunctionSupported: 8,
			})
			continue
		}
		c.PciPassthruInfo = append(c.PciPassthruInfo, &info)
	}
	c.GraphicsConfig = &types.HostGraphicsConfig{HostDefaultGraphicsType: "shared", SharedPassthruAssignmentPolicy: "performance"}
	for _, g := range gpus {
		if g.Class>>8 != 0x03 {
			continue // no display device
		}
		kind := "basic"
		if len(g.Profiles) > 0 {
			kind = "sharedDirect"
		}
		c.GraphicsInfo = append(c.GraphicsInfo, types.HostGraphicsInfo{
			DeviceName: g.Product, VendorName: g.Vendor, PciId: g.Address, GraphicsType: kind, MemorySizeInKB: g.MemoryMB << 10,
		})
		c.GraphicsConfig.DeviceType = append(c.GraphicsConfig.DeviceType, types.HostGraphicsConfigDeviceType{DeviceId: g.Address, GraphicsType: kind})
		for _, p := range g.Profiles {
			if !contains(c.SharedPassthruGpuTypes, p) {
				c.SharedPassthruGpuTypes = append(c.SharedPassthruGpuTypes, p)
				c.SharedGpuCapabilities = append(c.SharedGpuCapabilities, types.HostSharedGpuCapabilities{
					Vgpu: p, DiskSnapshotSupported: true, MemorySnapshotSupported: true, SuspendSupported: true, MigrateSupported: true,
				})
			}
		}
	}
}

func contains(list []string, v string) bool {
	for _, x := range list {
		if x == v {
			return true
		}
	}
	return false
}
