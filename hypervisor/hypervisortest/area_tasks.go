package hypervisortest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// labels: set, replaced, listed, carried exactly.
func labels(e *env) {
	vm := e.create("vm", func(s *hypervisor.VMSpec) {
		if e.has(hypervisor.Labels) {
			s.Labels = map[string]string{"made": "with"}
		}
	})
	if !e.has(hypervisor.Labels) {
		return
	}
	same := func(want map[string]string, after string) {
		e.Helper()
		got := e.info(vm).Labels
		if len(got) != len(want) || !hasAll(got, want) {
			e.Errorf("after %s the labels are %q, want %q", after, got, want)
		}
	}
	same(map[string]string{"made": "with"}, "CreateVM")
	want := map[string]string{"app.example/tier": "web", "quote": `' " <&> ]]> %2f`, "ünï-value": "", "empty": "", "uni": "☃ 日本"}
	delete(want, "ünï-value") // keys are ASCII
	for range e.s.h.Repeat {
		e.ok(vm.SetLabels(e.ctx, want), "SetLabels")
	}
	same(want, "SetLabels")
	found := 0
	for v, err := range e.c.VMs(e.ctx, &hypervisor.ListOptions{Labels: map[string]string{"app.example/tier": "web", "uni": "☃ 日本"}}) {
		e.ok(err, "VMs by label")
		if v.ID == vm.ID() {
			found++
		} else if v.Labels["app.example/tier"] != "web" {
			e.Errorf("VMs by label yields %s with %v", v.ID, v.Labels)
		}
	}
	if found != 1 {
		e.Errorf("VMs by label yields the machine %d times", found)
	}
	e.ok(vm.SetLabels(e.ctx, nil), "SetLabels to none")
	same(nil, "SetLabels to none")
	e.kind(e.c.VM(e.AbsentVM).SetLabels(e.ctx, want), hypervisor.ErrNotFound, "SetLabels of an absent ID")
	e.proved(hypervisor.Labels)
}

func hasAll(have, want map[string]string) bool {
	for k, v := range want {
		if h, ok := have[k]; !ok || h != v {
			return false
		}
	}
	return true
}

// slow makes long operations long where the backend can.
func (e *env) slow(d time.Duration) {
	if e.Slow != nil {
		e.Slow(d)
	}
}

// tasks: watching ends with the context, work doesn't; a second process finds
// it; the end is told again and again.
func tasks(e *env) {
	src := e.create("src")
	full := e.has(hypervisor.CloneFull)
	resume := e.has(hypervisor.TaskResume)
	if !full {
		return
	}
	e.slow(300 * time.Millisecond)
	name := e.name("detached")
	t := src.Clone(e.ctx, name, nil)
	e.ok(t.Err(), "Clone")
	if t.ID() == "" {
		e.Errorf("a started task has no ID")
	}
	short, stop := context.WithCancel(e.ctx)
	stop()
	_, err := t.Wait(short)
	var d *hypervisor.DetachedError
	switch {
	case err == nil: // it was done already
	case !errors.As(err, &d):
		e.Errorf("Wait with an ended context: %v, want a *DetachedError", err)
	case d.Task != t.ID() || !errors.Is(err, context.Canceled):
		e.Errorf("the DetachedError is %v, want task %s and context.Canceled", err, t.ID())
	}
	if resume {
		c := e.c
		if e.Reopen != nil {
			if c, err = e.Reopen(e.ctx); err != nil {
				e.Fatalf("Reopen: %v", err)
			}
			defer func() {
				if err := c.Close(); err != nil {
					e.Errorf("Close of the second Client: %v", err)
				}
			}()
		}
		again, err := c.Task(e.ctx, t.ID())
		e.ok(err, "Task(%s) from a second Client", t.ID())
		ref, err := again.Wait(e.ctx)
		e.ok(err, "Wait of the task found again")
		if ref.ID == "" {
			e.Errorf("the task found again has no result")
		}
		e.proved(hypervisor.TaskResume)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := t.Wait(e.ctx); err != nil {
				e.Errorf("one of four concurrent Waits: %v", err)
			}
		})
	}
	wg.Wait()
	vm, err := t.Wait(e.ctx)
	e.ok(err, "Wait after a DetachedError")
	e.keep(vm.ID())
	if e.info(vm).Name != name {
		e.Errorf("the clone's name is %q, want %q", e.info(vm).Name, name)
	}
	e.ok(t.Cancel(e.ctx), "Cancel of an ended task")
	last := hypervisor.TaskState{}
	for s, err := range t.Progress(e.ctx) {
		e.ok(err, "Progress of an ended task")
		last = s
	}
	if !last.Done || last.Err != nil {
		e.Errorf("the last state of an ended task is %+v", last)
	}
	e.deleteMeanwhile(src)
	for _, id := range []hypervisor.TaskID{"no-such-task", hypervisor.TaskID("task-" + string(e.AbsentVM))} {
		_, err = e.c.Task(e.ctx, id)
		e.oneOf(err, "Task of an absent ID", hypervisor.ErrNotFound, hypervisor.ErrUnsupported)
	}
	_, err = e.c.Task(e.ctx, "")
	e.kind(err, hypervisor.ErrInvalidArgument, "Task of an empty ID")

	// A read ends with its context at once.
	if _, err := src.Info(short); err == nil {
		e.Errorf("Info with an ended context succeeded")
	} else if !errors.Is(err, context.Canceled) {
		e.Errorf("Info with an ended context: %v, want context.Canceled", err)
	}
}

