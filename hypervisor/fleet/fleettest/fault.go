package fleettest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// panics records a panic as a failure with its stack, and the run continues.
func panics(w *world) {
	p := w.plan("panic")
	p.Steps[1].Tries = 5
	p.Steps[1].Do = func(_ context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
		if w.watched.effect("tried") == 2 {
			panic("no such key")
		}
		return nil
	}
	p.Limits.Total = 1
	e := w.open()
	r := w.begin(e, p)
	w.work(e)
	w.wait(r, 5, 1, 0, "")
	for _, v := range w.results(r)[fleet.StateFailed] {
		var pe *fleet.PanicError
		if !errors.As(v.Err(), &pe) || pe.Value != "no such key" || !strings.Contains(pe.Stack, "fleettest.panics") {
			w.t.Errorf("the failure is %v", v.Err())
		}
	}
	if _, total := w.watched.count(); total != 6+6 {
		w.t.Errorf("%d steps ran: a panic is not tried again", total)
	}
}

// vanished is the failure of a machine that was deleted by others, before its
// first step or before a later one.
func vanished(w *world) {
	p := w.plan("vanished")
	p.Limits.Total = 1
	remove := func(ctx context.Context, name string) error {
		vm, err := w.c.FindVM(ctx, name)
		if err != nil {
			return err
		}
		_, err = vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx)
		return err
	}
	p.Steps[0].Do = func(ctx context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
		switch a.Target.Ref.Name {
		case "m-0001":
			return errors.Join(remove(ctx, "m-0003"), remove(ctx, "m-0001"))
		case "m-0003":
			w.t.Errorf("a step ran on a machine that had vanished")
		}
		return nil
	}
	p.Steps[1].Do = func(ctx context.Context, vm *hypervisor.VM, _ *fleet.Attempt) error {
		_, err := vm.Reset(ctx).Wait(ctx)
		return err
	}
	e := w.open()
	r := w.begin(e, p)
	w.work(e)
	w.wait(r, 4, 2, 0, "")
	for _, v := range w.results(r)[fleet.StateFailed] {
		var ve *fleet.VanishedError
		if !errors.As(v.Err(), &ve) || ve.Target.Key() != v.Target.Key() || !errors.Is(v.Err(), hypervisor.ErrNotFound) {
			w.t.Errorf("the failure is %v", v.Err())
		}
	}
}

// undo runs after a failure. Values reach later steps and the result.
func undo(w *world) {
	p := w.plan("undo")
	p.Steps[0].Do = func(_ context.Context, _ *hypervisor.VM, a *fleet.Attempt) error {
		a.Set("made", a.Target.Ref.Name)
		return nil
	}
	p.Steps[1].Do = func(_ context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
		a.Set("lost", "a failed step keeps nothing")
		if a.Target.Ref.Name == "m-0002" {
			return hypervisor.Errorf(hypervisor.ErrBusy, vm.Ref(), "busy")
		}
		return nil
	}
	p.Undo = &fleet.Step{Name: "undo", Do: func(_ context.Context, _ *hypervisor.VM, a *fleet.Attempt) error {
		if a.Value("made") != "m-0002" || a.Value("lost") != "" || a.Failed == nil || a.Failed.Step != "second" || !errors.Is(a.Failed, hypervisor.ErrBusy) {
			w.t.Errorf("undo sees %q, %q and %+v", a.Value("made"), a.Value("lost"), a.Failed)
		}
		w.watched.effect("undo")
		return nil
	}}
	e := w.open()
	r := w.begin(e, p)
	w.work(e)
	w.wait(r, 3, 1, 0, "")
	all := w.results(r)
	for _, v := range append(all[fleet.StateDone], all[fleet.StateFailed]...) {
		if v.Values["made"] != v.Target.Ref.Name || v.Undone != (v.State == fleet.StateFailed) {
			w.t.Errorf("the result is %+v", v)
		}
	}
	if names, total := w.watched.count(); names != 1 || total != 1 {
		w.t.Errorf("undo ran %d times", total)
	}
}

// tries repeats a step that fails, with the same token.
func tries(w *world) {
	p := w.plan("tries")
	p.Steps[0].Tries, p.Steps[0].Wait = 3, time.Millisecond
	tokens := map[string]bool{}
	var mu sync.Mutex
	p.Steps[0].Do = func(_ context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
		mu.Lock()
		tokens[a.Token] = true
		mu.Unlock()
		if a.Token != fleet.Token("tries", a.Target.Key(), "first") {
			w.t.Errorf("the token is %q", a.Token)
		}
		if w.watched.effect(string(vm.ID())) < 3 {
			return errors.New("not yet")
		}
		return nil
	}
	e := w.open()
	r := w.begin(e, p)
	w.work(e)
	w.wait(r, 3, 0, 0, "")
	if len(tokens) != 3 {
		w.t.Errorf("%d tokens for 3 machines", len(tokens))
	}
}

