package wsman

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/guard"
	"github.com/anyvisor/anyvisor/internal/session"
)

// Auth is a way of logging in.
type Auth string

const (
	// NTLM seals messages on HTTP and binds to the TLS channel on HTTPS.
	NTLM Auth = "ntlm"
	// Kerberos seals messages on HTTP and binds to the TLS channel on HTTPS.
	Kerberos Auth = "kerberos"
	// Basic works over HTTPS only.
	Basic Auth = "basic"
	// Certificate is a TLS client certificate that Windows maps to a user.
	Certificate Auth = "certificate"
)

// Config describes how to reach the WinRM service of one host.
type Config struct {
	Host string
	Port int // 0: 5985 for HTTP, 5986 for HTTPS
	// PlainHTTP uses HTTP, which is allowed with NTLM and Kerberos, whose
	// messages are sealed.
	PlainHTTP bool
	Auth      Auth
	User      string // "name", `DOMAIN\name` or "name@domain"
	Password  hypervisor.Secret
	// TLS configures HTTPS; nil verifies against the system's roots.
	TLS *tls.Config
	// Krb is the location of Kerberos' configuration and credentials.
	Krb KerberosConfig
	// MaxEnvelope is the largest reply to ask for in bytes; 0 means 512000,
	// the default limit of WinRM.
	MaxEnvelope int
	// Timeout is the time that one request may take on the server; 0 means 60
	// s.
	Timeout time.Duration
	// Connections is the number of requests that run at the same time; 0
	// means 4.
	Connections int
	// OnCall, if set, is called before every request.
	OnCall func(ctx context.Context)
	// Record, if set, gets each request with its reply, unsealed.
	Record func(request string, reply []byte)
	// Refusals remembers refused logins. If nil, this session alone remembers
	// them.
	Refusals *session.Refusals
	// Dial replaces the dialer, for tests.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// pageSize is the number of rows to ask for at once. WinRM's default limit
// (MaxBatchItems) is 32000; the envelope size is reached long before.
const pageSize = 32000

// ErrUnsealed refuses a login that would send messages in the clear.
var ErrUnsealed = errors.New("wsman: this way of logging in does not seal messages, so it needs HTTPS")

// poster sends one sealed or TLS-protected request and returns the reply's
// body, which the caller closes.
type poster interface {
	post(ctx context.Context, body string) (status int, reply io.ReadCloser, err error)
	close()
}

// Client is a session with one host. It implements cim.Session.
type Client struct {
	host        string
	url         string
	maxEnvelope int
	maxReply    int64
	timeout     time.Duration
	p           poster
	calls       atomic.Int64
	onCall      func(context.Context)
	record      func(request string, reply []byte)
	closed      context.Context
	stop        context.CancelFunc
}

var _ cim.Session = (*Client)(nil)

// New makes a session. Nothing is sent before the first call.
func New(cfg Config) (*Client, error) {
	if cfg.Host == "" {
		return nil, errors.New("wsman: no host")
	}
	if cfg.Auth == "" {
		cfg.Auth = NTLM
	}
	if cfg.PlainHTTP && cfg.Auth != NTLM && cfg.Auth != Kerberos {
		return nil, fmt.Errorf("%w: %s", ErrUnsealed, cfg.Auth)
	}
	scheme, port := "https", 5986
	if cfg.PlainHTTP {
		scheme, port = "http", 5985
	}
	if cfg.Port != 0 {
		port = cfg.Port
	}
	if cfg.MaxEnvelope == 0 {
		cfg.MaxEnvelope = 512000
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	if cfg.Connections == 0 {
		cfg.Connections = 4
	}
	if cfg.Refusals == nil {
		cfg.Refusals = session.NewRefusals(false)
	}
	c := &Client{
		host: cfg.Host, onCall: cfg.OnCall, record: cfg.Record, maxEnvelope: cfg.MaxEnvelope, maxReply: cfg.maxReply(), timeout: cfg.Timeout,
		url: scheme + "://" + net.JoinHostPort(cfg.Host, strconv.Itoa(port)) + "/wsman",
	}
	var err error
	switch cfg.Auth {
	case NTLM:
		c.p = newLanes(c.url, cfg, &ntlm{c.url, cfg})
	case Basic, Certificate:
		fixed := constant(cfg)
		c.p = newTLS(c.url, cfg, &fixed)
	case Kerberos:
		c.p, err = newKerberos(c.url, cfg)
	default:
		err = fmt.Errorf("wsman: unknown way of logging in %q", cfg.Auth)
	}
	if err != nil {
		return nil, err
	}
	c.closed, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// Host implements cim.Session.
func (c *Client) Host() string { return c.host }

// Calls implements cim.Session.
func (c *Client) Calls() int64 { return c.calls.Load() }

// Close implements cim.Session.
func (c *Client) Close() error {
	c.stop()
	c.p.close()
	return nil
}

// ConnectionError is a failure below WS-Management: no connection, a TLS
// failure, or a reply that broke off. Sent reports whether the request had
// reached the connection, so that the server may have acted.
type ConnectionError struct {
	Host string
	Sent bool
	Err  error
}

func (e *ConnectionError) Error() string { return "wsman: " + e.Host + ": " + e.Err.Error() }
func (e *ConnectionError) Unwrap() error { return e.Err }

// Is reports whether the error is cim.ErrConnection, or cim.ErrLost.
func (e *ConnectionError) Is(target error) bool {
	return target == cim.ErrConnection || target == cim.ErrLost && e.Sent
}

// LoginError is a login that the host refused, or one that this client
// refused to make.
type LoginError struct {
	Host, User string
	// Password means that the user or the password is wrong, according to the
	// host. Accounts lock after some of these.
	Password bool
	Err      error
}

// refusal returns the error if it is one of the user or the password, or else
// nil.
func refusal(err error) error {
	var e *LoginError
	if errors.As(err, &e) && e.Password {
		return err
	}
	return nil
}

func (e *LoginError) Error() string {
	s := "wsman: the login of " + e.User + " on " + e.Host + " was refused"
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}
func (e *LoginError) Unwrap() error { return e.Err }

func (c *Client) do(ctx context.Context, m message) (*reply, error) {
	if c.closed.Err() != nil {
		return nil, cim.ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.closed, cancel)()
	c.calls.Add(1)
	if c.onCall != nil {
		c.onCall(ctx)
	}
	request := c.envelope(m)
	status, body, err := c.p.post(ctx, request)
	if err != nil {
		return nil, c.failed(ctx, err)
	}
	defer body.Close()
	if c.record != nil {
		var seen bytes.Buffer
		body = io.NopCloser(io.TeeReader(body, &seen))
		defer func() { c.record(request, seen.Bytes()) }()
	}
	// The content of a sealed reply could not be checked before.
	rep, err := decodeReply(guard.XML(guard.Reader(body, c.maxReply), guard.Depth))
	var ce *cim.Error
	switch {
	case errors.As(err, &ce):
		ce.Op = c.host
		return nil, err
	case err != nil && status/100 == 2:
		return nil, c.failed(ctx, &ConnectionError{Host: c.host, Sent: true, Err: err})
	case status/100 != 2:
		return nil, &ConnectionError{Host: c.host, Sent: true, Err: fmt.Errorf("HTTP status %d without a WS-Management fault", status)}
	}
	return rep, nil
}

// failed returns the reason that a reader can act on: the end of the context
// or of the session comes before its effect on the connection.
func (c *Client) failed(ctx context.Context, err error) error {
	if c.closed.Err() != nil {
		return cim.ErrClosed
	}
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	return err
}

// Query implements cim.Session. The first page comes with the enumeration's
// own reply; a loop that ends early releases the enumeration on the server.
func (c *Client) Query(ctx context.Context, ns, wql string) iter.Seq2[*cim.Instance, error] {
	return func(yield func(*cim.Instance, error) bool) {
		uri := cim.WMIPrefix + ns + "/*"
		rep, err := c.do(ctx, message{resource: uri, action: actEnumerate, body: enumerateBody(wql, pageSize)})
		if err != nil {
			err = c.missing(ctx, ns, wql, err)
		}
		for {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, i := range rep.items {
				if !yield(i, nil) {
					if !rep.end && rep.context != "" {
						c.release(ctx, uri, rep.context)
					}
					return
				}
			}
			if rep.end {
				return
			}
			if rep.context == "" {
				yield(nil, errors.New("wsman: page without a context and without an end"))
				return
			}
			rep, err = c.do(ctx, message{resource: uri, action: actPull, body: pullBody(rep.context, pageSize)})
			if err == nil && !rep.isEnum {
				err = errors.New("wsman: reply to Pull is no PullResponse")
			}
		}
	}
}

// release makes the server drop an enumeration. A failure costs the server
// memory until its time-out and has no effect here.
func (c *Client) release(ctx context.Context, uri, context string) {
	_, _ = c.do(ctx, message{resource: uri, action: actRelease, body: releaseBody(context)})
}

// Get implements cim.Session.
func (c *Client) Get(ctx context.Context, ref cim.Ref) (*cim.Instance, error) {
	return c.one(ctx, message{resource: ref.ResourceURI(), action: actGet, selectors: ref.Selectors()})
}

func (c *Client) one(ctx context.Context, m message) (*cim.Instance, error) {
	rep, err := c.do(ctx, m)
	if err != nil {
		return nil, err
	}
	if len(rep.items) != 1 {
		return nil, fmt.Errorf("wsman: %d objects in the reply to %s", len(rep.items), m.action)
	}
	return rep.items[0], nil
}

// Invoke implements cim.Session.
func (c *Client) Invoke(ctx context.Context, ref cim.Ref, method string, args ...cim.Arg) (*cim.Result, error) {
	uri := ref.ResourceURI()
	out, err := c.one(ctx, message{resource: uri, action: uri + "/" + method, selectors: ref.Selectors(), body: invokeBody(uri, method, args)})
	if err != nil {
		return nil, err
	}
	return &cim.Result{Method: method, Return: uint32(out.Uint("ReturnValue")), Out: *out}, nil
}

// Put implements cim.Session. WinRM accepts an instance with only the
// properties that change.
func (c *Client) Put(ctx context.Context, ref cim.Ref, props ...cim.Prop) error {
	uri := ref.ResourceURI()
	_, err := c.do(ctx, message{resource: uri, action: actPut, selectors: ref.Selectors(), body: putBody(uri, ref.Class, props)})
	return err
}

// Subscribe implements cim.Session: it always yields cim.ErrNoSubscribe.
// WinRM has event subscriptions for WMI, but delivers them in batches with a
// delay, so polling is faster.
func (c *Client) Subscribe(context.Context, string, string) iter.Seq2[*cim.Instance, error] {
	return func(yield func(*cim.Instance, error) bool) { yield(nil, cim.ErrNoSubscribe) }
}

const contentType = "application/soap+xml;charset=UTF-8"

// maxReply limits replies: servers keep to the requested envelope only
// roughly.
func (c *Config) maxReply() int64 { return max(4<<20, 4*int64(c.MaxEnvelope)) }

// newTransport makes the HTTP transport that all logins share.
func newTransport(cfg Config, conns int) http.RoundTripper {
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 15 * time.Second}).DialContext
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.TLS != nil {
		tc = cfg.TLS.Clone()
	}
	return &guard.Transport{Size: cfg.maxReply(), Base: &http.Transport{
		DialContext: dial, TLSClientConfig: tc, MaxConnsPerHost: conns, MaxIdleConnsPerHost: conns, IdleConnTimeout: 90 * time.Second,
		TLSHandshakeTimeout: 15 * time.Second,
		// WinRM speaks HTTP/1.1 only, and NTLM authenticates a connection.
		ForceAttemptHTTP2: false,
		// Replies are large and repetitive, but WinRM does not compress.
		DisableCompression: true,
	}}
}
