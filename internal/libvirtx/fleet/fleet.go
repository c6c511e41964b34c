//go:build cgo

package fleet

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
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

// wrapLimit is the time that the hosts behind the given connections may take
// to identify themselves.
const wrapLimit = time.Minute

// Wrap makes a Fleet from connections that the caller still owns: they are
// not closed, and not dialled again when they break.
func Wrap(ctx context.Context, p Platform, conns []*libvirt.Connect, o *hypervisor.Options) (*Fleet, error) {
	if o != nil && o.Credentials != nil {
		return nil, endpoint.Invalid("credentials for connections that are open already: leave them out, or call Open")
	}
	f := &Fleet{platform: p, done: make(chan struct{})}
	for _, c := range conns {
		h, err := libvirtx.WrapConn(c)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.Members = append(f.Members, &Host{fleet: f, Conn: h})
	}
	ctx, stop := context.WithTimeout(ctx, wrapLimit)
	defer stop()
	return f.connect(ctx)
}

// Open makes a Fleet from libvirt URIs. The user and password, if there is a
// user, are for hosts that ask for them.
func Open(ctx context.Context, p Platform, username string, password hypervisor.Secret, uris []string) (*Fleet, error) {
	var creds *hypervisor.Credentials
	if username != "" {
		creds = &hypervisor.Credentials{Username: username, Password: password}
	}
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

// connect identifies the hosts. It fails if none answers, or if two URIs lead
// to one host; then the Fleet is closed.
func (f *Fleet) connect(ctx context.Context) (*Fleet, error) {
	if err := f.identify(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *Fleet) identify(ctx context.Context) error {
	if len(f.Members) == 0 {
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, hypervisor.Ref{Kind: hypervisor.ObjectClient}, "no hosts: give at least one libvirt URI")
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
			return hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "%s and %s are one host, or two with the same UUID: set host_uuid in libvirtd.conf", other.Conn.URI(), h.Conn.URI())
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
	errs := make([]error, len(f.Members)+1)
	errs[0] = f.Tasks.Close()
	var wg sync.WaitGroup
	for i, h := range f.Members {
		wg.Go(func() { errs[i+1] = h.Conn.Close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ErrorKind implements hypervisor.Driver.
func (f *Fleet) ErrorKind(err error) hypervisor.Kind { return libvirtx.Kind(err) }
