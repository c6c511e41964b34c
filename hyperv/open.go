package hyperv

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hyperv/internal/com"
	"github.com/anyvisor/anyvisor/hyperv/internal/wsman"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
	"github.com/anyvisor/anyvisor/internal/session"
)

// Transport is the way to a host's WMI.
type Transport string

const (
	// TransportWSMan is WS-Management (the WinRM service), from any system.
	TransportWSMan Transport = "wsman"
	// TransportCOM is COM, on Windows only: the local host, or others over DCOM.
	TransportCOM Transport = "com"
)

// Auth is the way to log in over WS-Management.
type Auth string

const (
	AuthNTLM        Auth = "ntlm"        // NTLMv2, sealed on HTTP, bound to the channel on HTTPS; weaker servers are refused
	AuthKerberos    Auth = "kerberos"    // sealed on HTTP, bound to the channel on HTTPS
	AuthBasic       Auth = "basic"       // HTTPS only
	AuthCertificate Auth = "certificate" // the TLS client certificate in Config.Certificate; HTTPS only
)

// Config is the list of hosts of the Client and the way to reach them.
type Config struct {
	// Hosts are names or addresses, each with an optional port: "hv01",
	// "hv02.example:5986". Over COM, "." is this machine.
	Hosts     []string
	Transport Transport // "" is TransportWSMan
	Username  string    // "name", `DOMAIN\name` or "name@domain"
	Password  hypervisor.Secret

	// The following fields are for WS-Management.
	Auth Auth // "" is AuthNTLM
	// PlainHTTP uses HTTP with sealed messages instead of HTTPS, with NTLM
	// and Kerberos.
	PlainHTTP bool
	// The hosts' certificates are verified against the system's authorities,
	// unless one of these fields is set.
	CA         string // file with PEM certificates of authorities
	Thumbprint string // SHA-256 or SHA-1 of a host's certificate, in hexadecimal; several between commas
	Insecure   bool   // verify nothing: anybody in between may read and change everything
	// Certificate is the client's certificate, for AuthCertificate.
	Certificate *tls.Certificate `json:"-"`
	// KerberosConfig is a krb5.conf; "" means $KRB5_CONFIG or /etc/krb5.conf.
	// Realm is the user's; "" means the part of Username after @, or the
	// default realm. The user's key comes from Keytab or CredentialCache,
	// which are files, or from Password, or else from the cache that kinit
	// left. The realm knows a host as HTTP/<name>, with its name in Hosts.
	KerberosConfig, Realm, Keytab, CredentialCache string
	// MaxEnvelope is the largest reply to ask for in bytes; 0 means the
	// default limit of Windows.
	MaxEnvelope int

	// Connections per host; 0 means 4.
	Connections int
	// PollFirst and PollLast are the intervals for reading jobs; 0 means 20
	// ms growing to 500 ms. EventInterval is the interval of Watch where the
	// transport has no events; 0 means 2 s.
	PollFirst, PollLast, EventInterval time.Duration

	tls      *tls.Config // made by check; tests provide their own
	winrm    [2]int      // the ports for HTTP and HTTPS, for tests
	record   func(request string, reply []byte)
	refusals *session.Refusals // of all hosts; nil: each host has its own
	// open replaces the transport, for tests.
	open func(ctx context.Context, host string) (cim.Session, error)
}

// String shows no secret.
func (c Config) String() string { return endpoint.Address("hyperv", c.Username, c.Hosts...) }

// GoString shows no secret.
func (c Config) GoString() string { return c.String() }

// LogValue shows no secret.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

func init() {
	hypervisor.Register("hyperv", openURL)
}

// Open connects to the hosts. At least one must answer. The others are tried
// again when they are needed. Options.Credentials, if set, replace Username
// and Password.
func Open(ctx context.Context, cfg Config, o *hypervisor.Options) (*hypervisor.Client, error) {
	d, err := connect(ctx, cfg, o)
	return endpoint.Client(ctx, d, err, cfg.String(), o)
}

// openURL is the Opener. The forms and parameters of URLs are in the package
// documentation.
func openURL(ctx context.Context, u *url.URL, o *hypervisor.Options) (hypervisor.Driver, error) {
	cfg, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	return connect(ctx, cfg, o)
}

func parseURL(u *url.URL) (Config, error) {
	var cfg Config
	if u.Path != "" && u.Path != "/" {
		return cfg, endpoint.Invalid("the URL has the path %q: hosts are named by name and port alone", u.Path)
	}
	cfg.Username, cfg.Password = endpoint.UserInfo(u)
	for h := range strings.SplitSeq(u.Host, ",") {
		if h != "" {
			cfg.Hosts = append(cfg.Hosts, h)
		}
	}
	var certificate, key string
	err := endpoint.Params{
		"transport":       endpoint.OneOf(&cfg.Transport, TransportWSMan, TransportCOM),
		"auth":            endpoint.OneOf(&cfg.Auth, AuthNTLM, AuthKerberos, AuthBasic, AuthCertificate),
		"plainhttp":       endpoint.Bool(&cfg.PlainHTTP),
		"ca":              endpoint.Text(&cfg.CA),
		"thumbprint":      endpoint.Text(&cfg.Thumbprint),
		"insecure":        endpoint.Bool(&cfg.Insecure),
		"certificate":     endpoint.Text(&certificate),
		"key":             endpoint.Text(&key),
		"kerberosconfig":  endpoint.Text(&cfg.KerberosConfig),
		"realm":           endpoint.Text(&cfg.Realm),
		"keytab":          endpoint.Text(&cfg.Keytab),
		"credentialcache": endpoint.Text(&cfg.CredentialCache),
		"maxenvelope":     endpoint.Count(&cfg.MaxEnvelope),
		"connections":     endpoint.Count(&cfg.Connections),
		"pollfirst":       endpoint.Duration(&cfg.PollFirst),
		"polllast":        endpoint.Duration(&cfg.PollLast),
		"eventinterval":   endpoint.Duration(&cfg.EventInterval),
	}.Read(u)
	if err == nil {
		cfg.Certificate, err = endpoint.KeyPair(certificate, key)
	}
	return cfg, err
}

