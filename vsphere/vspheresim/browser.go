package vspheresim

import (
	"strconv"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// browserFront answers the calls on EnvironmentBrowser.
type browserFront struct{ receiver }

// furnishBrowsers gives every browser the hardware versions of vSphere 8 hosts and the maximums of a machine.
func (s *Sim) furnishBrowsers() {
	for _, o := range s.registry().AllReference("EnvironmentBrowser") {
		b, ok := o.(*simulator.EnvironmentBrowser)
		if !ok {
			continue
		}
		var list []types.VirtualMachineConfigOptionDescriptor
		var hosts []ref
		for _, h := range s.browserHosts(b.Self, nil) {
			hosts = append(hosts, h.Self)
		}
		for _, v := range types.GetHardwareVersions() {
			list = append(list, types.VirtualMachineConfigOptionDescriptor{
				Key: v.String(), Description: v.String(), Host: hosts, DefaultConfigOption: v.String() == s.release().hardware,
				CreateSupported: true, RunSupported: true, UpgradeSupported: true,
			})
			if v.String() == s.release().hardware {
				break
			}
		}
		b.QueryConfigOptionDescriptorResponse.Returnval = list
	}
}

// browserHosts returns the hosts that a browser describes: one, or those of the cluster.
func (s *Sim) browserHosts(browser ref, one *ref) []*simulator.HostSystem {
	var out []*simulator.HostSystem
	for _, e := range append(s.registry().All("ComputeResource"), s.registry().All("ClusterComputeResource")...) {
		c := s.compute(e.Reference())
		if c == nil || c.EnvironmentBrowser == nil || *c.EnvironmentBrowser != browser {
			continue
		}
		for _, r := range c.Host {
			if h := s.host(r); h != nil && (one == nil || *one == r) {
				out = append(out, h)
			}
		}
	}
	return out
}

// QueryConfigTarget adds to the answer of govmomi's simulator the devices of the hosts. API reference: EnvironmentBrowser.QueryConfigTarget,
// ConfigTarget.pciPassthrough, .sriov, .sharedGpuPassthroughTypes, .dynamicPassthrough, .vgpuDeviceInfo, .vgpuProfileInfo.
func (f *browserFront) QueryConfigTarget(ctx *simulator.Context, req *types.QueryConfigTarget) soap.HasFault {
	s := f.sim
	b, ok := s.registry().Get(req.This).(*simulator.EnvironmentBrowser)
	if !ok {
		return &methods.QueryConfigTargetBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: req.This})}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	hosts := s.browserHosts(req.This, req.Host)
	if req.Host != nil && len(hosts) == 0 {
		return &methods.QueryConfigTargetBody{Fault_: soapFault(invalid("host"))}
	}
	res := b.QueryConfigTarget(ctx, req)
	body, ok := res.(*methods.QueryConfigTargetBody)
	if !ok || body.Res == nil || body.Res.Returnval == nil {
		return res
	}
	t := *body.Res.Returnval
	t.NumNumaNodes = hostNUMANodes
	for _, h := range hosts {
		t.MaxCpusPerHost = max(t.MaxCpusPerHost, int32(h.Summary.Hardware.NumCpuThreads))
		t.SupportedMaxMemMB, t.MaxMemMBOptimalPerf = maxVMMemoryMB, int32(h.Summary.Hardware.MemorySize>>20)
		s.targetDevices(&t, h)
	}
	return &methods.QueryConfigTargetBody{Res: &types.QueryConfigTargetResponse{Returnval: &t}}
}

