package hypervisortest

import (
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// snapshotRows: fields of the options of snapshots.
func snapshotRows() []row {
	take := func(e *env, vm *hypervisor.VM, o hypervisor.SnapshotOptions) (hypervisor.SnapshotInfo, *hypervisor.Snapshot, error) {
		s, err := vm.CreateSnapshot(e.ctx, e.name("s"), &o).Wait(e.ctx)
		if err != nil {
			return hypervisor.SnapshotInfo{}, nil, err
		}
		i, err := s.Info(e.ctx)
		e.ok(err, "Info of the snapshot")
		return i, s, nil
	}
	rows := []row{
		{name: "SnapshotOptions.Description", run: func(e *env) {
			i, _, err := take(e, e.create("vm"), hypervisor.SnapshotOptions{Description: "before"})
			e.ok(err, "CreateSnapshot")
			e.same(i.Description, "before", "Description")
		}},
		{name: "SnapshotOptions.Memory", run: func(e *env) {
			vm := e.create("vm")
			e.start(vm)
			i, _, err := take(e, vm, hypervisor.SnapshotOptions{Memory: true})
			if e.honoured(err, capability.SnapshotMemory) {
				e.same(i.Memory, true, "Memory")
			}
		}},
		{name: "SnapshotOptions.Quiesce", run: func(e *env) {
			vm := e.create("vm")
			e.start(vm)
			i, _, err := take(e, vm, hypervisor.SnapshotOptions{Quiesce: true})
			if e.honoured(err, capability.SnapshotQuiesce) {
				e.same(i.Quiesced, true, "Quiesced")
			}
		}},
		{name: "RevertOptions.KeepOff", run: func(e *env) {
			vm := e.create("vm")
			e.start(vm)
			_, s, err := take(e, vm, hypervisor.SnapshotOptions{Memory: true})
			if !e.has(capability.SnapshotMemory) {
				e.unshown("no snapshot has RAM")
				return
			}
			e.ok(err, "CreateSnapshot")
			_, err = s.Revert(e.ctx, &hypervisor.RevertOptions{KeepOff: true}).Wait(e.ctx)
			if e.honoured(err) {
				if st := e.info(vm).State; st != hypervisor.StateOff && st != hypervisor.StateSuspended {
					e.Errorf("reverted with KeepOff the machine is %s", st)
				}
			}
		}},
		{name: "DeleteSnapshotOptions.Children", run: func(e *env) {
			vm := e.create("vm")
			_, s, err := take(e, vm, hypervisor.SnapshotOptions{})
			e.ok(err, "CreateSnapshot")
			_, _, err = take(e, vm, hypervisor.SnapshotOptions{})
			e.ok(err, "CreateSnapshot")
			_, err = s.Delete(e.ctx, &hypervisor.DeleteSnapshotOptions{Children: true}).Wait(e.ctx)
			if e.honoured(err) {
				all, err := vm.Snapshots(e.ctx)
				e.ok(err, "Snapshots")
				e.same(len(all), 0, "the number of snapshots left")
			}
		}},
	}
	for i := range rows {
		rows[i].needs = caps{capability.SnapshotDisk}
	}
	return rows
}

// powerRows: fields of DeleteOptions and ShutdownOptions.
func powerRows() []row {
	const limit = 300 * time.Millisecond
	hung := func(e *env) *hypervisor.VM {
		e.Helper()
		vm := e.create("vm")
		e.start(vm)
		if e.Hang == nil {
			e.unshown("no guest here can be made to hang")
			return nil
		}
		e.ok(e.Hang(e.ctx, vm.ID()), "have the guest hang")
		return vm
	}
	return []row{
		{name: "DeleteOptions.Force", run: func(e *env) {
			vm := e.create("vm")
			e.start(vm)
			_, err := vm.Delete(e.ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(e.ctx)
			e.ok(err, "Delete of a running machine")
			e.same(e.exists(vm.ID()), false, "that the machine is there")
		}},
		{name: "ShutdownOptions.Timeout", needs: caps{capability.PowerShutdown}, run: func(e *env) {
			vm := hung(e)
			if vm == nil {
				return
			}
			begin := time.Now()
			_, err := vm.Shutdown(e.ctx, &hypervisor.ShutdownOptions{Timeout: limit}).Wait(e.ctx)
			e.kind(err, hypervisor.ErrTimeout, "Shutdown of a guest that hangs")
			if took := time.Since(begin); took < limit-limit/10 {
				e.Errorf("the guest was given %v of %v", took, limit)
			}
		}},
		{name: "ShutdownOptions.Force", needs: caps{capability.PowerShutdown}, run: func(e *env) {
			vm := hung(e)
			if vm == nil {
				return
			}
			_, err := vm.Shutdown(e.ctx, &hypervisor.ShutdownOptions{Timeout: limit, Force: true}).Wait(e.ctx)
			if e.honoured(err) {
				e.state(vm, hypervisor.StateOff, "Shutdown with Force")
			}
		}},
	}
}
