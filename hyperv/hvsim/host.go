package hvsim

import (
	"fmt"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/krbd"
)

// Namespaces of a host.
const (
	nsVirt    = "root/virtualization/v2"
	nsCIMV2   = "root/cimv2"
	nsCluster = "root/MSCluster"
)

// Host is one simulated host.
type Host struct {
	sim     *Sim
	cfg     HostConfig
	index   int
	virt    *space // nil where Hyper-V is not installed
	cimv2   *space
	clus    *space // nil outside a cluster
	os      *cimx.Instance
	self    *cimx.Instance
	vmms    *cimx.Instance
	files   *disks
	folders folders
	vms     map[string]*machine // by GUID, planned ones too
	order   []*machine
	byConf  map[*cimx.Instance]*config // by settings instance, of machines and checkpoints
	jobs    map[*cimx.Instance]*job
	held    map[string]time.Time // images that the host has open until then
	gpus    []*pciDevice
	macs    uint32
	front   *front
	migr    *cimx.Instance // migration service settings
	// acceptor takes Kerberos logins; nil outside a domain.
	acceptor *krbd.Acceptor
}

func (c *HostConfig) fill(n int) {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.Name, fmt.Sprintf("HV%02d", n+1))
	def(&c.MigrationAddr, fmt.Sprintf("10.0.0.%d", n+1))
	def(&c.CPU.Vendor, "GenuineIntel")
	def(&c.CPU.Model, "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz")
	if c.Build == 0 {
		c.Build = 20348
		if c.Edition.client() {
			c.Build = 22631
		}
	}
	if c.MemoryMB == 0 {
		c.MemoryMB = 65536
	}
	if c.Processors == 0 {
		c.Processors = 16
	}
	if c.NUMANodes == 0 {
		c.NUMANodes = 1
	}
	if c.DiskMB == 0 {
		c.DiskMB = 1 << 20
	}
	if c.Switches == nil {
		c.Switches = []Switch{{Name: "External", IOV: true}}
	}
}

// Name is the computer name.
func (h *Host) Name() string { return h.cfg.Name }

func newHost(s *Sim, n int, c HostConfig) *Host {
	h := &Host{sim: s, cfg: c, index: n, files: newDisks(), folders: folders{}, vms: map[string]*machine{}, byConf: map[*cimx.Instance]*config{}, jobs: map[*cimx.Instance]*job{}, held: map[string]time.Time{}}
	h.cimv2 = newSpace(nsCIMV2, c.Name, c.Build)
	h.addCIMV2()
	h.addFolders()
	if !c.NoHyperV {
		h.virt = newSpace(nsVirt, c.Name, c.Build)
		h.addServices()
		h.addSwitches()
		h.addDefinitions()
		h.addNUMA()
		h.virt.virtual[h.virt.ns.Class("Msvm_VirtualSystemExportSettingData")] = h.exportClass()
		h.virt.virtual[h.virt.ns.Class("Msvm_SummaryInformation")] = h.summaryClass()
	}
	h.addDevices()
	return h
}

