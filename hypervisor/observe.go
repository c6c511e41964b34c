package hypervisor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Operation is a call that begins.
type Operation struct {
	Name   string // "vm.clone"
	Driver string // "kvm"
	Object Ref
}

// OperationEnd is how it ended. For work that goes on in the hypervisor the
// end is its true end if somebody watches it, else the end of the Client.
type OperationEnd struct {
	Err   error // nil, or an *Error
	Kind  Kind  // of Err
	Task  TaskID
	Calls int // sent to the platform, as far as the driver counts them
}

// Observer is called when an operation begins; the context that it returns is
// handed to the driver, and the function is called once when the operation
// ends. Both must be safe for concurrent use.
type Observer func(ctx context.Context, op Operation) (context.Context, func(OperationEnd))

// observed is one operation that the Observer or Logger hears of.
type observed struct {
	c     *Client
	op    Operation
	start time.Time
	done  func(OperationEnd)
	calls atomic.Int64
	task  TaskID
	once  sync.Once
}

type callCounter struct{}

// CountCalls adds to the number of calls to the platform that the operation
// of this context has made. Drivers call it at their transport.
func CountCalls(ctx context.Context, n int) {
	if o, ok := ctx.Value(callCounter{}).(*observed); ok {
		o.calls.Add(int64(n))
	}
}

// span is an operation that runs; the zero observed means nobody listens.
type span struct{ o *observed }

// begin opens an operation. It fails only on a closed Client.
func (c *Client) begin(ctx context.Context, op string, on Ref) (context.Context, span, error) {
	if c.closed.Load() {
		return ctx, span{}, &Error{Op: op, Object: on, Kind: KindClosed, Unsent: true, Err: fmt.Errorf("%w: open a new one", ErrClosed)}
	}
	if c.observ == nil && c.log == nil {
		return ctx, span{}, nil
	}
	o := &observed{c: c, op: Operation{Name: op, Driver: c.name, Object: on}, start: time.Now()}
	if c.observ != nil {
		ctx, o.done = c.observ(ctx, o.op)
	}
	return context.WithValue(ctx, callCounter{}, o), span{o}, nil
}

// end tells the end and returns err.
func (s span) end(err error) error {
	if s.o != nil {
		s.o.finish(err)
	}
	return err
}

// later leaves the end to the task, or to Close.
func (s span) later(id TaskID) {
	if s.o == nil {
		return
	}
	s.o.task = id
	s.o.c.mu.Lock()
	if s.o.c.open == nil {
		s.o.c.open = map[*observed]struct{}{}
	}
	s.o.c.open[s.o] = struct{}{}
	s.o.c.mu.Unlock()
	if s.o.c.closed.Load() { // Close came in between and has told the ends that it knew
		s.o.finish(nil)
	}
}

func (o *observed) finish(err error) {
	o.once.Do(func() {
		o.c.mu.Lock()
		delete(o.c.open, o)
		o.c.mu.Unlock()
		e := OperationEnd{Err: err, Kind: KindOf(err), Task: o.task, Calls: int(o.calls.Load())}
		if o.done != nil {
			o.done(e)
		}
		if o.c.log != nil {
			level := slog.LevelDebug
			if err != nil {
				level = slog.LevelWarn
			}
			o.c.log.LogAttrs(context.Background(), level, o.op.Name, slog.String("driver", o.op.Driver),
				slog.String("object", o.op.Object.String()), slog.String("task", string(e.Task)), slog.Int("calls", e.Calls),
				slog.Duration("took", time.Since(o.start)), slog.Any("error", err))
		}
	})
}
