//go:build cgo

package libvirtx

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/session"
)

const (
	// dialLimit is the time that callers wait for a connection.
	dialLimit = time.Minute
	// If dialling a host took long, it is not dialled again before this is
	// over.
	holdOff = 5 * time.Second
	// If a peer is silent for keepAlive × keepCount, its calls in flight end.
	keepAlive = 5 * time.Second
	keepCount = 3
	// closeLimit is the time that Close waits for calls in flight.
	closeLimit = time.Second
)

// Conn is a connection to one libvirtd. It dials again after a loss.
type Conn struct {
	uri   string
	creds *hypervisor.Credentials
	given *libvirt.Connect // by the user, who owns it, so it is not dialled again
	link  *session.Keeper[*libvirt.Connect]

	alive context.Context // ends with Close
	end   context.CancelFunc

	failed error // of the last dialling; used by dial alone
	again  time.Time

	mu     sync.Mutex // held during no call to libvirt except Ref
	closed bool
	epoch  int            // connections made
	lost   chan struct{}  // closed when the present connection is dropped
	calls  sync.WaitGroup // everything that uses libvirt; see enter
}

// NewConn prepares a connection to a libvirt URI without dialling yet.
func NewConn(uri string, creds *hypervisor.Credentials) (*Conn, error) {
	return newConn(uri, creds, nil)
}

// WrapConn makes a Conn from a connection that the caller still owns.
func WrapConn(c *libvirt.Connect) (*Conn, error) {
	uri, err := c.GetURI()
	if err != nil {
		return nil, err
	}
	return newConn(uri, nil, c)
}

func newConn(uri string, creds *hypervisor.Credentials, given *libvirt.Connect) (*Conn, error) {
	if err := acquireLoop(); err != nil {
		return nil, err
	}
	h := &Conn{uri: uri, creds: creds, given: given, lost: make(chan struct{})}
	h.alive, h.end = context.WithCancel(context.Background())
	h.link = session.New(dialLimit, h.dial, func(c *libvirt.Connect) { _, _ = c.Close() })
	return h, nil
}

// URI returns the libvirt URI without a password.
func (h *Conn) URI() string {
	if u, err := url.Parse(h.uri); err == nil {
		return u.Redacted()
	}
	return "(unreadable URI)"
}

// Renewable reports whether the connection is dialled again when it breaks.
func (h *Conn) Renewable() bool { return h.given == nil }

// Native returns the connection if there is one.
func (h *Conn) Native() *libvirt.Connect {
	c, _ := h.link.Peek()
	return c
}

// Alive is a context that ends with Close. It is for work inside a call that
// can't be interrupted.
func (h *Conn) Alive() context.Context { return h.alive }

// Epoch returns the number of connections made so far. lost is closed when
// the present one ends.
func (h *Conn) Epoch() (epoch int, lost <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.epoch, h.lost
}

// Do runs f with a live connection in a goroutine of its own. It returns when
// f does, ctx ends, or the Conn is closed. In the last two cases f continues
// and its result is dropped, because libvirt's calls can't be interrupted.
// With a context that can't end, Do returns only when f does, for work whose
// outcome must be known. calls is the number of requests that f sends, for
// hypervisor.CountCalls.
func Do[T any](ctx context.Context, h *Conn, calls int, f func(*libvirt.Connect) (T, error)) (T, error) {
	return do(ctx, h, calls, f, func(T) {})
}

// do is like Do, with a function that undoes a result that came too late.
func do[T any](ctx context.Context, h *Conn, calls int, f func(*libvirt.Connect) (T, error), late func(T)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	if !h.enter() {
		return zero, errClosed()
	}
	c, err := h.get(ctx)
	if err != nil {
		h.calls.Done()
		return zero, err
	}
	hypervisor.CountCalls(ctx, calls)
	type result struct {
		v   T
		err error
	}
	ch, gone := make(chan result), make(chan struct{})
	go func() {
		defer h.calls.Done()
		defer c.Close() // get took a reference, so a connection that is dropped meanwhile stays valid
		v, err := f(c)
		if err != nil && Lost(err) {
			h.drop(c)
		}
		select {
		case ch <- result{v, err}:
		case <-gone:
			if err == nil {
				late(v)
			}
		}
	}()
	closed := h.alive.Done()
	if ctx.Done() == nil {
		closed = nil
	}
	select {
	case r := <-ch:
		return r.v, r.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-closed:
		err = errClosed()
	}
	close(gone)
	return zero, err
}

func errClosed() error {
	return hypervisor.Errorf(hypervisor.ErrClosed, hypervisor.Ref{Kind: hypervisor.ObjectClient}, "%w", hypervisor.ErrClosed)
}

// enter begins something that uses libvirt, which ends with calls.Done. The
// event loop and the connection stay until then. It returns false after
// Close.
func (h *Conn) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.calls.Add(1)
	return true
}

