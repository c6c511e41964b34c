package vsphere

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
	"github.com/anyvisor/anyvisor/internal/guard"
)

func init() { hypervisor.Register("vsphere", openURL) }

// Config is the server to connect to and the way to log in.
type Config struct {
	Host string // name or address, with a port if it isn't 443
	Path string // empty means /sdk

	// Username and Password log in, unless one of the next three is set. Then
	// they serve moves from another vCenter, which logs in here by itself.
	Username string
	Password hypervisor.Secret
	// Token is a SAML token of the vCenter's token service. With Certificate
	// set it is a holder-of-key token.
	Token hypervisor.Secret
	// Certificate logs in. If ExtensionKey is set it logs in as that
	// extension, and otherwise by a holder-of-key token that is requested
	// with it (solution users).
	Certificate  *tls.Certificate `json:"-"`
	ExtensionKey string

	// Datacenter limits the Client to one datacenter, by name or path ("DC0",
	// "folder/DC0"). Empty means all.
	Datacenter string

	// The server's certificate is verified against the system's authorities,
	// unless one of these fields is set.
	CA         string // file with PEM certificates of authorities
	Thumbprint string // SHA-256 or SHA-1 of the certificate, in hexadecimal; several between commas
	Insecure   bool   // verify nothing: anybody in between may read the password
	PlainHTTP  bool   // no TLS, for simulators

	// KeepAlive is the time between the calls that keep an idle session
	// alive. 0 means 5 minutes, negative means no such calls.
	KeepAlive time.Duration

	// MaxAnswer is the largest answer to read, in bytes; 0 means 64 MiB.
	MaxAnswer int
}

// String shows no secret.
func (c Config) String() string {
	return endpoint.Address("vsphere", c.Username, c.Host)
}

// GoString shows no secret.
func (c Config) GoString() string { return c.String() }

// LogValue shows no secret.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// openURL is the Opener. The forms and parameters of URLs are in the package
// documentation.
func openURL(ctx context.Context, u *url.URL, o *hypervisor.Options) (hypervisor.Driver, error) {
	c, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	return connect(ctx, c, o)
}

func parseURL(u *url.URL) (Config, error) {
	c := Config{Host: u.Host, Path: strings.TrimSuffix(u.Path, "/")}
	c.Username, c.Password = endpoint.UserInfo(u)
	var certificate, key string
	err := endpoint.Params{
		"datacenter":   endpoint.Text(&c.Datacenter),
		"ca":           endpoint.Text(&c.CA),
		"thumbprint":   endpoint.Text(&c.Thumbprint),
		"insecure":     endpoint.Bool(&c.Insecure),
		"plainhttp":    endpoint.Bool(&c.PlainHTTP),
		"keepalive":    endpoint.Duration(&c.KeepAlive),
		"maxanswer":    endpoint.Count(&c.MaxAnswer),
		"token":        endpoint.File(&c.Token),
		"certificate":  endpoint.Text(&certificate),
		"key":          endpoint.Text(&key),
		"extensionkey": endpoint.Text(&c.ExtensionKey),
	}.Read(u)
	if err == nil {
		c.Certificate, err = endpoint.KeyPair(certificate, key)
	}
	return c, err
}

// Open connects and logs in. Options.Credentials, if set, replace Username
// and Password.
func Open(ctx context.Context, c Config, o *hypervisor.Options) (*hypervisor.Client, error) {
	d, err := connect(ctx, c, o)
	return endpoint.Client(ctx, d, err, c.String(), o)
}

// New makes a Client from a govmomi client that is logged in. Close does not
// end its session. A session that the server has ended is renewed with
// Options.Credentials, if set.
func New(ctx context.Context, c *govmomi.Client, o *hypervisor.Options) (*hypervisor.Client, error) {
	d := newDriver(c.Client, nil)
	if err := d.oldEnough(); err != nil {
		_ = d.Close()
		return nil, err
	}
	d.endpoint = "vsphere://" + c.URL().Host
	if o != nil && o.Credentials != nil {
		d.config = Config{Username: o.Credentials.Username, Password: o.Credentials.Password}
		d.session.login = d.loginAs(c.Client, d.config)
		d.session.gen.Store(1) // the login of whoever made the client
	}
	return hypervisor.New(ctx, d, o)
}

