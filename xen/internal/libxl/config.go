// Package libxl is the driver for plain Xen through libvirt's libxl driver.
// What users need to know of it is in the documentation of package xen.
//
// libvirt's Xen driver lacks calls that its QEMU driver has (bulk statistics,
// snapshots, Reset, Rename, AbortJob, BlockResize): what is composed instead,
// and what is refused, is in capability.go.
package libxl

import (
	"context"
	"net/url"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Config says how to reach plain Xen hosts.
type Config struct {
	// Hosts are libvirt URIs such as xen+ssh://root@h1/system. At least one.
	Hosts []string
	// Peers tells how hosts reach each other, keyed by the URI in Hosts. It is
	// needed for migration between hosts whose URI in Hosts makes sense on this
	// machine only.
	Peers map[string]Peer
	// Credentials for SASL (tcp, tls).
	Credentials *hypervisor.Credentials
}

// Peer is a host as the other hosts see it.
type Peer struct {
	// URI of its libvirtd: "xen+tcp://10.0.0.1/". With it the source host
	// drives a migration by itself; empty has this program drive it.
	URI string
	// Migrate is where it listens for the memory of machines:
	// "tcp://10.0.0.1". Empty leaves it to libvirt, which takes the host's name.
	Migrate string
}

// Open connects to the hosts of a Config. It fails only if none answers; the
// others are listed as HostDown and tried again later.
func Open(ctx context.Context, cfg Config, o *hypervisor.Options) (*hypervisor.Client, error) {
	if o != nil && cfg.Credentials == nil {
		cfg.Credentials = o.Credentials
	}
	d, err := open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return hypervisor.New(ctx, d, o)
}

// OpenURL is the hypervisor.Opener of scheme xen.
func OpenURL(ctx context.Context, u *url.URL, o *hypervisor.Options) (hypervisor.Driver, error) {
	cfg, err := ParseURL(u)
	if err != nil {
		return nil, err
	}
	if o != nil && o.Credentials != nil {
		cfg.Credentials = o.Credentials
	}
	return open(ctx, cfg)
}

// ParseURL makes libvirt URIs of a URL with scheme xen, one for each host
// name between commas.
func ParseURL(u *url.URL) (Config, error) {
	on := hypervisor.Ref{Kind: hypervisor.KindOfClient, ID: u.Redacted()}
	bad := func(format string, args ...any) (Config, error) {
		return Config{}, hypervisor.Errorf(hypervisor.KindInvalidArgument, on, format, args...)
	}
	driver, transport, _ := strings.Cut(u.Scheme, "+")
	if driver != "xen" {
		return bad("the scheme is %q, want xen", driver)
	}
	switch transport {
	case "", "unix", "ssh", "tls", "tcp", "libssh", "libssh2", "ext":
	default:
		return bad("unknown transport %q: use unix, ssh, tls or tcp", transport)
	}
	var cfg Config
	base := *u
	if p, ok := u.User.Password(); ok && p != "" {
		cfg.Credentials = &hypervisor.Credentials{Username: u.User.Username(), Password: p}
		base.User = url.User(u.User.Username())
	}
	// libvirt takes xen:/// and xen:///system for the same and wants one of them.
	switch u.Path {
	case "":
		base.Path = "/"
	case "/", "/system":
	default:
		return bad("the URL has the path %q: libvirt's Xen driver has /system alone", u.Path)
	}
	var ok bool
	if cfg.Hosts, ok = libvirtx.HostURIs(base); !ok {
		return bad("an empty host name between commas")
	}
	return cfg, nil
}
