package kvm

import (
	"context"
	"net/url"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Config for Open.
type Config struct {
	// Hosts are libvirt URIs such as qemu+ssh://root@h1/system. At least one.
	Hosts []string
	// Peers tells how hosts reach each other, keyed by the URI in Hosts. It is
	// needed for peer-to-peer migration between hosts whose URI in Hosts makes
	// sense on this machine only.
	Peers map[string]Peer
	// DomainType is "kvm" or "qemu" (emulated CPUs); empty means kvm where the
	// host offers it and qemu elsewhere.
	DomainType string
	// SerialLogDir, if set, is a folder on the hosts in which each machine made
	// here logs its serial console, in a file UUID.serial.
	SerialLogDir string
	// Sysfs returns a way to the files of the host behind a URI in Hosts, or
	// nil. Without one the hosts whose URI names no host, and so are this
	// machine, are read directly, and others not at all.
	Sysfs func(uri string) Sysfs
	// Credentials for SASL (tcp, tls).
	Credentials *hypervisor.Credentials
	// Options of the Client; nil means none.
	Options *hypervisor.Options
}

// Peer is a host as the other hosts see it.
type Peer struct {
	URI     string // of its libvirtd: "qemu+tcp://10.0.0.1/system"
	Migrate string // where its QEMU listens: "tcp://10.0.0.1"; empty leaves it to libvirt
}

func init() { hypervisor.Register("kvm", openURL) }

// Open connects to the hosts of a Config. It fails only if none answers; the
// others are listed as HostDown and tried again later.
func Open(ctx context.Context, cfg Config) (*hypervisor.Client, error) {
	if cfg.Options != nil && cfg.Credentials == nil {
		cfg.Credentials = cfg.Options.Credentials
	}
	d, err := open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return hypervisor.New(ctx, d, cfg.Options)
}

func openURL(ctx context.Context, u *url.URL, o *hypervisor.Options) (hypervisor.Driver, error) {
	cfg, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	if o != nil && o.Credentials != nil {
		cfg.Credentials = o.Credentials
	}
	return open(ctx, cfg)
}

// parseURL makes libvirt URIs of a URL with scheme kvm.
func parseURL(u *url.URL) (Config, error) {
	on := hypervisor.Ref{Kind: hypervisor.KindOfClient, ID: u.Redacted()}
	bad := func(format string, args ...any) (Config, error) {
		return Config{}, hypervisor.Errorf(hypervisor.KindInvalidArgument, on, format, args...)
	}
	_, transport, _ := strings.Cut(u.Scheme, "+")
	q := u.Query()
	cfg := Config{DomainType: q.Get("domain"), SerialLogDir: q.Get("serial-log")}
	q.Del("domain")
	q.Del("serial-log")
	if cfg.DomainType != "" && cfg.DomainType != "kvm" && cfg.DomainType != "qemu" {
		return bad("domain=%s: say kvm or qemu", cfg.DomainType)
	}
	base := *u
	base.Scheme = "qemu"
	switch transport {
	case "":
	case "test":
		base.Scheme = "test"
	case "unix", "ssh", "tls", "tcp", "libssh", "libssh2", "ext":
		base.Scheme += "+" + transport
	default:
		return bad("unknown transport %q: use unix, ssh, tls or tcp", transport)
	}
	if p, ok := u.User.Password(); ok && p != "" {
		cfg.Credentials = &hypervisor.Credentials{Username: u.User.Username(), Password: p}
		base.User = url.User(u.User.Username())
	}
	if base.Path == "" || base.Path == "/" {
		return bad("the URL has no path: end it with /system or /session")
	}
	sockets := q["socket"]
	if transport == "unix" && len(sockets) > 0 {
		for _, s := range sockets {
			q.Set("socket", s)
			one := base
			one.RawQuery = q.Encode()
			cfg.Hosts = append(cfg.Hosts, one.String())
		}
		return cfg, nil
	}
	if transport == "ssh" && !q.Has("no_tty") {
		q.Set("no_tty", "1") // nobody is there to be asked for a password or whether a host's key is right
	}
	base.RawQuery = q.Encode()
	var ok bool
	if cfg.Hosts, ok = libvirtx.HostURIs(base); !ok {
		return bad("an empty host name between commas")
	}
	return cfg, nil
}
