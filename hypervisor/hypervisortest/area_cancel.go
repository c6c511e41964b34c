package hypervisortest

import (
	"context"
	"errors"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// cancel: in every phase the outcome is true, and nothing is left unnamed.
func cancel(e *env) {
	src := e.create("src")
	if !e.has(hypervisor.TaskCancel) || !e.has(hypervisor.CloneFull) {
		return
	}
	e.write(src, "safe")
	e.slow(200 * time.Millisecond)
	images := e.listImages()
	canceled := 0
	for phase := range 4 {
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
		if err == nil { // the work won the race
			e.keep(vm.ID())
			e.content(vm, "safe", "a clone that won the race against Cancel")
			_, err = vm.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
			e.ok(err, "Delete of that clone")
		} else {
			canceled++
			e.kind(err, hypervisor.ErrCanceled, "Clone cancelled in phase %d", phase)
			e.swept(err, images, "a cancelled clone")
		}
		if a := e.added(images); len(a) > 0 && err == nil {
			e.Errorf("after phase %d the images %v are left", phase, a)
		}
	}
	// Run undoes what its context gave up, or returns what won.
	ctx, stop := context.WithTimeout(e.ctx, 20*time.Millisecond)
	defer stop()
	vm, err := src.Clone(ctx, e.name("run"), nil).Run(ctx, time.Minute)
	switch {
	case err == nil && vm == nil:
		e.Errorf("Run returned nil and no error")
	case err == nil:
		e.keep(vm.ID())
	case ctx.Err() == nil:
		e.Errorf("Run: %v before its context ended", err)
	case errors.Is(err, hypervisor.ErrCanceled):
		canceled++
		e.swept(err, images, "Run of a clone")
	case errors.Is(err, context.DeadlineExceeded): // the start itself was given up
	default:
		e.Errorf("Run: %v, want ErrCanceled or the machine", err)
	}
	e.state(src, hypervisor.Off, "cancelled clones")
	e.content(src, "safe", "cancelled clones")
	if canceled == 0 && e.Slow != nil {
		e.Errorf("the backend is slow and no cancel came through")
	}
	if canceled > 0 {
		e.proved(hypervisor.TaskCancel)
	}

	e.slow(0)
	e.measureCancel()
	if e.has(hypervisor.MigrateLive) {
		e.start(src)
		i := e.info(src)
		up := e.uptime(src)
		for _, h := range e.hostIDs() {
			if h == i.Host {
				continue
			}
			r := cancelSoon(e, "migrate (live)", func() *hypervisor.Task[hypervisor.MigrateResult] {
				return src.Migrate(e.ctx, hypervisor.MigrateOptions{Host: h, Mode: hypervisor.Live})
			})
			want := h
			if r.err != nil {
				want = i.Host
				e.proved(hypervisor.TaskCancel)
			}
			if n := e.info(src); n.Host != want || n.State != hypervisor.Running {
				e.Errorf("after Migrate ended with %v the machine is %s on %s, want running on %s", r.err, n.State, n.Host, want)
			}
			e.sameBoot(src, up, "a cancelled Migrate")
			break
		}
	}
}

// swept demands that what a failed call left is named in Leftover.
func (e *env) swept(err error, before []string, what string) {
	e.Helper()
	var he *hypervisor.Error
	if !errors.As(err, &he) {
		return
	}
	named := map[string]bool{}
	for _, l := range he.Leftover {
		named[l.ID] = true
		if l.Kind == hypervisor.KindOfVM {
			e.keep(hypervisor.VMID(l.ID))
			if i, err := e.c.VM(hypervisor.VMID(l.ID)).Info(e.ctx); err == nil {
				for _, d := range i.Disks {
					named[string(d.Volume)] = true
				}
			}
		}
	}
	for _, a := range e.added(before) {
		if !named[a] {
			e.Errorf("%s left the image %s and doesn't name it: %v", what, a, err)
		}
	}
}

// What Cancel did to an operation, as the cancel table shows it.
const (
	outcomeCanceled = "cancelled" // the operation ended as ErrCanceled and its object is as before
	outcomeRanOn    = "ran on"    // Cancel was taken, and the work won or can't be stopped
	outcomeRefused  = "refused"   // Cancel itself said ErrUnsupported
	outcomeAtOnce   = "at once"   // done before it could be cancelled
)

// measureCancel cancels each long operation soon after its start and notes
// what came of it. Whatever it is, it must be the truth.
func (e *env) measureCancel() {
	vm := e.create("measured")
	up := func(what string, want hypervisor.PowerState) {
		e.Helper()
		e.slow(0)
		if i := e.info(vm); i.State != want {
			e.Errorf("after a cancelled %s the machine is %s, want %s", what, i.State, want)
		}
	}
	if e.has(hypervisor.SnapshotDisk) {
		r := cancelSoon(e, "snapshot.create", func() *hypervisor.Task[*hypervisor.Snapshot] { return vm.CreateSnapshot(e.ctx, "measured", nil) })
		l, err := vm.Snapshots(e.ctx)
		e.ok(err, "Snapshots")
		if (len(l) == 1) != (r.err == nil) {
			e.Errorf("snapshot.create ended with %v, and there are %d snapshots", r.err, len(l))
		}
		s := r.made
		if r.err != nil {
			s, err = vm.CreateSnapshot(e.ctx, "measured", nil).Wait(e.ctx)
			e.ok(err, "CreateSnapshot")
		}
		up("snapshot.create", hypervisor.Off)
		cancelSoon(e, "snapshot.revert", func() *hypervisor.Task[hypervisor.None] { return s.Revert(e.ctx, nil) })
		up("snapshot.revert", hypervisor.Off)
		d := cancelSoon(e, "snapshot.delete", func() *hypervisor.Task[hypervisor.None] { return s.Delete(e.ctx, nil) })
		l, err = vm.Snapshots(e.ctx)
		e.ok(err, "Snapshots")
		if (len(l) == 0) != (d.err == nil) {
			e.Errorf("snapshot.delete ended with %v, and there are %d snapshots", d.err, len(l))
		}
	}
	made := func(r canceledTask[*hypervisor.VM]) {
		if r.err == nil {
			e.keep(r.made.ID())
		}
	}
	made(cancelSoon(e, "vm.create", func() *hypervisor.Task[*hypervisor.VM] { return e.c.CreateVM(e.ctx, e.Spec(e.name("cut"))) }))
	if e.has(hypervisor.CloneFull) {
		made(cancelSoon(e, "vm.clone (full)", func() *hypervisor.Task[*hypervisor.VM] { return vm.Clone(e.ctx, e.name("cut"), nil) }))
	}
	if e.has(hypervisor.CloneLinked) {
		made(cancelSoon(e, "vm.clone (linked)", func() *hypervisor.Task[*hypervisor.VM] {
			return vm.Clone(e.ctx, e.name("cut"), &hypervisor.CloneOptions{Mode: hypervisor.Linked})
		}))
	}
	s := cancelSoon(e, "vm.start", func() *hypervisor.Task[hypervisor.None] { return vm.Start(e.ctx) })
	if s.err == nil {
		up("vm.start", hypervisor.Running)
	} else {
		up("vm.start", hypervisor.Off)
		e.start(vm)
	}
	e.booted(vm)
	if e.has(hypervisor.SnapshotMemory) {
		before, err := vm.Snapshots(e.ctx)
		e.ok(err, "Snapshots")
		r := cancelSoon(e, "snapshot.create (memory)", func() *hypervisor.Task[*hypervisor.Snapshot] {
			return vm.CreateSnapshot(e.ctx, "measured with RAM", &hypervisor.SnapshotOptions{Memory: true})
		})
		up("snapshot.create (memory)", hypervisor.Running)
		l, err := vm.Snapshots(e.ctx)
		e.ok(err, "Snapshots")
		if (len(l) == len(before)+1) != (r.err == nil) {
			e.Errorf("snapshot.create (memory) ended with %v, there were %d snapshots and are %d", r.err, len(before), len(l))
		}
		if r.err == nil {
			_, err = r.made.Delete(e.ctx, nil).Wait(e.ctx)
			e.ok(err, "Delete of the snapshot")
		}
	}
	if e.has(hypervisor.PowerSuspend) {
		s := cancelSoon(e, "vm.suspend", func() *hypervisor.Task[hypervisor.None] { return vm.Suspend(e.ctx) })
		if s.err == nil {
			up("vm.suspend", hypervisor.Suspended)
		} else {
			up("vm.suspend", hypervisor.Running)
		}
	}
	e.off(vm)
	gone := cancelSoon(e, "vm.delete", func() *hypervisor.Task[hypervisor.None] { return vm.Delete(e.ctx, hypervisor.KeepDisks, nil) })
	if e.exists(vm.ID()) != (gone.err != nil) {
		e.Errorf("vm.delete ended with %v, and the machine exists: %v", gone.err, e.exists(vm.ID()))
	}
	e.images = e.listImages() // kept disks, and what a cancelled call named
}

type canceledTask[T any] struct {
	made T
	err  error
}

// cancelSoon cancels a task at its first sign of life.
func cancelSoon[T any](e *env, op string, start func() *hypervisor.Task[T]) canceledTask[T] {
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
		cerr := t.Cancel(e.ctx)
		outcome = outcomeRanOn
		if cerr != nil {
			outcome = outcomeRefused
			e.oneOf(cerr, "Cancel of "+op, hypervisor.ErrUnsupported)
		}
		break
	}
	made, err := t.Wait(e.ctx)
	if err != nil {
		e.kind(err, hypervisor.ErrCanceled, "%s after Cancel", op)
		outcome = outcomeCanceled
	}
	e.s.mu.Lock()
	e.s.cancels[op] = outcome
	e.s.mu.Unlock()
	return canceledTask[T]{made, err}
}
