package hypervisortest

import (
	"context"
	"errors"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// cancel: in every phase the reported outcome is true, and whatever is left
// is named.
var cancel = area{"cancel", []row{
	{name: "in-every-phase", proves: caps{capability.TaskCancel}, needs: caps{capability.CloneFull}, run: cancelPhases},
	{name: "run", proves: caps{capability.TaskCancel}, needs: caps{capability.CloneFull}, run: cancelRun},
	{name: "create", needs: caps{capability.TaskCancel}, run: cancelCreate},
	{name: "clone-full", needs: caps{capability.TaskCancel, capability.CloneFull}, run: cancelCloneFull},
	{name: "clone-linked", needs: caps{capability.TaskCancel, capability.CloneLinked}, run: cancelCloneLinked},
	{name: "snapshot-create", needs: caps{capability.TaskCancel, capability.SnapshotDisk}, run: cancelSnapshot},
	{name: "snapshot-revert", needs: caps{capability.TaskCancel, capability.SnapshotDisk}, run: cancelRevert},
	{name: "snapshot-delete", needs: caps{capability.TaskCancel, capability.SnapshotDisk}, run: cancelDeleteSnapshot},
	{name: "delete", needs: caps{capability.TaskCancel}, run: cancelDelete},
	{name: "start", needs: caps{capability.TaskCancel}, run: cancelStart},
	{name: "migrate", proves: caps{capability.TaskCancel}, needs: caps{capability.MigrateLive}, run: cancelMigrate},
	{name: "snapshot-memory", needs: caps{capability.TaskCancel, capability.SnapshotMemory}, run: cancelMemory},
	{name: "suspend", needs: caps{capability.TaskCancel, capability.PowerSuspend}, run: cancelSuspend},
}}

func cancelPhases(e *env) {
	src := e.create("src")
	e.write(src, "safe")
	e.slow(200 * time.Millisecond)
	canceled := 0
	for phase := range 4 {
		if cancelPhase(e, src, phase) {
			canceled++
		}
	}
	e.state(src, hypervisor.StateOff, "cancelled clones")
	e.content(src, "safe", "cancelled clones")
	switch {
	case canceled == 0 && e.Slow != nil:
		e.Errorf("the backend is slow and no cancel came through")
	case canceled == 0:
		e.unshown("the work won the race each time")
	}
}

// cancelPhase cancels a clone in a phase, and reports whether the clone was
// cancelled.
func cancelPhase(e *env, src *hypervisor.VM, phase int) bool {
	images := e.listImages()
	t := src.Clone(e.ctx, e.name("phase"), nil)
	e.ok(t.Err(), "Clone")
	n := 0
	for s, err := range t.Progress(e.ctx) {
		e.ok(err, "Progress")
		if n == phase && !s.Done {
			if err := t.Cancel(e.ctx); err != nil {
				e.oneOf(err, "Cancel", hypervisor.ErrUnsupported)
			}
		}
		n++
	}
	vm, err := t.Wait(e.ctx)
	if err != nil {
		e.kind(err, hypervisor.ErrCanceled, "Clone cancelled in phase %d", phase)
		e.swept(err, images, "a cancelled clone")
		return true
	}
	e.keep(vm.ID())
	e.content(vm, "safe", "a clone that won the race against Cancel")
	must(e, vm.Delete(e.ctx, hypervisor.DeleteDisks, nil), "Delete of that clone")
	if a := e.added(images); len(a) > 0 {
		e.Errorf("after phase %d the images %v are left", phase, a)
	}
	return false
}

// Run undoes the work when its context ends, or returns its result if the
// work finished first.
func cancelRun(e *env) {
	src := e.create("src")
	e.write(src, "safe")
	e.slow(200 * time.Millisecond)
	images := e.listImages()
	ctx, stop := context.WithTimeout(e.ctx, 20*time.Millisecond)
	defer stop()
	vm, err := src.Clone(ctx, e.name("run"), nil).Run(ctx, time.Minute)
	switch {
	case err == nil && vm == nil:
		e.Errorf("Run returned nil and no error")
	case err == nil:
		e.keep(vm.ID())
		e.unshown("the work won the race")
	case ctx.Err() == nil:
		e.Errorf("Run: %v before its context ended", err)
	case errors.Is(err, hypervisor.ErrCanceled):
		e.swept(err, images, "Run of a clone")
	case errors.Is(err, context.DeadlineExceeded):
		e.unshown("the start itself was given up")
	default:
		e.Errorf("Run: %v, want ErrCanceled or the machine", err)
	}
	e.state(src, hypervisor.StateOff, "a cancelled clone")
	e.content(src, "safe", "a cancelled clone")
}

// swept checks that everything that a failed call left is named in Leftover.
func (e *env) swept(err error, before []string, what string) {
	e.Helper()
	named := e.leftover(err)
	for _, a := range e.added(before) {
		if !named[a] {
			e.Errorf("%s left the image %s and doesn't name it: %v", what, a, err)
		}
	}
}

// leftover returns the images that an error names as left, by themselves or
// as disks of machines, and removes those machines.
func (e *env) leftover(err error) map[string]bool {
	named := map[string]bool{}
	var he *hypervisor.Error
	if !errors.As(err, &he) {
		return named
	}
	for _, l := range he.Leftover {
		named[l.ID] = true
		e.images = append(e.images, l.ID)
		if l.Kind != hypervisor.ObjectVM {
			continue
		}
		e.keep(hypervisor.VMID(l.ID))
		if i, err := e.c.VM(hypervisor.VMID(l.ID)).Info(e.ctx); err == nil {
			for _, d := range i.Disks {
				named[string(d.Volume)] = true
			}
		}
	}
	return named
}
