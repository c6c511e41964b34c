package kvm

import (
	"context"
	"log/slog"
	"net/url"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Config is the configuration for Open.
type Config struct {
	// Hosts are libvirt URIs such as qemu+ssh://root@h1/system. At least one
	// is required.
	Hosts []string
	// Peers describes how hosts reach each other, keyed by the URI in Hosts.
	// It is needed for peer-to-peer migration between hosts whose URI in
	// Hosts is valid on this machine only.
	Peers map[string]Peer
	// DomainType is "kvm" or "qemu" (emulated CPUs); empty means kvm where the
	// host offers it and qemu elsewhere.
	DomainType string
	// SerialLogDir, if set, is a folder on the hosts in which each machine made
	// here logs its serial console, in a file UUID.serial.
	SerialLogDir string
	// Sysfs returns access to the files of the host behind a URI in Hosts, or
	// nil. If Sysfs is nil, hosts whose URI names no host, which therefore
	// are this machine, are read directly, and others not at all.
	Sysfs func(uri string) Sysfs
	// Username and Password are for a libvirtd that asks for them (SASL, over
	// tcp and tls).
	Username string
	Password hypervisor.Secret
}

// String shows no secret.
func (c Config) String() string { return libvirtx.Shown(c.Hosts) }

// GoString shows no secret.
func (c Config) GoString() string { return c.String() }

// LogValue shows no secret.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText shows no secret: Hosts may have one in a URI.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Peer is a host as the other hosts see it.
type Peer struct {
	URI     string // URI of its libvirtd: "qemu+tcp://10.0.0.1/system"
	Migrate string // address that its QEMU listens on: "tcp://10.0.0.1"; empty leaves it to libvirt
}

func init() { hypervisor.Register("kvm", openURL) }

// Open connects to the hosts of a Config. It fails only if none answers. The
// others are listed as HostDown and tried again later. Options.Credentials,
// if set, replace Username and Password.
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

func connect(ctx context.Context, cfg Config, o *hypervisor.Options) (hypervisor.Driver, error) {
	endpoint.Login(o, &cfg.Username, &cfg.Password)
	if cfg.DomainType != "" && !slices.Contains(domainTypes, cfg.DomainType) {
		return nil, endpoint.Invalid("the domain type is %q: say kvm or qemu", cfg.DomainType)
	}
	return open(ctx, cfg)
}

var domainTypes = []string{"kvm", "qemu"}

// parseURL makes libvirt URIs from a URL with scheme kvm.
func parseURL(u *url.URL) (Config, error) {
	var cfg Config
	if u.Path == "" || u.Path == "/" {
		return cfg, endpoint.Invalid("the URL has no path: end it with /system or /session")
	}
	cfg.Username, cfg.Password = libvirtx.UserInfo(u)
	at, driver := *u, "qemu"
	if u.Scheme == "kvm+test" {
		at.Scheme, driver = "kvm", "test"
	}
	var err error
	cfg.Hosts, err = libvirtx.HostURIs(&at, driver, endpoint.Params{
		"domaintype":   endpoint.OneOf(&cfg.DomainType, domainTypes...),
		"seriallogdir": endpoint.Text(&cfg.SerialLogDir),
	})
	return cfg, err
}
