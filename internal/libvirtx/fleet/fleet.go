//go:build cgo

package fleet

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Fleet is one Client's view of its hosts.
type Fleet struct {
	Members []*Host
	Tasks   hypervisor.TaskGroup

	platform Platform
	locks    locks
	closed   atomic.Bool
	done     chan struct{} // closed by Close
}

// Wrap makes a Fleet of connections that the caller goes on owning: they are
// not closed, and not dialled again when they break.
func Wrap(p Platform, conns ...*libvirt.Connect) (*Fleet, error) {
	f := &Fleet{platform: p, done: make(chan struct{})}
	for _, c := range conns {
		h, err := libvirtx.WrapConn(c)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.Members = append(f.Members, &Host{fleet: f, Conn: h})
	}
	return f.connect(context.Background())
}

// Open makes a Fleet of libvirt URIs.
func Open(ctx context.Context, p Platform, creds *hypervisor.Credentials, uris []string) (*Fleet, error) {
	f := &Fleet{platform: p, done: make(chan struct{})}
	for _, uri := range uris {
		c, err := libvirtx.NewConn(uri, creds)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.Members = append(f.Members, &Host{fleet: f, Conn: c, URI: uri})
	}
	return f.connect(ctx)
}

// connect learns who the hosts are. It fails if none answers, or if two URIs
// lead to one host; then the Fleet is closed.
func (f *Fleet) connect(ctx context.Context) (*Fleet, error) {
	if err := f.identify(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *Fleet) identify(ctx context.Context) error {
	if len(f.Members) == 0 {
		return hypervisor.Errorf(hypervisor.KindInvalidArgument, hypervisor.Ref{Kind: hypervisor.KindOfClient}, "no hosts: give at least one libvirt URI")
	}
	errs := make([]error, len(f.Members))
	var wg sync.WaitGroup
	for i, h := range f.Members {
		wg.Go(func() { _, errs[i] = h.Identify(ctx) })
	}
	wg.Wait()
	if !slices.Contains(errs, nil) {
		return errs[0]
	}
	seen := map[hypervisor.HostID]*Host{}
	for _, h := range f.Members {
		id := h.ID()
		if other := seen[id]; other != nil {
			return hypervisor.Errorf(hypervisor.KindInvalidArgument, id.Ref(), "%s and %s are one host, or two with the same UUID: set host_uuid in libvirtd.conf", other.Conn.URI(), h.Conn.URI())
		}
		seen[id] = h
	}
	return nil
}

// Describe implements hypervisor.Driver.
func (f *Fleet) Describe() hypervisor.Description {
	var uris []string
	version := ""
	for _, h := range f.Members {
		uris = append(uris, h.Conn.URI())
		if facts := h.Known(); facts != nil && version == "" {
			version = facts.Version
		}
	}
	return hypervisor.Description{Driver: f.platform.Name, Product: f.platform.Product, Version: version, Endpoint: strings.Join(uris, ", ")}
}

// Close implements hypervisor.Driver.
func (f *Fleet) Close() error {
	if f.closed.Swap(true) {
		return nil
	}
	close(f.done)
	f.Tasks.Close()
	var errs []error
	for _, h := range f.Members {
		errs = append(errs, h.Conn.Close())
	}
	return errors.Join(errs...)
}

// ErrorKind implements hypervisor.Driver.
func (f *Fleet) ErrorKind(err error) hypervisor.Kind { return libvirtx.Kind(err) }

// As implements hypervisor.Driver.
func (f *Fleet) As(on hypervisor.Ref, target any) bool {
	ctx := context.Background()
	switch t := target.(type) {
	case **libvirt.Connect:
		h := f.Members[0]
		if on.Kind == hypervisor.KindOfHost {
			var err error
			if h, err = f.Host(hypervisor.HostID(on.ID)); err != nil {
				return false
			}
		} else if len(f.Members) != 1 {
			return false
		}
		if _, err := h.Identify(ctx); err != nil {
			return false
		}
		*t = h.Conn.Native()
		return *t != nil
	case **libvirt.Domain:
		h, err := f.Locate(ctx, hypervisor.VMID(on.ID))
		if err != nil {
			return false
		}
		dom, err := libvirtx.Do(ctx, h.Conn, 1, func(c *libvirt.Connect) (*libvirt.Domain, error) { return c.LookupDomainByUUIDString(on.ID) })
		if err != nil {
			return false
		}
		*t = dom
		return true
	}
	return false
}
