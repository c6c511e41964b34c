//go:build cgo

package libvirtx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
)

const (
	dialTimeout = 5 * time.Second
	// A host whose dialling took long is not dialled again before this is over.
	holdOff = 5 * time.Second
	// A peer that is silent for keepAlive × keepCount ends the calls in flight.
	keepAlive = 5 * time.Second
	keepCount = 3
)

// Conn is a connection to one libvirtd. It dials again when it was lost.
type Conn struct {
	uri   string
	creds *hypervisor.Credentials

	mu      sync.Mutex
	c       *libvirt.Connect
	given   bool // by the user, who owns it: it is not dialled again
	closed  bool
	failed  error // of the last dialling
	again   time.Time
	epoch   int // connections made
	dialing sync.Mutex
	calls   sync.WaitGroup
	lost    chan struct{} // closed when the present connection is dropped
}

// NewConn prepares a connection to a libvirt URI and dials nothing yet.
func NewConn(uri string, creds *hypervisor.Credentials) (*Conn, error) {
	if err := acquireLoop(); err != nil {
		return nil, err
	}
	return &Conn{uri: uri, creds: creds, lost: make(chan struct{})}, nil
}

// WrapConn makes a Conn of a connection that the caller goes on owning.
func WrapConn(c *libvirt.Connect) (*Conn, error) {
	uri, err := c.GetURI()
	if err != nil {
		return nil, err
	}
	if err := acquireLoop(); err != nil {
		return nil, err
	}
	if err := c.Ref(); err != nil {
		releaseLoop()
		return nil, err
	}
	return &Conn{uri: uri, c: c, given: true, epoch: 1, lost: make(chan struct{})}, nil
}

// URI returns the libvirt URI without a password.
func (h *Conn) URI() string {
	if u, err := url.Parse(h.uri); err == nil {
		return u.Redacted()
	}
	return "(unreadable URI)"
}

// Renewable reports whether the connection is dialled again when it breaks.
func (h *Conn) Renewable() bool { return !h.given }

// Native returns the connection if there is one.
func (h *Conn) Native() *libvirt.Connect {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.c
}

// Epoch counts the connections made. Lost is closed when the present one ends.
func (h *Conn) Epoch() (epoch int, lost <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.epoch, h.lost
}

// Do runs f with a live connection in a goroutine of its own and returns when
// f does or ctx ends. In the second case f goes on and its result is dropped:
// libvirt's calls can't be interrupted. calls is how many requests f sends,
// for hypervisor.CountCalls.
func Do[T any](ctx context.Context, h *Conn, calls int, f func(*libvirt.Connect) (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return zero, hypervisor.Errorf(hypervisor.KindClosed, hypervisor.Ref{Kind: hypervisor.KindOfClient}, "%w", hypervisor.ErrClosed)
	}
	h.calls.Add(1)
	h.mu.Unlock()
	hypervisor.CountCalls(ctx, calls)
	type result struct {
		v   T
		err error
	}
	ch := make(chan result, 1)
	go func() {
		defer h.calls.Done()
		c, err := h.get()
		if err != nil {
			ch <- result{err: err}
			return
		}
		defer c.Close() // get took a reference: a connection that is dropped meanwhile stays valid
		v, err := f(c)
		if err != nil && Lost(err) {
			h.drop(c)
		}
		ch <- result{v, err}
	}()
	select {
	case r := <-ch:
		return r.v, r.err
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

// get returns a live connection with a reference of its own.
func (h *Conn) get() (*libvirt.Connect, error) {
	if c := h.alive(); c != nil {
		return c, nil
	}
	h.dialing.Lock()
	defer h.dialing.Unlock()
	if c := h.alive(); c != nil {
		return c, nil
	}
	h.mu.Lock()
	failed, again := h.failed, h.again
	h.mu.Unlock()
	if failed != nil && time.Now().Before(again) {
		return nil, failed
	}
	start := time.Now()
	c, err := h.dial()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed = nil
	if err != nil {
		e := hypervisor.Errorf(Kind(err), hypervisor.Ref{Kind: hypervisor.KindOfHost, ID: h.URI()}, "can't connect: %w", err)
		if e.Kind == hypervisor.KindUnknown || e.Kind == hypervisor.KindInvalidState {
			e.Kind = hypervisor.KindUnavailable
		}
		e.Unsent = true
		if h.failed = e; time.Since(start) > time.Second {
			h.again = time.Now().Add(holdOff)
		}
		return nil, e
	}
	h.c, h.lost = c, make(chan struct{})
	h.epoch++
	return c, c.Ref()
}

func (h *Conn) alive() *libvirt.Connect {
	h.mu.Lock()
	c := h.c
	h.mu.Unlock()
	if c == nil {
		return nil
	}
	if ok, err := c.IsAlive(); err == nil && !ok && !h.given {
		h.drop(c)
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.c != c || c.Ref() != nil {
		return nil
	}
	return c
}

// drop forgets a connection that is broken.
func (h *Conn) drop(c *libvirt.Connect) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.c != c || h.given {
		return
	}
	h.c = nil
	close(h.lost)
	_, _ = c.Close() // broken already
}

func (h *Conn) dial() (*libvirt.Connect, error) {
	u, err := url.Parse(h.uri)
	if err != nil {
		return nil, errors.New("the libvirt URI can't be parsed")
	}
	if h.given {
		return nil, errors.New("the connection that was handed in is closed")
	}
	if err := reachable(u); err != nil {
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
						a.ResultLen, a.Result = len(h.creds.Password), h.creds.Password
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

// reachable bounds the time for a host that drops packets: libvirt's own
// connect would take minutes and can't be interrupted.
func reachable(u *url.URL) error {
	_, transport, _ := cutScheme(u.Scheme)
	port := map[string]string{"tcp": "16509", "tls": "16514", "": "16514", "ssh": "22", "libssh": "22", "libssh2": "22"}[transport]
	if u.Hostname() == "" || port == "" {
		return nil
	}
	if u.Port() != "" {
		port = u.Port()
	}
	c, err := net.DialTimeout("tcp", net.JoinHostPort(u.Hostname(), port), dialTimeout)
	if err != nil {
		return fmt.Errorf("host does not answer: %w", err)
	}
	return c.Close()
}

func cutScheme(s string) (driver, transport string, ok bool) {
	for i := range s {
		if s[i] == '+' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// Close waits for the calls in flight and ends the connection.
func (h *Conn) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.mu.Unlock()
	h.calls.Wait()
	h.mu.Lock()
	c := h.c
	h.c = nil
	if c != nil {
		close(h.lost)
	}
	h.mu.Unlock()
	var err error
	if c != nil {
		_, err = c.Close()
	}
	releaseLoop()
	return err
}
