package vspheresim

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// snapshotFront answers the calls on snapshots.
type snapshotFront struct{ receiver }

// maxSnapshotDepth is the number of snapshots in a chain. Source: vSphere documentation, "Taking Snapshots": a
// maximum of 32 snapshots are supported in a chain.
const maxSnapshotDepth = 32

type snapshotRequest struct {
	name, description string
	memory, quiesce   bool
}

func (f *vmFront) CreateSnapshotTask(ctx *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: f.createSnapshot(ctx, "CreateSnapshot_Task", req.This,
		snapshotRequest{req.Name, req.Description, req.Memory, req.Quiesce})}}
}

func (f *vmFront) CreateSnapshotExTask(ctx *simulator.Context, req *types.CreateSnapshotEx_Task) soap.HasFault {
	return &methods.CreateSnapshotEx_TaskBody{Res: &types.CreateSnapshotEx_TaskResponse{Returnval: f.createSnapshot(ctx, "CreateSnapshotEx_Task", req.This,
		snapshotRequest{req.Name, req.Description, req.Memory, req.QuiesceSpec != nil})}}
}

// createSnapshot: API reference VirtualMachine.CreateSnapshot_Task. Its faults: InvalidName, InvalidPowerState,
// InvalidState, NotSupported, SnapshotFault, TaskInProgress, TooManySnapshotLevels is a kind of SnapshotFault.
// Snapshots of templates are refused with NotSupported (believed).
func (f *vmFront) createSnapshot(ctx *simulator.Context, method string, r ref, q snapshotRequest) ref {
	s := f.sim
	return s.start(ctx, s.vmJob(method, "createSnapshot", r, true,
		func(vm *simulator.VirtualMachine) types.BaseMethodFault { return s.checkSnapshot(vm, q) },
		func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
			return s.takeSnapshot(ctx, vm, q), nil
		}))
}

func (s *Sim) checkSnapshot(vm *simulator.VirtualMachine, q snapshotRequest) types.BaseMethodFault {
	switch {
	case q.name == "" || len(q.name) > 80:
		return &types.InvalidName{Name: q.name, Entity: &vm.Self}
	case vm.Config.Template:
		return new(types.NotSupported)
	case snapshotDepth(vm) >= maxSnapshotDepth:
		return new(types.TooManySnapshotLevels)
	}
	// vSphere 7 manual, "Snapshot Limitations": no snapshot of the memory of a machine with independent disks. Which fault is believed.
	for _, d := range disksOf(vm.Config.Hardware.Device) {
		if q.memory && vm.Runtime.PowerState == poweredOn && independentMode(d) {
			cause := deviceNotSupported(d)
			return &types.SnapshotIncompatibleDeviceInVm{Fault: types.LocalizedMethodFault{Fault: cause, LocalizedMessage: faultText(cause)}}
		}
	}
	// API reference: SnapshotIncompatibleDeviceInVm, "specified snapshot cannot be taken because the virtual machine has
	// a device that is not compatible". vSphere documentation: no memory snapshot with DirectPath I/O.
	if d := firstPassthrough(vm.Config); d != nil && q.memory && vm.Runtime.PowerState == poweredOn {
		cause := deviceNotSupported(d)
		return &types.SnapshotIncompatibleDeviceInVm{Fault: types.LocalizedMethodFault{
			Fault: cause, LocalizedMessage: "Device '" + label(d) + "' does not support memory snapshots.",
		}}
	}
	return nil
}

func snapshotDepth(vm *simulator.VirtualMachine) int {
	if vm.Snapshot == nil || vm.Snapshot.CurrentSnapshot == nil {
		return 0
	}
	return len(pathTo(vm.Snapshot.RootSnapshotList, *vm.Snapshot.CurrentSnapshot))
}

// pathTo is the snapshots from the root down to one.
func pathTo(list []types.VirtualMachineSnapshotTree, r ref) []*types.VirtualMachineSnapshotTree {
	for i := range list {
		if list[i].Snapshot == r {
			return []*types.VirtualMachineSnapshotTree{&list[i]}
		}
		if below := pathTo(list[i].ChildSnapshotList, r); below != nil {
			return append([]*types.VirtualMachineSnapshotTree{&list[i]}, below...)
		}
	}
	return nil
}

func findSnapshot(vm *simulator.VirtualMachine, r ref) *types.VirtualMachineSnapshotTree {
	if vm.Snapshot == nil {
		return nil
	}
	if p := pathTo(vm.Snapshot.RootSnapshotList, r); p != nil {
		return p[len(p)-1]
	}
	return nil
}

