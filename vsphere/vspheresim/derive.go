package vspheresim

import (
	"path"
	"sort"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// derive updates the properties of a machine that follow from others: the summary, the lists of datastores and networks, the layout of files and the
// storage they take.
func (s *Sim) derive(m *mo.VirtualMachine) {
	c := m.Config
	m.Name = c.Name
	snaps := !c.Template
	m.Capability.SnapshotOperationsSupported, m.Capability.MultipleSnapshotsSupported = snaps, snaps
	m.Capability.MemorySnapshotsSupported, m.Capability.RevertToSnapshotSupported = snaps, snaps
	m.Capability.QuiescedSnapshotsSupported, m.Capability.ChangeTrackingSupported = snaps, true
	m.Capability.DiskSharesSupported, m.Capability.BootOptionsSupported, m.Capability.NestedHVSupported = true, true, true
	// API reference: hotPlugMemoryLimit "is specified only if memoryHotAddEnabled is set to true". Sixteen times the memory is believed.
	c.HotPlugMemoryLimit = 0
	if isTrue(c.MemoryHotAddEnabled) {
		c.HotPlugMemoryLimit = 16 * int64(c.Hardware.MemoryMB)
	}
	m.Summary.Vm = &m.Self
	sc := &m.Summary.Config
	sc.Name, sc.Template, sc.VmPathName = c.Name, c.Template, c.Files.VmPathName
	sc.MemorySizeMB, sc.NumCpu = c.Hardware.MemoryMB, c.Hardware.NumCPU
	sc.Uuid, sc.InstanceUuid, sc.GuestId, sc.GuestFullName = c.Uuid, c.InstanceUuid, c.GuestId, c.GuestFullName
	sc.Annotation, sc.HwVersion, sc.ManagedBy = c.Annotation, c.Version, c.ManagedBy
	sc.CpuReservation, sc.MemoryReservation = reservation(c.CpuAllocation), reservation(c.MemoryAllocation)
	sc.NumEthernetCards, sc.NumVirtualDisks = 0, 0
	m.Runtime.DasVmProtection = s.protection(m)
	m.Summary.Runtime = m.Runtime
	m.Summary.OverallStatus = types.ManagedEntityStatusGreen
	if m.Guest != nil {
		m.Summary.Guest = &types.VirtualMachineGuestSummary{
			GuestId: m.Guest.GuestId, GuestFullName: m.Guest.GuestFullName, ToolsStatus: m.Guest.ToolsStatus,
			ToolsVersionStatus: m.Guest.ToolsVersionStatus, ToolsVersionStatus2: m.Guest.ToolsVersionStatus2,
			ToolsRunningStatus: m.Guest.ToolsRunningStatus, HostName: m.Guest.HostName, IpAddress: m.Guest.IpAddress,
		}
		if m.Summary.Guest.GuestId == "" {
			m.Summary.Guest.GuestId, m.Summary.Guest.GuestFullName = c.GuestId, c.GuestFullName
		}
	}

	var networks []ref
	var h *simulator.HostSystem
	if m.Runtime.Host != nil {
		h = s.host(*m.Runtime.Host)
	}
	for _, d := range c.Hardware.Device {
		switch x := d.(type) {
		case *types.VirtualDisk:
			sc.NumVirtualDisks++
		case types.BaseVirtualEthernetCard:
			sc.NumEthernetCards++
			if n, ok := s.networkOf(x, h); ok && !has(networks, n) {
				networks = append(networks, n)
			}
		}
	}
	m.Network = networks
	s.deriveLayout(m)
}

func reservation(a *types.ResourceAllocationInfo) int32 {
	if a == nil || a.Reservation == nil {
		return 0
	}
	return int32(*a.Reservation)
}

// networkOf returns the network of a card of a machine on a host.
func (s *Sim) networkOf(card types.BaseVirtualEthernetCard, h *simulator.HostSystem) (ref, bool) {
	switch b := card.GetVirtualEthernetCard().Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		if b.Network != nil && b.Network.Value != "" {
			return *b.Network, true
		}
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		if b.Port.PortgroupKey != "" {
			return ref{Type: "DistributedVirtualPortgroup", Value: b.Port.PortgroupKey}, true
		}
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		if n := s.opaqueOf(h, b.OpaqueNetworkId); n != nil {
			return n.Self, true
		}
	}
	return ref{}, false
}

