package xen

import (
	"context"
	"log/slog"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/xen/internal/libxl"
)

func init() { hypervisor.Register("xen", libxl.OpenURL) }

// LibxlConfig is the configuration for OpenLibxl: how to reach plain Xen
// hosts.
type LibxlConfig struct {
	// Hosts are libvirt URIs such as xen+ssh://root@h1/system. At least one
	// is required.
	Hosts []string
	// Peers describes how hosts reach each other, keyed by the URI in Hosts.
	// It is needed for migration between hosts whose URI in Hosts is valid on
	// this machine only.
	Peers map[string]LibxlPeer
	// Username and Password are for a libvirtd that asks for them (SASL, over
	// tcp and tls).
	Username string
	Password hypervisor.Secret
}

// LibxlPeer is a plain Xen host as the other hosts see it.
type LibxlPeer struct {
	// URI is that of its libvirtd: "xen+tcp://10.0.0.1/". With it the source
	// host drives a migration by itself. If it is empty, this program does.
	URI string
	// Migrate is the address on which it listens for the memory of machines:
	// "tcp://10.0.0.1". Empty leaves it to libvirt, which uses the host's
	// name.
	Migrate string
}

// String shows no secret.
func (c LibxlConfig) String() string { return libvirtx.Shown(c.Hosts) }

// GoString shows no secret.
func (c LibxlConfig) GoString() string { return c.String() }

// LogValue shows no secret.
func (c LibxlConfig) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText shows no secret: Hosts may have one in a URI.
func (c LibxlConfig) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// OpenLibxl connects to one or several plain Xen hosts through libvirt's
// libxl driver, as one Client. It fails only if none answers. The others are
// listed as HostDown and tried again later. Options.Credentials, if set,
// replace Username and Password. The package documentation describes how
// things are done on plain Xen.
func OpenLibxl(ctx context.Context, cfg LibxlConfig, o *hypervisor.Options) (*hypervisor.Client, error) {
	peers := map[string]libxl.Peer{}
	for uri, p := range cfg.Peers {
		peers[uri] = libxl.Peer(p)
	}
	return libxl.Open(ctx, libxl.Config{Hosts: cfg.Hosts, Peers: peers, Username: cfg.Username, Password: cfg.Password}, o)
}