func (h *Host) space(namespace string) *space {
	switch strings.ToLower(strings.Trim(strings.ReplaceAll(namespace, `\`, "/"), "/")) {
	case nsVirt:
		return h.virt
	case nsCIMV2:
		return h.cimv2
	case strings.ToLower(nsCluster):
		return h.clus
	}
	return nil
}

// service adds one of the singleton services; names are those of real hosts [G,O] where not marked.
func (h *Host) service(class, name, title string) *cimx.Instance {
	return h.virt.add(h.virt.new(class).Set("SystemCreationClassName", "Msvm_ComputerSystem").Set("SystemName", h.cfg.Name).
		Set("CreationClassName", class).Set("Name", name).Set("ElementName", title).Set("Caption", title).
		Set("EnabledState", 5).Set("HealthState", 5).Set("OperationalStatus", []any{2}).Set("Started", true))
}

func (h *Host) addServices() {
	v, name := h.virt, h.cfg.Name
	h.self = v.add(v.new("Msvm_ComputerSystem").Set("CreationClassName", "Msvm_ComputerSystem").Set("Name", name).Set("ElementName", name).
		Set("Caption", "Hosting Computer System").Set("Description", "Microsoft Hosting Computer System").
		Set("EnabledState", 2).Set("RequestedState", 12).Set("HealthState", 5).Set("OperationalStatus", []any{2}).
		Set("StatusDescriptions", []any{"OK"}).Set("Status", "OK").Set("InstallDate", cimx.Datetime(h.sim.now())))
	h.vmms = h.service("Msvm_VirtualSystemManagementService", "vmms", "Hyper-V Virtual System Management Service")
	h.service("Msvm_VirtualSystemSnapshotService", "vssnapsvc", "Hyper-V Virtual System Snapshot Service")
	h.service("Msvm_ImageManagementService", "vhdsvc", "Hyper-V Image Management Service") // name believed
	h.service("Msvm_VirtualEthernetSwitchManagementService", "nvspwmi", "Hyper-V Networking Management Service")
	h.service("Msvm_ResourcePoolConfigurationService", "rpsvc", "Hyper-V Resource Pool Configuration Service") // name believed
	v.add(v.new("Msvm_VirtualSystemManagementServiceSettingData").Set("InstanceID", "Microsoft:vmms").
		Set("DefaultExternalDataRoot", `C:\ProgramData\Microsoft\Windows\Hyper-V`).
		Set("DefaultVirtualHardDiskPath", defaultDiskDir).Set("NumaSpanningEnabled", true).
		Set("EnhancedSessionModeEnabled", false).Set("MinimumMacAddress", "00155D000000").Set("MaximumMacAddress", "00155DFFFFFF"))
	if h.cfg.Edition.client() {
		return
	}
	h.service("Msvm_AssignableDeviceService", "ads", "Hyper-V Assignable Device Service") // name believed
	h.service("Msvm_ReplicationService", "vmrsvc", "Hyper-V Replication Service")         // name believed
	h.service("Msvm_VirtualSystemMigrationService", "migrationwmi", "Hyper-V Virtual System Migration Service").
		Set("MigrationServiceListenerIPAddressList", h.listeners())
	h.migr = v.add(v.new("Msvm_VirtualSystemMigrationServiceSettingData").Set("InstanceID", "Microsoft:migrationwmi").
		Set("EnableVirtualSystemMigration", !h.cfg.NoMigration).Set("MaximumActiveVirtualSystemMigration", 2).
		Set("MaximumActiveStorageMigration", 2).Set("AuthenticationType", map[bool]int{true: authCredSSP, false: authKerberos}[h.cfg.MigrationCredSSP]).Set("EnableCompression", true).Set("EnableSmbTransport", true))
	for _, t := range []int{32768, 32769, 32770, 32771, 32772} { // five instances [O]
		v.add(v.new("Msvm_VirtualSystemMigrationSettingData").Set("InstanceID", fmt.Sprintf(`Microsoft:Definition\Migration\%d`, t)).
			Set("ElementName", "Virtual System Migration Setting").Set("MigrationType", t).Set("TransportType", 5).Set("EnableCompression", true))
	}
}

func (h *Host) listeners() []any {
	if h.cfg.NoMigration || h.cfg.NoListeners {
		return nil
	}
	return []any{h.cfg.MigrationAddr}
}

func (h *Host) addSwitches() {
	for _, sw := range h.cfg.Switches {
		id := h.sim.newID()
		v := h.virt
		v.add(v.new("Msvm_VirtualEthernetSwitch").Set("CreationClassName", "Msvm_VirtualEthernetSwitch").Set("Name", id).Set("ElementName", sw.Name).
			Set("EnabledState", 5).Set("HealthState", 5).Set("OperationalStatus", []any{2}).Set("MaxIOVOffloads", map[bool]int{true: 0, false: 64}[sw.NoIOV]))
		v.add(v.new("Msvm_VirtualEthernetSwitchSettingData").Set("InstanceID", "Microsoft:"+id).Set("ElementName", sw.Name).
			Set("VirtualSystemIdentifier", id).Set("VirtualSystemType", "DMTF:Virtual Ethernet Switch").Set("IOVPreferred", sw.IOV && !sw.NoIOV))
		v.add(v.new("Msvm_EthernetSwitchHardwareOffloadData").Set("InstanceID", "Microsoft:"+id+`\HwOffload`).
			Set("IovVfCapacity", map[bool]int{true: 0, false: 64}[sw.NoIOV]))
	}
}

func (h *Host) addNUMA() {
	per := h.cfg.Processors / h.cfg.NUMANodes
	for n := range h.cfg.NUMANodes {
		h.virt.add(h.virt.new("Msvm_NumaNode").Set("NodeID", fmt.Sprintf(`Microsoft:PhysicalNode\%d`, n)).Set("ElementName", "Processors and Memory for NUMA node").
			Set("NumberOfLogicalProcessors", per).Set("NumberOfProcessorCores", max(1, per/2)).
			Set("CurrentlyConsumableMemoryBlocks", h.cfg.MemoryMB/uint64(h.cfg.NUMANodes)))
	}
	for n := range h.cfg.Processors {
		h.virt.add(h.virt.new("Msvm_Processor").Set("SystemCreationClassName", "Msvm_ComputerSystem").Set("SystemName", h.cfg.Name).
			Set("CreationClassName", "Msvm_Processor").Set("DeviceID", fmt.Sprintf(`Microsoft:PhysicalProcessor\%d`, n)).
			Set("ElementName", h.cfg.CPU.Model).Set("EnabledState", 2))
	}
	h.virt.add(h.virt.new("Msvm_Memory").Set("SystemCreationClassName", "Msvm_ComputerSystem").Set("SystemName", h.cfg.Name).
		Set("CreationClassName", "Msvm_Memory").Set("DeviceID", `Microsoft:PhysicalMemory`).Set("BlockSize", uint64(1<<20)).Set("NumberOfBlocks", h.cfg.MemoryMB))
}
