package hypervisor

import (
	"context"
	"errors"
	"iter"
)

// retryRead sends a read again, once, when the connection broke.
func retryRead[T any](ctx context.Context, c *Client, f func() (T, error)) (T, error) {
	v, err := f()
	if err != nil && ctx.Err() == nil && c.kind(err) == KindUnavailable {
		return f()
	}
	return v, err
}

func (c *Client) kind(err error) Kind {
	if k := KindOf(err); k != KindUnknown {
		return k
	}
	return c.d.ErrorKind(err)
}

// start begins work: arguments were checked (bad), the driver's ability is
// looked up, and a start that never reached the server is tried once more.
func start[D, T any](ctx context.Context, c *Client, op string, on Ref, k Capability, bad *Error,
	f func(context.Context, D) (DriverTask, error), get func(context.Context, TaskState) (T, error)) *Task[T] {
	ctx, sp, err := c.begin(ctx, op, on)
	if err != nil {
		return &Task[T]{err: err}
	}
	if bad == nil && on.ID == "" && on.Name == "" {
		bad = invalid(op, on, "the %s's ID is empty", on.Kind)
	}
	if bad != nil {
		return &Task[T]{err: sp.end(bad)}
	}
	d, ok := c.d.(D)
	if !ok {
		return &Task[T]{err: sp.end(c.unsupported(ctx, op, on, k))}
	}
	t, err := f(ctx, d)
	var e *Error
	if errors.As(err, &e) && e.Unsent && e.Kind == KindUnavailable && ctx.Err() == nil {
		t, err = f(ctx, d)
	}
	return newTask(c, op, on, t, err, sp, get)
}

// read is start for calls that only read.
func read[D, T any](ctx context.Context, c *Client, op string, on Ref, k Capability, bad *Error,
	f func(context.Context, D) (T, error)) (T, error) {
	var zero T
	ctx, sp, err := c.begin(ctx, op, on)
	if err != nil {
		return zero, err
	}
	if bad == nil && on.Kind != "" && on.ID == "" {
		bad = invalid(op, on, "the %s's ID is empty", on.Kind)
	}
	if bad != nil {
		return zero, sp.end(bad)
	}
	d, ok := c.d.(D)
	if !ok {
		return zero, sp.end(c.unsupported(ctx, op, on, k))
	}
	v, err := retryRead(ctx, c, func() (T, error) { return f(ctx, d) })
	return v, sp.end(c.wrap(op, on, err))
}

// call is read for calls that change something at once: they are not repeated.
func call[D any](ctx context.Context, c *Client, op string, on Ref, k Capability, bad *Error, f func(context.Context, D) error) error {
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
	d, ok := c.d.(D)
	if !ok {
		return sp.end(c.unsupported(ctx, op, on, k))
	}
	return sp.end(c.wrap(op, on, f(ctx, d)))
}

// list makes an iterator of a listing that comes in one piece.
func list[D, T any](ctx context.Context, c *Client, op string, k Capability, f func(context.Context, D) ([]T, error)) iter.Seq2[T, error] {
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

// Collect reads a listing to its end.
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
