//go:build cgo

package fleet

import (
	"context"
	"slices"
	"strings"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// As implements hypervisor.Driver. The documentation of the drivers' packages
// lists the types. The caller frees the returned objects, except connections.
func (f *Fleet) As(ctx context.Context, on hypervisor.Ref, target any) (err error) {
	switch t := target.(type) {
	case **libvirt.Connect:
		*t, err = f.connection(ctx, on)
	case **libvirt.Domain:
		*t, err = f.domain(ctx, on)
	case **libvirt.DomainSnapshot:
		*t, err = f.snapshot(ctx, on)
	case **libvirt.StoragePool:
		*t, err = f.storagePool(ctx, on)
	case **libvirt.StorageVol:
		*t, err = f.volume(ctx, on)
	case **libvirt.Network:
		*t, err = f.network(ctx, on)
	default:
		err = hypervisor.NoNative(on, target)
	}
	return err
}

// native is an object of libvirt that its holder frees.
type native interface{ Free() error }

// hand looks an object up on a host, and frees it again if the caller is gone
// by then.
func hand[T native](ctx context.Context, h *Host, look func(*libvirt.Connect) (T, error)) (T, error) {
	return libvirtx.Do(ctx, h.Conn, 1, func(c *libvirt.Connect) (T, error) {
		v, err := look(c)
		if err == nil && ctx.Err() != nil {
			var none T
			_ = v.Free() // a local reference
			return none, ctx.Err()
		}
		return v, err
	})
}

func (f *Fleet) connection(ctx context.Context, on hypervisor.Ref) (*libvirt.Connect, error) {
	h := f.Members[0]
	switch {
	case on.Kind == hypervisor.ObjectHost:
		var err error
		if h, err = f.Host(hypervisor.HostID(on.ID)); err != nil {
			return nil, err
		}
	case on != (hypervisor.Ref{}):
		return nil, hypervisor.NoNative(on, new(*libvirt.Connect))
	case len(f.Members) > 1:
		return nil, hypervisor.Errorf(hypervisor.ErrUnsupported, on, "this Client has %d connections: ask for the one of a Host", len(f.Members))
	}
	if _, err := h.Identify(ctx); err != nil {
		return nil, err
	}
	return h.Conn.Native(), nil
}

func (f *Fleet) domain(ctx context.Context, on hypervisor.Ref) (*libvirt.Domain, error) {
	if on.Kind != hypervisor.ObjectVM && on.Kind != hypervisor.ObjectTemplate {
		return nil, hypervisor.NoNative(on, new(*libvirt.Domain))
	}
	h, err := f.Locate(ctx, hypervisor.VMID(on.ID))
	if err != nil {
		return nil, err
	}
	return hand(ctx, h, func(c *libvirt.Connect) (*libvirt.Domain, error) { return c.LookupDomainByUUIDString(on.ID) })
}

// snapshot searches the machines that have snapshots: libvirt's names, which
// are the IDs, need be unique within one machine only.
func (f *Fleet) snapshot(ctx context.Context, on hypervisor.Ref) (*libvirt.DomainSnapshot, error) {
	if on.Kind != hypervisor.ObjectSnapshot || f.platform.ReadSnapshots == nil {
		return nil, hypervisor.NoNative(on, new(*libvirt.DomainSnapshot))
	}
	var owners []hypervisor.VMID
	for _, h := range f.Members {
		here, err := libvirtx.Do(ctx, h.Conn, 1, func(c *libvirt.Connect) ([]hypervisor.VMID, error) { return ownersOf(c, on.ID) })
		if err != nil {
			return nil, err
		}
		for _, id := range here { // a move may have left the machine's definition at its source
			if !slices.Contains(owners, id) {
				owners = append(owners, id)
			}
		}
	}
	switch len(owners) {
	case 0:
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, on, "no machine has such a snapshot")
	case 1:
		h, err := f.Locate(ctx, owners[0])
		if err != nil {
			return nil, err
		}
		return hand(ctx, h, func(c *libvirt.Connect) (*libvirt.DomainSnapshot, error) {
			dom, err := c.LookupDomainByUUIDString(string(owners[0]))
			if err != nil {
				return nil, err
			}
			defer dom.Free()
			return dom.SnapshotLookupByName(on.ID, 0)
		})
	}
	return nil, hypervisor.Errorf(hypervisor.ErrAmbiguous, on,
		"machines %v have a snapshot of this name: take the *libvirt.Domain of yours and call SnapshotLookupByName", owners)
}

// ownersOf lists the machines with a snapshot of that name.
func ownersOf(c *libvirt.Connect, name string) (owners []hypervisor.VMID, failed error) {
	doms, err := c.ListAllDomains(libvirt.CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)
	if err != nil {
		return nil, err
	}
	for i := range doms {
		s, err := doms[i].SnapshotLookupByName(name, 0)
		if err == nil {
			_ = s.Free() // a local reference
			var uuid string
			uuid, err = doms[i].GetUUIDString()
			owners = append(owners, hypervisor.VMID(uuid))
		}
		if err != nil && !libvirtx.NotFound(err) {
			failed = err
		}
		_ = doms[i].Free() // a local reference
	}
	return owners, failed
}

// storagePool returns a shared pool as the first host has it.
func (f *Fleet) storagePool(ctx context.Context, on hypervisor.Ref) (*libvirt.StoragePool, error) {
	if on.Kind != hypervisor.ObjectDatastore {
		return nil, hypervisor.NoNative(on, new(*libvirt.StoragePool))
	}
	return first(ctx, f, on, func(c *libvirt.Connect) (*libvirt.StoragePool, error) { return c.LookupStoragePoolByUUIDString(on.ID) })
}

func (f *Fleet) volume(ctx context.Context, on hypervisor.Ref) (*libvirt.StorageVol, error) {
	if on.Kind != hypervisor.ObjectVolume {
		return nil, hypervisor.NoNative(on, new(*libvirt.StorageVol))
	}
	uuid, name, ok := libvirtx.SplitVolumeID(hypervisor.VolumeID(on.ID))
	if !ok {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, on, "no such image")
	}
	return first(ctx, f, on, func(c *libvirt.Connect) (*libvirt.StorageVol, error) {
		p, err := c.LookupStoragePoolByUUIDString(uuid)
		if err != nil {
			return nil, err
		}
		defer p.Free()
		return p.LookupStorageVolByName(name)
	})
}

// network returns libvirt's own networks, as the first host has them. Bridges
// and the like are not objects of libvirt.
func (f *Fleet) network(ctx context.Context, on hypervisor.Ref) (*libvirt.Network, error) {
	name, ok := strings.CutPrefix(on.ID, LibvirtNetwork)
	if on.Kind != hypervisor.ObjectNetwork || !ok {
		return nil, hypervisor.NoNative(on, new(*libvirt.Network))
	}
	return first(ctx, f, on, func(c *libvirt.Connect) (*libvirt.Network, error) { return c.LookupNetworkByName(name) })
}

// first returns the object of the first host that has it. If none has it, a
// host that is down might.
func first[T native](ctx context.Context, f *Fleet, on hypervisor.Ref, look func(*libvirt.Connect) (T, error)) (T, error) {
	var none T
	failed := error(hypervisor.Errorf(hypervisor.ErrNotFound, on, "no host of this Client has such a %s", on.Kind))
	for _, h := range f.Members {
		v, err := hand(ctx, h, look)
		switch {
		case err == nil:
			return v, nil
		case ctx.Err() != nil:
			return none, ctx.Err()
		case !libvirtx.NotFound(err):
			failed = err
		}
	}
	return none, failed
}
