package vspheresim

import (
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// snapshotJob is a job on the machine of a snapshot.
func (s *Sim) snapshotJob(method, id string, r ref, cancel bool, check func(vm *simulator.VirtualMachine) types.BaseMethodFault,
	work func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault)) job {
	entity := r
	if snap, ok := s.registry().Get(r).(*simulator.VirtualMachineSnapshot); ok {
		entity = snap.Vm
	}
	j := s.vmJob(method, id, entity, cancel, check, work)
	if strings.HasPrefix(id, "vm.") { // a snapshot's own key in TaskDescription.methodInfo
		j.id = id
	}
	j.check = func() types.BaseMethodFault {
		vm, f := s.snapshotVM(r)
		if f != nil || check == nil {
			return f
		}
		return check(vm)
	}
	return j
}

// notTemplate refuses what can't be done to a template, whose files nobody writes (believed).
func notTemplate(vm *simulator.VirtualMachine) types.BaseMethodFault {
	if vm.Config.Template {
		return new(types.NotSupported)
	}
	return nil
}

// RemoveSnapshotTask: API reference VirtualMachineSnapshot.RemoveSnapshot_Task; consolidate is true if not set. A
// second removal of the same snapshot finds the machine busy, or the snapshot gone.
func (f *snapshotFront) RemoveSnapshotTask(ctx *simulator.Context, req *types.RemoveSnapshot_Task) soap.HasFault {
	s := f.sim
	return &methods.RemoveSnapshot_TaskBody{Res: &types.RemoveSnapshot_TaskResponse{Returnval: s.start(ctx,
		s.snapshotJob("RemoveSnapshot_Task", "vm.Snapshot.remove", req.This, false, notTemplate,
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				s.removeSnapshots(ctx, vm, req.This, req.RemoveChildren, req.Consolidate == nil || *req.Consolidate)
				return nil, nil
			}))}}
}

func (f *vmFront) RemoveAllSnapshotsTask(ctx *simulator.Context, req *types.RemoveAllSnapshots_Task) soap.HasFault {
	s := f.sim
	return &methods.RemoveAllSnapshots_TaskBody{Res: &types.RemoveAllSnapshots_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("RemoveAllSnapshots_Task", "removeAllSnapshots", req.This, false, notTemplate,
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				if vm.Snapshot != nil {
					s.removeSnapshots(ctx, vm, ref{}, true, req.Consolidate == nil || *req.Consolidate)
				}
				return nil, nil
			}))}}
}

// ConsolidateVMDisksTask: API reference VirtualMachine.ConsolidateVMDisks_Task, "Consolidate any redo logs of the
// virtual disks of this virtual machine that are not needed".
func (f *vmFront) ConsolidateVMDisksTask(ctx *simulator.Context, req *types.ConsolidateVMDisks_Task) soap.HasFault {
	s := f.sim
	return &methods.ConsolidateVMDisks_TaskBody{Res: &types.ConsolidateVMDisks_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("ConsolidateVMDisks_Task", "consolidateDisks", req.This, false, notTemplate,
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				s.mutate(ctx, vm, func() {
					s.consolidate(ctx, vm)
					versioned(vm)
					vm.Runtime.ConsolidationNeeded = false
					s.derive(&vm.VirtualMachine)
				})
				return nil, nil
			}))}}
}

// removeSnapshots removes a snapshot from the tree; an empty reference means all. If one is removed alone, its children move to its parent, and the
// current snapshot becomes the nearest one that stays.
func (s *Sim) removeSnapshots(ctx *simulator.Context, vm *simulator.VirtualMachine, r ref, children, merge bool) {
	before := s.filesOf(vm)
	var gone []ref
	s.mutate(ctx, vm, func() {
		info := clone(*vm.Snapshot)
		if cur := info.CurrentSnapshot; cur != nil {
			info.CurrentSnapshot = currentAfter(info.RootSnapshotList, *cur, r, children)
		}
		info.RootSnapshotList = prune(info.RootSnapshotList, r, children, &gone)
		vm.Snapshot = &info
		if len(info.RootSnapshotList) == 0 {
			vm.Snapshot = nil
		}
		s.relinkSnapshots(ctx, vm)
		if merge {
			s.consolidate(ctx, vm)
		}
		versioned(vm)
		vm.Runtime.ConsolidationNeeded = s.needsConsolidation(vm)
		s.derive(&vm.VirtualMachine)
	})
	for _, g := range gone {
		s.registry().Remove(ctx, g)
	}
	s.removeUnused(&vm.VirtualMachine, before, s.filesOf(vm))
}

func currentAfter(list []types.VirtualMachineSnapshotTree, cur, r ref, children bool) *ref {
	if r.Value == "" {
		return nil
	}
	path := pathTo(list, cur)
	for i, t := range path {
		if t.Snapshot != r {
			continue
		}
		if !children && i != len(path)-1 {
			break // a snapshot above the current one is removed; the current one stays
		}
		if i == 0 {
			return nil
		}
		return &path[i-1].Snapshot
	}
	return &cur
}

