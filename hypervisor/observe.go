package hypervisor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// Call is the beginning of an operation.
type Call struct {
	Name   op.Name // op.VMClone, "vm.clone"
	Driver string  // "kvm"
	Object Ref
}

// CallEnd is the end of a Call. For work that continues in the hypervisor, it
// is the end of the work itself if somebody watches it, and otherwise the end
// of the Client.
type CallEnd struct {
	Err   error // nil, or an *Error
	Kind  Kind  // of Err
	Task  TaskID
	Calls int // sent to the platform, as far as the driver counts them
}

// Observer is called when an operation begins. The context that it returns is
// passed to the driver, and the function that it returns is called once when
// the operation ends. Both must be safe for concurrent use.
type Observer func(ctx context.Context, c Call) (context.Context, func(CallEnd))

// observed is one operation that is reported to the Observer or Logger.
type observed struct {
	c     *Client
	call  Call
	start time.Time
	done  func(CallEnd)
	calls atomic.Int64
	task  TaskID
	once  sync.Once
}

// callContext identifies the operation on whose behalf the driver is called.
type callContext struct {
	context.Context
	op op.Name
	on Ref
	o  *observed // nil without an Observer and a Logger
}

type callKey struct{}

func (c *callContext) Value(key any) any {
	if key == (callKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// OperationOf returns the operation and object on whose behalf a driver is
// called with this context, or zero values. A driver stores them where its
// platform keeps tasks, so that other processes know Task.Op too.
func OperationOf(ctx context.Context) (op.Name, Ref) {
	if c, ok := ctx.Value(callKey{}).(*callContext); ok {
		return c.op, c.on
	}
	return "", Ref{}
}

// CountCalls adds n to the number of calls to the platform that the operation
// of this context has made. Drivers call it in their transport.
func CountCalls(ctx context.Context, n int) {
	if c, ok := ctx.Value(callKey{}).(*callContext); ok && c.o != nil {
		c.o.calls.Add(int64(n))
	}
}

// span is an operation in progress. The zero span reports to nobody.
type span struct{ o *observed }

func closedError(op op.Name, on Ref) *Error {
	return &Error{Op: op, Object: on, Kind: ErrClosed, Unsent: true, Err: fmt.Errorf("%w: open a new one", ErrClosed)}
}

// begin opens an operation. It fails on a closed Client, and on an object
// without an ID and a name.
func (c *Client) begin(ctx context.Context, op op.Name, on Ref) (context.Context, span, error) {
	if c.closed.Load() {
		return ctx, span{}, closedError(op, on)
	}
	var o *observed
	if c.observ != nil || c.log != nil {
		o = &observed{c: c, call: Call{Name: op, Driver: c.name, Object: on}, start: time.Now()}
	}
	if c.observ != nil {
		ctx, o.done = c.observ(ctx, o.call)
	}
	sp := span{o}
	if on.Kind != "" && on.Kind != ObjectClient && on.ID == "" && on.Name == "" {
		return ctx, sp, sp.end(invalid(op, on, "the %s's ID is empty", on.Kind))
	}
	return &callContext{ctx, op, on, o}, sp, nil
}

// end reports the outcome to the Observer and returns err unchanged.
func (s span) end(err error) error {
	if s.o != nil {
		s.o.finish(err)
	}
	return err
}

// later leaves the report of the end to the task, or to Close.
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
	if s.o.c.closed.Load() { // Close came in between and has reported the ends that it knew
		s.o.finish(nil)
	}
}

func (o *observed) finish(err error) {
	o.once.Do(func() {
		o.c.mu.Lock()
		delete(o.c.open, o)
		o.c.mu.Unlock()
		e := CallEnd{Err: err, Kind: KindOf(err), Task: o.task, Calls: int(o.calls.Load())}
		if o.done != nil {
			o.done(e)
		}
		if o.c.log != nil {
			level := slog.LevelDebug
			if err != nil {
				level = slog.LevelWarn
			}
			o.c.log.LogAttrs(context.Background(), level, string(o.call.Name), slog.String("driver", o.call.Driver),
				slog.String("object", o.call.Object.String()), slog.String("task", string(e.Task)), slog.Int("calls", e.Calls),
				slog.Duration("took", time.Since(o.start)), slog.Any("error", err))
		}
	})
}
