//go:build cgo

package kvm

import (
	"context"
	"sync"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// host returns a host by its ID.
func (d *driver) host(id hypervisor.HostID) (*host, error) {
	for _, h := range d.hosts {
		if h.ID() == id {
			return h, nil
		}
	}
	return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such host in this Client")
}

// locate returns the host that has a machine. Where two have a definition of
// it, as after a migration that kept the source's, the one it runs on counts.
// With a host down, a machine that the others don't have may be there.
func (d *driver) locate(ctx context.Context, id hypervisor.VMID) (*host, error) {
	if !libvirtx.IsUUID(string(id)) {
		return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such machine: an ID is a UUID")
	}
	if len(d.hosts) == 1 {
		return d.hosts[0], nil
	}
	ranks := make([]int, len(d.hosts))
	errs := make([]error, len(d.hosts))
	var wg sync.WaitGroup
	for i, h := range d.hosts {
		wg.Go(func() {
			ranks[i], errs[i] = libvirtx.Do(ctx, h.conn, 2, func(c *libvirt.Connect) (int, error) {
				dom, err := c.LookupDomainByUUIDString(string(id))
				if libvirtx.NotFound(err) {
					return 0, nil
				}
				if err != nil {
					return 0, err
				}
				defer dom.Free()
				s, reason, err := dom.GetState()
				return rank(s, reason), err
			})
		})
	}
	wg.Wait()
	var best *host
	most := 0
	for i, h := range d.hosts {
		if ranks[i] > most {
			best, most = h, ranks[i]
		}
	}
	if best != nil {
		return best, nil
	}
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no host of this Client has such a machine")
}

// rank says how much of a machine is on a host: of two definitions the one that
// runs counts, and the half at the end of a migration under way least of all.
func rank(s libvirt.DomainState, reason int) int {
	switch p := libvirtx.PowerState(s); {
	case p == hypervisor.Running:
		return 4
	case p == hypervisor.Paused && reason != int(libvirt.DOMAIN_PAUSED_MIGRATION):
		return 3
	case p == hypervisor.Paused:
		return 1
	}
	return 2
}

// onDomain runs f with a machine's domain.
func onDomain[T any](ctx context.Context, d *driver, id hypervisor.VMID, calls int, f func(h *host, c *libvirt.Connect, dom *libvirt.Domain) (T, error)) (T, error) {
	var zero T
	h, err := d.locate(ctx, id)
	if err != nil {
		return zero, err
	}
	return onHost(ctx, h, id, calls, f)
}

// onHost is onDomain for a host that is known already.
func onHost[T any](ctx context.Context, h *host, id hypervisor.VMID, calls int, f func(h *host, c *libvirt.Connect, dom *libvirt.Domain) (T, error)) (T, error) {
	return libvirtx.Do(ctx, h.conn, calls+1, func(c *libvirt.Connect) (T, error) {
		dom, err := c.LookupDomainByUUIDString(string(id))
		if err != nil {
			var zero T
			return zero, err
		}
		defer dom.Free()
		return f(h, c, dom)
	})
}

// locks keeps long work on one machine apart, in this process. libvirt itself
// keeps others apart, call by call.
type locks struct {
	mu   sync.Mutex
	held map[hypervisor.VMID]*holder
}

type holder struct {
	what   string
	long   bool
	shared int // readers, such as clones of one source
	freed  chan struct{}
}

// take locks a machine. If long work holds it the answer is KindBusy at once;
// short work is waited for.
func (l *locks) take(ctx context.Context, id hypervisor.VMID, what string, long, shared bool) (release func(), err error) {
	for {
		l.mu.Lock()
		if l.held == nil {
			l.held = map[hypervisor.VMID]*holder{}
		}
		k := l.held[id]
		if k == nil {
			k = &holder{what: what, long: long, freed: make(chan struct{})}
			l.held[id] = k
		} else if !shared || k.shared == 0 {
			l.mu.Unlock()
			if k.long {
				return nil, hypervisor.Errorf(hypervisor.KindBusy, id.Ref(), "%s is under way: wait for it, or cancel its task", k.what)
			}
			select {
			case <-k.freed:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if shared {
			k.shared++
		}
		l.mu.Unlock()
		return sync.OnceFunc(func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if k.shared--; k.shared > 0 {
				return
			}
			delete(l.held, id)
			close(k.freed)
		}), nil
	}
}
