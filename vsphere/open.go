package vsphere

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

func init() { hypervisor.Register("vsphere", openURL) }

// Config says what to connect to and how to log in.
type Config struct {
	Host     string // name or address, with a port if it isn't 443
	Path     string // empty for /sdk
	Username string
	Password string
	// Token is a SAML token of the vCenter's token service; it takes the place
	// of Username and Password. With Certificate set it is a holder-of-key
	// token.
	Token string
	// Certificate logs in: as the extension named by ExtensionKey if that is
	// set, else by a holder-of-key token that is asked for with it (solution
	// users).
	Certificate  *tls.Certificate
	ExtensionKey string

	// Datacenter limits the Client to one datacenter, by name or path ("DC0",
	// "folder/DC0"). Empty for all.
	Datacenter string

	// The server's certificate is verified against the system's roots unless
	// CAFile (PEM) or Thumbprint (SHA-1 or SHA-256, hex with colons) says
	// otherwise.
	CAFile     string
	Thumbprint string
	Insecure   bool // don't verify: anybody in between may read the password
	PlainHTTP  bool // for simulators only

	// KeepAlive is the time between the calls that keep an idle session alive;
	// 0 means 5 minutes, negative none.
	KeepAlive time.Duration
}

// String shows no secret.
func (c Config) String() string { return "vsphere://" + c.Username + "@" + c.Host }

// GoString shows no secret.
func (c Config) GoString() string { return c.String() }

// openURL opens vsphere://user:password@host/?datacenter=…&thumbprint=…&cafile=…&insecure=true.
// Further parameters: token (a file with a SAML token), cert and key (PEM
// files), extension, keepalive (a duration), plain=true (http, simulators).
func openURL(ctx context.Context, u *url.URL, o *hypervisor.Options) (hypervisor.Driver, error) {
	c := Config{Host: u.Host}
	if p := strings.TrimSuffix(u.Path, "/"); p != "" {
		c.Path = p
	}
	if u.User != nil {
		c.Username = u.User.Username()
		c.Password, _ = u.User.Password()
	}
	if o.Credentials != nil {
		c.Username, c.Password = o.Credentials.Username, o.Credentials.Password
	}
	var cert, key string
	for k, v := range u.Query() {
		val := v[0]
		var err error
		switch k {
		case "datacenter":
			c.Datacenter = val
		case "thumbprint":
			c.Thumbprint = val
		case "cafile":
			c.CAFile = val
		case "insecure":
			c.Insecure, err = strconv.ParseBool(val)
		case "plain":
			c.PlainHTTP, err = strconv.ParseBool(val)
		case "keepalive":
			c.KeepAlive, err = time.ParseDuration(val)
		case "token":
			var b []byte
			b, err = os.ReadFile(val)
			c.Token = string(b)
		case "cert":
			cert = val
		case "key":
			key = val
		case "extension":
			c.ExtensionKey = val
		default:
			err = errors.New("unknown parameter")
		}
		if err != nil {
			return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, hypervisor.Ref{}, "URL parameter %s: %w", k, err)
		}
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, hypervisor.Ref{}, "URL parameters cert and key: %w", err)
		}
		c.Certificate = &pair
	}
	return connect(ctx, c)
}

// Open connects and logs in.
func Open(ctx context.Context, c Config, o *hypervisor.Options) (*hypervisor.Client, error) {
	d, err := connect(ctx, c)
	if err != nil {
		var e *hypervisor.Error
		if errors.As(err, &e) {
			out := *e
			out.Op = "open"
			return nil, &out
		}
		return nil, &hypervisor.Error{Op: "open", Object: hypervisor.Ref{Kind: hypervisor.KindOfClient, ID: c.String()}, Kind: kindOf(err), Err: err}
	}
	return hypervisor.New(ctx, d, o)
}

// New makes a Client of a govmomi client that is logged in. Its session is not
// ended by Close, and renewed only if relogin is given.
func New(ctx context.Context, c *govmomi.Client, o *hypervisor.Options, relogin ...func(context.Context, *vim25.Client) error) (*hypervisor.Client, error) {
	var login func(context.Context) error
	if len(relogin) > 0 {
		login = func(ctx context.Context) error { return relogin[0](ctx, c.Client) }
	}
	d := newDriver(c.Client, login)
	d.endpoint = "vsphere://" + c.URL().Host
	if err := d.begin(ctx, ""); err != nil {
		return nil, &hypervisor.Error{Op: "open", Object: hypervisor.Ref{Kind: hypervisor.KindOfClient, ID: d.endpoint}, Kind: kindOf(err), Err: errors.Join(err, d.Close())}
	}
	return hypervisor.New(ctx, d, o)
}

func connect(ctx context.Context, c Config) (hypervisor.Driver, error) {
	on := hypervisor.Ref{Kind: hypervisor.KindOfClient, ID: c.String()}
	fail := func(k hypervisor.Kind, err error) (hypervisor.Driver, error) {
		return nil, &hypervisor.Error{Object: on, Kind: k, Unsent: true, Err: err}
	}
	switch {
	case c.Host == "":
		return fail(hypervisor.KindInvalidArgument, errors.New("the host is empty: vsphere://user@host/"))
	case c.Insecure && (c.CAFile != "" || c.Thumbprint != ""):
		return fail(hypervisor.KindInvalidArgument, errors.New("insecure contradicts cafile and thumbprint: choose one"))
	}
	u := &url.URL{Scheme: "https", Host: c.Host, Path: c.Path}
	if c.PlainHTTP {
		u.Scheme = "http"
	}
	if u.Path == "" {
		u.Path = vim25.Path
	}
	sc := soap.NewClient(u, c.Insecure)
	// One client serves many goroutines: keep their connections.
	sc.DefaultTransport().MaxIdleConnsPerHost = 32
	if c.CAFile != "" {
		if err := sc.SetRootCAs(c.CAFile); err != nil {
			return fail(hypervisor.KindInvalidArgument, fmt.Errorf("CA file: %w", err))
		}
	}
	if c.Thumbprint != "" {
		sc.SetThumbprint(u.Host, strings.ToUpper(c.Thumbprint))
		// Only the thumbprint counts, whatever roots the system has.
		sc.DefaultTransport().TLSClientConfig.RootCAs = x509.NewCertPool()
	}
	if c.Certificate != nil {
		sc.SetCertificate(*c.Certificate)
	}
	vc, err := vim25.NewClient(ctx, sc)
	if err != nil {
		sc.CloseIdleConnections()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &hypervisor.Error{Object: on, Kind: kindOf(transportError(err)), Unsent: true, Err: err}
	}
	d := newDriver(vc, nil)
	d.owned = true
	d.endpoint, d.config = c.String(), c
	d.session.login = func(ctx context.Context) error {
		err := login(ctx, vc, c)
		if _, refused := faultOf(err).(*types.InvalidLogin); refused && d.session.loggedIn.Load() {
			// The server may still know the session, and refuses a second login
			// in it (API reference, SessionManager.Login): begin a new one.
			forgetCookies(vc)
			err = login(ctx, vc, c)
		}
		return err
	}
	if err := d.session.login(ctx); err != nil {
		_ = d.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &hypervisor.Error{Object: on, Kind: kindOf(transportError(err)), Err: fmt.Errorf("login: %w", err)}
	}
	d.session.loggedIn.Store(true)
	if err := d.begin(ctx, c.Datacenter); err != nil {
		_ = d.Close()
		return nil, err
	}
	if c.KeepAlive >= 0 {
		d.keepAlive(c.KeepAlive)
	}
	return d, nil
}
