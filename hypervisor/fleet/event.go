package fleet

import (
	"context"
	"iter"
	"sync"
	"time"
)

// EventKind is what has happened.
type EventKind string

const (
	EventWaveBegan   EventKind = "wave-began"
	EventWaveEnded   EventKind = "wave-ended"
	EventGatePassed  EventKind = "gate-passed"
	EventTargetBegan EventKind = "target-began"
	EventStepEnded   EventKind = "step-ended"
	EventTargetEnded EventKind = "target-ended"
	EventPaused      EventKind = "paused"
	EventResumed     EventKind = "resumed"
	EventCanceled    EventKind = "canceled"
	EventEnded       EventKind = "ended"
	// EventLost means that the reader was too slow, and that older events
	// are gone. Run.Results has what they were about.
	EventLost EventKind = "lost"
)

// Event is something that has happened in a run.
type Event struct {
	Kind    EventKind `json:"kind"`
	At      time.Time `json:"at"`
	Wave    int       `json:"wave,omitempty"` // counted from 0
	Target  *Target   `json:"target,omitempty"`
	Step    string    `json:"step,omitempty"`
	Failure *Failure  `json:"failure,omitempty"`
	Result  *Result   `json:"result,omitempty"`  // of EventTargetEnded
	Summary *Summary  `json:"summary,omitempty"` // of EventEnded
}

// keepEvents is the number of events that a slow reader may be behind.
const keepEvents = 16384

// Hub passes events to readers in the same process. It is for authors of
// engines. The zero value is ready for use.
type Hub struct {
	mu      sync.Mutex
	events  []Event // the last ones
	first   int     // number of events[0]
	ended   bool
	changed chan struct{}
}

// Emit passes an event on. After EventEnded nothing is.
func (h *Hub) Emit(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return
	}
	if e.At.IsZero() {
		e.At = time.Now()
	}
	if len(h.events) >= 2*keepEvents {
		h.events = append([]Event(nil), h.events[keepEvents:]...)
		h.first += keepEvents
	}
	h.events = append(h.events, e)
	h.ended = e.Kind == EventEnded
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

// Events yields the events from now on, and of a run that has ended its end.
func (h *Hub) Events(ctx context.Context) iter.Seq2[Event, error] {
	h.mu.Lock()
	at := h.first + len(h.events)
	if h.ended {
		at--
	}
	h.mu.Unlock()
	return func(yield func(Event, error) bool) {
		next := at
		for {
			h.mu.Lock()
			lost := next < h.first
			next = max(next, h.first)
			batch := h.events[next-h.first:]
			if h.changed == nil {
				h.changed = make(chan struct{})
			}
			changed := h.changed
			h.mu.Unlock()
			if lost && !yield(Event{Kind: EventLost, At: time.Now()}, nil) {
				return
			}
			for _, e := range batch {
				if !yield(e, nil) || e.Kind == EventEnded {
					return
				}
			}
			if next += len(batch); len(batch) > 0 {
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
				yield(Event{}, ctx.Err())
				return
			}
		}
	}
}
