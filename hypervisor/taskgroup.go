package hypervisor

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// TaskGroup runs work that a driver composes itself, and keeps the tasks for
// Driver.Task. The zero value is ready for use. It is for authors of drivers.
type TaskGroup struct {
	mu     sync.Mutex
	tasks  map[TaskID]*groupTask
	ended  []TaskID // oldest first
	closed bool
}

// groupLimit is the time that work may take to undo itself when the group is
// closed. The rest of the five seconds of Driver.Close is for the session.
const groupLimit = 3 * time.Second

// keepEnded is the number of ended tasks that Find still knows, some two
// megabytes of them.
const keepEnded = 4096

type groupTask struct {
	id     TaskID
	cancel context.CancelCauseFunc
	ended  chan struct{} // closed when the goroutine has ended
	op     op.Name
	on     Ref
	begun  time.Time

	mu      sync.Mutex
	state   TaskState
	version int
	changed chan struct{}
}

// Go runs work in a goroutine. The context passed to it keeps the values of
// ctx, not its end: it ends on Cancel (cause ErrCanceled) and on Close (cause
// ErrClosed). The function reports progress with its second argument and
// returns the final state. Go sets Done in it, and turns an error after
// Cancel that is only the context's into ErrCanceled.
func (g *TaskGroup) Go(ctx context.Context, id TaskID, work func(ctx context.Context, report func(TaskState)) TaskState) (DriverTask, error) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	t := &groupTask{id: id, cancel: cancel, begun: time.Now(), ended: make(chan struct{}), changed: make(chan struct{})}
	t.op, t.on = OperationOf(ctx)
	t.state = t.named(TaskState{Fraction: -1})
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		cancel(ErrClosed)
		return nil, Errorf(ErrClosed, id.Ref(), "%w", ErrClosed)
	}
	if g.tasks == nil {
		g.tasks = map[TaskID]*groupTask{}
	}
	if _, dup := g.tasks[id]; dup {
		g.mu.Unlock()
		cancel(nil)
		return nil, fmt.Errorf("hypervisor: task ID %s is taken", id)
	}
	g.tasks[id] = t
	g.mu.Unlock()
	go func() {
		defer close(t.ended)
		defer cancel(nil)
		s := work(ctx, func(s TaskState) { s.Done = false; t.set(s) })
		s.Done = true
		if s.Err == nil {
			s.Fraction = 1
		} else if cause := context.Cause(ctx); ctx.Err() != nil && KindOf(s.Err) == ErrUnknown {
			k := ErrCanceled
			if cause == ErrClosed {
				k = ErrClosed
			}
			s.Err = Errorf(k, Ref{}, "%w (%w)", cause, s.Err)
		}
		t.set(s)
		g.mu.Lock()
		g.ended = append(g.ended, id)
		if len(g.ended) > keepEnded {
			delete(g.tasks, g.ended[0])
			g.ended = g.ended[1:]
		}
		g.mu.Unlock()
	}()
	return &groupWatch{t: t, seen: -1}, nil
}

// Find returns a task of this group that is running or has ended recently.
func (g *TaskGroup) Find(id TaskID) (DriverTask, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t, ok := g.tasks[id]
	if !ok {
		return nil, false
	}
	return &groupWatch{t: t, seen: -1}, true
}

// Close ends all work (cause ErrClosed) and waits up to three seconds for it
// to undo what it began. The error's Leftover names what ended work could not
// undo, and the tasks that have not ended (ErrTimeout). A caller that waits
// for such a task gets ErrClosed. Close does not wait for their goroutines:
// the driver ends the calls that they are in by closing its connections after
// this, and they must end then. A second Close does nothing.
func (g *TaskGroup) Close() error {
	running, left := g.close(groupLimit)
	switch {
	case len(running) > 0:
		e := Errorf(ErrTimeout, Ref{}, "%d tasks did not end within %v and are left as they are: open a new Client and look for them by their IDs", len(running), groupLimit)
		e.Leftover = append(running, left...)
		return e
	case len(left) > 0:
		e := Errorf(ErrClosed, Ref{}, "%w before its work had ended, and not all of it could be undone", ErrClosed)
		e.Leftover = left
		return e
	}
	return nil
}

// close ends all work and waits for it up to limit. It returns the tasks that
// are still running, and what those that ended left behind.
func (g *TaskGroup) close(limit time.Duration) (running, left []Ref) {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil, nil
	}
	var open []*groupTask
	for _, t := range g.tasks {
		// Work that is done, and what it left, was reported to its waiter.
		if !t.done() {
			open = append(open, t)
			t.cancel(ErrClosed)
		}
	}
	g.closed = true
	g.mu.Unlock()
	late, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	for _, t := range open {
		select {
		case <-t.ended:
		case <-late.Done():
		}
		if t.set(TaskState{Done: true, Err: Errorf(ErrClosed, Ref{}, "%w during this work: check what it left", ErrClosed)}) {
			running = append(running, t.id.Ref())
			continue
		}
		t.mu.Lock()
		left = append(left, t.state.Leftover...)
		t.mu.Unlock()
	}
	return running, left
}

// named fills in the operation and object of the work, where the driver left
// them out.
func (t *groupTask) named(s TaskState) TaskState {
	s.Op = cmp.Or(s.Op, t.op)
	s.Object = cmp.Or(s.Object, t.on)
	if s.Started.IsZero() {
		s.Started = t.begun
	}
	return s
}

func (t *groupTask) done() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state.Done
}

// set publishes a state. It returns false if the task has ended already.
func (t *groupTask) set(s TaskState) bool {
	s = t.named(s)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.Done {
		return false
	}
	t.state = s
	t.version++
	close(t.changed)
	t.changed = make(chan struct{})
	return true
}

// groupWatch is one watcher's view of a groupTask.
type groupWatch struct {
	t    *groupTask
	seen int
}

func (w *groupWatch) ID() TaskID { return w.t.id }

func (w *groupWatch) Next(ctx context.Context) (TaskState, error) {
	for {
		w.t.mu.Lock()
		s, v, ch := w.t.state, w.t.version, w.t.changed
		w.t.mu.Unlock()
		if v != w.seen || s.Done {
			w.seen = v
			return s, nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return TaskState{}, ctx.Err()
		}
	}
}

func (w *groupWatch) Cancel(context.Context) error {
	w.t.cancel(ErrCanceled)
	return nil
}

// DoneTask is a task that has ended already. It is for work that the platform
// completes at once, and for repeated calls that have nothing to do.
func DoneTask(id TaskID, s TaskState) DriverTask {
	s.Done = true
	if s.Err == nil {
		s.Fraction = 1
	}
	return doneTask{id, s}
}

type doneTask struct {
	id TaskID
	s  TaskState
}

func (d doneTask) ID() TaskID                              { return d.id }
func (d doneTask) Next(context.Context) (TaskState, error) { return d.s, nil }
func (d doneTask) Cancel(context.Context) error            { return nil }
