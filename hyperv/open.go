package hyperv

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hyperv/internal/com"
	"github.com/anyvisor/anyvisor/hyperv/internal/wsman"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// Transport is the way to a host's WMI.
type Transport string

const (
	// WSMan is WS-Management (the WinRM service), from any system.
	WSMan Transport = "wsman"
	// WMI is COM, on Windows only: the local host, or others over DCOM.
	WMI Transport = "wmi"
)

// Auth is how to log in over WS-Management.
type Auth string

const (
	NTLM        Auth = "ntlm"        // sealed on HTTP, bound to the channel on HTTPS
	Kerberos    Auth = "kerberos"    // sealed on HTTP, bound to the channel on HTTPS
	Basic       Auth = "basic"       // HTTPS only
	Certificate Auth = "certificate" // a TLS client certificate; HTTPS only
)

// Config says which hosts make up the Client and how to reach them.
type Config struct {
	// Hosts are names or addresses, each with an optional port: "hv01",
	// "hv02.example:5986". Over COM, "." is this machine.
	Hosts     []string
	Transport Transport // "" is WSMan
	Auth      Auth      // "" is NTLM
	User      string    // "name", `DOMAIN\name` or "name@domain"
	Password  string
	// PlainHTTP uses HTTP with sealed messages instead of HTTPS, with NTLM
	// and Kerberos.
	PlainHTTP bool
	// TLS configures HTTPS; nil verifies against the system's roots.
	TLS *tls.Config
	// KerberosConfig is a krb5.conf; "" means $KRB5_CONFIG or /etc/krb5.conf.
	// Realm is the user's; "" means the part of User after @, or the default
	// realm. The user's key comes from Keytab or CredentialCache, which are
	// files, or from Password, or else from the cache that kinit left. A host
	// is known to the realm as HTTP/<name>, with the name that Hosts gives it.
	KerberosConfig, Realm, Keytab, CredentialCache string
	// MaxEnvelope is the largest reply to ask for in bytes; 0 means the
	// default limit of Windows.
	MaxEnvelope int
	// Connections per host; 0 means 4.
	Connections int
	// PollFirst and PollLast pace the reading of jobs; 0 means 20 ms growing
	// to 500 ms. EventInterval paces Watch where the transport has no events;
	// 0 means 2 s.
	PollFirst, PollLast, EventInterval time.Duration

	// open replaces the transport, for tests.
	open func(ctx context.Context, host string) (cim.Session, error)
}

func init() {
	hypervisor.Register("hyperv", openURL)
}

// Open connects to the hosts. At least one must answer; the others are tried
// again when they are needed.
func Open(ctx context.Context, cfg Config, o *hypervisor.Options) (*hypervisor.Client, error) {
	if o != nil && o.Credentials != nil {
		cfg.User, cfg.Password = o.Credentials.Username, o.Credentials.Password
	}
	d, err := connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c, err := hypervisor.New(ctx, d, o)
	if err != nil {
		d.Close()
		return nil, err
	}
	return c, nil
}

// openURL reads hyperv://user@host1,host2:5986/?transport=wsman&auth=ntlm.
// Query parameters: transport, auth, http (1: plain HTTP, sealed), insecure
// (1: the server's certificate is not verified), ca, cert, key (PEM files),
// krb5conf, realm, keytab, ccache. A password in the URL is refused: give it
// in the environment variable HYPERV_PASSWORD.
func openURL(ctx context.Context, u *url.URL, o *hypervisor.Options) (hypervisor.Driver, error) {
	cfg, err := configFromURL(u)
	if err != nil {
		return nil, &hypervisor.Error{Op: "open", Kind: hypervisor.KindInvalidArgument, Unsent: true, Err: err}
	}
	if o != nil && o.Credentials != nil {
		cfg.User, cfg.Password = o.Credentials.Username, o.Credentials.Password
	}
	return connect(ctx, cfg)
}