// layout collects the files of a machine.
type layout struct {
	files []types.VirtualMachineFileLayoutExFileInfo
	keys  map[string]int32
}

func (l *layout) add(name, kind string, size int64) int32 {
	if k, ok := l.keys[name]; ok {
		return k
	}
	k := int32(len(l.files))
	l.keys[name] = k
	l.files = append(l.files, types.VirtualMachineFileLayoutExFileInfo{
		Key: k, Name: name, Type: kind, Size: size, UniqueSize: size, Accessible: types.NewBool(true),
	})
	return k
}

const (
	descriptorSize = 1 << 10
	deltaSize      = 16 << 20 // a delta disk as it is made, before the guest writes
	thinSize       = 1 << 30  // what a thin disk is believed to have allocated, at most
	snapshotSize   = 28 << 10
)

// disk adds the two files of one link of a chain.
func (l *layout) disk(d *types.VirtualDisk, b *types.VirtualDiskFlatVer2BackingInfo) types.VirtualMachineFileLayoutExDiskUnit {
	size := d.CapacityInBytes
	extent := "-flat.vmdk"
	switch {
	case b.Parent != nil:
		extent, size = "-sesparse.vmdk", deltaSize
	case b.ThinProvisioned != nil && *b.ThinProvisioned:
		size = min(size, thinSize)
	}
	stem := strings.TrimSuffix(b.FileName, ".vmdk")
	return types.VirtualMachineFileLayoutExDiskUnit{FileKey: []int32{
		l.add(b.FileName, string(types.VirtualMachineFileLayoutExFileTypeDiskDescriptor), descriptorSize),
		l.add(stem+extent, string(types.VirtualMachineFileLayoutExFileTypeDiskExtent), size),
	}}
}

func (l *layout) disks(devices []types.BaseVirtualDevice) (ex []types.VirtualMachineFileLayoutExDiskLayout, plain []types.VirtualMachineFileLayoutDiskLayout) {
	for _, d := range disksOf(devices) {
		e := types.VirtualMachineFileLayoutExDiskLayout{Key: d.Key}
		p := types.VirtualMachineFileLayoutDiskLayout{Key: d.Key, DiskFile: chainOf(d)}
		var chain []*types.VirtualDiskFlatVer2BackingInfo
		for b := fileBacking(d); b != nil; b = b.Parent {
			chain = append(chain, b)
		}
		// API reference: VirtualMachineFileLayoutExDiskLayout.chain, "The disk-unit chain that makes up this disk",
		// the base disk first.
		for i := len(chain) - 1; i >= 0; i-- {
			e.Chain = append(e.Chain, l.disk(d, chain[i]))
		}
		ex, plain = append(ex, e), append(plain, p)
	}
	return ex, plain
}

func (s *Sim) deriveLayout(m *mo.VirtualMachine) {
	c := m.Config
	dir := vmDir(m)
	at := func(name string) string { return dsJoin(dir.Datastore, dir.Path, name) }
	stem := strings.TrimSuffix(path.Base(dsPath(c.Files.VmPathName).Path), ".vmx")
	l := &layout{keys: map[string]int32{}}
	l.add(c.Files.VmPathName, string(types.VirtualMachineFileLayoutExFileTypeConfig), 3<<10)
	l.add(at(stem+".nvram"), string(types.VirtualMachineFileLayoutExFileTypeNvram), 264<<10)
	l.add(at(stem+".vmsd"), string(types.VirtualMachineFileLayoutExFileTypeSnapshotList), 512)
	l.add(at("vmware.log"), string(types.VirtualMachineFileLayoutExFileTypeLog), 128<<10)
	ex := &types.VirtualMachineFileLayoutEx{Timestamp: time.Now()}
	plain := &types.VirtualMachineFileLayout{ConfigFile: []string{stem + ".nvram", stem + ".vmsd"}, LogFile: []string{"vmware.log"}}
	ex.Disk, plain.Disk = l.disks(c.Hardware.Device)
	memory := int64(c.Hardware.MemoryMB) << 20
	switch m.Runtime.PowerState {
	case types.VirtualMachinePowerStatePoweredOn:
		size := memory - int64(reservation(c.MemoryAllocation))<<20
		plain.SwapFile = at(stem + ".vswp")
		l.add(plain.SwapFile, string(types.VirtualMachineFileLayoutExFileTypeSwap), max(size, 0))
	case types.VirtualMachinePowerStateSuspended:
		l.add(at(stem+".vmss"), string(types.VirtualMachineFileLayoutExFileTypeSuspend), snapshotSize)
		l.add(at(stem+".vmem"), string(types.VirtualMachineFileLayoutExFileTypeSuspendMemory), memory)
	}
	if m.Snapshot != nil {
		s.snapshotLayout(m.Snapshot.RootSnapshotList, l, ex, plain, at, stem)
	}
	ex.File = l.files
	m.Layout, m.LayoutEx = plain, ex
	s.deriveStorage(m)
}

