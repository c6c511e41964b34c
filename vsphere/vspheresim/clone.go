package vspheresim

import (
	"path"
	"time"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	diskMoveChild       = string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking)
	diskMoveChildMost   = string(types.VirtualMachineRelocateDiskMoveOptionsMoveChildMostDiskBacking)
	diskMoveConsolidate = string(types.VirtualMachineRelocateDiskMoveOptionsMoveAllDiskBackingsAndConsolidate)
)

// knownDiskMove: API reference VirtualMachineRelocateDiskMoveOptions.
func knownDiskMove(t string) bool {
	return t == "" || contains(types.VirtualMachineRelocateDiskMoveOptions("").Strings(), t)
}

// CloneVMTask: API reference VirtualMachine.CloneVM_Task; NotSupported on an ESXi host, which has no clone.
func (f *vmFront) CloneVMTask(ctx *simulator.Context, req *types.CloneVM_Task) soap.HasFault {
	s := f.sim
	if s.cfg.Model == ESXi {
		return &methods.CloneVM_TaskBody{Fault_: soapFault(new(types.NotSupported))}
	}
	var plan *clonePlan
	return &methods.CloneVM_TaskBody{Res: &types.CloneVM_TaskResponse{Returnval: s.start(ctx, job{
		method: "CloneVM_Task", id: "VirtualMachine.clone", entity: req.This, shares: []ref{req.This}, cancel: true,
		check: func() (fault types.BaseMethodFault) {
			plan, fault = s.planClone(req)
			return fault
		},
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) { return s.doClone(ctx, plan, req) },
	})}}
}

// clonePlan is a clone that has been checked.
type clonePlan struct {
	source *simulator.VirtualMachine
	config types.VirtualMachineConfigInfo // what is copied: of the machine or of a snapshot
	at     place
	from   *Sim // where the source is, if not here
}

func (s *Sim) planClone(req *types.CloneVM_Task) (*clonePlan, types.BaseMethodFault) {
	vm, fault := s.live(req.This)
	if fault != nil {
		return nil, fault
	}
	spec := &req.Spec
	if spec.Location.Service != nil {
		return nil, new(types.NotSupported)
	}
	p := &clonePlan{source: vm, config: clone(*vm.Config)}
	if !knownDiskMove(spec.Location.DiskMoveType) {
		return nil, invalid("spec.location.diskMoveType")
	}
	if spec.Snapshot != nil {
		snap, ok := s.registry().Get(*spec.Snapshot).(*simulator.VirtualMachineSnapshot)
		if !ok || snap.Vm != vm.Self {
			return nil, invalid("spec.snapshot")
		}
		p.config = clone(snap.Config)
	}
	if spec.Location.Pool == nil && vm.Config.Template {
		return nil, invalid("spec.location.pool") // API reference: a pool is required to clone a template to a machine
	}
	old := s.placeOf(vm)
	p.at, fault = s.choose(old, &req.Folder, spec.Location.Pool, spec.Location.Host, spec.Location.Datastore, &p.config)
	if fault != nil {
		return nil, fault
	}
	if fault := s.checkName(req.Name, p.at.folder, ref{}); fault != nil {
		return nil, fault
	}
	for i, l := range spec.Location.Disk {
		if !knownDiskMove(l.DiskMoveType) || indexOf(p.config.Hardware.Device, l.DiskId) < 0 {
			return nil, invalid("spec.location.disk[" + itoa(i) + "]")
		}
		if !has(s.host(p.at.host).Datastore, l.Datastore) {
			return nil, &types.InvalidDatastore{Datastore: &l.Datastore}
		}
	}
	if spec.Location.DiskMoveType != diskMoveChild {
		ds := s.datastore(p.at.datastore)
		if usedSpace(p.config.Hardware.Device) > ds.Summary.FreeSpace {
			return nil, &types.NoDiskSpace{FileFault: types.FileFault{File: ds.Name}, Datastore: ds.Name}
		}
	}
	h := s.host(p.at.host)
	if c := spec.Config; c != nil {
		if fault := s.checkSpec(c, &p.config, poweredOff, h); fault != nil {
			return nil, fault
		}
		if fault := s.checkDevices(c.DeviceChange, p.config.Hardware.Device, poweredOff, h, vm.Self); fault != nil {
			return nil, fault
		}
	}
	if fault := s.checkDevices(spec.Location.DeviceChange, p.config.Hardware.Device, poweredOff, h, vm.Self); fault != nil {
		return nil, fault
	}
	if spec.Customization != nil {
		if fault := checkCustomization(spec.Customization, &p.config); fault != nil {
			return nil, fault
		}
	}
	if spec.PowerOn && !spec.Template {
		if fault := s.admit(vm, powerOnConfig(&p.config, spec.Config), h); fault != nil {
			return nil, fault
		}
	}
	return p, nil
}

