package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"
)

// TaskState is what is known about work at one moment.
type TaskState struct {
	Done bool
	// Fraction is the part that is done, 0 to 1, or negative where the
	// platform doesn't tell.
	Fraction float64
	Phase    string // the platform's word: "copying", "merging", …
	// Bytes that were moved and that are to be moved in all; 0 if unknown.
	BytesDone, BytesTotal int64
	// ExpectedDowntime of a live migration, 0 if unknown.
	ExpectedDowntime time.Duration
	// Notes say what the driver did besides what was asked, such as memory
	// reserved for a passed-through device.
	Notes []string

	// Set when Done.
	Result    Ref
	Migration *MigrateResult
	Err       error
	Leftover  []Ref // what a failed task left behind
}

// None is the result of tasks that make nothing.
type None struct{}

// Task is work that the hypervisor does. T is what it makes. Methods may be
// called from several goroutines.
type Task[T any] struct {
	c   *Client
	t   DriverTask
	op  string
	on  Ref
	get func(context.Context, TaskState) (T, error)
	err error
	sp  span

	turn chan struct{} // a token: who holds it may call t.Next
	mu   sync.Mutex
	seq  int
	last TaskState
}

// newTask is called once per started work; err is an error of the start.
func newTask[T any](c *Client, op string, on Ref, t DriverTask, err error, sp span,
	get func(context.Context, TaskState) (T, error)) *Task[T] {
	if err != nil {
		return &Task[T]{op: op, on: on, err: sp.end(c.wrap(op, on, err))}
	}
	k := &Task[T]{c: c, t: t, op: op, on: on, get: get, sp: sp, turn: make(chan struct{}, 1)}
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

// Err returns the error that kept the work from starting, or nil. It does not
// wait.
func (t *Task[T]) Err() error { return t.err }

// next returns the first state after number seen.
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

// failure returns the error that a final state stands for.
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
// ends; the last one has Done set. When ctx ends first, the last pair carries
// a *DetachedError and the work goes on.
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

// Wait blocks until the work ends and returns what it made. When ctx ends
// first, only the watching ends: the error is a *DetachedError with the
// task's ID, and the hypervisor goes on.
func (t *Task[T]) Wait(ctx context.Context) (T, error) {
	var zero T
	for s, err := range t.Progress(ctx) {
		switch {
		case err != nil:
			return zero, err
		case s.Done && s.Err != nil:
			return zero, t.failure(s)
		case s.Done:
			r, err := t.get(ctx, s)
			return r, t.c.wrap(t.op, t.on, err)
		}
	}
	return zero, fmt.Errorf("hypervisor: task %s ended without a state", t.ID())
}

// Run is Wait for callers who want the work undone when ctx ends: it then asks
// the hypervisor to cancel and waits up to grace for the true outcome. If the
// work won the race its result is returned and the error is nil. If it can't
// be cancelled the error joins that reason and a *DetachedError.
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

// Cancel asks the hypervisor to stop the work and returns when it has taken
// the wish; Wait tells the true outcome. ErrUnsupported where this work can't
// be cancelled. For ended work it does nothing.
func (t *Task[T]) Cancel(ctx context.Context) error {
	if t.err != nil {
		return nil
	}
	return t.c.wrap("cancel", t.ID().Ref(), t.t.Cancel(ctx))
}

// Notes returns what the driver did besides what was asked, as far as known.
func (t *Task[T]) Notes() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last.Notes
}

// Task finds work that was started earlier, perhaps by another process.
// ErrNotFound when the platform has forgotten it.
func (c *Client) Task(ctx context.Context, id TaskID) (*Task[Ref], error) {
	ctx, sp, err := c.begin(ctx, "task", id.Ref())
	if err != nil {
		return nil, err
	}
	if id == "" {
		return nil, sp.end(invalid("task", id.Ref(), "the task ID is empty"))
	}
	if t, ok := c.group.Find(id); ok {
		return newTask(c, "task", id.Ref(), t, nil, sp, taskResult), nil
	}
	t, err := retryRead(ctx, c, func() (DriverTask, error) { return c.d.Task(ctx, id) })
	if err != nil {
		return nil, sp.end(c.wrap("task", id.Ref(), err))
	}
	return newTask(c, "task", id.Ref(), t, nil, sp, taskResult), nil
}
