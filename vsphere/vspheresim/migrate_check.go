package vspheresim

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// issues collects everything that blocks a move, as the provisioning checkers report it.
type issues struct {
	errors, warnings []types.LocalizedMethodFault
}

func (l *issues) add(f types.BaseMethodFault) {
	if f != nil {
		l.errors = append(l.errors, types.LocalizedMethodFault{Fault: f, LocalizedMessage: faultText(f)})
	}
}

func (l *issues) warn(f types.BaseMethodFault) {
	l.warnings = append(l.warnings, types.LocalizedMethodFault{Fault: f, LocalizedMessage: faultText(f)})
}

func (l *issues) first() types.BaseMethodFault {
	if len(l.errors) == 0 {
		return nil
	}
	return l.errors[0].Fault
}

// move is a requested relocation: its destination and its disks.
type move struct {
	to        place
	disks     map[int32]ref // datastore by disk key, where it differs from to.datastore
	storage   bool          // whether files move
	transform string        // disk move type
}

// planMove turns a specification into a move. The fault is one of the specification itself. checkMove reports what blocks the move.
func (s *Sim) planMove(vm *simulator.VirtualMachine, spec *types.VirtualMachineRelocateSpec) (move, types.BaseMethodFault) {
	at := s.placeOf(vm)
	m := move{to: at, disks: map[int32]ref{}, transform: spec.DiskMoveType}
	if !knownDiskMove(spec.DiskMoveType) {
		return m, invalid("spec.diskMoveType")
	}
	if spec.Folder != nil {
		if f := s.folder(*spec.Folder); f == nil || !contains(f.ChildType, "VirtualMachine") {
			return m, &types.InvalidFolder{Target: *spec.Folder}
		}
		m.to.folder = *spec.Folder
	}
	if spec.Pool != nil {
		if s.poolOwner(*spec.Pool) == nil {
			return m, invalid("spec.pool")
		}
		m.to.pool = *spec.Pool
	}
	if spec.Datastore != nil {
		m.to.datastore = *spec.Datastore
	}
	m.storage = m.to.datastore != at.datastore
	for i, l := range spec.Disk {
		j := indexOf(vm.Config.Hardware.Device, l.DiskId)
		if j < 0 || !knownDiskMove(l.DiskMoveType) {
			return m, invalid("spec.disk[" + itoa(i) + "]")
		}
		m.disks[l.DiskId] = l.Datastore
		if d, ok := vm.Config.Hardware.Device[j].(*types.VirtualDisk); ok {
			if at := storeOf(d); at.Value != "" && s.datastore(l.Datastore) != nil && at != l.Datastore {
				m.storage = true
			}
		}
	}
	owner := s.poolOwner(m.to.pool)
	switch {
	case spec.Host != nil:
		// API reference: VirtualMachineRelocateSpec.host and .pool; a host outside the cluster of the pool is an InvalidArgument.
		if owner != nil && !has(owner.Host, *spec.Host) {
			return m, invalid("spec.pool")
		}
		m.to.host = *spec.Host
	case owner != nil && !has(owner.Host, at.host):
		h := s.bestHost(owner, m.to.datastore, vm.Config)
		if h == nil {
			return m, new(types.NoCompatibleHost)
		}
		m.to.host = h.Self
	}
	return m, nil
}

// checkMove returns everything that blocks a move. API reference: VirtualMachineProvisioningChecker, with the test types host, resourcePool,
// datastore, network; the kinds of MigrationFault.
func (s *Sim) checkMove(vm *simulator.VirtualMachine, m move) *issues {
	l := new(issues)
	h := s.host(m.to.host)
	at := s.placeOf(vm)
	running := vm.Runtime.PowerState == poweredOn
	if h.Runtime.ConnectionState != types.HostSystemConnectionStateConnected {
		l.add(new(types.HostNotConnected))
	}
	if h.Runtime.InMaintenanceMode {
		l.add(new(types.InvalidState))
	}
	hostMoves := m.to.host != at.host
	if hostMoves && running {
		s.checkLive(l, vm, h)
	}
	if m.storage && running && !s.licensed(FeatureStorageVMotion) {
		l.add(restricted())
	}
	s.checkStorage(l, vm, m, h)
	if hostMoves {
		s.checkNetworks(l, vm, h)
		if threads := int32(h.Summary.Hardware.NumCpuThreads); vm.Config.Hardware.NumCPU > threads {
			l.add(&types.NotEnoughLogicalCpus{NotEnoughCpus: types.NotEnoughCpus{NumCpuDest: threads, NumCpuVm: vm.Config.Hardware.NumCPU}})
		}
	}
	return l
}

