// Package libxl is the driver for plain Xen through libvirt's libxl driver.
// The documentation of package xen has everything that users need to know
// about it.
//
// libvirt's Xen driver lacks calls that its QEMU driver has (bulk statistics,
// snapshots, Reset, Rename, AbortJob, BlockResize). What is composed instead,
// and what is refused, is in capability.go.
package libxl

import (
	"context"
	"net/url"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Config describes how to reach plain Xen hosts; see xen.LibxlConfig.
type Config struct {
	Hosts    []string
	Peers    map[string]Peer
	Username string
	Password hypervisor.Secret
}

// Peer is a plain Xen host as the other hosts see it; see xen.LibxlPeer.
type Peer struct {
	URI     string
	Migrate string
}

// Open connects to the hosts of a Config. It fails only if none answers. The
// others are listed as HostDown and tried again later.
func Open(ctx context.Context, cfg Config, o *hypervisor.Options) (*hypervisor.Client, error) {
	endpoint.Login(o, &cfg.Username, &cfg.Password)
	d, err := open(ctx, cfg)
	return endpoint.Client(ctx, d, err, libvirtx.Shown(cfg.Hosts), o)
}

// OpenURL is the hypervisor.Opener of scheme xen.
func OpenURL(ctx context.Context, u *url.URL, o *hypervisor.Options) (hypervisor.Driver, error) {
	cfg, err := ParseURL(u)
	if err != nil {
		return nil, err
	}
	endpoint.Login(o, &cfg.Username, &cfg.Password)
	return open(ctx, cfg)
}

// ParseURL makes libvirt URIs from a URL with scheme xen, one for each host
// name between commas.
func ParseURL(u *url.URL) (Config, error) {
	var cfg Config
	if driver, _, _ := strings.Cut(u.Scheme, "+"); driver != "xen" {
		return cfg, endpoint.Invalid("the scheme is %q, want xen", driver)
	}
	at := *u
	// libvirt treats xen:/// and xen:///system as the same and requires one
	// of them.
	switch u.Path {
	case "":
		at.Path = "/"
	case "/", "/system":
	default:
		return cfg, endpoint.Invalid("the URL has the path %q: libvirt's Xen driver has /system alone", u.Path)
	}
	cfg.Username, cfg.Password = libvirtx.UserInfo(u)
	var err error
	cfg.Hosts, err = libvirtx.HostURIs(&at, "xen", nil)
	return cfg, err
}