// workerStops ends the worker in the middle, five times. A step that was cut
// off runs again with the same token, and all others run once.
func workerStops(w *world) {
	tokens := map[string]int{}
	cut := 0
	var mu sync.Mutex
	make := func() *fleet.Plan {
		p := w.plan("stops")
		p.Limits.Total = 4
		p.Steps[1].Do = func(ctx context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
			mu.Lock()
			tokens[a.Token]++
			mu.Unlock()
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
			err := ctx.Err()
			if err != nil {
				mu.Lock()
				cut++
				mu.Unlock()
			}
			return err
		}
		return p
	}
	e := w.open()
	r := w.begin(e, make())
	for range 5 {
		stop := w.work(e, make())
		time.Sleep(35 * time.Millisecond)
		stop()
		e = w.open()
	}
	r, err := e.Find(w.t.Context(), r.ID())
	if err != nil {
		w.t.Fatal(err)
	}
	w.work(e, make())
	w.wait(r, 25, 0, 0, "")
	again := 0
	for _, n := range tokens {
		again += n - 1
	}
	if len(tokens) != 25 || again != cut {
		w.t.Errorf("%d tokens, %d steps ran again, %d were cut off", len(tokens), again, cut)
	}
	if names, total := w.watched.count(); names != 25 || total != 25 {
		w.t.Errorf("%d first steps on %d machines, want each once", total, names)
	}
}

// taskFound finds the task again that a worker began before it stopped.
func taskFound(w *world) {
	w.b.SetDelay(op.VMReset, 400*time.Millisecond)
	w.b.ForgetCalls()
	make := func() *fleet.Plan {
		p := w.plan("found")
		p.Steps = []fleet.Step{{Name: "reset", Do: func(ctx context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
			_, err := fleet.Await(ctx, a, vm.Reset)
			return err
		}}}
		return p
	}
	e := w.open()
	r := w.begin(e, make())
	stop := w.work(e, make())
	resets := func() int {
		n := 0
		for _, c := range w.b.Calls() {
			if c.Op == op.VMReset {
				n++
			}
		}
		return n
	}
	w.eventually("both resets", func() bool { return resets() == 2 })
	time.Sleep(50 * time.Millisecond) // until the tasks are recorded
	stop()
	e = w.open()
	r, err := e.Find(w.t.Context(), r.ID())
	if err != nil {
		w.t.Fatal(err)
	}
	w.work(e, make())
	w.wait(r, 2, 0, 0, "")
	if n := resets(); n != 2 {
		w.t.Errorf("%d resets of 2 machines", n)
	}
}

// pausedRestart keeps the pause over the end of the worker.
func pausedRestart(w *world) {
	e := w.open()
	r := w.begin(e, w.plan("paused"))
	if err := r.Pause(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	stop := w.work(e, w.plan("paused"))
	time.Sleep(100 * time.Millisecond)
	stop()
	e = w.open()
	w.work(e, w.plan("paused"))
	time.Sleep(200 * time.Millisecond)
	if _, total := w.watched.count(); total != 0 {
		w.t.Errorf("%d steps ran in a paused run", total)
	}
	r, err := e.Find(w.t.Context(), "paused")
	if err == nil {
		err = r.Resume(w.t.Context())
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.wait(r, 4, 0, 0, "")
}

func changedPlan(w *world) {
	e := w.open()
	w.begin(e, w.plan("changed"))
	other := w.plan("changed")
	other.Steps[1].Name = "other"
	var changed *fleet.PlanChangedError
	e = w.open()
	if err := e.Work(w.t.Context(), other); !errors.As(err, &changed) || changed.ID != "changed" || changed.Began == changed.Now {
		w.t.Errorf("Work with a changed plan: %v", err)
	}
	if _, err := e.Start(w.t.Context(), other); !errors.As(err, &changed) {
		w.t.Errorf("Start of a changed plan: %v", err)
	}
	if _, total := w.watched.count(); total != 0 {
		w.t.Errorf("%d steps ran", total)
	}
}

func twice(w *world) {
	e := w.open()
	r := w.begin(e, w.plan("twice"))
	var exists *fleet.RunExistsError
	if _, err := w.open().Start(w.t.Context(), w.plan("twice")); !errors.As(err, &exists) || exists.ID != "twice" {
		w.t.Errorf("the second Start: %v", err)
	}
	w.work(e)
	w.wait(r, 3, 0, 0, "")
	if _, err := e.Start(w.t.Context(), w.plan("twice")); !errors.As(err, &exists) {
		w.t.Errorf("Start after the end: %v", err)
	}
	if _, total := w.watched.count(); total != 6 {
		w.t.Errorf("%d steps ran, want 6", total)
	}
}

func noRun(w *world) {
	if _, err := w.open().Find(w.t.Context(), "nothing"); !errors.Is(err, fleet.ErrNoRun) {
		w.t.Errorf("Find: %v", err)
	}
}

func badPlan(w *world) {
	e := w.open()
	p := w.plan("bad plan")
	if _, err := e.Start(w.t.Context(), p); err == nil {
		w.t.Error("a plan with a bad ID was started")
	}
	if _, err := e.Find(w.t.Context(), "bad plan"); !errors.Is(err, fleet.ErrNoRun) {
		w.t.Errorf("Find: %v", err)
	}
}
