// Package xapi speaks XAPI's JSON-RPC over HTTPS, or XML-RPC where a server
// is too old for it, as described in xen-api's
// doc/content/xen-api/wire-protocol.md: a session that renews itself, a pool
// member's pointer to its master that is followed, and errors with their code
// and parameters.
package xapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Ref is an opaque reference of an object. It is only good for the pool that
// gave it.
type Ref string

// Null is the reference to nothing.
const Null Ref = "OpaqueRef:NULL"

// IsNull also counts the empty text, which old servers send.
func (r Ref) IsNull() bool { return r == "" || r == Null }

// Error is an error of the API: a code such as VM_BAD_POWER_STATE and its
// parameters (xen-api's ocaml/xapi-consts/api_errors.ml).
type Error struct {
	Code   string
	Params []string
}

func (e *Error) Error() string {
	if len(e.Params) == 0 {
		return e.Code
	}
	return e.Code + "(" + strings.Join(e.Params, ", ") + ")"
}

// Code returns the code of an API error, "" for others.
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// TransportError says that an answer did not come. Unsent is true where the
// request cannot have reached the server.
type TransportError struct {
	Method string
	Unsent bool
	Err    error
	status int // of HTTP, if it was another than 200
}

func (e *TransportError) Error() string { return e.Method + ": " + e.Err.Error() }
func (e *TransportError) Unwrap() error { return e.Err }

// Config says where the pool is.
type Config struct {
	URL                *url.URL // scheme and host; any member of the pool
	Username, Password string
	TLS                *tls.Config // nil: the system's roots
}

// Client is a session with a pool's master. It is safe for concurrent use.
type Client struct {
	cfg  Config
	http *http.Client
	id   atomic.Uint64
	xml  atomic.Bool // the pool is too old for JSON-RPC

	mu      sync.Mutex // guards the fields below; login holds it
	base    string
	members []string // addresses of the pool's hosts
	session string
	closed  bool
	// ctx ends with Close, so that long polls end too.
	ctx  context.Context
	stop context.CancelFunc
}

// originator names this program in the server's log of sessions.
const originator = "anyvisor"

// Open logs in.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	t := &http.Transport{
		TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: false, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
		DialContext: (&net.Dialer{Timeout: 20 * time.Second, KeepAlive: 30 * time.Second}).DialContext, TLSHandshakeTimeout: 20 * time.Second,
		Proxy: http.ProxyFromEnvironment,
	}
	c := &Client{cfg: cfg, http: &http.Client{Transport: t}, base: (&url.URL{Scheme: cfg.URL.Scheme, Host: cfg.URL.Host}).String()}
	c.ctx, c.stop = context.WithCancel(context.Background())
	if _, err := c.login(ctx, ""); err != nil {
		c.stop()
		t.CloseIdleConnections()
		return nil, err
	}
	return c, nil
}

// login makes a session unless another call has replaced the old one already.
func (c *Client) login(ctx context.Context, old string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return "", hypervisor.ErrClosed
	}
	if c.session != old && c.session != "" {
		return c.session, nil
	}
	c.session = ""
	var lost error
	for _, at := range append([]string{c.base}, c.members...) {
		base := at
		if at != c.base {
			base = withHost(c.base, at)
		}
		for range 3 { // a member, its master, and a master that changed meanwhile
			s, err := c.enter(ctx, base)
			var e *Error
			if errors.As(err, &e) && e.Code == "HOST_IS_SLAVE" && len(e.Params) > 0 {
				base = withHost(base, e.Params[0])
				lost = &TransportError{Method: "session.login_with_password", Unsent: true, Err: errors.New("no member of the pool says that it is the master")}
				continue
			}
			if Unsent(err) { // this host is down: another one may know the new master
				lost = err
				break
			}
			if err != nil {
				return "", err
			}
			c.base, c.session = base, s
			return s, nil
		}
	}
	return "", lost
}

// enter logs in at one host. It finds out whether the host knows JSON-RPC
// (XenServer 6.x has only XML-RPC) and the fourth argument (since 6.2).
func (c *Client) enter(ctx context.Context, base string) (session string, err error) {
	const method = "session.login_with_password"
	args := []any{c.cfg.Username, c.cfg.Password, "2.0", originator}
	err = c.post(ctx, base, method, args, &session)
	var t *TransportError
	if errors.As(err, &t) && t.status != 0 && c.xml.CompareAndSwap(false, true) {
		if xerr := c.post(ctx, base, method, args, &session); lost(xerr) {
			c.xml.Store(false) // whatever this is, it is no old server
		} else {
			err = xerr
		}
	}
	if Code(err) == "MESSAGE_PARAMETER_COUNT_MISMATCH" {
		err = c.post(ctx, base, method, args[:3], &session)
	}
	return session, err
}

// SetMembers tells the addresses of the pool's hosts, which are asked for the
// master when the one known is down.
func (c *Client) SetMembers(addresses []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = addresses
}

// withHost replaces the host of a URL. An address without port keeps the old one.
func withHost(base, host string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	if _, _, err := net.SplitHostPort(host); err != nil && u.Port() != "" {
		host = net.JoinHostPort(strings.Trim(host, "[]"), u.Port())
	}
	u.Host = host
	return u.String()
}

