package xen

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"sync"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

func init() {
	hypervisor.Register("xapi", openURL)
	hypervisor.Register("xenserver", openURL)
}

// Config is the XenServer or XCP-ng pool to connect to and the way to log in.
type Config struct {
	Host     string // name or address of any member, with a port if it isn't 443
	Username string
	Password hypervisor.Secret

	// The server's certificate is verified against the system's authorities,
	// unless one of these fields is set.
	CA string // file with PEM certificates of authorities
	// Thumbprint is the SHA-256 or SHA-1 of the certificate, in hexadecimal.
	// Each member of a pool has a certificate of its own: several thumbprints
	// are separated by commas.
	Thumbprint string
	Insecure   bool // verify nothing: anybody in between may read the password

	// MaxAnswer is the largest answer to read, in bytes. 0 means 64 MiB,
	// which is enough for some 40,000 machines.
	MaxAnswer int
}

// String shows no secret.
func (c Config) String() string { return endpoint.Address("xapi", c.Username, c.Host) }

// GoString shows no secret.
func (c Config) GoString() string { return c.String() }

// LogValue shows no secret.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// driver is a XAPI pool.
type driver struct {
	c     *xapi.Client
	desc  hypervisor.Description
	group hypervisor.TaskGroup
	id    hypervisor.PoolID // of the pool
	xapi  release           // the coordinator's

	tokens job.Tokens

	mu    sync.Mutex
	names names // guarded by mu
}

// Open connects to a pool and logs in. Options.Credentials, if set, replace
// Username and Password.
func Open(ctx context.Context, cfg Config, o *hypervisor.Options) (*hypervisor.Client, error) {
	d, err := open(ctx, cfg, o)
	return endpoint.Client(ctx, d, err, cfg.String(), o)
}

// openURL is the Opener. The forms and parameters of URLs are in the package
// documentation.
func openURL(ctx context.Context, u *url.URL, o *hypervisor.Options) (hypervisor.Driver, error) {
	cfg, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	return open(ctx, cfg, o)
}

func parseURL(u *url.URL) (Config, error) {
	cfg := Config{Host: u.Host}
	if p := strings.Trim(u.Path, "/"); p != "" {
		return cfg, endpoint.Invalid("the URL has the path %q: a pool is named by host and port alone", p)
	}
	cfg.Username, cfg.Password = endpoint.UserInfo(u)
	return cfg, endpoint.Params{
		"ca":         endpoint.Text(&cfg.CA),
		"thumbprint": endpoint.Text(&cfg.Thumbprint),
		"insecure":   endpoint.Bool(&cfg.Insecure),
		"maxanswer":  endpoint.Count(&cfg.MaxAnswer),
	}.Read(u)
}

func open(ctx context.Context, cfg Config, o *hypervisor.Options) (hypervisor.Driver, error) {
	endpoint.Login(o, &cfg.Username, &cfg.Password)
	switch {
	case cfg.Host == "":
		return nil, endpoint.Invalid("the host is empty: name a member of the pool")
	case cfg.Username == "":
		return nil, endpoint.Invalid("no user name: give Options.Credentials, Config.Username or user@ in the URL")
	}
	t, err := endpoint.Trust{CA: cfg.CA, Thumbprint: cfg.Thumbprint, Insecure: cfg.Insecure}.TLS(nil)
	if err != nil {
		return nil, err
	}
	c, err := xapi.Open(ctx, xapi.Config{URL: &url.URL{Scheme: "https", Host: cfg.Host}, Username: cfg.Username, Password: cfg.Password, TLS: t, MaxAnswer: int64(cfg.MaxAnswer)})
	if err != nil {
		return nil, classed(err)
	}
	d := &driver{c: c}
	if err := d.describe(ctx); err != nil {
		return nil, classed(errors.Join(err, c.Close()))
	}
	return d, nil
}

func (d *driver) describe(ctx context.Context) error {
	p, _, err := d.pool(ctx)
	if err != nil {
		return err
	}
	var hosts map[xapi.Ref]hostRec
	if err := d.c.Call(ctx, &hosts, "host.get_all_records"); err != nil {
		return err
	}
	var members []string
	for _, h := range hosts {
		members = append(members, h.Address)
	}
	d.c.SetMembers(members)
	h := hosts[p.Master]
	d.id = hypervisor.PoolID(p.UUID)
	d.xapi = parseRelease(h.Software["xapi_build"])
	d.desc = hypervisor.Description{Driver: "xapi", Product: h.Software["product_brand"], Version: h.Software["product_version"], Endpoint: d.c.Address()}
	return nil
}

// pool reads the pool's record, of which there is exactly one.
func (d *driver) pool(ctx context.Context) (poolRec, xapi.Ref, error) {
	var all map[xapi.Ref]poolRec
	if err := d.c.Call(ctx, &all, "pool.get_all_records"); err != nil {
		return poolRec{}, "", err
	}
	for r, p := range all {
		return p, r, nil
	}
	return poolRec{}, "", errors.New("the server has no pool")
}

// Describe describes the pool.
func (d *driver) Describe() hypervisor.Description { return d.desc }

// Close logs out.
func (d *driver) Close() error { return errors.Join(d.group.Close(), d.c.Close()) }