// checkLive checks what a running machine needs of another host.
func (s *Sim) checkLive(l *issues, vm *simulator.VirtualMachine, h *simulator.HostSystem) {
	if !s.licensed(FeatureVMotion) {
		l.add(restricted())
	}
	// API reference: DisallowedMigrationDeviceAttached, "The virtual machine has a device attached that does not allow migration".
	for _, d := range vm.Config.Hardware.Device {
		if passthrough(d) {
			cause := deviceNotSupported(d)
			l.add(&types.DisallowedMigrationDeviceAttached{Fault: types.LocalizedMethodFault{
				Fault: cause, LocalizedMessage: "Device '" + label(d) + "' is passed through from the host."}})
		}
		if c, ok := d.(*types.VirtualCdrom); ok {
			if b, real := c.Backing.(*types.VirtualCdromAtapiBackingInfo); real {
				// API reference: CannotAccessVmDevice.connected, an error when the device is connected and a warning when not.
				f := &types.CannotAccessVmDevice{Device: label(d), Backing: b.DeviceName, Connected: c.Connectable != nil && c.Connectable.Connected}
				if f.Connected {
					l.add(f)
				} else {
					l.warn(f)
				}
			}
		}
	}
	if from := s.host(*vm.Runtime.Host); cpuVendor(from) != cpuVendor(h) {
		// API reference: FeatureRequirementsNotMet, "Host does not satisfy the feature requirements of the VM".
		l.add(&types.FeatureRequirementsNotMet{Vm: &vm.Self, Host: &h.Self, FeatureRequirement: []types.VirtualMachineFeatureRequirement{
			{Key: "cpuid." + cpuVendor(from), FeatureName: "cpuid." + cpuVendor(from), Value: "Bool:Min:1"}}})
	}
	mem, _ := s.reserved(h, vm)
	if want, have := memoryReservation(vm.Config), h.Summary.Hardware.MemorySize>>20-mem; want > have {
		l.add(&types.InsufficientMemoryResourcesFault{Unreserved: have << 20, Requested: want << 20})
	}
	var shared []types.BaseVirtualDevice
	for _, d := range vm.Config.Hardware.Device {
		if p, ok := d.(*types.VirtualPCIPassthrough); ok && !passthrough(p) {
			shared = append(shared, p)
		}
	}
	if len(shared) > 0 {
		_, fault := s.freeDevices(h, vm).assign(shared)
		l.add(fault)
	}
}

func cpuVendor(h *simulator.HostSystem) string {
	for _, f := range h.Config.FeatureCapability {
		switch f.Key {
		case "cpuid.Intel", "cpuid.AMD":
			if f.Value == "1" {
				return f.Key[len("cpuid."):]
			}
		}
	}
	return "unknown"
}

// checkStorage checks that the host sees the files that stay, and that the files that move fit.
func (s *Sim) checkStorage(l *issues, vm *simulator.VirtualMachine, m move, h *simulator.HostSystem) {
	if d := s.datastore(m.to.datastore); d == nil || !has(h.Datastore, d.Self) {
		to := m.to.datastore
		if m.storage {
			l.add(&types.InvalidDatastore{Datastore: &to})
		} else {
			// API reference: CannotAccessVmConfig, "The configuration of the virtual machine cannot be accessed on the target host".
			l.add(&types.CannotAccessVmConfig{Reason: types.LocalizedMethodFault{Fault: &types.InvalidDatastore{Datastore: &to}}})
		}
	}
	for _, d := range disksOf(vm.Config.Hardware.Device) {
		chain := chainOf(d)
		if len(chain) == 0 {
			continue
		}
		name := dsPath(chain[0]).Datastore
		if to, ok := m.disks[d.Key]; ok {
			if x := s.datastore(to); x == nil || !has(h.Datastore, to) {
				l.add(&types.InvalidDatastore{Datastore: &to})
			}
			continue
		}
		if m.storage || has(h.Datastore, storeOf(d)) {
			continue
		}
		// API reference: CannotAccessVmDisk, "One of the virtual machine's virtual disks is not accessible at the new host".
		l.add(&types.CannotAccessVmDisk{
			CannotAccessVmDevice: types.CannotAccessVmDevice{Device: label(d), Backing: chain[0], Connected: true},
			Fault:                types.LocalizedMethodFault{Fault: &types.InvalidDatastore{Name: name}},
		})
	}
	if d := s.datastore(m.to.datastore); m.storage && d != nil {
		if need := usedSpace(vm.Config.Hardware.Device); need > d.Summary.FreeSpace {
			l.add(&types.NoDiskSpace{FileFault: types.FileFault{File: d.Name}, Datastore: d.Name})
		}
	}
}

// checkNetworks checks that the host has the networks of the machine. API reference: CannotAccessNetwork, "A virtual network card
// uses a network that is not accessible".
func (s *Sim) checkNetworks(l *issues, vm *simulator.VirtualMachine, h *simulator.HostSystem) {
	for _, d := range vm.Config.Hardware.Device {
		card, ok := d.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		n, ok := s.networkOf(card, s.host(*vm.Runtime.Host))
		if !ok || s.hostHasNetwork(h, n) {
			continue
		}
		backing := n.Value
		if e, ok := s.registry().Get(n).(*mo.Network); ok {
			backing = e.Name
		}
		l.add(&types.CannotAccessNetwork{
			CannotAccessVmDevice: types.CannotAccessVmDevice{Device: label(d), Backing: backing, Connected: true}, Network: &n,
		})
	}
}

// hostHasNetwork compares standard networks by name: each host has its own port group of that name.
func (s *Sim) hostHasNetwork(h *simulator.HostSystem, n ref) bool {
	want, _ := s.registry().Get(n).(*mo.Network)
	for _, r := range h.Network {
		if r == n {
			return true
		}
		if x, ok := s.registry().Get(r).(*mo.Network); ok && want != nil && x.Name == want.Name {
			return true
		}
	}
	if pg, ok := s.registry().Get(n).(*simulator.DistributedVirtualPortgroup); ok {
		if dvs, ok := s.registry().Get(*pg.Config.DistributedVirtualSwitch).(*simulator.DistributedVirtualSwitch); ok {
			return has(dvs.Summary.HostMember, h.Self)
		}
	}
	return false
}
