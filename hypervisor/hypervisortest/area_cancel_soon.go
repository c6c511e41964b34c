package hypervisortest

import (
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// The effects of Cancel on an operation, as the cancel table shows them.
const (
	outcomeCanceled = "cancelled" // the operation ended as ErrCanceled and its object is as before
	outcomeRanOn    = "ran on"    // Cancel was accepted, and the work finished first or can't be stopped
	outcomeRefused  = "refused"   // Cancel itself returned ErrUnsupported
	outcomeAtOnce   = "at once"   // finished before it could be cancelled
)

// cancelSoon cancels a task at its first sign of life and notes the outcome.
// Any outcome is valid if it is reported truly. The row checks that.
func cancelSoon[R any](e *env, op string, start func() *hypervisor.Task[R]) (R, error) {
	e.Helper()
	e.slow(150 * time.Millisecond)
	defer e.slow(0)
	t := start()
	e.ok(t.Err(), "%s", op)
	outcome := outcomeAtOnce
	for s, err := range t.Progress(e.ctx) {
		e.ok(err, "Progress of %s", op)
		if s.Done {
			break
		}
		outcome = outcomeRanOn
		if err := t.Cancel(e.ctx); err != nil {
			outcome = outcomeRefused
			e.oneOf(err, "Cancel of "+op, hypervisor.ErrUnsupported)
		}
		break
	}
	made, err := t.Wait(e.ctx)
	if err != nil {
		e.kind(err, hypervisor.ErrCanceled, "%s after Cancel", op)
		outcome = outcomeCanceled
	}
	e.site.s.mu.Lock()
	defer e.site.s.mu.Unlock()
	e.site.s.cancels[op] = outcome
	return made, err
}

// left checks the state in which a cancelled operation left a machine.
func (e *env) left(vm *hypervisor.VM, op string, want hypervisor.PowerState) {
	e.Helper()
	if i := e.info(vm); i.State != want {
		e.Errorf("after a cancelled %s the machine is %s, want %s", op, i.State, want)
	}
}

// cancelMaking cancels an operation that makes a machine. The row's clean-up
// finds anything that is left and not named.
func cancelMaking(e *env, op string, start func() *hypervisor.Task[*hypervisor.VM]) {
	e.Helper()
	if vm, err := cancelSoon(e, op, start); err == nil {
		e.keep(vm.ID())
	} else {
		e.leftover(err)
	}
}

func cancelCreate(e *env) {
	cancelMaking(e, "vm.create", func() *hypervisor.Task[*hypervisor.VM] { return e.c.CreateVM(e.ctx, e.Spec(e.name("cut"))) })
}

func cancelCloneFull(e *env) {
	vm := e.create("src")
	cancelMaking(e, "vm.clone (full)", func() *hypervisor.Task[*hypervisor.VM] { return vm.Clone(e.ctx, e.name("cut"), nil) })
}

func cancelCloneLinked(e *env) {
	vm := e.create("src")
	cancelMaking(e, "vm.clone (linked)", func() *hypervisor.Task[*hypervisor.VM] {
		return vm.Clone(e.ctx, e.name("cut"), &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked})
	})
}

func cancelSnapshot(e *env) {
	const op = "snapshot.create"
	vm := e.create("measured")
	_, err := cancelSoon(e, op, func() *hypervisor.Task[*hypervisor.Snapshot] { return vm.CreateSnapshot(e.ctx, "measured", nil) })
	if n := len(e.snapshotsOf(vm)); (n == 1) != (err == nil) {
		e.Errorf("%s ended with %v, and there are %d snapshots", op, err, n)
	}
	e.left(vm, op, hypervisor.StateOff)
}

func cancelRevert(e *env) {
	const op = "snapshot.revert"
	vm := e.create("measured")
	s := e.snapshot(vm, "measured", nil)
	_, _ = cancelSoon(e, op, func() *hypervisor.Task[hypervisor.None] { return s.Revert(e.ctx, nil) }) // both outcomes are valid
	e.left(vm, op, hypervisor.StateOff)
}

func cancelDeleteSnapshot(e *env) {
	const op = "snapshot.delete"
	vm := e.create("measured")
	s := e.snapshot(vm, "measured", nil)
	_, err := cancelSoon(e, op, func() *hypervisor.Task[hypervisor.None] { return s.Delete(e.ctx, nil) })
	if n := len(e.snapshotsOf(vm)); (n == 0) != (err == nil) {
		e.Errorf("%s ended with %v, and there are %d snapshots", op, err, n)
	}
	e.left(vm, op, hypervisor.StateOff)
}

func cancelDelete(e *env) {
	vm := e.create("measured")
	kept := e.info(vm).Disks
	_, err := cancelSoon(e, "vm.delete", func() *hypervisor.Task[hypervisor.None] { return vm.Delete(e.ctx, hypervisor.KeepDisks, nil) })
	if e.exists(vm.ID()) != (err != nil) {
		e.Errorf("vm.delete ended with %v, and the machine exists: %v", err, e.exists(vm.ID()))
	}
	if err == nil {
		e.removeVolumes(kept)
	} else {
		e.images = e.listImages() // disks may be detached already, and are kept
	}
}

func cancelStart(e *env) {
	vm := e.create("measured")
	_, err := cancelSoon(e, "vm.start", func() *hypervisor.Task[hypervisor.None] { return vm.Start(e.ctx) })
	if err == nil {
		e.left(vm, "vm.start", hypervisor.StateRunning)
	} else {
		e.left(vm, "vm.start", hypervisor.StateOff)
	}
}

func cancelMigrate(e *env) {
	vm := e.running()
	want, to, up := e.info(vm).Host, e.otherHost(vm), e.uptime(vm)
	_, err := cancelSoon(e, "migrate (live)", func() *hypervisor.Task[hypervisor.MigrateResult] {
		return vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: to, Mode: hypervisor.MigrateModeLive})
	})
	if err == nil {
		want = to
		e.unshown("the work won the race")
	}
	if n := e.info(vm); n.Host != want || n.State != hypervisor.StateRunning {
		e.Errorf("after Migrate ended with %v the machine is %s on %s, want running on %s", err, n.State, n.Host, want)
	}
	e.sameBoot(vm, up, "a cancelled Migrate")
}

func cancelMemory(e *env) {
	const op = "snapshot.create (memory)"
	vm := e.running()
	before := len(e.snapshotsOf(vm))
	s, err := cancelSoon(e, op, func() *hypervisor.Task[*hypervisor.Snapshot] {
		return vm.CreateSnapshot(e.ctx, "measured with RAM", &hypervisor.SnapshotOptions{Memory: true})
	})
	e.left(vm, op, hypervisor.StateRunning)
	if n := len(e.snapshotsOf(vm)); (n == before+1) != (err == nil) {
		e.Errorf("%s ended with %v, there were %d snapshots and are %d", op, err, before, n)
	}
	if err == nil {
		must(e, s.Delete(e.ctx, nil), "Delete of the snapshot")
	}
}

func cancelSuspend(e *env) {
	vm := e.running()
	_, err := cancelSoon(e, "vm.suspend", func() *hypervisor.Task[hypervisor.None] { return vm.Suspend(e.ctx) })
	if err == nil {
		e.left(vm, "vm.suspend", hypervisor.StateSuspended)
	} else {
		e.left(vm, "vm.suspend", hypervisor.StateRunning)
	}
	e.off(vm)
}
