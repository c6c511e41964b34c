package fleettest

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// many carries a plan of three steps out on all machines. The limits are never
// exceeded, and they are used.
func many(w *world) {
	w.b.SetDelay(op.VMReset, 4*time.Millisecond)
	n := len(w.watched.hosts)
	p := w.plan("many")
	p.Limits = fleet.Limits{Total: 25, PerHost: 3}
	p.Steps = append(p.Steps, fleet.Step{Name: "reset", Do: func(ctx context.Context, vm *hypervisor.VM, _ *fleet.Attempt) error {
		_, err := vm.Reset(ctx).Wait(ctx)
		return err
	}})
	e := w.open()
	r := w.begin(e, p)
	w.work(e)
	w.wait(r, n, 0, 0, "")
	if names, total := w.watched.count(); names != 2*n || total != 2*n {
		w.t.Errorf("%d effects under %d names, want %d each", total, names, 2*n)
	}
	w.watched.mu.Lock()
	defer w.watched.mu.Unlock()
	for k, most := range w.watched.most {
		if limit := map[bool]int{true: 25, false: 3}[k == "all"]; most > limit {
			w.t.Errorf("%s: %d machines were at work at a time, the limit is %d", k, most, limit)
		}
	}
	if w.watched.most["all"] < 4 { // an engine may be busier with its store than with the machines
		w.t.Errorf("at most %d machines were at work at a time: the limit of 25 is not used", w.watched.most["all"])
	}
	if got := len(w.results(r)[fleet.StateDone]); got != n {
		w.t.Errorf("%d results, want %d", got, n)
	}
}

// waves begins one wave after the other: 1, 10 % and the rest.
func waves(w *world) {
	n := len(w.watched.hosts)
	var begun, gates atomic.Int64
	p := w.plan("waves")
	p.Steps[0].Do = func(context.Context, *hypervisor.VM, *fleet.Attempt) error { begun.Add(1); return nil }
	gate := func(want fleet.WaveResult, begunBefore int64) func(context.Context, fleet.WaveResult) error {
		return func(_ context.Context, r fleet.WaveResult) error {
			gates.Add(1)
			if r != want || begun.Load() != begunBefore {
				w.t.Errorf("the gate got %+v after %d targets, want %+v after %d", r, begun.Load(), want, begunBefore)
			}
			return nil
		}
	}
	p.Waves = []fleet.Wave{{Count: 1, Gate: gate(fleet.WaveResult{Wave: 0, Done: 1}, 1)}, {Percent: 10, Gate: gate(fleet.WaveResult{Wave: 1, Done: n / 10}, int64(1+n/10))}, {}}
	e := w.open()
	r := w.begin(e, p)
	w.work(e)
	w.wait(r, n, 0, 0, "")
	if gates.Load() != 2 {
		w.t.Errorf("%d gates were asked, want 2", gates.Load())
	}
}

func gateRefuses(w *world) {
	p := w.plan("gate")
	p.Waves = []fleet.Wave{{Count: 3, Gate: func(context.Context, fleet.WaveResult) error { return errors.New("error rate too high") }}, {}}
	e := w.open()
	r := w.begin(e, p)
	w.work(e)
	s := w.wait(r, 3, 0, 7, fleet.StopGate)
	if s.Detail != "error rate too high" {
		w.t.Errorf("the detail is %q", s.Detail)
	}
	left, err := r.Left(w.t.Context())
	if err != nil || len(left) != 7 || len(w.results(r)[fleet.StateLeft]) != 7 {
		w.t.Errorf("left over: %v, %v", left, err)
	}
}

// stopAfter stops after three failures. Targets at work are finished.
func stopAfter(w *world) {
	p := w.plan("stop")
	p.Limits.Total = 1
	p.StopAfter = 3
	p.Steps[1].Do = func(_ context.Context, vm *hypervisor.VM, _ *fleet.Attempt) error {
		if w.watched.effect("tried")%2 == 0 {
			return hypervisor.Errorf(hypervisor.ErrExhausted, vm.Ref(), "no room")
		}
		return nil
	}
	e := w.open()
	r := w.begin(e, p)
	w.work(e)
	w.wait(r, 3, 3, 24, fleet.StopFailures)
	for _, v := range w.results(r)[fleet.StateFailed] {
		if v.Steps != 1 || v.Failure.Step != "second" || !errors.Is(v.Err(), hypervisor.ErrExhausted) {
			w.t.Errorf("the failure is %+v, %v", v, v.Err())
		}
	}
}

// held begins a run of the plan, three targets at a time, whose first steps
// wait for release. It returns when three are inside.
func (w *world) held(p *fleet.Plan) (r *fleet.Run, inside, release chan struct{}) {
	p.Limits.Total = 3
	inside, release = make(chan struct{}, 100), make(chan struct{})
	p.Steps[0].Do = func(ctx context.Context, vm *hypervisor.VM, _ *fleet.Attempt) error {
		inside <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	e := w.open()
	r = w.begin(e, p)
	w.work(e)
	for range 3 {
		<-inside
	}
	return r, inside, release
}

// pause lets no step begin while the run is paused.
func pause(w *world) {
	p := w.plan("pause")
	r, inside, release := w.held(p)
	if err := r.Pause(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("the pause", func() bool { ok, err := r.Paused(w.t.Context()); return ok && err == nil })
	time.Sleep(50 * time.Millisecond)
	close(release)
	time.Sleep(300 * time.Millisecond)
	if _, total := w.watched.count(); total != 0 || len(inside) != 0 {
		w.t.Errorf("%d second steps and %d targets began in the pause", total, len(inside))
	}
	if err := r.Resume(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.wait(r, 12, 0, 0, "")
}

// cancel leaves over what has not begun, and what is between two steps.
func cancel(w *world) {
	p := w.plan("cancel")
	r, _, release := w.held(p)
	if err := r.Cancel(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	close(release)
	w.wait(r, 0, 0, 12, fleet.StopCanceled)
	between := 0
	for _, v := range w.results(r)[fleet.StateLeft] {
		between += v.Steps
	}
	if _, total := w.watched.count(); total != 0 || between != 3 {
		w.t.Errorf("%d second steps ran and %d targets are between steps, want 0 and 3", total, between)
	}
	if err := r.Resume(w.t.Context()); err != nil {
		w.t.Errorf("Resume of a run that has ended: %v", err)
	}
}

// events sees the end of each target and of the run.
func events(w *world) {
	e := w.open()
	r := w.begin(e, w.plan("events"))
	seen := map[fleet.EventKind]int{}
	stream := r.Events(w.t.Context())
	w.work(e)
	for ev, err := range stream {
		if err != nil {
			w.t.Fatal(err)
		}
		seen[ev.Kind]++
		if ev.Kind == fleet.EventTargetEnded && (ev.Target == nil || ev.Result == nil) || ev.Kind == fleet.EventEnded && ev.Summary == nil {
			w.t.Errorf("an event without its parts: %+v", ev)
		}
	}
	if seen[fleet.EventTargetEnded] != 5 || seen[fleet.EventEnded] != 1 {
		w.t.Errorf("events: %v", seen)
	}
}