// check refuses an invalid configuration before anything is dialled.
func (c *Config) check() error {
	if len(c.Hosts) == 0 {
		return endpoint.Invalid("no hosts given: hyperv://user@host1,host2/")
	}
	seen := map[string]bool{}
	for _, h := range c.Hosts {
		if h == "" || strings.ContainsAny(h, "|\\/ ") {
			return endpoint.Invalid("%q is no host name", h)
		}
		if seen[strings.ToLower(h)] {
			return endpoint.Invalid("host %q is given twice", h)
		}
		seen[strings.ToLower(h)] = true
	}
	switch c.Transport = cmp.Or(c.Transport, TransportWSMan); c.Transport {
	case TransportWSMan:
		return c.checkWSMan()
	case TransportCOM:
		if c.overWSMan() {
			return endpoint.Invalid("Auth, PlainHTTP, CA, Thumbprint, Insecure, Certificate, MaxEnvelope and what is Kerberos' are settings of WS-Management: leave them out with transport com")
		}
		return nil
	}
	return endpoint.Invalid("unknown transport %q: use wsman or com", c.Transport)
}

// overWSMan reports whether a field is set that is for WS-Management alone.
func (c *Config) overWSMan() bool {
	return c.Auth != "" || c.PlainHTTP || c.verifies() || c.Certificate != nil || c.kerberos() || c.MaxEnvelope != 0
}

func (c *Config) verifies() bool { return c.CA != "" || c.Thumbprint != "" || c.Insecure }
func (c *Config) kerberos() bool { return c.KerberosConfig+c.Realm+c.Keytab+c.CredentialCache != "" }

func (c *Config) checkWSMan() (err error) {
	switch c.Auth = cmp.Or(c.Auth, AuthNTLM); {
	case !slices.Contains([]Auth{AuthNTLM, AuthKerberos, AuthBasic, AuthCertificate}, c.Auth):
		return endpoint.Invalid("unknown way of logging in %q: use ntlm, kerberos, basic or certificate", c.Auth)
	case c.kerberos() && c.Auth != AuthKerberos:
		return endpoint.Invalid("KerberosConfig, Realm, Keytab and CredentialCache need auth kerberos, not %s", c.Auth)
	case (c.Auth == AuthCertificate) != (c.Certificate != nil) && c.tls == nil:
		return endpoint.Invalid("auth certificate and a client certificate go together")
	case !c.PlainHTTP:
		if c.tls == nil {
			c.tls, err = endpoint.Trust{CA: c.CA, Thumbprint: c.Thumbprint, Insecure: c.Insecure}.TLS(c.Certificate)
		}
		return err
	case c.Auth != AuthNTLM && c.Auth != AuthKerberos:
		return endpoint.Invalid("%s over plain HTTP would send messages in the clear: use HTTPS, or NTLM or Kerberos, which seal them", c.Auth)
	case c.verifies():
		return endpoint.Invalid("PlainHTTP has no certificate that CA, Thumbprint or Insecure could be about")
	}
	return nil
}

// session opens the transport to one host.
func (c *Config) session(ctx context.Context, host string) (cim.Session, error) {
	if c.open != nil {
		return c.open(ctx, host)
	}
	if c.Transport == TransportCOM {
		server := host
		if host == "." || strings.EqualFold(host, "localhost") {
			server = ""
		}
		return com.Open(ctx, com.Config{Server: server, User: c.Username, Password: c.Password, Workers: c.Connections, OnCall: countCall, Refusals: c.refusals})
	}
	name, port := host, 0
	if h, p, err := net.SplitHostPort(host); err == nil {
		n, err := strconv.Atoi(p)
		if err != nil || n <= 0 || n > 65535 {
			return nil, fmt.Errorf("hyperv: %q: bad port", host)
		}
		name, port = h, n
	}
	ws, err := wsman.New(wsman.Config{
		Host: name, Port: port, PlainHTTP: c.PlainHTTP, Auth: wsman.Auth(c.Auth), User: c.Username, Password: c.Password, TLS: c.tls,
		Krb:         wsman.KerberosConfig{ConfigFile: c.KerberosConfig, Realm: c.Realm, Keytab: c.Keytab, CCache: c.CredentialCache},
		MaxEnvelope: c.MaxEnvelope, Connections: c.Connections, OnCall: countCall,
		Refusals: c.refusals, Record: c.record,
	})
	if err != nil { // nothing is sent at this point, so the settings are wrong
		return nil, &hypervisor.Error{Kind: hypervisor.ErrInvalidArgument, Unsent: true, Err: err}
	}
	return ws, nil
}

// countCall reports a call to the operation of this context, for its
// Observer.
func countCall(ctx context.Context) { hypervisor.CountCalls(ctx, 1) }
