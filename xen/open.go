package xen

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

func init() {
	hypervisor.Register("xapi", openURL)
	hypervisor.Register("xenserver", openURL)
}

// Config says how to reach a XenServer or XCP-ng pool.
type Config struct {
	// Address of any member: "pool.example", "10.0.0.5:443".
	Address     string
	Credentials hypervisor.Credentials
	// Fingerprint is the SHA-256 of the server's certificate in hex; with it
	// no authority is asked. Each member of a pool has a certificate of its own:
	// several are separated by commas.
	Fingerprint string
	CAFile      string // PEM file of authorities, in place of the system's
	Insecure    bool   // verify nothing
}

// Ref is a reference of XAPI, OpaqueRef:….
type Ref = xapi.Ref

// RPC is the session behind a Client, for calls that the API doesn't cover.
type RPC struct{ c *xapi.Client }

// Call sends a message; the session is added as its first argument.
func (r *RPC) Call(ctx context.Context, result any, method string, args ...any) error {
	return r.c.Call(ctx, result, method, args...)
}

// driver is a XAPI pool.
type driver struct {
	c     *xapi.Client
	desc  hypervisor.Description
	group hypervisor.TaskGroup
	// api is the master's API version, major*1000+minor: newer servers want
	// more arguments in places.
	api int64

	tokens tokens

	mu    sync.Mutex
	known map[xapi.Ref]knownVM // for events of objects that are gone
}

// Open connects to a pool.
func Open(ctx context.Context, cfg Config, o *hypervisor.Options) (*hypervisor.Client, error) {
	if o == nil {
		o = &hypervisor.Options{}
	}
	d, err := open(ctx, cfg)
	if err != nil {
		var e *hypervisor.Error
		if !errors.As(err, &e) {
			e = &hypervisor.Error{Kind: kindOf(err), Err: err}
		}
		c := *e
		c.Op, c.Object = "open", hypervisor.Ref{Kind: hypervisor.KindOfClient, ID: cfg.Address}
		return nil, &c
	}
	return hypervisor.New(ctx, d, o)
}

func openURL(ctx context.Context, u *url.URL, o *hypervisor.Options) (hypervisor.Driver, error) {
	cfg := Config{Address: u.Host}
	on := hypervisor.Ref{Kind: hypervisor.KindOfClient, ID: u.Redacted()}
	if p := strings.Trim(u.Path, "/"); p != "" {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "the URL has the path %q: a pool is named by host and port alone", p)
	}
	for k, v := range u.Query() {
		switch k {
		case "fingerprint":
			cfg.Fingerprint = v[0]
		case "cafile":
			cfg.CAFile = v[0]
		case "insecure":
			cfg.Insecure = v[0] == "1" || v[0] == "true"
		default:
			return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "unknown parameter %q: fingerprint, cafile and insecure are known", k)
		}
	}
	if o.Credentials != nil {
		cfg.Credentials = *o.Credentials
	} else if u.User != nil {
		cfg.Credentials.Username = u.User.Username()
		cfg.Credentials.Password, _ = u.User.Password()
	}
	d, err := open(ctx, cfg)
	if err != nil {
		if k := kindOf(err); k != hypervisor.KindUnknown {
			return nil, hypervisor.Errorf(k, on, "%w", err)
		}
		return nil, err
	}
	return d, nil
}

func open(ctx context.Context, cfg Config) (*driver, error) {
	on := hypervisor.Ref{Kind: hypervisor.KindOfClient, ID: cfg.Address}
	if cfg.Address == "" {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "the address is empty: name a member of the pool")
	}
	if cfg.Credentials.Username == "" {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "no user name: give it in the URL or in Options.Credentials")
	}
	t, err := cfg.tls()
	if err != nil {
		return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "%w", err)
	}
	c, err := xapi.Open(ctx, xapi.Config{URL: &url.URL{Scheme: "https", Host: cfg.Address}, Username: cfg.Credentials.Username,
		Password: cfg.Credentials.Password, TLS: t})
	if err != nil {
		return nil, err
	}
	d := &driver{c: c, known: map[xapi.Ref]knownVM{}}
	if err := d.describe(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return d, nil
}

func (cfg Config) tls() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case cfg.Fingerprint != "":
		var want []string
		for f := range strings.SplitSeq(cfg.Fingerprint, ",") {
			f = strings.ToLower(strings.ReplaceAll(strings.TrimSpace(f), ":", ""))
			if b, err := hex.DecodeString(f); err != nil || len(b) != sha256.Size {
				return nil, fmt.Errorf("fingerprint %q is no SHA-256 in hex", f)
			}
			want = append(want, f)
		}
		// The fingerprint stands in for the chain of authorities.
		t.InsecureSkipVerify = true
		t.VerifyConnection = func(s tls.ConnectionState) error {
			got := sha256.Sum256(s.PeerCertificates[0].Raw)
			for _, w := range want {
				if hex.EncodeToString(got[:]) == w {
					return nil
				}
			}
			return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates,
				Err: fmt.Errorf("the server's certificate has the fingerprint %x, which is none of those given", got)}
		}
	case cfg.CAFile != "":
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, err
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no PEM certificate", cfg.CAFile)
		}
	case cfg.Insecure:
		t.InsecureSkipVerify = true
	}
	return t, nil
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
	d.api = h.APIMajor*1000 + h.APIMinor
	d.desc = hypervisor.Description{Driver: "xapi", Product: h.Software["product_brand"], Version: h.Software["product_version"], Endpoint: d.c.Address()}
	return nil
}

// pool reads the pool's record; there is exactly one.
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

// Describe says what the pool is.
func (d *driver) Describe() hypervisor.Description { return d.desc }

// As gives the session or a machine's reference.
func (d *driver) As(on hypervisor.Ref, target any) bool {
	switch t := target.(type) {
	case **RPC:
		*t = &RPC{d.c}
		return true
	case *Ref:
		if on.Kind != hypervisor.KindOfVM {
			return false
		}
		r, err := d.vmRef(context.Background(), hypervisor.VMID(on.ID))
		*t = r
		return err == nil
	}
	return false
}

// Close logs out.
func (d *driver) Close() error {
	d.group.Close()
	return d.c.Close()
}
