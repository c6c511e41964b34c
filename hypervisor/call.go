package hypervisor

import (
	"context"
	"errors"
	"iter"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// orDefault returns *o, or the zero value if no options were given.
func orDefault[T any](o *T) T {
	if o == nil {
		var zero T
		return zero
	}
	return *o
}

// retryRead repeats a read once if the connection broke.
func retryRead[T any](ctx context.Context, c *Client, f func() (T, error)) (T, error) {
	v, err := f()
	if err != nil && ctx.Err() == nil && c.kind(err) == ErrUnavailable {
		return f()
	}
	return v, err
}

func (c *Client) kind(err error) Kind {
	if k := KindOf(err); k != ErrUnknown {
		return k
	}
	return c.d.ErrorKind(err)
}

// start begins work. It returns bad if the arguments are invalid, looks up
// the driver's ability, and repeats a start once if it never reached the
// server.
func start[D, T any](ctx context.Context, c *Client, op op.Name, on Ref, k capability.Name, bad *Error,
	f func(context.Context, D) (DriverTask, error), get func(context.Context, TaskState) (T, error)) (task *Task[T]) {
	if !c.work.enter(ctx) {
		return &Task[T]{op: op, on: on, err: closedError(op, on)}
	}
	defer func() { c.work.leave(task) }()
	ctx, sp, err := c.begin(ctx, op, on)
	if err != nil {
		return &Task[T]{op: op, on: on, err: err}
	}
	if bad != nil {
		return &Task[T]{op: op, on: on, err: sp.end(bad)}
	}
	d, ok := Ability[D](c.d)
	if !ok {
		return &Task[T]{op: op, on: on, err: sp.end(c.unsupported(ctx, op, on, k))}
	}
	t, err := f(ctx, d)
	var e *Error
	if errors.As(err, &e) && e.Unsent && e.Kind == ErrUnavailable && ctx.Err() == nil {
		t, err = f(ctx, d)
	}
	return newTask(c, op, on, t, err, sp, get)
}

// read is like start, for calls that only read.
func read[D, T any](ctx context.Context, c *Client, op op.Name, on Ref, k capability.Name, bad *Error,
	f func(context.Context, D) (T, error)) (T, error) {
	var zero T
	ctx, sp, err := c.begin(ctx, op, on)
	if err != nil {
		return zero, err
	}
	if bad != nil {
		return zero, sp.end(bad)
	}
	d, ok := Ability[D](c.d)
	if !ok {
		return zero, sp.end(c.unsupported(ctx, op, on, k))
	}
	v, err := retryRead(ctx, c, func() (T, error) { return f(ctx, d) })
	return v, sp.end(c.wrap(op, on, err))
}

// only returns the one element that matches, or ErrNotFound or ErrAmbiguous.
func only[T any](on Ref, all []T, match func(T) bool, ref func(T) Ref) (T, error) {
	var none T
	found := slices.DeleteFunc(all, func(x T) bool { return !match(x) })
	switch len(found) {
	case 0:
		return none, &Error{Object: on, Kind: ErrNotFound}
	case 1:
		return found[0], nil
	}
	var ids []string
	for _, x := range found {
		ids = append(ids, ref(x).ID)
	}
	return none, Errorf(ErrAmbiguous, on, "%d %ss have this name: address one by its ID: %v", len(found), on.Kind, ids)
}

// call is like read, for calls that change something immediately. They are
// not repeated.
func call[D any](ctx context.Context, c *Client, op op.Name, on Ref, k capability.Name, bad *Error, f func(context.Context, D) error) error {
	ctx, sp, err := c.begin(ctx, op, on)
	if err != nil {
		return err
	}
	if bad == nil && on.ID == "" {
		bad = invalid(op, on, "the %s's ID is empty", on.Kind)
	}
	if bad != nil {
		return sp.end(bad)
	}
	d, ok := Ability[D](c.d)
	if !ok {
		return sp.end(c.unsupported(ctx, op, on, k))
	}
	return sp.end(c.wrap(op, on, f(ctx, d)))
}

// list turns a listing that arrives in one piece into an iterator.
func list[D, T any](ctx context.Context, c *Client, op op.Name, k capability.Name, f func(context.Context, D) ([]T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		all, err := read(ctx, c, op, Ref{}, k, nil, f)
		if err != nil {
			var zero T
			yield(zero, err)
			return
		}
		for _, v := range all {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// Collect reads a listing to its end and returns its elements.
func Collect[T any](seq iter.Seq2[T, error]) ([]T, error) {
	var out []T
	for v, err := range seq {
		if err != nil {
			return out, err
		}
		out = append(out, v)
	}
	return out, nil
}
