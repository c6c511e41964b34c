//go:build cgo

package libxl

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// driver is one Client's view of its hosts.
type driver struct {
	cfg    Config
	hosts  []*host
	tasks  hypervisor.TaskGroup
	locks  locks
	closed atomic.Bool
	done   chan struct{} // closed by Close
}

// New makes a Client of connections that the caller goes on owning: they are
// not closed, and not dialled again when they break.
func New(conns ...*libvirt.Connect) (*hypervisor.Client, error) {
	d := &driver{done: make(chan struct{})}
	for _, c := range conns {
		h, err := libvirtx.WrapConn(c)
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
		d.hosts = append(d.hosts, &host{d: d, conn: h})
	}
	if err := d.connect(context.Background()); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return hypervisor.New(context.Background(), d, nil)
}

func open(ctx context.Context, cfg Config) (hypervisor.Driver, error) {
	d := &driver{cfg: cfg, done: make(chan struct{})}
	for _, uri := range cfg.Hosts {
		c, err := libvirtx.NewConn(uri, cfg.Credentials)
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
		d.hosts = append(d.hosts, &host{d: d, conn: c, uri: uri, peer: peerOf(cfg, uri)})
	}
	if err := d.connect(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// peerOf returns how other hosts reach this one: as configured, or by the name
// that this program reaches it by. Without a configured URI this program
// drives migrations, so that hosts need no credentials for each other.
func peerOf(cfg Config, uri string) Peer {
	if p, ok := cfg.Peers[uri]; ok {
		return p
	}
	u, err := url.Parse(uri)
	if err != nil || u.Hostname() == "" {
		return Peer{}
	}
	return Peer{Migrate: "tcp://" + u.Hostname()}
}

// connect learns who the hosts are. It fails if none answers, or if two URIs
// lead to one host.
func (d *driver) connect(ctx context.Context) error {
	if len(d.hosts) == 0 {
		return hypervisor.Errorf(hypervisor.KindInvalidArgument, hypervisor.Ref{Kind: hypervisor.KindOfClient}, "no hosts: give at least one libvirt URI")
	}
	errs := make([]error, len(d.hosts))
	var wg sync.WaitGroup
	for i, h := range d.hosts {
		wg.Go(func() { _, errs[i] = h.identify(ctx) })
	}
	wg.Wait()
	if !slices.Contains(errs, nil) {
		return errs[0]
	}
	seen := map[hypervisor.HostID]*host{}
	for _, h := range d.hosts {
		id := h.ID()
		if other := seen[id]; other != nil {
			return hypervisor.Errorf(hypervisor.KindInvalidArgument, id.Ref(), "%s and %s are one host, or two with the same UUID: set host_uuid in libvirtd.conf", other.conn.URI(), h.conn.URI())
		}
		seen[id] = h
	}
	return nil
}

// Describe implements hypervisor.Driver.
func (d *driver) Describe() hypervisor.Description {
	var uris []string
	version := ""
	for _, h := range d.hosts {
		uris = append(uris, h.conn.URI())
		if f := h.known(); f != nil && version == "" {
			version = f.Version
		}
	}
	return hypervisor.Description{Driver: "libxl", Product: "Xen through libvirt", Version: version, Endpoint: strings.Join(uris, ", ")}
}

// Close implements hypervisor.Driver.
func (d *driver) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	close(d.done)
	d.tasks.Close()
	var errs []error
	for _, h := range d.hosts {
		errs = append(errs, h.conn.Close())
	}
	return errors.Join(errs...)
}

// As implements hypervisor.Driver.
func (d *driver) As(on hypervisor.Ref, target any) bool {
	ctx := context.Background()
	switch t := target.(type) {
	case **libvirt.Connect:
		h := d.hosts[0]
		if on.Kind == hypervisor.KindOfHost {
			var err error
			if h, err = d.host(hypervisor.HostID(on.ID)); err != nil {
				return false
			}
		} else if len(d.hosts) != 1 {
			return false
		}
		if _, err := h.identify(ctx); err != nil {
			return false
		}
		*t = h.conn.Native()
		return *t != nil
	case **libvirt.Domain:
		h, err := d.locate(ctx, hypervisor.VMID(on.ID))
		if err != nil {
			return false
		}
		dom, err := libvirtx.Do(ctx, h.conn, 1, func(c *libvirt.Connect) (*libvirt.Domain, error) { return c.LookupDomainByUUIDString(on.ID) })
		if err != nil {
			return false
		}
		*t = dom
		return true
	}
	return false
}
