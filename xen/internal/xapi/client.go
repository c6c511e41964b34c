// Package xapi implements XAPI's JSON-RPC over HTTPS, or XML-RPC where a
// server is too old for it, as described in xen-api's
// doc/content/xen-api/wire-protocol.md. Its session renews itself, it follows
// a pool member's pointer to its master, and its errors have their code and
// parameters.
package xapi

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/guard"
	"github.com/anyvisor/anyvisor/internal/session"
	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
)

// Ref is an opaque reference of an object. It is only valid in the pool that
// returned it.
type Ref string

// Null is the reference to nothing.
const Null Ref = "OpaqueRef:NULL"

// IsNull also accepts the empty text, which old servers send.
func (r Ref) IsNull() bool { return r == "" || r == Null }

// Error is an error of the API: a code such as VM_BAD_POWER_STATE and its
// parameters (xen-api's ocaml/xapi-consts/api_errors.ml).
type Error struct {
	Code   string
	Params []string
}

func (e *Error) Error() string {
	s := e.Code
	if len(e.Params) > 0 {
		s += "(" + strings.Join(e.Params, ", ") + ")"
	}
	if d := e.TooOld(); d != "" {
		s += ": " + d
	}
	return s
}

// Unwrap returns the reason why a server of another version refuses a message
// or one of its parameters.
func (e *Error) Unwrap() error {
	if d := e.TooOld(); d != "" {
		return &hypervisor.UnsupportedError{Support: hypervisor.Support{Level: hypervisor.LevelNo, Reason: hypervisor.ReasonAPIVersion, Detail: d}}
	}
	return nil
}

// TooOld says which xapi has the message or parameter that a server refuses
// because it has another version. It is empty for other errors.
func (e *Error) TooOld() string {
	first := ""
	if len(e.Params) > 0 {
		first = e.Params[0]
	}
	switch e.Code {
	case "MESSAGE_METHOD_UNKNOWN", "MESSAGE_PARAMETER_COUNT_MISMATCH":
		return e.lacks(cmp.Or(strings.TrimPrefix(first, "Async."), "this message"))
	case "NOT_IMPLEMENTED":
		return "the pool's xapi does not implement " + first + ": it has another version"
	case "MESSAGE_REMOVED", "MESSAGE_DEPRECATED":
		return "the pool's xapi no longer has this message: it is newer than those that this library knows"
	case "INTERNAL_ERROR":
		if unreadable.MatchString(first) {
			return "the pool's xapi can't read a value of this message: it has another version"
		}
	}
	return ""
}

// unreadable matches what xapi answers to a value of another type, an unknown
// value of an enumeration, and a missing field (gen_api.ml, gen_server.ml).
var unreadable = regexp.MustCompile(`^(Failure\(")?(Expected [a-z0-9]+, got |Unknown tag/contents)|Dispatcher_FieldNotFound`)

// lacks says from which xapi on there is a message in this form.
func (e *Error) lacks(name string) string {
	model, since := xapidata.Load(), ""
	class, verb, _ := strings.Cut(name, ".")
	if e.Code == "MESSAGE_METHOD_UNKNOWN" {
		since = model.Since(name)
		for _, p := range []string{"get_", "set_", "add_to_", "remove_from_", "add_", "remove_"} {
			since = cmp.Or(since, model.Since(class+"."+strings.TrimPrefix(verb, p)))
		}
		since = cmp.Or(since, model.Since(class))
	} else if m := model.Message(name); m != nil {
		for _, p := range m.Params {
			since = cmp.Or(since, model.Since(name+"."+p.Name))
		}
	}
	if since == "" {
		return "the pool's xapi does not know " + name + ", or in another form: it has another version"
	}
	return name + " in this form needs xapi " + since + " or later: update the pool"
}

// Code returns the code of an API error, "" for others.
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// TransportError means that an answer did not arrive. Unsent is true where
// the request cannot have reached the server.
type TransportError struct {
	Method string
	Unsent bool
	Err    error
	status int // HTTP status, if it was not 200
}

func (e *TransportError) Error() string { return e.Method + ": " + e.Err.Error() }
func (e *TransportError) Unwrap() error { return e.Err }

// Config describes how to reach the pool.
type Config struct {
	URL       *url.URL // scheme and host; any member of the pool
	Username  string
	Password  hypervisor.Secret
	TLS       *tls.Config // nil: the system's roots
	MaxAnswer int64       // in bytes; 0: guard.Size
}

// Client is a session with a pool's master. It is safe for concurrent use.
type Client struct {
	cfg  Config
	http *http.Client
	id   atomic.Uint64
	xml  atomic.Bool // the pool is too old for JSON-RPC

	link   *session.Keeper[loggedIn]
	logins atomic.Int64

	mu      sync.Mutex // guards the fields below; never held during a call
	base    string     // address of the last known master
	members []string   // addresses of the pool's hosts
	// ctx ends with Close, so that long polls end too.
	ctx  context.Context
	stop context.CancelFunc
}