func (c *Client) current() (base, session string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base, c.session
}

// Address is where the master is, without secrets.
func (c *Client) Address() string {
	b, _ := c.current()
	return b
}

// Call sends a message with the session as its first argument and decodes the
// result. A session that has expired is renewed and the call sent again, once:
// the server refuses such calls before it acts (wire-protocol.md). A connection
// that broke is renewed once for calls that only read or never reached the
// server.
func (c *Client) Call(ctx context.Context, result any, method string, args ...any) error {
	base, s := c.current()
	err := c.post(ctx, base, method, append([]any{s}, args...), result)
	switch code := Code(err); {
	case code == "HOST_IS_SLAVE": // the master changed: ask the member who it is
		c.mu.Lock()
		if c.session == s {
			c.session = ""
		}
		c.mu.Unlock()
	case code == "SESSION_INVALID":
	case Unsent(err) && ctx.Err() == nil:
		c.mu.Lock()
		alone := len(c.members) < 2
		if c.session == s && !alone {
			c.session = ""
		}
		c.mu.Unlock()
		if alone {
			return c.post(ctx, base, method, append([]any{s}, args...), result)
		}
	case lost(err) && reads(method) && ctx.Err() == nil:
		if err = c.post(ctx, base, method, append([]any{s}, args...), result); Code(err) != "SESSION_INVALID" {
			return err
		}
	default:
		return err
	}
	renewed, lerr := c.login(ctx, s)
	if lerr != nil {
		return lerr
	}
	master, _ := c.current()
	if method == "event.from" && master != base {
		return &Error{Code: "EVENTS_LOST"} // the new master's tokens count from elsewhere
	}
	return c.post(ctx, master, method, append([]any{renewed}, args...), result)
}

// reads reports whether a message changes nothing on the server.
func reads(method string) bool {
	_, verb, _ := strings.Cut(method, ".")
	return strings.HasPrefix(verb, "get_") || strings.HasPrefix(verb, "assert_") || strings.HasPrefix(verb, "retrieve_") || method == "event.from"
}

func lost(err error) bool {
	var t *TransportError
	return errors.As(err, &t)
}

// Unsent reports whether a call can't have reached the server.
func Unsent(err error) bool {
	var t *TransportError
	return errors.As(err, &t) && t.Unsent
}

// Lost reports whether a call may have reached the server although its answer
// did not come.
func Lost(err error) bool { return lost(err) && !Unsent(err) }

// maxAnswer bounds an answer: 10,000 machines with all their fields take some
// 60 MB.
const maxAnswer = 1 << 30

func (c *Client) post(ctx context.Context, base, method string, args []any, result any) error {
	hypervisor.CountCalls(ctx, 1)
	path, kind, answer := "/jsonrpc", "application/json", jsonAnswer
	var send []byte
	var err error
	if c.xml.Load() {
		path, kind = "/", "text/xml"
		answer = func(data []byte, result any) error { return xmlAnswer(method, data, result) }
		send, err = xmlCall(method, args)
	} else {
		send, err = jsonCall(c.id.Add(1), method, args)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+path, bytes.NewReader(send))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	// Without it net/http may send a request again whose connection broke.
	req.GetBody = nil
	resp, err := c.http.Do(req)
	if err != nil {
		return c.transport(ctx, method, err)
	}
	defer resp.Body.Close()
	data, err := body(resp)
	if err != nil {
		return c.transport(ctx, method, err)
	}
	if resp.StatusCode != http.StatusOK {
		return &TransportError{Method: method, Err: fmt.Errorf("HTTP status %s", resp.Status), status: resp.StatusCode}
	}
	err = answer(data, result)
	if e := (*Error)(nil); err != nil && !errors.As(err, &e) {
		return &TransportError{Method: method, Err: fmt.Errorf("unexpected answer: %w", err)}
	}
	return err
}

// body reads an answer whose length is known without growing the buffer.
func body(r *http.Response) ([]byte, error) {
	if n := r.ContentLength; n >= 0 && n <= maxAnswer {
		data := make([]byte, n)
		_, err := io.ReadFull(r.Body, data)
		return data, err
	}
	return io.ReadAll(io.LimitReader(r.Body, maxAnswer))
}

// transport tells the caller's context from a Client that was closed from a
// broken connection.
func (c *Client) transport(ctx context.Context, method string, err error) error {
	if c.ctx.Err() != nil {
		return hypervisor.ErrClosed
	}
	if cause := context.Cause(ctx); ctx.Err() != nil && cause != nil {
		return cause
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	var op *net.OpError
	var cert *tls.CertificateVerificationError
	unsent := errors.As(err, &op) && op.Op == "dial" || errors.As(err, &cert)
	return &TransportError{Method: method, Unsent: unsent, Err: err}
}

// Close logs out and ends every call under way.
func (c *Client) Close() error {
	c.mu.Lock()
	s, base := c.session, c.base
	was := c.closed
	c.closed = true
	c.mu.Unlock()
	if was {
		return nil
	}
	if s != "" {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		// A session that is gone already, or a server that is: nothing to do.
		_ = c.post(ctx, base, "session.logout", []any{s}, nil)
		cancel()
	}
	c.stop()
	c.http.CloseIdleConnections()
	return nil
}