// takeSnapshot keeps the configuration and gives every disk a child that the machine writes from now on. API
// reference: VirtualMachineSnapshot.config is "Information about the configuration of this virtual machine when this
// snapshot was taken"; VirtualMachineSnapshotTree.state is poweredOff for a snapshot without memory.
func (s *Sim) takeSnapshot(ctx *simulator.Context, vm *simulator.VirtualMachine, q snapshotRequest) ref {
	reg := s.registry()
	snap := &simulator.VirtualMachineSnapshot{DataSets: vm.DataSets}
	snap.Vm = vm.Self
	snap.Config = clone(*vm.Config)
	reg.Put(snap)
	st := s.stateOf(vm.Self)
	st.snapshots++

	state := vm.Runtime.PowerState
	if state == poweredOn && !q.memory {
		state = poweredOff
	}
	// API reference: the quiesce flag is ignored when the machine is off or Tools are not running, and memory wins.
	quiesced := q.quiesce && !q.memory && s.toolsFault(vm) == nil
	node := types.VirtualMachineSnapshotTree{
		Snapshot: snap.Self, Vm: vm.Self, Name: q.name, Description: q.description, Id: st.snapshots,
		CreateTime: time.Now(), State: state, Quiesced: quiesced, ReplaySupported: types.NewBool(false),
	}
	if state != poweredOff {
		if st.saved == nil {
			st.saved = map[int32]string{}
		}
		st.saved[node.Id] = st.memory
	}
	s.mutate(ctx, vm, func() {
		info := new(types.VirtualMachineSnapshotInfo)
		if vm.Snapshot != nil {
			*info = clone(*vm.Snapshot)
		}
		if cur := info.CurrentSnapshot; cur != nil {
			p := pathTo(info.RootSnapshotList, *cur)
			at := p[len(p)-1]
			at.ChildSnapshotList = append(at.ChildSnapshotList, node)
		} else {
			info.RootSnapshotList = append(info.RootSnapshotList, node)
		}
		info.CurrentSnapshot = &snap.Self
		vm.Snapshot = info
		vm.Config.Hardware.Device = s.branch(vm, vm.Config.Hardware.Device, vm.Config.Hardware.Device)
		s.relinkSnapshots(ctx, vm)
		versioned(vm)
		s.derive(&vm.VirtualMachine)
	})
	s.touchFiles(&vm.VirtualMachine)
	return snap.Self
}

// branch returns devices whose disks are new children of the disks of a snapshot. Independent disks are those of
// the machine as it is.
func (s *Sim) branch(vm *simulator.VirtualMachine, now, at []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	devices := clone(at)
	dir := vmDir(&vm.VirtualMachine)
	for _, d := range disksOf(devices) {
		if independent(d) {
			for _, n := range disksOf(now) {
				if n.Key == d.Key {
					d.Backing = clone(n.Backing)
				}
			}
			continue
		}
		b := fileBacking(d)
		ds := ref{}
		if b.Datastore != nil {
			ds = *b.Datastore
		}
		if o := s.datastoreByName(s.host(*vm.Runtime.Host), dir.Datastore); o != nil {
			ds = o.Self
		}
		file := s.deltaName(vm, b.FileName, dir.String())
		delete(s.blocks, fileKey(&ds, file))
		d.Backing = child(b, file, ds)
	}
	return devices
}

// relinkSnapshots updates the roots of a machine and the children of its snapshots from the tree. The caller holds the lock of the machine.
func (s *Sim) relinkSnapshots(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	vm.RootSnapshot = nil
	if vm.Snapshot == nil {
		return
	}
	var walk func([]types.VirtualMachineSnapshotTree)
	walk = func(list []types.VirtualMachineSnapshotTree) {
		for _, t := range list {
			if snap, ok := s.registry().Get(t.Snapshot).(*simulator.VirtualMachineSnapshot); ok {
				var children []ref
				for _, c := range t.ChildSnapshotList {
					children = append(children, c.Snapshot)
				}
				s.lock(ctx, snap, func() { snap.ChildSnapshot = children })
			}
			walk(t.ChildSnapshotList)
		}
	}
	walk(vm.Snapshot.RootSnapshotList)
	for _, t := range vm.Snapshot.RootSnapshotList {
		vm.RootSnapshot = append(vm.RootSnapshot, t.Snapshot)
	}
}

// RenameSnapshot: API reference VirtualMachineSnapshot.RenameSnapshot; fault InvalidName.
func (f *snapshotFront) RenameSnapshot(ctx *simulator.Context, req *types.RenameSnapshot) soap.HasFault {
	s, body := f.sim, new(methods.RenameSnapshotBody)
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, fault := s.snapshotVM(req.This)
	switch {
	case fault != nil:
	case len(req.Name) > 80:
		fault = &types.InvalidName{Name: req.Name}
	case s.busy[vm.Self] != nil:
		fault = &types.TaskInProgress{Task: s.busy[vm.Self].task}
	}
	if fault != nil {
		body.Fault_ = soapFault(fault)
		return body
	}
	s.mutate(s.fork(ctx), vm, func() {
		info := clone(*vm.Snapshot)
		p := pathTo(info.RootSnapshotList, req.This)
		at := p[len(p)-1]
		if req.Name != "" {
			at.Name = req.Name
		}
		if req.Description != "" {
			at.Description = req.Description
		}
		vm.Snapshot = &info
	})
	body.Res = new(types.RenameSnapshotResponse)
	return body
}

// snapshotVM is the machine of a snapshot.
func (s *Sim) snapshotVM(r ref) (*simulator.VirtualMachine, types.BaseMethodFault) {
	snap, ok := s.registry().Get(r).(*simulator.VirtualMachineSnapshot)
	if !ok {
		return nil, &types.ManagedObjectNotFound{Obj: r}
	}
	vm, fault := s.live(snap.Vm)
	if fault != nil {
		return vm, fault
	}
	if findSnapshot(vm, r) == nil {
		return vm, &types.ManagedObjectNotFound{Obj: r}
	}
	return vm, nil
}