// get returns a live connection with a reference of its own.
func (h *Conn) get(ctx context.Context) (*libvirt.Connect, error) {
	for {
		c, err := h.link.Get(ctx)
		var late *session.LimitError
		switch {
		case err == nil:
		case errors.Is(err, session.ErrClosed):
			return nil, errClosed()
		case errors.As(err, &late):
			e := hypervisor.Errorf(hypervisor.ErrUnavailable, h.ref(), "can't connect: %w", err)
			e.Unsent = true
			return nil, e
		default:
			return nil, err
		}
		if ok, err := c.IsAlive(); err == nil && !ok && h.given == nil {
			h.drop(c)
			continue
		}
		if h.hold(c) {
			return c, nil
		}
		if h.given != nil {
			return nil, hypervisor.Errorf(hypervisor.ErrUnavailable, h.ref(), "the connection that was handed in is closed")
		}
	}
}

// hold takes a reference to a connection, unless it was dropped.
func (h *Conn) hold(c *libvirt.Connect) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now, _ := h.link.Peek()
	return now == c && c.Ref() == nil
}

// drop forgets a connection that is broken. The caller has entered.
func (h *Conn) drop(c *libvirt.Connect) {
	if h.given != nil {
		return
	}
	h.mu.Lock()
	dropped := h.link.Invalidate(c)
	if dropped {
		close(h.lost)
		h.calls.Add(1)
	}
	h.mu.Unlock()
	if dropped {
		go func() {
			defer h.calls.Done()
			_, _ = c.Close() // broken already
		}()
	}
}

func (h *Conn) ref() hypervisor.Ref {
	return hypervisor.Ref{Kind: hypervisor.ObjectHost, ID: h.URI()}
}

// dial connects. link calls it one at a time. A call that hangs in libvirt
// can't be interrupted and ends by itself, with the peer's answer or its
// death.
func (h *Conn) dial(ctx context.Context) (*libvirt.Connect, error) {
	if h.failed != nil && time.Now().Before(h.again) {
		return nil, h.failed
	}
	if !h.enter() {
		return nil, session.ErrClosed
	}
	defer h.calls.Done()
	start := time.Now()
	c, err := h.connect(ctx)
	h.failed = nil
	switch {
	case err == nil && h.alive.Err() != nil: // it came after Close
		_, _ = c.Close()
		return nil, session.ErrClosed
	case err == nil:
		h.mu.Lock()
		h.lost = make(chan struct{})
		h.epoch++
		h.mu.Unlock()
		return c, nil
	case ctx.Err() != nil:
		return nil, err
	}
	e := hypervisor.Errorf(Kind(err), h.ref(), "can't connect: %w", err)
	if e.Kind == hypervisor.ErrUnknown || e.Kind == hypervisor.ErrInvalidState {
		e.Kind = hypervisor.ErrUnavailable
	}
	e.Unsent = true
	if h.failed = e; time.Since(start) > time.Second {
		h.again = time.Now().Add(holdOff)
	}
	return nil, e
}

func (h *Conn) connect(ctx context.Context) (*libvirt.Connect, error) {
	if h.given != nil {
		return h.given, h.given.Ref()
	}
	u, err := url.Parse(h.uri)
	if err != nil {
		return nil, errors.New("the libvirt URI can't be parsed")
	}
	if err := answers(ctx, u); err != nil {
		return nil, err
	}
	var c *libvirt.Connect
	if h.creds != nil {
		auth := &libvirt.ConnectAuth{
			CredType: []libvirt.ConnectCredentialType{libvirt.CRED_AUTHNAME, libvirt.CRED_PASSPHRASE, libvirt.CRED_USERNAME},
			Callback: func(asked []*libvirt.ConnectCredential) {
				for _, a := range asked {
					a.ResultLen, a.Result = len(h.creds.Username), h.creds.Username
					if a.Type == libvirt.CRED_PASSPHRASE {
						a.ResultLen, a.Result = len(h.creds.Password), string(h.creds.Password)
					}
				}
			},
		}
		c, err = libvirt.NewConnectWithAuth(h.uri, auth, 0)
	} else {
		c, err = libvirt.NewConnect(h.uri)
	}
	if err != nil {
		return nil, err
	}
	// Drivers inside this process (test:///) have no keepalive and need none.
	_ = c.SetKeepAlive(int(keepAlive/time.Second), keepCount)
	return c, nil
}

// Close ends the connection. Callers that wait for a call get ErrClosed. A
// call that is still in libvirt after closeLimit keeps the connection until
// it returns, at the latest when keepalive finds the peer silent.
func (h *Conn) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.mu.Unlock()
	h.end()
	ctx, stop := context.WithTimeout(context.Background(), closeLimit)
	defer stop()
	c, up := h.link.Close(ctx)
	done := make(chan error, 1)
	go func() {
		h.calls.Wait()
		var err error
		if up {
			close(h.lost)
			_, err = c.Close()
		}
		releaseLoop()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return nil
	}
}
