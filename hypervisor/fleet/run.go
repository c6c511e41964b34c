package fleet

import (
	"context"
	"iter"
)

// Run is one execution of a plan. Its methods may be called from several
// goroutines, and in other processes than the worker's.
type Run struct {
	id string
	s  Store
}

// NewRun makes a Run of a store. It is for authors of engines.
func NewRun(id string, s Store) *Run { return &Run{id, s} }

// ID returns the plan's ID.
func (r *Run) ID() string { return r.id }

// Pause lets no other target and no other step begin. Steps at work run to
// their end. It is kept: a worker that is started later pauses too.
func (r *Run) Pause(ctx context.Context) error { return r.s.Signal(ctx, SignalPause) }

// Resume ends a Pause.
func (r *Run) Resume(ctx context.Context) error { return r.s.Signal(ctx, SignalResume) }

// Cancel ends the run: steps at work run to their end, and nothing else
// begins. Targets that are not done are left over.
func (r *Run) Cancel(ctx context.Context) error { return r.s.Signal(ctx, SignalCancel) }

// Paused reports whether the run is paused.
func (r *Run) Paused(ctx context.Context) (bool, error) {
	c, _, err := r.s.Control(ctx)
	return c.Paused, err
}

// Ended returns the summary if the run has ended.
func (r *Run) Ended(ctx context.Context) (Summary, bool, error) {
	c, _, err := r.s.Control(ctx)
	if err != nil || c.Summary == nil {
		return Summary{}, false, err
	}
	return *c.Summary, true, nil
}

// Wait waits for the end of the run. A worker must work on it meanwhile. The
// error is that of waiting; Summary.Err reports whether targets failed.
func (r *Run) Wait(ctx context.Context) (Summary, error) {
	for {
		c, changed, err := r.s.Control(ctx)
		if err != nil {
			return Summary{}, err
		}
		if c.Summary != nil {
			return *c.Summary, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Summary{}, ctx.Err()
		}
	}
}

// Results yields what became of the targets that have ended. After the end of
// the run it yields those that never began too, as StateLeft.
func (r *Run) Results(ctx context.Context) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		_, over, err := r.Ended(ctx)
		if err != nil {
			yield(Result{}, err)
			return
		}
		seen := map[string]bool{}
		for v, err := range r.s.Results(ctx) {
			if !yield(v, err) || err != nil {
				return
			}
			seen[v.Target.Key()] = true
		}
		if !over {
			return
		}
		left, err := r.s.Targets(ctx, nil)
		if err != nil {
			yield(Result{}, err)
			return
		}
		for _, t := range left {
			if !seen[t.Key()] && !yield(Result{Target: t, State: StateLeft}, nil) {
				return
			}
		}
	}
}

// Left returns the targets that are not done: those that failed, those that
// were stopped between steps and those that never began. A plan with another
// ID may take them as its Targets.
func (r *Run) Left(ctx context.Context) ([]Target, error) {
	done := map[string]bool{}
	for v, err := range r.s.Results(ctx) {
		if err != nil {
			return nil, err
		}
		done[v.Target.Key()] = v.State == StateDone
	}
	all, err := r.s.Targets(ctx, nil)
	var out []Target
	for _, t := range all {
		if !done[t.Key()] {
			out = append(out, t)
		}
	}
	return out, err
}

// Events yields what happens from now on, until the run has ended or ctx ends.
// In the worker's process these are all kinds of events; elsewhere they are
// the ends of targets, pause, resume, cancel and the end of the run.
func (r *Run) Events(ctx context.Context) iter.Seq2[Event, error] { return r.s.Events(ctx) }

// Do carries a plan out in this process, with nothing kept, and returns when
// it has ended. The error joins the failures of all targets in an
// *IncompleteError. When ctx ends, the contexts of steps at work end too,
// and Do returns when they have returned.
func Do(ctx context.Context, p *Plan) (Summary, error) {
	e := NewMemory()
	r, err := e.Start(ctx, p)
	if err != nil {
		return Summary{}, err
	}
	work, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- e.Work(work) }()
	s, err := r.Wait(ctx)
	stop()
	if werr := <-ended; err == nil && ctx.Err() != nil {
		err = werr
	}
	if err != nil || s.Err() == nil {
		return s, err
	}
	failed := &IncompleteError{Summary: s}
	for v := range r.Results(context.WithoutCancel(ctx)) {
		if err := v.Err(); err != nil {
			failed.Failures = append(failed.Failures, err)
		}
	}
	return s, failed
}