// deleteMeanwhile deletes the source of a clone that is being made: either is
// refused, or both come true.
func (e *env) deleteMeanwhile(other *hypervisor.VM) {
	e.slow(0)
	src := e.create("meanwhile")
	e.write(src, "precious")
	e.slow(300 * time.Millisecond)
	images := e.listImages()
	t := src.Clone(e.ctx, e.name("meanwhile"), nil)
	e.ok(t.Err(), "Clone")
	_, derr := src.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
	vm, cerr := t.Wait(e.ctx)
	e.slow(0)
	if derr != nil {
		e.kind(derr, hypervisor.ErrBusy, "Delete of the source of a clone that is being made")
	}
	if e.exists(src.ID()) != (derr != nil) {
		e.Errorf("Delete of the source ended with %v, and it exists: %v", derr, e.exists(src.ID()))
	}
	switch {
	case cerr == nil:
		e.keep(vm.ID())
		e.content(vm, "precious", "Delete of its source while it was made")
	case derr != nil:
		e.Errorf("the refused Delete of its source broke the clone: %v", cerr)
	default:
		e.swept(cerr, images, "a clone whose source was deleted")
	}
	if !e.exists(other.ID()) {
		e.Errorf("machine %s, which nobody touched, is gone", other.ID())
	}
}

// concurrency: many calls at once on one Client and on one machine.
func concurrency(e *env) {
	const n = 4
	var mu sync.Mutex
	var wg sync.WaitGroup
	var vms []*hypervisor.VM
	for range n {
		s := e.Spec(e.name("many"))
		wg.Go(func() {
			vm, err := e.c.CreateVM(e.ctx, s).Wait(e.ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				e.Errorf("concurrent CreateVM: %v", err)
				return
			}
			e.keep(vm.ID())
			vms = append(vms, vm)
		})
	}
	wg.Wait()
	if len(vms) != n {
		return
	}
	ids := map[hypervisor.VMID]bool{}
	for _, vm := range vms {
		ids[vm.ID()] = true
	}
	if len(ids) != n {
		e.Errorf("%d concurrent CreateVM made %d machines", n, len(ids))
	}
	// One machine, several operations: each is done or says that it is busy.
	vm := vms[0]
	e.slow(50 * time.Millisecond)
	for k := range 3 {
		name := e.name("busy")
		wg.Go(func() {
			var err error
			if k == 0 && e.has(hypervisor.SnapshotDisk) {
				_, err = vm.CreateSnapshot(e.ctx, name, nil).Wait(e.ctx)
			} else {
				_, err = vm.Reconfigure(e.ctx, hypervisor.Changes{MemoryBytes: 128 * hypervisor.MiB}).Wait(e.ctx)
			}
			if err != nil && !errors.Is(err, hypervisor.ErrBusy) && !errors.Is(err, hypervisor.ErrUnsupported) {
				mu.Lock()
				defer mu.Unlock()
				e.Errorf("concurrent operations on one machine: %v, want success or ErrBusy", err)
			}
		})
		wg.Go(func() {
			if _, err := vm.Info(e.ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				e.Errorf("Info while the machine is worked on: %v", err)
			}
		})
	}
	wg.Wait()
	e.slow(0)
	// One machine, many deletes: one does it, the others say that it is gone or busy.
	done := 0
	for range n {
		wg.Go(func() {
			_, err := vms[1].Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				done++
			} else if !errors.Is(err, hypervisor.ErrNotFound) && !errors.Is(err, hypervisor.ErrBusy) {
				e.Errorf("concurrent Delete: %v", err)
			}
		})
	}
	wg.Wait()
	if done == 0 || e.exists(vms[1].ID()) {
		e.Errorf("of %d concurrent deletes %d succeeded and the machine exists: %v", n, done, e.exists(vms[1].ID()))
	}
}

// closing: a closed Client says so, and a second Close does nothing.
func closing(e *env) {
	vm := e.create("vm")
	watch := make(chan error, 1)
	go func() {
		var last error
		for _, err := range e.c.Watch(e.ctx, "") {
			last = err
		}
		watch <- last
	}()
	time.Sleep(20 * time.Millisecond)
	e.ok(e.c.Close(), "Close")
	e.ok(e.c.Close(), "second Close")
	e.closed = true
	select {
	case err := <-watch:
		if err != nil {
			e.oneOf(err, "Watch of a Client that was closed", hypervisor.ErrClosed, hypervisor.ErrUnavailable, hypervisor.ErrUnauthenticated, hypervisor.ErrUnsupported)
		}
	case <-time.After(15 * time.Second):
		e.Errorf("Watch goes on 15 s after Close")
	}
	_, err := vm.Info(e.ctx)
	e.kind(err, hypervisor.ErrClosed, "Info after Close")
	_, err = vm.Start(e.ctx).Wait(e.ctx)
	e.kind(err, hypervisor.ErrClosed, "Start after Close")
	_, err = hypervisor.Collect(e.c.VMs(e.ctx, nil))
	e.kind(err, hypervisor.ErrClosed, "VMs after Close")
	_, err = e.c.CreateVM(e.ctx, e.Spec(e.name("late"))).Wait(e.ctx)
	e.kind(err, hypervisor.ErrClosed, "CreateVM after Close")
}
