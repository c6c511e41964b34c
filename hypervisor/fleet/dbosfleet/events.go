package dbosfleet

import (
	"context"
	"iter"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/fleet"
)

// poll is the time between two readings of a run that another process carries
// on.
const poll = 300 * time.Millisecond

// Events yields what the worker of this engine does, or else what changes in
// the store.
func (s *store) Events(ctx context.Context) iter.Seq2[fleet.Event, error] {
	s.mu.Lock()
	here := s.run != nil
	s.mu.Unlock()
	if here {
		return s.hub.Events(ctx)
	}
	return func(yield func(fleet.Event, error) bool) {
		seen := map[string]bool{}
		var old fleet.Control
		for first := true; ; first = false {
			c, _, err := s.read()
			if err != nil {
				yield(fleet.Event{}, err)
				return
			}
			for r, err := range s.Results(ctx) {
				if err != nil {
					yield(fleet.Event{}, err)
					return
				}
				k := r.Target.Key()
				if seen[k] {
					continue
				}
				seen[k] = true
				if first {
					continue
				}
				if !yield(fleet.Event{Kind: fleet.EventTargetEnded, At: r.Ended, Target: &r.Target, Result: &r, Failure: r.Failure}, nil) {
					return
				}
			}
			for _, e := range differences(old, c, first) {
				if !yield(e, nil) || e.Kind == fleet.EventEnded {
					return
				}
			}
			old = c
			t := time.NewTimer(poll)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				yield(fleet.Event{}, ctx.Err())
				return
			}
		}
	}
}

// differences returns the events between two readings. Only the end is an
// event in the first one.
func differences(old, c fleet.Control, first bool) (out []fleet.Event) {
	add := func(k fleet.EventKind, is bool) {
		if is && !first {
			out = append(out, fleet.Event{Kind: k, At: time.Now()})
		}
	}
	add(fleet.EventPaused, c.Paused && !old.Paused)
	add(fleet.EventResumed, !c.Paused && old.Paused)
	add(fleet.EventCanceled, c.Canceled && !old.Canceled)
	if c.Summary != nil {
		out = append(out, fleet.Event{Kind: fleet.EventEnded, At: c.Summary.Ended, Summary: c.Summary})
	}
	return out
}