func (s *Sim) targetDevices(t *types.ConfigTarget, h *simulator.HostSystem) {
	free := s.freeDevices(h, nil)
	system := h.Hardware.SystemInfo.Uuid
	for _, d := range h.Hardware.PciDevice {
		for _, b := range h.Config.PciPassthruInfo {
			i := b.GetHostPciPassthruInfo()
			if i.Id != d.Id {
				continue
			}
			info := types.VirtualMachinePciPassthroughInfo{PciDevice: d, SystemId: system}
			info.Name = d.DeviceName
			if i.PassthruActive && !free.whole[d.Id] {
				t.PciPassthrough = append(t.PciPassthrough, &info)
				dyn := types.VirtualMachineDynamicPassthroughInfo{
					VendorName: d.VendorName, DeviceName: d.DeviceName, CustomLabel: i.HardwareLabel,
					VendorId: int32(uint16(d.VendorId)), DeviceId: int32(uint16(d.DeviceId)),
				}
				dyn.Name = d.DeviceName
				t.DynamicPassthrough = append(t.DynamicPassthrough, dyn)
			}
			if v, ok := b.(*types.HostSriovInfo); ok && v.SriovActive && s.licensed(FeatureSRIOV) {
				t.Sriov = append(t.Sriov, types.VirtualMachineSriovInfo{VirtualMachinePciPassthroughInfo: info})
			}
		}
	}
	if !s.licensed(FeatureVGPU) {
		return
	}
	for _, g := range free.gpus {
		if len(g.Profiles) == 0 || free.whole[g.Address] {
			continue
		}
		dev := types.VirtualMachineVgpuDeviceInfo{
			DeviceName: g.Product, DeviceVendorId: int64(g.VendorID), MaxFbSizeInGib: g.MemoryMB / 1024, TimeSlicedCapable: true,
			ComputeProfileCapable: true, QuadroProfileCapable: true,
		}
		dev.Name = g.Product
		t.VgpuDeviceInfo = append(t.VgpuDeviceInfo, dev)
		for _, p := range g.Profiles {
			if free.share(p) == "" {
				continue
			}
			shared := types.VirtualMachinePciSharedGpuPassthroughInfo{Vgpu: p}
			shared.Name = p
			t.SharedGpuPassthroughTypes = append(t.SharedGpuPassthroughTypes, shared)
			prof := types.VirtualMachineVgpuProfileInfo{
				ProfileName: p, DeviceVendorId: int64(g.VendorID), FbSizeInGib: profileGiB(p), ProfileSharing: "timeSliced", ProfileClass: "compute",
			}
			prof.Name = p
			t.VgpuProfileInfo = append(t.VgpuProfileInfo, prof)
		}
	}
}

func profileGiB(profile string) int64 {
	i := strings.LastIndexByte(profile, '-')
	n, _ := strconv.ParseInt(strings.TrimRight(profile[i+1:], "abcdefghijklmnopqrstuvwxyz"), 10, 64)
	return n
}

// QueryConfigOptionEx and QueryConfigOption return the maximums of a machine. API reference: VirtualHardwareOption.numCPU, .memoryMB; the numbers are
// vSphere's configuration maximums.
func (f *browserFront) QueryConfigOptionEx(_ *simulator.Context, req *types.QueryConfigOptionEx) soap.HasFault {
	s := f.sim
	b, ok := s.registry().Get(req.This).(*simulator.EnvironmentBrowser)
	if !ok {
		return &methods.QueryConfigOptionExBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: req.This})}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := b.QueryConfigOptionEx(req).(*methods.QueryConfigOptionExBody)
	if body != nil && body.Res != nil && body.Res.Returnval != nil {
		o := *body.Res.Returnval
		s.setMaximums(&o)
		body = &methods.QueryConfigOptionExBody{Res: &types.QueryConfigOptionExResponse{Returnval: &o}}
	}
	return body
}

func (f *browserFront) QueryConfigOption(_ *simulator.Context, req *types.QueryConfigOption) soap.HasFault {
	s := f.sim
	b, ok := s.registry().Get(req.This).(*simulator.EnvironmentBrowser)
	if !ok {
		return &methods.QueryConfigOptionBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: req.This})}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := b.QueryConfigOption(req).(*methods.QueryConfigOptionBody)
	if body != nil && body.Res != nil && body.Res.Returnval != nil {
		o := *body.Res.Returnval
		s.setMaximums(&o)
		body = &methods.QueryConfigOptionBody{Res: &types.QueryConfigOptionResponse{Returnval: &o}}
	}
	return body
}

func (s *Sim) setMaximums(o *types.VirtualMachineConfigOption) {
	o.Version, o.Description = s.release().hardware, "ESXi "+s.release().version+" virtual machine"
	h := &o.HardwareOptions
	h.HwVersion, h.NumCPU = 21, nil
	for n := int32(1); n <= maxVMCPUs; n++ {
		h.NumCPU = append(h.NumCPU, n)
	}
	h.NumCoresPerSocket = types.IntOption{Min: 1, Max: maxVMCPUs, DefaultValue: 1}
	h.MemoryMB = types.LongOption{Min: 4, Max: maxVMMemoryMB, DefaultValue: 2048}
	o.Capabilities.SnapshotOperationsSupported, o.Capabilities.RevertToSnapshotSupported = true, true
	o.Capabilities.MemorySnapshotsSupported, o.Capabilities.QuiescedSnapshotsSupported = true, true
}