func configFromURL(u *url.URL) (Config, error) {
	cfg := Config{Password: os.Getenv("HYPERV_PASSWORD")}
	if u.User != nil {
		cfg.User = u.User.Username()
		if _, has := u.User.Password(); has {
			return cfg, errors.New("hyperv: a password does not belong into a URL: set HYPERV_PASSWORD")
		}
	}
	for h := range strings.SplitSeq(u.Host, ",") {
		if h != "" {
			cfg.Hosts = append(cfg.Hosts, h)
		}
	}
	files := tlsFiles{}
	for k, v := range u.Query() {
		val := v[len(v)-1]
		switch k {
		case "transport":
			cfg.Transport = Transport(val)
		case "auth":
			cfg.Auth = Auth(val)
		case "http", "insecure":
			b, err := strconv.ParseBool(val)
			if err != nil {
				return cfg, fmt.Errorf("hyperv: %s=%s: want 0 or 1", k, val)
			}
			if k == "http" {
				cfg.PlainHTTP = b
			} else {
				files.insecure = b
			}
		case "ca":
			files.ca = val
		case "cert":
			files.cert = val
		case "key":
			files.key = val
		case "krb5conf":
			cfg.KerberosConfig = val
		case "realm":
			cfg.Realm = val
		case "keytab":
			cfg.Keytab = val
		case "ccache":
			cfg.CredentialCache = val
		default:
			return cfg, fmt.Errorf("hyperv: unknown URL parameter %q", k)
		}
	}
	var err error
	cfg.TLS, err = files.config()
	return cfg, err
}

// check refuses what can't work before anything is dialled.
func (c *Config) check() error {
	if len(c.Hosts) == 0 {
		return errors.New("hyperv: no hosts given")
	}
	seen := map[string]bool{}
	for _, h := range c.Hosts {
		if h == "" || strings.ContainsAny(h, "|\\/ ") {
			return fmt.Errorf("hyperv: %q is no host name", h)
		}
		if seen[strings.ToLower(h)] {
			return fmt.Errorf("hyperv: host %q is given twice", h)
		}
		seen[strings.ToLower(h)] = true
	}
	if c.Transport == "" {
		c.Transport = WSMan
	}
	if c.Auth == "" {
		c.Auth = NTLM
	}
	switch {
	case c.Transport != WSMan && c.Transport != WMI:
		return fmt.Errorf("hyperv: unknown transport %q: use wsman or wmi", c.Transport)
	case c.Transport == WSMan && c.PlainHTTP && c.Auth != NTLM && c.Auth != Kerberos:
		return fmt.Errorf("hyperv: %s over plain HTTP would send messages in the clear: use HTTPS, or NTLM or Kerberos, which seal them", c.Auth)
	}
	return nil
}

// session opens the transport to one host.
func (c *Config) session(ctx context.Context, host string) (cim.Session, error) {
	if c.open != nil {
		return c.open(ctx, host)
	}
	if c.Transport == WMI {
		server := host
		if host == "." || strings.EqualFold(host, "localhost") {
			server = ""
		}
		return com.Open(ctx, com.Config{Server: server, User: c.User, Password: c.Password, Workers: c.Connections, OnCall: countCall})
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
		Host: name, Port: port, PlainHTTP: c.PlainHTTP, Auth: wsman.Auth(c.Auth), User: c.User, Password: c.Password, TLS: c.TLS,
		Krb:         wsman.KerberosConfig{ConfigFile: c.KerberosConfig, Realm: c.Realm, Keytab: c.Keytab, CCache: c.CredentialCache},
		MaxEnvelope: c.MaxEnvelope, Connections: c.Connections, OnCall: countCall,
	})
	if err != nil { // nothing is sent so early: the settings are wrong
		return nil, &hypervisor.Error{Kind: hypervisor.KindInvalidArgument, Unsent: true, Err: err}
	}
	return ws, nil
}

// countCall tells the operation of this context, for its Observer.
func countCall(ctx context.Context) { hypervisor.CountCalls(ctx, 1) }
