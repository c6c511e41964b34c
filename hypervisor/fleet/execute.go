package fleet

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// gatekeeper decides for the targets at work whether their next step may begin.
type gatekeeper struct {
	mu      sync.Mutex
	ctl     Control
	changed chan struct{}
}

// decide takes what users have decided, and emits what is new.
func (g *gatekeeper) decide(s Store, c Control) {
	g.mu.Lock()
	old := g.ctl
	g.ctl = c
	if g.changed != nil && (old.Paused != c.Paused || old.Canceled != c.Canceled) {
		close(g.changed)
		g.changed = nil
	}
	g.mu.Unlock()
	switch {
	case c.Paused && !old.Paused:
		s.Emit(Event{Kind: EventPaused})
	case !c.Paused && old.Paused:
		s.Emit(Event{Kind: EventResumed})
	}
	if c.Canceled && !old.Canceled {
		s.Emit(Event{Kind: EventCanceled})
	}
}

// pass waits while the run is paused. It returns false if it is canceled.
func (g *gatekeeper) pass(ctx context.Context) (bool, error) {
	for {
		g.mu.Lock()
		c := g.ctl
		if g.changed == nil {
			g.changed = make(chan struct{})
		}
		changed := g.changed
		g.mu.Unlock()
		if c.Canceled || !c.Paused {
			return !c.Canceled, ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// execute carries out one target. It runs in a goroutine of its own.
func (d *drive) execute(ctx context.Context, wave int, w waiting) ending {
	e := ending{w: w}
	t := w.target
	missing := false
	if a := (&Attempt{Target: t, client: d.p.Clients[t.Client]}); a.vm() != nil && d.p.Targets == nil {
		v, err := a.vm().Info(ctx)
		switch {
		case errors.Is(err, hypervisor.ErrNotFound):
			missing = true
		case err == nil:
			old := d.slots.places(t)
			t.place(v)
			if !slices.Equal(old, d.slots.places(t)) {
				e.again, e.w.target = true, t
				return e
			}
		}
	}
	d.s.Emit(Event{Kind: EventTargetBegan, Wave: wave, Target: &t})
	e.result, e.err = d.s.Execute(ctx, t, func(ctx context.Context, j Journal) (Result, error) { return d.steps(ctx, wave, t, missing, j) })
	if e.err == nil {
		d.s.Emit(Event{Kind: EventTargetEnded, Wave: wave, Target: &t, Result: &e.result, Failure: e.result.Failure})
	}
	return e
}

// steps carries out all steps that are not recorded yet.
func (d *drive) steps(ctx context.Context, wave int, t Target, missing bool, j Journal) (Result, error) {
	r := Result{Target: t, State: StateDone, Began: time.Now()}
	defer func() { r.Ended = time.Now() }()
	if missing && j.Fresh() {
		r.State, r.Failure = StateFailed, failureOf(d.p.Steps[0].Name, &VanishedError{t})
		r.Ended = time.Now()
		return r, nil
	}
	for _, s := range d.p.Steps {
		o, err := d.step(ctx, wave, t, s, r.Values, nil, j)
		if err != nil {
			return r, err
		}
		if o.Left {
			r.State = StateLeft
			break
		}
		if r.Values = o.Values; o.Failure != nil {
			r.State, r.Failure = StateFailed, o.Failure
			break
		}
		r.Steps++
	}
	if u := d.p.Undo; u != nil && r.Failure != nil && r.Failure.Vanished == nil {
		o, err := d.step(ctx, wave, t, *u, r.Values, r.Failure, j)
		if err != nil {
			return r, err
		}
		r.Values, r.UndoFailure, r.Undone = o.Values, o.Failure, o.Failure == nil
	}
	r.Ended = time.Now()
	return r, nil
}

// step carries out one step, or returns its recorded outcome. failed is set
// for Plan.Undo, which runs in a paused or canceled run too.
func (d *drive) step(ctx context.Context, wave int, t Target, s Step, values map[string]string, failed *Failure, j Journal) (Outcome, error) {
	return j.Step(ctx, s.Name, func(ctx context.Context) Outcome {
		if failed == nil {
			ok, err := d.pass(ctx)
			if err != nil {
				return Outcome{Failure: failureOf(s.Name, err), Values: values}
			}
			if !ok {
				return Outcome{Left: true, Values: values}
			}
		}
		a := &Attempt{Run: d.p.ID, Step: s.Name, Target: t, Token: Token(d.p.ID, t.Key(), s.Name), Failed: failed,
			client: d.p.Clients[t.Client], j: j, values: values}
		var err error
		if a.Task, err = j.Task(ctx, s.Name); err != nil {
			return Outcome{Failure: failureOf(s.Name, err), Values: values}
		}
		o := a.try(ctx, s)
		if o.Failure == nil || ctx.Err() == nil {
			d.s.Emit(Event{Kind: EventStepEnded, Wave: wave, Target: &t, Step: s.Name, Failure: o.Failure})
		}
		return o
	})
}
