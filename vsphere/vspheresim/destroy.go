package vspheresim

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// DestroyTask: API reference ManagedEntity.Destroy_Task; InvalidPowerState for a machine that is not off. vSphere programming guide,
// "Removing Snapshots and Deleting Linked Virtual Machines": the files of a disk that other machines share are kept.
func (f *vmFront) DestroyTask(ctx *simulator.Context, req *types.Destroy_Task) soap.HasFault {
	s := f.sim
	return &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("Destroy_Task", "destroy", req.This, false,
			func(vm *simulator.VirtualMachine) types.BaseMethodFault {
				if vm.Runtime.PowerState == poweredOn {
					return wrongPower(vm, poweredOff)
				}
				return nil
			},
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				s.destroy(ctx, vm)
				return nil, nil
			}))}}
}

// destroy deletes a machine and the files that nobody else needs.
func (s *Sim) destroy(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	files := s.filesOf(vm)
	kept := s.heldBy(files, vm.Self)
	m := vm.VirtualMachine
	s.takeSpace(ctx, s.placeOf(vm).datastore, -usedSpace(m.Config.Hardware.Device))
	s.remove(ctx, vm)
	for f := range files {
		if !kept[f] {
			s.deleteDiskFile(f)
			delete(s.loose, f)
		}
	}
	for _, f := range m.LayoutEx.File {
		if f.Type != "diskDescriptor" && f.Type != "diskExtent" {
			if p := s.filePath(&m, f.Name); p != "" {
				_ = s.root.Remove(p)
			}
		}
	}
	if len(kept) == 0 {
		dir := vmDir(&m)
		// Detached disks are there too and are not files of the machine.
		if p := s.filePath(&m, dir.String()); p != "" {
			left, _ := fs.ReadDir(s.root.FS(), filepath.ToSlash(p))
			if !slices.ContainsFunc(left, func(e fs.DirEntry) bool { return strings.HasSuffix(e.Name(), ".vmdk") }) {
				_ = s.root.RemoveAll(p)
			}
		}
	}
}

// remove removes a machine and its snapshots from the inventory.
func (s *Sim) remove(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	reg := s.registry()
	s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent { return &types.VmRemovedEvent{VmEvent: e} })
	for _, snap := range s.snapshotsOf(vm) {
		reg.Remove(ctx, snap.Self)
	}
	s.forgetHA(ctx, vm)
	if h := s.host(*vm.Runtime.Host); h != nil {
		s.setList(ctx, h, "vm", without(h.Vm, vm.Self))
	}
	if vm.ResourcePool != nil {
		if obj, list := s.poolVMs(*vm.ResourcePool); obj != nil {
			s.setList(ctx, obj, "vm", without(*list, vm.Self))
		}
	}
	for _, r := range vm.Datastore {
		if d := s.datastore(r); d != nil {
			s.setList(ctx, d, "vm", without(d.Vm, vm.Self))
		}
	}
	if f := s.folder(folderOf(vm)); f != nil {
		s.setList(ctx, reg.Get(f.Self), "childEntity", without(f.ChildEntity, vm.Self))
	}
	reg.Remove(ctx, vm.Self)
	delete(s.vms, vm.Self)
}

// parkedVM is a machine whose files exist and that is not in the inventory.
type parkedVM struct {
	vm        *moVM
	snapshots map[ref]types.VirtualMachineConfigInfo
	state     vmState
}

// unpark restores the snapshots of a machine that is registered again, with new references.
func (s *Sim) unpark(ctx *simulator.Context, vm *simulator.VirtualMachine, p *parkedVM) {
	st := p.state
	s.vms[vm.Self] = &st
	if p.vm.Snapshot == nil {
		return
	}
	info := clone(*p.vm.Snapshot)
	fresh := map[ref]ref{}
	var walk func([]types.VirtualMachineSnapshotTree)
	walk = func(list []types.VirtualMachineSnapshotTree) {
		for i := range list {
			snap := new(simulator.VirtualMachineSnapshot)
			snap.Vm, snap.Config = vm.Self, p.snapshots[list[i].Snapshot]
			s.registry().Put(snap)
			fresh[list[i].Snapshot] = snap.Self
			list[i].Snapshot, list[i].Vm = snap.Self, vm.Self
			walk(list[i].ChildSnapshotList)
		}
	}
	walk(info.RootSnapshotList)
	if cur := info.CurrentSnapshot; cur != nil {
		n := fresh[*cur]
		info.CurrentSnapshot = &n
	}
	s.mutate(ctx, vm, func() {
		vm.Snapshot = &info
		s.relinkSnapshots(ctx, vm)
		s.derive(&vm.VirtualMachine)
	})
}

// lostVM reports whether a machine is an entry in the inventory alone.
func lostVM(vm *simulator.VirtualMachine) bool {
	switch vm.Runtime.ConnectionState {
	case types.VirtualMachineConnectionStateOrphaned, types.VirtualMachineConnectionStateInaccessible, types.VirtualMachineConnectionStateInvalid:
		return true
	}
	return vm.Config == nil
}

// LoseVM makes a machine one that vCenter lists and can't reach, as after the loss of a host or datastore. API reference:
// VirtualMachineConnectionState, orphaned, inaccessible and invalid. VirtualMachine.config is unset for the last two, and for the first if config is
// set. The machine is named as for [Sim.WriteDisk].
func (s *Sim) LoseVM(name string, state types.VirtualMachineConnectionState, config bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, err := s.machine(name)
	if err != nil {
		return err
	}
	s.mutate(s.newContext(), vm, func() {
		vm.Runtime.ConnectionState, vm.Summary.Runtime.ConnectionState = state, state
		if config {
			vm.Config = nil
		}
	})
	return nil
}

