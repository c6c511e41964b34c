//go:build cgo

package fleet

import (
	"context"
	"sync"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Locate returns the host that has a machine. Where two hosts have a
// definition of it, as after a migration that kept the source's, the one that
// runs it counts. While a host is down, a machine that the others don't have
// may be there.
func (f *Fleet) Locate(ctx context.Context, id hypervisor.VMID) (*Host, error) {
	if !libvirtx.IsUUID(string(id)) {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such machine: an ID is a UUID")
	}
	if len(f.Members) == 1 {
		return f.Members[0], nil
	}
	ranks := make([]int, len(f.Members))
	errs := make([]error, len(f.Members))
	var wg sync.WaitGroup
	for i, h := range f.Members {
		wg.Go(func() {
			ranks[i], errs[i] = libvirtx.Do(ctx, h.Conn, 2, func(c *libvirt.Connect) (int, error) {
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
	var best *Host
	most := 0
	for i, h := range f.Members {
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
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no host of this Client has such a machine")
}

// rank ranks the definitions of a machine by host: the one that runs counts,
// and the half at the end of a migration under way counts least.
func rank(s libvirt.DomainState, reason int) int {
	switch p := libvirtx.PowerState(s); {
	case p == hypervisor.StateRunning:
		return 4
	case p == hypervisor.StatePaused && reason != int(libvirt.DOMAIN_PAUSED_MIGRATION):
		return 3
	case p == hypervisor.StatePaused:
		return 1
	}
	return 2
}

// OnDomain runs fn with a machine's domain.
func OnDomain[T any](ctx context.Context, f *Fleet, id hypervisor.VMID, calls int, fn func(h *Host, c *libvirt.Connect, dom *libvirt.Domain) (T, error)) (T, error) {
	var zero T
	h, err := f.Locate(ctx, id)
	if err != nil {
		return zero, err
	}
	return OnHost(ctx, h, id, calls, fn)
}

// OnHost is like OnDomain, for a host that is known already.
func OnHost[T any](ctx context.Context, h *Host, id hypervisor.VMID, calls int, fn func(h *Host, c *libvirt.Connect, dom *libvirt.Domain) (T, error)) (T, error) {
	return libvirtx.Do(ctx, h.Conn, calls+1, func(c *libvirt.Connect) (T, error) {
		dom, err := c.LookupDomainByUUIDString(string(id))
		if err != nil {
			var zero T
			return zero, err
		}
		defer dom.Free()
		return fn(h, c, dom)
	})
}
