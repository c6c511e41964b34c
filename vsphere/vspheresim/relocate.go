package vspheresim

import (
	"path"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// RelocateVMTask: API reference VirtualMachine.RelocateVM_Task; InvalidArgument, InvalidDatastore, InvalidState, MigrationFault, VmConfigFault,
// InsufficientResourcesFault, NotSupported on an ESXi host.
func (f *vmFront) RelocateVMTask(ctx *simulator.Context, req *types.RelocateVM_Task) soap.HasFault {
	s := f.sim
	if s.cfg.Model == ESXi {
		return &methods.RelocateVM_TaskBody{Fault_: soapFault(new(types.NotSupported))}
	}
	if req.Spec.Service != nil {
		return &methods.RelocateVM_TaskBody{Res: &types.RelocateVM_TaskResponse{Returnval: s.start(ctx, s.crossJob(req))}}
	}
	return &methods.RelocateVM_TaskBody{Res: &types.RelocateVM_TaskResponse{Returnval: s.start(ctx, s.moveJob("RelocateVM_Task", "relocate", req.This, &req.Spec, ""))}}
}

// MigrateVMTask: API reference VirtualMachine.MigrateVM_Task; "If both are specified, the host must be in the same cluster as the pool"; state
// makes it fail when the machine is in another one.
func (f *vmFront) MigrateVMTask(ctx *simulator.Context, req *types.MigrateVM_Task) soap.HasFault {
	s := f.sim
	if s.cfg.Model == ESXi {
		return &methods.MigrateVM_TaskBody{Fault_: soapFault(new(types.NotSupported))}
	}
	spec := &types.VirtualMachineRelocateSpec{Pool: req.Pool, Host: req.Host}
	return &methods.MigrateVM_TaskBody{Res: &types.MigrateVM_TaskResponse{Returnval: s.start(ctx, s.moveJob("MigrateVM_Task", "migrate", req.This, spec, req.State))}}
}

func (s *Sim) moveJob(method, id string, r ref, spec *types.VirtualMachineRelocateSpec, state types.VirtualMachinePowerState) job {
	var m move
	return s.vmJob(method, id, r, true,
		func(vm *simulator.VirtualMachine) (fault types.BaseMethodFault) {
			if state != "" && vm.Runtime.PowerState != state {
				return wrongPower(vm, state)
			}
			if m, fault = s.planMove(vm, spec); fault != nil {
				return fault
			}
			if m.to.folder != folderOf(vm) {
				if fault := s.checkName(vm.Name, m.to.folder, vm.Self); fault != nil {
					return fault
				}
			}
			if fault := s.checkMove(vm, m).first(); fault != nil {
				return fault
			}
			return s.checkDevices(spec.DeviceChange, vm.Config.Hardware.Device, vm.Runtime.PowerState, s.host(m.to.host), vm.Self)
		},
		func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
			return nil, s.move(ctx, vm, m, spec.DeviceChange)
		})
}

// move performs a move that has been checked.
func (s *Sim) move(ctx *simulator.Context, vm *simulator.VirtualMachine, m move, changes []types.BaseVirtualDeviceConfigSpec) types.BaseMethodFault {
	from := s.placeOf(vm)
	hot := vm.Runtime.PowerState == poweredOn
	s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent {
		r := types.VmRelocateSpecEvent{VmEvent: e}
		if hot {
			return &types.VmBeingHotMigratedEvent{VmEvent: e, DestHost: *s.hostArgument(m.to.host), DestDatastore: s.datastoreArgument(m.to.datastore)}
		}
		if m.storage {
			return &types.VmBeingRelocatedEvent{VmRelocateSpecEvent: r, DestHost: *s.hostArgument(m.to.host), DestDatastore: s.datastoreArgument(m.to.datastore)}
		}
		return &types.VmBeingMigratedEvent{VmEvent: e, DestHost: *s.hostArgument(m.to.host), DestDatastore: s.datastoreArgument(m.to.datastore)}
	})
	if m.to.pool != from.pool && !vm.Config.Template {
		if obj, list := s.poolVMs(from.pool); obj != nil {
			s.setList(ctx, obj, "vm", without(*list, vm.Self))
		}
		if obj, list := s.poolVMs(m.to.pool); obj != nil {
			s.setList(ctx, obj, "vm", append(without(*list, vm.Self), vm.Self))
		}
		s.mutate(ctx, vm, func() { pool := m.to.pool; vm.ResourcePool = &pool })
	}
	s.moveHost(ctx, vm, m.to.host)
	if m.storage {
		s.moveFiles(ctx, vm, m)
	}
	if m.to.folder != from.folder {
		s.moveFolder(ctx, vm, m.to.folder)
	}
	if len(changes) > 0 {
		if fault := s.reconfigure(ctx, vm, &types.VirtualMachineConfigSpec{DeviceChange: clone(changes)}); fault != nil {
			return fault
		}
	}
	s.linkDatastores(ctx, vm)
	s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent {
		ev := &types.VmMigratedEvent{VmEvent: e, SourceHost: *s.hostArgument(from.host), SourceDatastore: s.datastoreArgument(from.datastore)}
		if m.storage && !hot {
			return &types.VmRelocatedEvent{VmRelocateSpecEvent: types.VmRelocateSpecEvent{VmEvent: e}, SourceHost: ev.SourceHost, SourceDatastore: ev.SourceDatastore}
		}
		return ev
	})
	return nil
}

