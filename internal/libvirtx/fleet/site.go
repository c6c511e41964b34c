//go:build cgo

package fleet

import (
	"context"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Site is the place for a new machine.
type Site struct {
	Host  *Host
	Facts *libvirtx.Facts
	Pools []libvirtx.Pool
	Pool  libvirtx.Pool // for its images
}

// site chooses the host and pool for a new machine. These are the requested
// ones, or else the host with most free memory among those that have the
// pool, and the pool "default" or the one with most room.
func (f *Fleet) site(ctx context.Context, on hypervisor.Ref, p hypervisor.Placement) (Site, error) {
	if p.Pool != "" || p.Folder != "" {
		return Site{}, hypervisor.Unsupported(on, capability.VMCreate, hypervisor.ReasonPlatform, "libvirt has no resource pools and folders: leave Placement.Pool and Folder empty")
	}
	hosts := f.Members
	if p.Host != "" {
		h, err := f.Host(p.Host)
		if err != nil {
			return Site{}, err
		}
		hosts = []*Host{h}
	} else if len(hosts) > 1 {
		var err error
		if hosts, err = f.Up(ctx); err != nil {
			return Site{}, err
		}
	}
	var best Site
	var most uint64
	var last error = hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.DatastoreID(p.Datastore).Ref(), "no such datastore on %d hosts", len(hosts))
	for _, h := range hosts {
		facts, err := h.Identify(ctx)
		if err != nil {
			last = err
			continue
		}
		type room struct {
			pools []libvirtx.Pool
			free  uint64
		}
		r, err := libvirtx.Do(ctx, h.Conn, 3, func(c *libvirt.Connect) (room, error) {
			pools, err := libvirtx.Pools(c)
			if err != nil {
				return room{}, err
			}
			free, err := libvirtx.FreeMemory(c)
			return room{pools, free}, err
		})
		if err != nil {
			last = err
			continue
		}
		pool, ok := ChoosePool(r.pools, p.Datastore)
		if ok && (best.Host == nil || r.free > most) {
			best, most = Site{h, facts, r.pools, pool}, r.free
		}
	}
	if best.Host == nil {
		return Site{}, last
	}
	return best, nil
}

// ChoosePool returns the requested pool, or the best. A host without pools
// can still have machines without disks.
func ChoosePool(pools []libvirtx.Pool, want hypervisor.DatastoreID) (libvirtx.Pool, bool) {
	var best libvirtx.Pool
	for _, p := range pools {
		switch {
		case want != "" && p.UUID == string(want):
			return p, true
		case want != "" || !p.Active || !p.Files():
		case p.Name == "default":
			return p, true
		case best.UUID == "" || p.Free > best.Free:
			best = p
		}
	}
	return best, want == ""
}