// powerOnConfig is the configuration with which a clone will be powered on, as far as the admission checks it.
func powerOnConfig(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) *types.VirtualMachineConfigInfo {
	out := clone(*c)
	if spec == nil {
		return &out
	}
	if spec.NumCPUs != 0 {
		out.Hardware.NumCPU = spec.NumCPUs
	}
	if spec.MemoryMB != 0 {
		out.Hardware.MemoryMB = int32(spec.MemoryMB)
	}
	if spec.MemoryAllocation != nil {
		out.MemoryAllocation = spec.MemoryAllocation
	}
	if spec.MemoryReservationLockedToMax != nil {
		out.MemoryReservationLockedToMax = spec.MemoryReservationLockedToMax
	}
	return &out
}

func (s *Sim) doClone(ctx *simulator.Context, p *clonePlan, req *types.CloneVM_Task) (types.AnyType, types.BaseMethodFault) {
	spec, vm := &req.Spec, p.source
	folder := s.folder(p.at.folder)
	s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent {
		return &types.VmBeingClonedEvent{VmCloneEvent: types.VmCloneEvent{VmEvent: e}, DestName: req.Name, DestHost: *s.hostArgument(p.at.host),
			DestFolder: types.FolderEventArgument{Folder: folder.Self, EntityEventArgument: types.EntityEventArgument{Name: folder.Name}}}
	})
	if spec.Snapshot == nil && linked(spec) && !vm.Config.Template {
		p.config.Hardware.Device = s.freeze(ctx, vm)
	}
	m := s.copyOf(vm, &p.config, escapeName(req.Name), p.at)
	s.cloneDisks(m, p, spec)
	n := s.insert(ctx, m, p.at, true)
	s.inherit(n, vm)
	s.touchFiles(&n.VirtualMachine)
	if spec.Location.DiskMoveType != diskMoveChild {
		s.takeSpace(ctx, p.at.datastore, usedSpace(m.Config.Hardware.Device))
	}
	for _, c := range cloneSpecs(spec) {
		if fault := s.reconfigure(ctx, n, c); fault != nil {
			s.destroy(ctx, n)
			return nil, fault
		}
	}
	if spec.Customization != nil {
		s.setCustomization(ctx, n, spec.Customization)
	}
	switch {
	case spec.Template:
		s.markTemplate(ctx, n)
	case spec.PowerOn:
		// Believed: a clone whose power-on is refused stays, and the task fails (github.com/rancher/rancher, issue 25425).
		if fault := s.front.takeTaskFault("PowerOnVM_Task"); fault != nil {
			return nil, fault
		}
		s.powerOn(ctx, n)
	}
	s.event(ctx, n, func(e types.VmEvent) types.BaseEvent {
		return &types.VmClonedEvent{VmCloneEvent: types.VmCloneEvent{VmEvent: e}, SourceVm: types.VmEventArgument{
			Vm: vm.Self, EntityEventArgument: types.EntityEventArgument{Name: vm.Name}}}
	})
	return n.Self, nil
}

func linked(spec *types.VirtualMachineCloneSpec) bool {
	if spec.Location.DiskMoveType == diskMoveChild {
		return true
	}
	for _, l := range spec.Location.Disk {
		if l.DiskMoveType == diskMoveChild {
			return true
		}
	}
	return false
}

// cloneSpecs returns the changes that a clone requests, in their order.
func cloneSpecs(spec *types.VirtualMachineCloneSpec) []*types.VirtualMachineConfigSpec {
	var out []*types.VirtualMachineConfigSpec
	if len(spec.Location.DeviceChange) > 0 {
		out = append(out, &types.VirtualMachineConfigSpec{DeviceChange: clone(spec.Location.DeviceChange)})
	}
	if spec.Config != nil {
		c := clone(*spec.Config)
		c.Name = "" // the name is an argument of the clone
		c.Files = nil
		out = append(out, &c)
	}
	return out
}

// freeze gives the source of a linked clone a new child on each disk, so that the present disks can back the clone. Source: vSphere programming
// guide, "Creating a Linked Virtual Machine from the current running point". It returns the previous devices.
func (s *Sim) freeze(ctx *simulator.Context, vm *simulator.VirtualMachine) []types.BaseVirtualDevice {
	var before []types.BaseVirtualDevice
	s.mutate(ctx, vm, func() {
		before = clone(vm.Config.Hardware.Device)
		vm.Config.Hardware.Device = s.branch(vm, vm.Config.Hardware.Device, vm.Config.Hardware.Device)
		versioned(vm)
		s.derive(&vm.VirtualMachine)
	})
	s.touchFiles(&vm.VirtualMachine)
	return before
}