func (s *Sim) moveFolder(ctx *simulator.Context, vm *simulator.VirtualMachine, to ref) {
	reg := s.registry()
	if f := s.folder(folderOf(vm)); f != nil {
		s.setList(ctx, reg.Get(f.Self), "childEntity", without(f.ChildEntity, vm.Self))
	}
	if f := s.folder(to); f != nil {
		s.setList(ctx, reg.Get(f.Self), "childEntity", append(without(f.ChildEntity, vm.Self), vm.Self))
	}
	s.mutate(ctx, vm, func() { vm.Parent = &to })
}

// moveFiles moves the files of a machine and of its snapshots to other datastores. The chains stay chains. A base that other machines share is
// copied, as with moveAllDiskBackingsAndDisallowSharing (the default).
func (s *Sim) moveFiles(ctx *simulator.Context, vm *simulator.VirtualMachine, m move) {
	old := s.filesOf(vm)
	before := vm.VirtualMachine
	from := s.placeOf(vm)
	dir := vmDir(&vm.VirtualMachine)
	target := s.datastore(m.to.datastore)
	newDir := dir
	if target.Self != from.datastore {
		newDir.Datastore = target.Name
		newDir.Path = s.freeDir(m.to, path.Base(dir.Path))
	}
	names, taken := map[string]string{}, map[string]bool{}
	rename := func(was, file string, ds ref) string {
		d := s.datastore(ds)
		if n, ok := names[was]; ok {
			return n
		}
		p := dsPath(file)
		n := dsJoin(d.Name, newDir.Path, path.Base(p.Path))
		for i := 1; taken[n] || len(s.heldBy(map[string]bool{fileKey(&ds, n): true}, vm.Self)) > 0; i++ {
			n = dsJoin(d.Name, newDir.Path, strings.TrimSuffix(path.Base(p.Path), ".vmdk")+"_"+itoa(i)+".vmdk")
		}
		names[was], taken[n] = n, true
		return n
	}
	moveAll := func(devices []types.BaseVirtualDevice) []types.BaseVirtualDevice {
		devices = clone(devices)
		for _, d := range disksOf(devices) {
			to := m.to.datastore
			if x, ok := m.disks[d.Key]; ok {
				to = x
			}
			top := fileBacking(d)
			if top == nil || s.datastore(to) == nil || storeOf(d) == to {
				continue
			}
			chain := keysOf(d)
			for b := top; b != nil; b = b.Parent {
				if b != top && m.transform == diskMoveChildMost {
					break
				}
				ds, was := to, key(b)
				b.FileName, b.Datastore = rename(was, b.FileName, ds), &ds
				s.fill(key(b), s, []string{was})
			}
			if m.transform == diskMoveConsolidate {
				s.fill(key(top), s, chain)
				top.Parent, top.DeltaDiskFormat = nil, ""
			}
		}
		return devices
	}
	s.mutate(ctx, vm, func() {
		vm.Config.Hardware.Device = moveAll(vm.Config.Hardware.Device)
		for _, snap := range s.snapshotsOf(vm) {
			s.lock(ctx, snap, func() { snap.Config.Hardware.Device = moveAll(snap.Config.Hardware.Device) })
		}
		vmx := path.Base(dsPath(vm.Config.Files.VmPathName).Path)
		vm.Config.Files.VmPathName = dsJoin(newDir.Datastore, newDir.Path, vmx)
		home := strings.TrimSuffix(dsJoin(newDir.Datastore, newDir.Path), "/")
		vm.Config.Files.SnapshotDirectory, vm.Config.Files.SuspendDirectory, vm.Config.Files.LogDirectory = home, home, home
		versioned(vm)
		s.derive(&vm.VirtualMachine)
	})
	used := usedSpace(vm.Config.Hardware.Device)
	s.takeSpace(ctx, m.to.datastore, used)
	s.takeSpace(ctx, from.datastore, -used)
	s.removeUnused(&before, old, s.filesOf(vm))
	s.touchFiles(&vm.VirtualMachine)
}