// loggedIn is a session with the master at base.
type loggedIn struct{ base, session string }

const (
	// loginLimit applies to all members of a pool together. One that doesn't
	// answer at all takes dialLimit.
	loginLimit = 2 * time.Minute
	dialLimit  = 10 * time.Second
	// logoutLimit bounds Close.
	logoutLimit = time.Second
)

// originator identifies this program in the server's log of sessions.
const originator = "anyvisor"

// Open logs in.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	t := &http.Transport{
		TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: false, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
		DialContext: (&net.Dialer{Timeout: dialLimit, KeepAlive: 30 * time.Second}).DialContext, TLSHandshakeTimeout: dialLimit,
		Proxy: http.ProxyFromEnvironment,
	}
	c := &Client{cfg: cfg, http: &http.Client{Transport: &guard.Transport{Base: t, Size: cfg.MaxAnswer}}, base: (&url.URL{Scheme: cfg.URL.Scheme, Host: cfg.URL.Host}).String()}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.link = session.New(loginLimit, c.login, c.logout)
	c.link.Remember(func(err error) bool { return Code(err) == "SESSION_AUTHENTICATION_FAILED" })
	if _, err := c.current(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// current returns the session, and logs in if there is none.
func (c *Client) current(ctx context.Context) (loggedIn, error) {
	l, err := c.link.Get(ctx)
	var late *session.LimitError
	switch {
	case errors.Is(err, session.ErrClosed):
		err = hypervisor.ErrClosed
	case errors.As(err, &late):
		err = &TransportError{Method: loginMethod, Unsent: true, Err: err}
	}
	return l, err
}

// login asks the host that was the master last, and then the other members,
// for a session with the present master.
func (c *Client) login(ctx context.Context) (loggedIn, error) {
	c.mu.Lock()
	first, hosts := c.base, append([]string{c.base}, c.members...)
	c.mu.Unlock()
	var lost error
	for _, at := range hosts {
		base := at
		if at != first {
			base = withHost(first, at)
		}
		for range 3 { // a member, its master, and a master that changed meanwhile
			s, err := c.enter(ctx, base)
			var e *Error
			if errors.As(err, &e) && e.Code == "HOST_IS_SLAVE" && len(e.Params) > 0 {
				if !c.trusts(e.Params[0]) {
					return loggedIn{}, &TransportError{Method: loginMethod, Unsent: true, Err: fmt.Errorf("%s names another master, which is none of the pool's hosts as they were when this Client was opened: nothing was sent there", base)}
				}
				base = withHost(base, e.Params[0])
				lost = &TransportError{Method: loginMethod, Unsent: true, Err: errors.New("no member of the pool reports that it is the master")}
				continue
			}
			if Unsent(err) { // this host is down, but another one may know the new master
				lost = err
				break
			}
			if err != nil {
				return loggedIn{}, err
			}
			c.mu.Lock()
			c.base = base
			c.mu.Unlock()
			c.logins.Add(1)
			return loggedIn{base, s}, nil
		}
	}
	return loggedIn{}, lost
}

const loginMethod = "session.login_with_password"

// enter logs in at one host. It finds out whether the host supports JSON-RPC
// (XenServer 6.x has only XML-RPC) and the fourth argument (since 6.2).
func (c *Client) enter(ctx context.Context, base string) (session string, err error) {
	args := []any{c.cfg.Username, string(c.cfg.Password), "2.0", originator}
	err = c.post(ctx, base, loginMethod, args, &session)
	var t *TransportError
	if errors.As(err, &t) && t.status != 0 && c.xml.CompareAndSwap(false, true) {
		if xerr := c.post(ctx, base, loginMethod, args, &session); lost(xerr) {
			c.xml.Store(false) // whatever this is, it is not an old server
		} else {
			err = xerr
		}
	}
	if Code(err) == "MESSAGE_PARAMETER_COUNT_MISMATCH" {
		err = c.post(ctx, base, loginMethod, args[:3], &session)
	}
	return session, err
}

// SetMembers sets the addresses of the pool's hosts. They are asked for the
// master when the known one is down.
func (c *Client) SetMembers(addresses []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = addresses
}

// trusts reports whether a master that a host names may receive the password:
// it must be an address or a name, and a host of the pool, if those are
// known.
func (c *Client) trusts(master string) bool {
	name := hostOf(master)
	if _, err := netip.ParseAddr(name); err != nil && !hostName.MatchString(name) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members == nil || slices.ContainsFunc(c.members, func(m string) bool { return strings.EqualFold(hostOf(m), name) })
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)

// hostOf removes a port and brackets.
func hostOf(address string) string {
	if h, p, err := net.SplitHostPort(address); err == nil {
		if _, err := strconv.ParseUint(p, 10, 16); err != nil {
			return ""
		}
		return h
	}
	return strings.Trim(address, "[]")
}

// withHost replaces the host of a URL. An address without a port keeps the
// old one.
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

// Logins counts the sessions so far. While it stays the same, so does the
// master.
func (c *Client) Logins() int64 { return c.logins.Load() }

// Address returns the address of the master, without secrets.
func (c *Client) Address() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base
}

