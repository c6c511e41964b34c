package hypervisor

import (
	"context"
	"fmt"
	"sync"
)

// TaskGroup runs work that a driver composes itself and keeps the tasks for
// Driver.Task. The zero value is ready. It is for authors of drivers.
type TaskGroup struct {
	mu     sync.Mutex
	tasks  map[TaskID]*groupTask
	ended  []TaskID // oldest first
	closed bool
	wg     sync.WaitGroup
}

// keepEnded is how many ended tasks Find still knows.
const keepEnded = 256

type groupTask struct {
	id     TaskID
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	state   TaskState
	version int
	changed chan struct{}
}

// Go runs work in a goroutine. The context given to it keeps the values of
// ctx, not its end: it ends on Cancel (cause ErrCanceled) and on Close (cause
// ErrClosed). The function reports progress with its second argument and
// returns the final state; Done is set for it, and an error after Cancel that
// is only the context's becomes KindCanceled.
func (g *TaskGroup) Go(ctx context.Context, id TaskID, work func(ctx context.Context, report func(TaskState)) TaskState) (DriverTask, error) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	t := &groupTask{id: id, cancel: cancel, changed: make(chan struct{}), state: TaskState{Fraction: -1}}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		cancel(ErrClosed)
		return nil, Errorf(KindClosed, id.Ref(), "%w", ErrClosed)
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
	g.wg.Add(1)
	g.mu.Unlock()
	go func() {
		defer g.wg.Done()
		defer cancel(nil)
		s := work(ctx, func(s TaskState) { s.Done = false; t.set(s) })
		s.Done = true
		if s.Err == nil {
			s.Fraction = 1
		} else if cause := context.Cause(ctx); ctx.Err() != nil && KindOf(s.Err) == KindUnknown {
			k := KindCanceled
			if cause == ErrClosed {
				k = KindClosed
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

// Find returns a task of this group that runs or ended not long ago.
func (g *TaskGroup) Find(id TaskID) (DriverTask, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t, ok := g.tasks[id]
	if !ok {
		return nil, false
	}
	return &groupWatch{t: t, seen: -1}, true
}

// Close ends all work (cause ErrClosed) and waits for its goroutines.
func (g *TaskGroup) Close() {
	g.mu.Lock()
	g.closed = true
	for _, t := range g.tasks {
		t.cancel(ErrClosed)
	}
	g.mu.Unlock()
	g.wg.Wait()
}

func (t *groupTask) set(s TaskState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = s
	t.version++
	close(t.changed)
	t.changed = make(chan struct{})
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

// DoneTask is a task that has ended already, for work that the platform does
// at once and for repeated calls that have nothing to do.
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