func prune(list []types.VirtualMachineSnapshotTree, r ref, children bool, gone *[]ref) []types.VirtualMachineSnapshotTree {
	var out []types.VirtualMachineSnapshotTree
	for _, t := range list {
		switch {
		case r.Value == "" || t.Snapshot == r && children:
			*gone = append(*gone, t.Snapshot)
			prune(t.ChildSnapshotList, ref{}, true, gone)
		case t.Snapshot == r:
			*gone = append(*gone, t.Snapshot)
			out = append(out, t.ChildSnapshotList...)
		default:
			t.ChildSnapshotList = prune(t.ChildSnapshotList, r, children, gone)
			out = append(out, t)
		}
	}
	return out
}

// RevertToSnapshotTask: API reference VirtualMachineSnapshot.RevertToSnapshot_Task, "Change the execution state of the
// virtual machine to the state of this snapshot"; faults InsufficientResourcesFault, InvalidState, NotSupported, TaskInProgress.
func (f *snapshotFront) RevertToSnapshotTask(ctx *simulator.Context, req *types.RevertToSnapshot_Task) soap.HasFault {
	s := f.sim
	stay := req.SuppressPowerOn != nil && *req.SuppressPowerOn
	return &methods.RevertToSnapshot_TaskBody{Res: &types.RevertToSnapshot_TaskResponse{Returnval: s.start(ctx,
		s.snapshotJob("RevertToSnapshot_Task", "vm.Snapshot.revert", req.This, false,
			func(vm *simulator.VirtualMachine) types.BaseMethodFault { return s.checkRevert(vm, req.This, stay) },
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				s.revert(ctx, vm, req.This, stay)
				return nil, nil
			}))}}
}

// RevertToCurrentSnapshotTask: API reference VirtualMachine.RevertToCurrentSnapshot_Task; NotFound "if the virtual
// machine does not have a current snapshot".
func (f *vmFront) RevertToCurrentSnapshotTask(ctx *simulator.Context, req *types.RevertToCurrentSnapshot_Task) soap.HasFault {
	s := f.sim
	stay := req.SuppressPowerOn != nil && *req.SuppressPowerOn
	return &methods.RevertToCurrentSnapshot_TaskBody{Res: &types.RevertToCurrentSnapshot_TaskResponse{Returnval: s.start(ctx,
		s.vmJob("RevertToCurrentSnapshot_Task", "revertToCurrentSnapshot", req.This, false,
			func(vm *simulator.VirtualMachine) types.BaseMethodFault {
				if vm.Snapshot == nil || vm.Snapshot.CurrentSnapshot == nil {
					return new(types.NotFound)
				}
				return s.checkRevert(vm, *vm.Snapshot.CurrentSnapshot, stay)
			},
			func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
				s.revert(ctx, vm, *vm.Snapshot.CurrentSnapshot, stay)
				return nil, nil
			}))}}
}

func (s *Sim) checkRevert(vm *simulator.VirtualMachine, r ref, stay bool) types.BaseMethodFault {
	snap, ok := s.registry().Get(r).(*simulator.VirtualMachineSnapshot)
	if !ok {
		return &types.ManagedObjectNotFound{Obj: r}
	}
	if vm.Config.Template {
		return new(types.NotSupported)
	}
	if t := findSnapshot(vm, r); t != nil && t.State == poweredOn && !stay {
		return s.admit(vm, &snap.Config, s.host(*vm.Runtime.Host))
	}
	return nil
}

// revert restores the machine's configuration, makes new children of the disks that it had, and restores its power state. Everything written since is
// lost. That the name and the place in the inventory stay is believed.
func (s *Sim) revert(ctx *simulator.Context, vm *simulator.VirtualMachine, r ref, stay bool) {
	snap := s.registry().Get(r).(*simulator.VirtualMachineSnapshot)
	t := findSnapshot(vm, r)
	before := s.filesOf(vm)
	state := t.State
	if stay {
		state = poweredOff
	}
	s.mutate(ctx, vm, func() {
		c := clone(snap.Config)
		c.Name, c.Files, c.Template = vm.Config.Name, vm.Config.Files, vm.Config.Template
		c.Hardware.Device = s.branch(vm, vm.Config.Hardware.Device, snap.Config.Hardware.Device)
		vm.Config = &c
		versioned(vm)
		info := clone(*vm.Snapshot)
		info.CurrentSnapshot = &r
		vm.Snapshot = &info
		var boot *time.Time
		if state == poweredOn {
			boot = types.NewTime(time.Now())
		}
		s.applyPower(vm, state, boot)
		if state != poweredOff {
			st := s.stateOf(vm.Self)
			st.memory = st.saved[t.Id]
		}
		vm.Runtime.ConsolidationNeeded = s.needsConsolidation(vm)
		s.derive(&vm.VirtualMachine)
	})
	s.removeUnused(&vm.VirtualMachine, before, s.filesOf(vm))
	s.touchFiles(&vm.VirtualMachine)
}
