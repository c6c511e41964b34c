package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// TaskState is what is known about work at one moment.
type TaskState struct {
	// Op, Object and Started identify the work, as far as the platform or
	// this program knows. They are the zero values where neither does.
	Op      op.Name
	Object  Ref
	Started time.Time

	Done bool
	// Fraction is the part that is done, 0 to 1, or negative where the
	// platform doesn't report it.
	Fraction float64
	Phase    string // the platform's word: "copying", "merging", …
	// BytesDone of BytesTotal have been transferred; 0 if unknown.
	BytesDone, BytesTotal int64
	// ExpectedDowntime of a live migration, 0 if unknown.
	ExpectedDowntime time.Duration
	// Notes describe what the driver did besides what was requested, such as
	// memory reserved for a passed-through device.
	Notes []string

	// Result and the following fields are set when Done is.
	Result    Ref
	Migration *MigrateResult
	Err       error
	Leftover  []Ref // objects that a failed task left behind
}

// None is the result of tasks that make nothing.
type None struct{}

// Task is work that the hypervisor does. T is the type of its result. Methods
// may be called from several goroutines.
type Task[T any] struct {
	c   *Client
	t   DriverTask
	op  op.Name
	on  Ref
	get func(context.Context, TaskState) (T, error)
	err error
	sp  span
	// partial is set where failed work has a result too.
	partial bool
	at      time.Time // when this Client started or found it

	turn chan struct{} // a token: its holder may call t.Next
	mu   sync.Mutex
	seq  int
	last TaskState
}

// newTask is called once for each started work. err is the error of the
// start.
func newTask[T any](c *Client, op op.Name, on Ref, t DriverTask, err error, sp span,
	get func(context.Context, TaskState) (T, error)) *Task[T] {
	if err != nil {
		return &Task[T]{op: op, on: on, err: sp.end(c.wrap(op, on, err))}
	}
	k := &Task[T]{c: c, t: t, op: op, on: on, get: get, sp: sp, at: time.Now(), turn: make(chan struct{}, 1)}
	k.turn <- struct{}{}
	sp.later(t.ID())
	return k
}

func taskResult(_ context.Context, s TaskState) (Ref, error) { return s.Result, nil }
func noResult(context.Context, TaskState) (None, error)      { return None{}, nil }

// ID is worth storing: Client.Task finds the work again after a restart. It
// is empty when the call failed before work began.
func (t *Task[T]) ID() TaskID {
	if t.t == nil {
		return ""
	}
	return t.t.ID()
}

// Ref returns the Ref of the task, for As.
func (t *Task[T]) Ref() Ref { return t.ID().Ref() }

// Err returns the error that kept the work from starting, or nil. It does not
// wait.
func (t *Task[T]) Err() error { return t.err }

// next returns the first state after the one with number seen.
func (t *Task[T]) next(ctx context.Context, seen int) (TaskState, int, error) {
	peek := func() (TaskState, int, bool) {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.last, t.seq, t.seq > seen || t.last.Done
	}
	if s, n, ok := peek(); ok {
		return s, n, nil
	}
	select {
	case <-t.turn:
	case <-ctx.Done():
		return TaskState{}, seen, ctx.Err()
	}
	defer func() { t.turn <- struct{}{} }()
	if s, n, ok := peek(); ok {
		return s, n, nil
	}
	s, err := t.t.Next(ctx)
	if err != nil {
		return s, seen, err
	}
	if t.op != op.TaskFind { // this Client started it
		s.Op, s.Object = t.op, t.on
		if s.Started.IsZero() {
			s.Started = t.at
		}
	}
	t.mu.Lock()
	t.seq++
	t.last = s
	n := t.seq
	t.mu.Unlock()
	if s.Done {
		t.sp.end(t.failure(s))
	}
	return s, n, nil
}

// failure returns the error of a final state.
func (t *Task[T]) failure(s TaskState) error {
	if s.Err == nil {
		return nil
	}
	var e *Error
	if err := t.c.wrap(t.op, t.on, s.Err); errors.As(err, &e) {
		c := *e
		c.Task = t.ID()
		if len(s.Leftover) > 0 {
			c.Leftover = s.Leftover
		}
		return &c
	}
	return s.Err
}

// Progress yields the present state and then every change until the work
// ends. The last state has Done set. When ctx ends first, the last pair has a
// *DetachedError and the work continues. Wait and Run may be called at the
// same time or afterwards, and so may Progress once more: after the end of the
// work it yields the last state alone.
func (t *Task[T]) Progress(ctx context.Context) iter.Seq2[TaskState, error] {
	return func(yield func(TaskState, error) bool) {
		if t.err != nil {
			yield(TaskState{Done: true, Err: t.err}, t.err)
			return
		}
		seen := 0
		for {
			s, n, err := t.next(ctx, seen)
			if err != nil {
				if ctx.Err() == nil {
					err = t.c.wrap(t.op, t.on, err)
				}
				yield(s, &DetachedError{Task: t.ID(), Err: err})
				return
			}
			seen = n
			if !yield(s, nil) || s.Done {
				return
			}
		}
	}
}