// copyOf is a new machine, off, with the configuration of another, and with identifiers and addresses of its own.
func (s *Sim) copyOf(vm *simulator.VirtualMachine, c *types.VirtualMachineConfigInfo, name string, at place) *moVM {
	m := &moVM{}
	cfg := clone(*c)
	now := time.Now()
	ds := s.datastore(at.datastore)
	dir := s.freeDir(at, name)
	cfg.Name, cfg.Uuid, cfg.InstanceUuid = name, uuid.NewString(), uuid.NewString()
	cfg.Template, cfg.Modified, cfg.CreateDate = false, now, &now
	cfg.ChangeVersion = now.UTC().Format(time.RFC3339Nano)
	cfg.Files = types.VirtualMachineFileInfo{
		VmPathName: dsJoin(ds.Name, dir, name+".vmx"), SnapshotDirectory: dsJoin(ds.Name, dir),
		SuspendDirectory: dsJoin(ds.Name, dir), LogDirectory: dsJoin(ds.Name, dir),
	}
	for _, d := range cfg.Hardware.Device {
		if card, ok := d.(types.BaseVirtualEthernetCard); ok {
			// API reference: VirtualEthernetCard.addressType; an address that vCenter assigned is assigned anew.
			if e := card.GetVirtualEthernetCard(); e.AddressType != string(types.VirtualEthernetCardMacTypeManual) {
				e.MacAddress = s.newMAC()
			}
		}
		if cn := d.GetVirtualDevice().Connectable; cn != nil {
			cn.Connected = false
		}
	}
	m.Config = &cfg
	m.Name = name
	m.Guest = &types.GuestInfo{}
	m.Capability = vm.Capability
	m.Runtime.PowerState, m.Runtime.ConnectionState = poweredOff, types.VirtualMachineConnectionStateConnected
	return m
}

// freeDir returns the folder for the files of a new machine: its name, or its name and a number.
func (s *Sim) freeDir(at place, name string) string {
	used := map[string]bool{}
	for _, vm := range s.allVMs() {
		at := s.placeOf(vm).datastore
		d := vmDir(&vm.VirtualMachine)
		used[fileKey(&at, d.String())] = true
	}
	// Files that are in a folder already are not overwritten: disks that were detached, machines that were unregistered.
	for file := range s.loose {
		d := dsPath(file)
		used[dsJoin(d.Datastore, path.Dir(d.Path))] = true
	}
	for file := range s.parked {
		d := dsPath(file)
		used[dsJoin(d.Datastore, path.Dir(d.Path))] = true
	}
	for i := 0; ; i++ {
		dir := name
		if i > 0 {
			dir += "_" + itoa(i)
		}
		if !used[dsJoin(at.datastore.Value, dir)] {
			return dir
		}
	}
}

// cloneDisks makes the disks of a clone: a copy without history, a child of the source's disk, or a copy of the last link only.
func (s *Sim) cloneDisks(m *moVM, p *clonePlan, spec *types.VirtualMachineCloneSpec) {
	dir := vmDir(m)
	for i, d := range disksOf(m.Config.Hardware.Device) {
		b := fileBacking(d)
		if b == nil {
			continue
		}
		move, ds := spec.Location.DiskMoveType, p.at.datastore
		for _, l := range spec.Location.Disk {
			if l.DiskId == d.Key {
				ds = l.Datastore
				if l.DiskMoveType != "" {
					move = l.DiskMoveType
				}
			}
		}
		name := m.Config.Name
		if i > 0 {
			name += "_" + itoa(i)
		}
		file := dsJoin(s.datastore(ds).Name, dir.Path, name+".vmdk")
		chain, from := keysOf(d), s
		if p.from != nil {
			from = p.from
		}
		switch move {
		case diskMoveChild:
			chain = nil
		case diskMoveChildMost:
			chain = chain[:1]
		}
		s.fill(fileKey(&ds, file), from, chain)
		d.Backing = movedBacking(b, file, ds, move)
	}
}

// movedBacking is the backing of a disk after a copy. API reference: VirtualMachineRelocateDiskMoveOptions.
func movedBacking(b *types.VirtualDiskFlatVer2BackingInfo, file string, ds ref, move string) *types.VirtualDiskFlatVer2BackingInfo {
	switch move {
	case diskMoveChild:
		c := child(b, file, ds)
		c.Uuid = uuid.NewString()
		return c
	case diskMoveChildMost:
		n := clone(b)
		n.FileName, n.Datastore, n.Uuid = file, &ds, uuid.NewString()
		return n
	}
	n := clone(b)
	n.FileName, n.Datastore, n.Parent, n.DeltaDiskFormat, n.Uuid = file, &ds, nil, "", uuid.NewString()
	return n
}

// inherit gives a clone the guest of its source.
func (s *Sim) inherit(n, vm *simulator.VirtualMachine) {
	g := s.stateOf(vm.Self).guest
	g.HostName, g.IP = "", ""
	st := s.stateOf(n.Self)
	st.guest = g
	s.applyGuest(n)
	s.derive(&n.VirtualMachine)
}