func (c Config) check() error {
	switch {
	case c.Host == "":
		return endpoint.Invalid("the host is empty: vsphere://user@host/")
	case c.Username == "" && c.Token == "" && c.Certificate == nil && c.ExtensionKey == "":
		return endpoint.Invalid("no user name: give Options.Credentials, Config.Username or user@ in the URL")
	case c.Token != "" && !isAssertion(string(c.Token)):
		return endpoint.Invalid("the token is no SAML assertion: it must be one Assertion element and nothing else")
	case c.PlainHTTP && (c.CA != "" || c.Thumbprint != "" || c.Insecure):
		return endpoint.Invalid("PlainHTTP has no certificate that CA, Thumbprint or Insecure could be about")
	}
	return nil
}

// transport makes the SOAP client without sending anything yet.
func (c Config) transport() (*soap.Client, error) {
	t, err := endpoint.Trust{CA: c.CA, Thumbprint: c.Thumbprint, Insecure: c.Insecure}.TLS(c.Certificate)
	if err != nil {
		return nil, err
	}
	u := &url.URL{Scheme: "https", Host: c.Host, Path: cmp.Or(c.Path, vim25.Path)}
	if c.PlainHTTP {
		u.Scheme = "http"
	}
	sc := soap.NewClient(u, c.Insecure)
	sc.DefaultTransport().TLSClientConfig = t
	// One client serves many goroutines: keep their connections.
	sc.DefaultTransport().MaxIdleConnsPerHost = 32
	c.bound(sc)
	return sc, nil
}

// bound limits the answers to a client and to those that govmomi derives from
// it, which share its transport.
func (c Config) bound(sc *soap.Client) {
	t := sc.DefaultTransport()
	g := &guard.Transport{Base: t.Clone(), Size: int64(c.MaxAnswer), XML: true}
	t.RegisterProtocol("https", g)
	t.RegisterProtocol("http", g)
	sc.Client.Transport = g
}

// hangUp closes a client's idle connections, and those of its bound transport,
// which soap.Client's own method doesn't reach.
func hangUp(sc *soap.Client) {
	sc.CloseIdleConnections()
	sc.Client.CloseIdleConnections()
}

// loginAs returns the function for the first login and for every renewal.
func (d *driver) loginAs(vc *vim25.Client, c Config) func(context.Context) error {
	return func(ctx context.Context) error {
		err := login(ctx, vc, c)
		if _, refused := faultOf(err).(*types.InvalidLogin); refused && d.session.gen.Load() > 0 {
			// The server may still know the session, and refuses a second
			// login in it (API reference, SessionManager.Login), so start a
			// new one.
			forgetCookies(vc)
			err = login(ctx, vc, c)
		}
		return err
	}
}

func connect(ctx context.Context, c Config, o *hypervisor.Options) (hypervisor.Driver, error) {
	endpoint.Login(o, &c.Username, &c.Password)
	if err := c.check(); err != nil {
		return nil, err
	}
	sc, err := c.transport()
	if err != nil {
		return nil, err
	}
	vc, err := vim25.NewClient(ctx, sc)
	if err != nil {
		hangUp(sc)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		err = transportError(err)
		return nil, &hypervisor.Error{Kind: kindOf(err), Unsent: true, Err: err}
	}
	d := newDriver(vc, nil)
	d.owned = true
	if err := d.oldEnough(); err != nil {
		_ = d.Close()
		return nil, err
	}
	d.endpoint, d.config = c.String(), c
	d.session.login = d.loginAs(vc, c)
	if _, err := d.session.link.Get(ctx); err != nil {
		_ = d.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &hypervisor.Error{Kind: kindOf(transportError(err)), Err: fmt.Errorf("login: %w", err)}
	}
	if err := d.begin(ctx, c.Datacenter); err != nil {
		_ = d.Close()
		return nil, hypervisor.Errorf(kindOf(err), hypervisor.Ref{}, "%w", err)
	}
	if c.KeepAlive >= 0 {
		d.keepAlive(c.KeepAlive)
	}
	return d, nil
}