// Wait blocks until the work ends and returns its result. When ctx ends
// first, only the watching ends: the error is a *DetachedError with the
// task's ID, and the hypervisor continues the work, or has done it and the
// result was not read.
func (t *Task[T]) Wait(ctx context.Context) (T, error) {
	var zero T
	for s, err := range t.Progress(ctx) {
		switch {
		case err != nil:
			return zero, err
		case s.Done && s.Err != nil && t.partial:
			r, _ := t.get(ctx, s)
			return r, t.failure(s)
		case s.Done && s.Err != nil:
			return zero, t.failure(s)
		case s.Done:
			r, err := t.get(ctx, s)
			if err != nil && ctx.Err() != nil { // the work is done, and Client.Task finds the result
				return zero, &DetachedError{Task: t.ID(), Err: ctx.Err()}
			}
			return r, t.c.wrap(t.op, t.on, err)
		}
	}
	return zero, fmt.Errorf("hypervisor: task %s ended without a state", t.ID())
}

// Run is like Wait, for callers who want the work undone when ctx ends. It
// then asks the hypervisor to cancel and waits up to grace for the true
// outcome. If the work finished first, its result is returned and the error
// is nil. If it can't be cancelled, the error joins that reason and a
// *DetachedError.
func (t *Task[T]) Run(ctx context.Context, grace time.Duration) (T, error) {
	r, err := t.Wait(ctx)
	var d *DetachedError
	if ctx.Err() == nil || !errors.As(err, &d) {
		return r, err
	}
	late, stop := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer stop()
	if cerr := t.Cancel(late); cerr != nil {
		return r, errors.Join(err, cerr)
	}
	return t.Wait(late)
}

// Cancel asks the hypervisor to stop the work and returns once the hypervisor
// has accepted the request. Wait reports the outcome. Cancel returns
// ErrUnsupported where this work can't be cancelled. For work that has ended
// it does nothing.
func (t *Task[T]) Cancel(ctx context.Context) error {
	if t.err != nil {
		return nil
	}
	return t.c.wrap(op.TaskCancel, t.ID().Ref(), t.t.Cancel(ctx))
}

// Op returns the operation that the task performs. For a task that
// Client.Task found, it is empty until the first state was read (Client.Task
// reads one), and stays empty where the platform doesn't know it.
func (t *Task[T]) Op() op.Name { return t.known().Op }

// Object returns the object that the task works on.
func (t *Task[T]) Object() Ref { return t.known().Object }

// Started returns when the work began, or the zero time if nobody knows.
func (t *Task[T]) Started() time.Time { return t.known().Started }

// Migration returns the measurements of a migration that has ended, also for
// a task that Client.Task found. It is nil for other work and before the end.
func (t *Task[T]) Migration() *MigrateResult { return t.known().Migration }

func (t *Task[T]) known() TaskState {
	if t.t == nil {
		return TaskState{Op: t.op, Object: t.on}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seq == 0 && t.op != op.TaskFind {
		return TaskState{Op: t.op, Object: t.on, Started: t.at}
	}
	return t.last
}

// Notes returns what the driver did besides what was requested, as far as
// known.
func (t *Task[T]) Notes() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last.Notes
}

// Task finds work that was started earlier, perhaps by another process. It
// returns ErrNotFound when the platform has forgotten the work.
func (c *Client) Task(ctx context.Context, id TaskID) (*Task[Ref], error) {
	ctx, sp, err := c.begin(ctx, op.TaskFind, id.Ref())
	if err != nil {
		return nil, err
	}
	if t, ok := c.group.Find(id); ok {
		return newTask(c, op.TaskFind, id.Ref(), t, nil, sp, taskResult).peeked(ctx)
	}
	t, err := retryRead(ctx, c, func() (DriverTask, error) { return c.d.Task(ctx, id) })
	if err != nil {
		return nil, sp.end(c.wrap(op.TaskFind, id.Ref(), err))
	}
	return newTask(c, op.TaskFind, id.Ref(), t, nil, sp, taskResult).peeked(ctx)
}

// peeked reads the first state, which identifies the task. It ignores an
// error: Wait meets it again.
func (t *Task[T]) peeked(ctx context.Context) (*Task[T], error) {
	_, _, _ = t.next(ctx, 0)
	return t, nil
}