// UnregisterVM: API reference VirtualMachine.UnregisterVM; InvalidPowerState. The files stay, and RegisterVM_Task finds the machine again.
func (f *vmFront) UnregisterVM(ctx *simulator.Context, req *types.UnregisterVM) soap.HasFault {
	s, body := f.sim, new(methods.UnregisterVMBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, fault := s.live(req.This)
	if vm != nil && lostVM(vm) && s.busy[vm.Self] == nil {
		s.remove(s.fork(ctx), vm)
		body.Res = new(types.UnregisterVMResponse)
		return body
	}
	switch {
	case fault != nil:
	case vm.Runtime.PowerState == poweredOn:
		fault = wrongPower(vm, poweredOff)
	case s.busy[vm.Self] != nil:
		fault = &types.TaskInProgress{Task: s.busy[vm.Self].task}
	}
	if fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	m := clone(vm.VirtualMachine)
	park := &parkedVM{vm: &m, snapshots: map[ref]types.VirtualMachineConfigInfo{}, state: *s.stateOf(vm.Self)}
	for _, snap := range s.snapshotsOf(vm) {
		park.snapshots[snap.Self] = clone(snap.Config)
	}
	home := s.placeOf(vm).datastore
	s.parked[fileKey(&home, m.Config.Files.VmPathName)] = park
	for _, d := range disksOf(m.Config.Hardware.Device) {
		if b := fileBacking(d); b != nil {
			s.loose[key(b)] = looseDisk{backing: b, size: d.CapacityInBytes}
		}
	}
	s.remove(s.fork(ctx), vm)
	body.Res = new(types.UnregisterVMResponse)
	return body
}

// RegisterVMTask: API reference Folder.RegisterVM_Task; AlreadyExists "if the virtual machine is already registered", DuplicateName,
// NotFound "if the configuration file is not found", InvalidArgument for a template with a pool or a machine without.
func (f *folderFront) RegisterVMTask(ctx *simulator.Context, req *types.RegisterVM_Task) soap.HasFault {
	s := f.sim
	var at place
	var m *parkedVM
	return &methods.RegisterVM_TaskBody{Res: &types.RegisterVM_TaskResponse{Returnval: s.start(ctx, job{
		method: "RegisterVM_Task", id: "Folder.registerVm", entity: req.This,
		check: func() (fault types.BaseMethodFault) {
			m, at, fault = s.checkRegister(req)
			return fault
		},
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			n := clone(*m.vm)
			if req.Name != "" {
				n.Config.Name = escapeName(req.Name)
			}
			n.Config.Template = req.AsTemplate
			n.Snapshot, n.RootSnapshot = nil, nil
			delete(s.parked, s.keyIn(s.datacenterRef(req.This), req.Path))
			vm := s.insert(ctx, &n, at, true)
			s.unpark(ctx, vm, m)
			s.event(ctx, vm, func(e types.VmEvent) types.BaseEvent { return &types.VmRegisteredEvent{VmEvent: e} })
			return vm.Self, nil
		},
	})}}
}

func (s *Sim) checkRegister(req *types.RegisterVM_Task) (*parkedVM, place, types.BaseMethodFault) {
	switch {
	case req.Path == "":
		return nil, place{}, invalid("path")
	case req.AsTemplate && req.Host == nil:
		return nil, place{}, invalid("host")
	case req.AsTemplate && req.Pool != nil:
		return nil, place{}, invalid("pool")
	case !req.AsTemplate && req.Pool == nil:
		return nil, place{}, invalid("pool")
	}
	path := s.keyIn(s.datacenterRef(req.This), req.Path)
	for _, vm := range s.allVMs() {
		if home := s.placeOf(vm).datastore; fileKey(&home, vm.Config.Files.VmPathName) == path {
			return nil, place{}, &types.AlreadyExists{Name: vm.Self.Value}
		}
	}
	m := s.parked[path]
	if m == nil {
		return nil, place{}, new(types.NotFound)
	}
	name := req.Name
	if name == "" {
		name = m.vm.Config.Name
	}
	if fault := s.checkName(name, req.This, ref{}); fault != nil {
		return nil, place{}, fault
	}
	pool := req.Pool
	if pool == nil {
		if c := s.computeOfHost(s.host(*req.Host)); c != nil {
			pool = c.ResourcePool
		}
	}
	var datastore *ref
	for _, e := range s.registry().All("Datastore") {
		if d, ok := e.(*simulator.Datastore); ok && d.Name == dsPath(req.Path).Datastore && has(s.hostsOf(*pool)[0].Datastore, d.Self) {
			datastore = &d.Self
		}
	}
	if datastore == nil {
		return nil, place{}, &types.InvalidDatastore{Name: dsPath(req.Path).Datastore}
	}
	at, fault := s.choose(place{}, &req.This, pool, req.Host, datastore, m.vm.Config)
	return m, at, fault
}

// hostsOf is the hosts of the cluster of a pool.
func (s *Sim) hostsOf(pool ref) []*simulator.HostSystem {
	var out []*simulator.HostSystem
	if c := s.poolOwner(pool); c != nil {
		for _, r := range c.Host {
			if h := s.host(r); h != nil {
				out = append(out, h)
			}
		}
	}
	return out
}