// Call sends a message with the session as its first argument and decodes the
// result. If the session has expired, it is renewed and the call is sent
// again, three times at most: the server refuses such calls before it acts
// (wire-protocol.md). A connection that broke is renewed once for calls that
// only read or never reached the server.
func (c *Client) Call(ctx context.Context, result any, method string, args ...any) error {
	send := func(l loggedIn) error { return c.post(ctx, l.base, method, append([]any{l.session}, args...), result) }
	l, err := c.current(ctx)
	if err != nil {
		return err
	}
	err = send(l)
	switch code := Code(err); {
	case code == "HOST_IS_SLAVE": // the master has changed: ask the member for the new one
	case code == "SESSION_INVALID":
	case Unsent(err) && ctx.Err() == nil:
		if c.alone() {
			return send(l)
		}
	case lost(err) && reads(method) && !errors.As(err, new(*guard.LimitError)) && ctx.Err() == nil:
		if err = send(l); Code(err) != "SESSION_INVALID" {
			return err
		}
	default:
		return err
	}
	first := l.base
	for range renewals {
		c.link.Invalidate(l)
		var lerr error
		if l, lerr = c.current(ctx); lerr != nil {
			return lerr
		}
		if method == "event.from" && l.base != first {
			return &Error{Code: "EVENTS_LOST"} // the new master's tokens count from elsewhere
		}
		if err = send(l); Code(err) != "SESSION_INVALID" {
			return err
		}
	}
	return err
}

// renewals is how often one call renews the session. A new one may have ended
// before the call arrives.
const renewals = 3

// alone reports whether no other host could be the master.
func (c *Client) alone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.members) < 2
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
// did not arrive.
func Lost(err error) bool { return lost(err) && !Unsent(err) }

// post sends a message; Close ends it.
func (c *Client) post(ctx context.Context, base, method string, args []any, result any) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	return c.send(ctx, base, method, args, result)
}

func (c *Client) send(ctx context.Context, base, method string, args []any, result any) error {
	hypervisor.CountCalls(ctx, 1)
	path, kind, answer, read := "/jsonrpc", "application/json", jsonAnswer, readJSON
	var send []byte
	var err error
	if c.xml.Load() {
		path, kind = "/", "text/xml"
		read = io.ReadAll
		answer = func(data []byte, result any) error { return xmlAnswer(method, data, result) }
		send, err = xmlCall(method, args)
	} else {
		send, err = jsonCall(c.id.Add(1), method, args)
	}
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+path, bytes.NewReader(send))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	// Otherwise net/http may repeat a request whose connection broke.
	req.GetBody = nil
	resp, err := c.http.Do(req)
	if err != nil {
		return c.transport(ctx, method, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // the connection can be used again
		return &TransportError{Method: method, Err: fmt.Errorf("HTTP status %s", resp.Status), status: resp.StatusCode}
	}
	data, err := read(resp.Body)
	if e := (*json.SyntaxError)(nil); errors.As(err, &e) {
		return &TransportError{Method: method, Err: fmt.Errorf("unexpected answer: %w", err)}
	}
	if err != nil {
		return c.transport(ctx, method, err)
	}
	err = answer(data, result)
	if e := (*Error)(nil); err != nil && !errors.As(err, &e) {
		return &TransportError{Method: method, Err: fmt.Errorf("unexpected answer: %w", err)}
	}
	return err
}

// transport distinguishes the end of the caller's context, a closed Client
// and a broken connection.
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

// Close ends every call under way and logs out.
func (c *Client) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), logoutLimit)
	defer cancel()
	c.stop()
	if l, ok := c.link.Close(ctx); ok {
		c.logout(l)
	}
	c.http.CloseIdleConnections()
	return nil
}

// logout ends a session. It does nothing for a session that is gone already,
// or whose server is.
func (c *Client) logout(l loggedIn) {
	ctx, cancel := context.WithTimeout(context.Background(), logoutLimit)
	defer cancel()
	_ = c.send(ctx, l.base, "session.logout", []any{l.session}, nil)
}
