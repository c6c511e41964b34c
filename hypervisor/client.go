package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options for Open and New. The zero value asks for nothing.
type Options struct {
	// Require makes Open and New fail when one of these is not at least
	// Partial for the whole Client, so that a program learns at its start.
	Require []Capability
	// Credentials take the place of those in the URL.
	Credentials *Credentials
	// Logger gets one record for each operation (Debug; Warn if it failed).
	// Nil is silent.
	Logger *slog.Logger
	// Observer sees every operation begin and end.
	Observer Observer
}

// Credentials log in. They print as "user:***".
type Credentials struct {
	Username string
	Password string
}

// String hides the password.
func (c Credentials) String() string { return c.Username + ":***" }

// GoString hides the password.
func (c Credentials) GoString() string { return c.String() }

// LogValue hides the password.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

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

// Client is one management domain: a vCenter or ESXi host, a XAPI pool, a
// list of libvirt hosts, a list of Hyper-V hosts or a failover cluster. It is
// safe for concurrent use.
type Client struct {
	d      Driver
	name   string
	log    *slog.Logger
	observ Observer
	closed atomic.Bool
	group  TaskGroup // work that this package composes

	mu   sync.Mutex
	open map[*observed]struct{} // operations whose end was not told yet
}

var registry struct {
	sync.RWMutex
	openers map[string]Opener
}

// Register makes a driver known under a URL scheme. Driver packages call it
// from init. It panics if the scheme is taken: two drivers in one program
// would answer to one name.
func Register(scheme string, open Opener) {
	registry.Lock()
	defer registry.Unlock()
	if registry.openers == nil {
		registry.openers = map[string]Opener{}
	}
	if _, dup := registry.openers[scheme]; dup {
		panic("hypervisor: scheme " + scheme + " is registered twice") //nolint
	}
	registry.openers[scheme] = open
}

// Schemes returns the URL schemes of the drivers in this program.
func Schemes() []string {
	registry.RLock()
	defer registry.RUnlock()
	var out []string
	for s := range registry.openers {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// Open connects to the hypervisor at a URL. The scheme names the driver, whose
// package must be imported; it documents the rest of the URL.
func Open(ctx context.Context, rawURL string, o *Options) (*Client, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) { // its text has the whole URL, secrets included
			err = ue.Err
		}
		return nil, invalid("open", Ref{Kind: KindOfClient}, "the URL can't be parsed: %w", err)
	}
	registry.RLock()
	open, ok := registry.openers[u.Scheme]
	registry.RUnlock()
	if !ok {
		base, _, _ := strings.Cut(u.Scheme, "+")
		registry.RLock()
		open, ok = registry.openers[base]
		registry.RUnlock()
	}
	on := Ref{Kind: KindOfClient, ID: u.Redacted()}
	if !ok {
		return nil, invalid("open", on, "no driver is registered for scheme %q: import its package (registered: %s)",
			u.Scheme, strings.Join(Schemes(), ", "))
	}
	if o == nil {
		o = &Options{}
	}
	d, err := open(ctx, u, o)
	if err != nil {
		var e *Error
		if errors.As(err, &e) {
			c := *e
			c.Op = "open"
			if c.Object == (Ref{}) {
				c.Object = on
			}
			return nil, &c
		}
		return nil, &Error{Op: "open", Object: on, Kind: KindUnavailable, Err: err}
	}
	return New(ctx, d, o)
}

// New makes a Client of a driver. Driver packages call it from their Open. If
// a capability in Options.Require is missing the driver is closed.
func New(ctx context.Context, d Driver, o *Options) (*Client, error) {
	c := &Client{d: d, name: d.Describe().Driver}
	if o == nil {
		return c, nil
	}
	c.log, c.observ = o.Logger, o.Observer
	for _, k := range o.Require {
		s, err := c.Supports(ctx, k, Ref{})
		if err == nil && s.Level != Yes && s.Level != Partial {
			e := Unsupported(Ref{Kind: KindOfClient, ID: d.Describe().Endpoint}, k, s.Reason, s.Detail)
			e.Op = "open"
			err = e
		}
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// Describe says what the Client is connected to. It makes no call.
func (c *Client) Describe() Description { return c.d.Describe() }

// Close ends the session. Work in the hypervisor goes on; work that this
// package composes (Evacuate) ends with ErrClosed. A second Close does
// nothing.
func (c *Client) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.group.Close()
	err := c.d.Close()
	c.mu.Lock()
	open := c.open
	c.open = nil
	c.mu.Unlock()
	for o := range open {
		o.finish(nil)
	}
	return c.wrap("close", Ref{Kind: KindOfClient}, err)
}

// As returns the native object behind a Client or VM, such as a
// *libvirt.Domain or *object.VirtualMachine, for what this package does not
// cover. Each driver package documents its types.
func As[T any](v interface{ as(target any) bool }) (T, bool) {
	var t T
	ok := v.as(&t)
	return t, ok
}

func (c *Client) as(target any) bool { return c.d.As(Ref{}, target) }
func (m *VM) as(target any) bool     { return m.c.d.As(m.ref(), target) }
func (h *Host) as(target any) bool   { return h.c.d.As(h.id.Ref(), target) }

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