func (s *Sim) snapshotLayout(list []types.VirtualMachineSnapshotTree, l *layout, ex *types.VirtualMachineFileLayoutEx,
	plain *types.VirtualMachineFileLayout, at func(string) string, stem string) {
	for _, t := range list {
		snap, ok := s.registry().Get(t.Snapshot).(*simulator.VirtualMachineSnapshot)
		if !ok {
			continue
		}
		name := stem + "-Snapshot" + itoa(int(t.Id))
		e := types.VirtualMachineFileLayoutExSnapshotLayout{Key: t.Snapshot, MemoryKey: -1}
		e.DataKey = l.add(at(name+".vmsn"), string(types.VirtualMachineFileLayoutExFileTypeSnapshotData), snapshotSize)
		if t.State == types.VirtualMachinePowerStatePoweredOn {
			e.MemoryKey = l.add(at(name+".vmem"), string(types.VirtualMachineFileLayoutExFileTypeSnapshotMemory), int64(snap.Config.Hardware.MemoryMB)<<20)
		}
		e.Disk, _ = l.disks(snap.Config.Hardware.Device)
		ex.Snapshot = append(ex.Snapshot, e)
		files := []string{at(name + ".vmsn")}
		for _, d := range disksOf(snap.Config.Hardware.Device) {
			files = append(files, chainOf(d)...)
		}
		plain.Snapshot = append(plain.Snapshot, types.VirtualMachineFileLayoutSnapshotLayout{Key: t.Snapshot, SnapshotFile: files})
		s.snapshotLayout(t.ChildSnapshotList, l, ex, plain, at, stem)
	}
}

// deriveStorage adds up the files by datastore.
func (s *Sim) deriveStorage(m *mo.VirtualMachine) {
	usage := map[string]*types.VirtualMachineUsageOnDatastore{}
	var names []string
	var h *simulator.HostSystem
	if m.Runtime.Host != nil {
		h = s.host(*m.Runtime.Host)
	}
	of := func(name string) *types.VirtualMachineUsageOnDatastore {
		u := usage[name]
		if u == nil {
			u = new(types.VirtualMachineUsageOnDatastore)
			if h != nil {
				if ds := s.datastoreByName(h, name); ds != nil {
					u.Datastore = ds.Self
				}
			}
			usage[name] = u
			names = append(names, name)
		}
		return u
	}
	for _, f := range m.LayoutEx.File {
		u := of(dsPath(f.Name).Datastore)
		u.Committed += f.Size
		if strings.HasSuffix(f.Name, ".vmdk") {
			u.Unshared += f.Size
		}
	}
	for _, d := range disksOf(m.Config.Hardware.Device) {
		if chain := chainOf(d); len(chain) > 0 {
			of(dsPath(chain[0]).Datastore).Uncommitted += d.CapacityInBytes
		}
	}
	sort.Strings(names)
	now := time.Now()
	st := &types.VirtualMachineStorageInfo{Timestamp: now}
	sum := &types.VirtualMachineStorageSummary{Timestamp: now}
	m.Datastore = nil
	for _, n := range names {
		u := usage[n]
		if u.Datastore.Value == "" {
			continue
		}
		st.PerDatastoreUsage = append(st.PerDatastoreUsage, *u)
		m.Datastore = append(m.Datastore, u.Datastore)
		sum.Committed += u.Committed
		sum.Uncommitted += u.Uncommitted
		sum.Unshared += u.Unshared
	}
	m.Storage, m.Summary.Storage = st, sum
}

// deleteDiskFile removes a disk file and its extents from the datastore.
func (s *Sim) deleteDiskFile(name string) {
	delete(s.blocks, name)
	stem := strings.TrimSuffix(name, ".vmdk")
	for _, f := range []string{name, stem + "-flat.vmdk", stem + "-sesparse.vmdk"} {
		if p := s.keyPath(f); p != "" {
			_ = s.root.Remove(p)
		}
	}
}
