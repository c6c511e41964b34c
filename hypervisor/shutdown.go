package hypervisor

import (
	"context"
	"errors"
	"sync"
)

// Shutdown closes the Client when its work is done. It refuses new tasks from
// now on (ErrClosed), while everything else keeps working, waits until every
// task that this Client started has ended, and then calls Close. If ctx ends
// first, or the end of a task can't be learned, Shutdown closes the Client
// all the same. Close's rules for unfinished work then apply, and the error
// has that reason too.
//
// Of tasks whose end nobody has waited for, the last 65,536 are remembered.
func (c *Client) Shutdown(ctx context.Context) error {
	if c.closed.Load() {
		return nil
	}
	return errors.Join(c.work.drain(ctx), c.Close())
}

// maxPending bounds the tasks that a Client remembers for Shutdown.
const maxPending = 1 << 16

// pending is a task that may not have ended.
type pending interface {
	settled() bool                    // whether its end is known; makes no call
	settle(ctx context.Context) error // waits for the end
}

// work is everything that a Client has under way.
type work struct {
	mu       sync.Mutex // never held during a call
	draining bool
	starting int           // starts that have not returned
	idle     chan struct{} // closed when starting gets to 0; set by drain
	tasks    []pending     // settled ones are swept out now and then
	sweepAt  int
}

// part marks the context of work that this package composes. Its parts do not
// count as new work.
type part struct{}

// enter registers the start of a task. It returns false while the Client
// shuts down.
func (w *work) enter(ctx context.Context) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.draining && ctx.Value(part{}) == nil {
		return false
	}
	w.starting++
	return true
}

// leave registers that a start has returned.
func (w *work) leave(t pending) {
	settled := t.settled()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.starting--; w.starting == 0 && w.idle != nil {
		close(w.idle)
		w.idle = nil
	}
	if settled {
		return
	}
	if len(w.tasks) >= w.sweepAt {
		w.sweep()
	}
	w.tasks = append(w.tasks, t)
}

// sweep drops settled tasks. The next sweep is due when there are twice as
// many.
func (w *work) sweep() {
	left := w.tasks[:0]
	for _, t := range w.tasks {
		if !t.settled() {
			left = append(left, t)
		}
	}
	clear(w.tasks[len(left):])
	if n := len(left) - maxPending; n > 0 {
		left = append([]pending(nil), left[n:]...)
	}
	w.tasks, w.sweepAt = left, max(2*len(left), 64)
}

// drain refuses new work and waits for the work that is under way. If the end
// of one task can't be learned, it still waits for the others.
func (w *work) drain(ctx context.Context) error {
	var failed error
	for {
		w.mu.Lock()
		w.draining = true
		tasks := w.tasks
		w.tasks = nil
		if len(tasks) == 0 && w.starting == 0 {
			w.mu.Unlock()
			return failed
		}
		if len(tasks) == 0 && w.idle == nil {
			w.idle = make(chan struct{})
		}
		idle := w.idle
		w.mu.Unlock()
		for _, t := range tasks {
			if err := t.settle(ctx); err != nil {
				if ctx.Err() != nil {
					return errors.Join(ctx.Err(), failed)
				}
				failed = errors.Join(failed, err)
			}
		}
		if len(tasks) > 0 {
			continue
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), failed)
		}
	}
}

func (t *Task[T]) settled() bool {
	if _, done := t.t.(doneTask); done || t.t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last.Done
}

func (t *Task[T]) settle(ctx context.Context) error {
	for seen := 0; ; {
		s, n, err := t.next(ctx, seen)
		if err != nil {
			return t.c.wrap(t.op, t.on, err)
		}
		if s.Done {
			return nil
		}
		seen = n
	}
}
