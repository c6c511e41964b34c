//go:build cgo

package libxl

import (
	"context"
	"slices"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// planStorage checks whether the disks of a machine can move to another
// datastore of its host, which copies them while the machine is off.
func (m *move) planStorage(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest, x *libvirtxml.Domain) error {
	pool, ok := fleet.ChoosePool(m.pools, r.Storage)
	if !ok {
		return hypervisor.Errorf(hypervisor.ErrNotFound, r.Storage.Ref(), "host %s has no such datastore", m.from.ID())
	}
	m.to, m.pool, m.keep = m.from, pool, r.KeepSource
	m.report.Method = "cold: the host copies the disks"
	switch {
	case m.state == hypervisor.StateSuspended:
		m.block(hypervisor.ReasonVMState, id.Ref(), "the machine is suspended and its disks belong to the saved RAM: resume it or power it off first")
	case r.Mode == hypervisor.MigrateModeLive:
		m.block(hypervisor.ReasonVMState, id.Ref(), "the machine is %s: it does not run", m.state)
	}
	if onStorage(m.pools, x, r.Storage) {
		m.block(hypervisor.ReasonSameHost, r.Storage.Ref(), "the disks are on this datastore already")
		return nil
	}
	if !pool.Files() || !pool.Active {
		m.block(hypervisor.ReasonDiskFormat, r.Storage.Ref(), "datastore %s is of type %s or not active: images are made in active pools of files", pool.Name, pool.Type)
	}
	_, err := libvirtx.Do(ctx, m.from.Conn, 3*len(x.Devices.Disks), func(c *libvirt.Connect) (struct{}, error) {
		var need int64
		for _, k := range libvirtx.Writable(x) {
			v, err := libvirtx.FindImage(c, m.pools, libvirtx.DiskPath(k))
			if libvirtx.NotFound(err) {
				m.block(hypervisor.ReasonDiskUnreachable, hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: libvirtx.DiskPath(k)}, "image %s is in no storage pool of its host: define a pool for its folder", libvirtx.DiskPath(k))
				continue
			}
			if err != nil {
				return struct{}{}, err
			}
			need += v.Allocation
		}
		if need > pool.Free {
			m.block(hypervisor.ReasonNoSpace, r.Storage.Ref(), "datastore %s has %d MiB free, the disks take %d MiB", pool.Name, pool.Free>>20, need>>20)
		}
		return struct{}{}, nil
	})
	return err
}

// copyDisks makes the host copy the disks of a machine that is off. The old
// images are removed when its definition names the copies.
func (m *move) copyDisks(ctx context.Context, d *driver, id hypervisor.VMID, j *job.Job) error {
	sure := context.WithoutCancel(ctx)
	all, err := m.from.CopyDisks(ctx, j, id, m.pools, m.pool)
	var made []libvirtx.Volume
	old := fleet.Paths{}
	for _, k := range all {
		made, old[k.From.Path] = append(made, k.To), true
		j.Migration.BytesCopied += k.To.Allocation
	}
	if err != nil {
		j.Left(m.from.Tidy(sure, made)...)
		return err
	}
	j.Migration.Kept, err = m.dropSource(sure, d, id, old)
	return err
}

// dropSource removes images that the machine no longer uses. An image that
// something else uses or depends on stays, and with KeepSource all stay.
func (m *move) dropSource(ctx context.Context, d *driver, id hypervisor.VMID, old fleet.Paths) (kept []hypervisor.Ref, err error) {
	b, err := d.Books(ctx, m.from)
	if err != nil {
		return nil, err
	}
	drop := fleet.Paths{}
	for p := range old {
		for _, in := range b.Images.Chain(p) {
			if (in == p || libvirtx.OwnedBy(in, string(id))) && len(b.Users(in)) == 0 {
				drop[in] = true
			}
		}
	}
	keep := func(p string) {
		delete(drop, p)
		kept = append(kept, b.Images.ByPath[p].Ref())
	}
	for again := true; again; {
		again = false
		for p := range drop {
			if m.keep || slices.ContainsFunc(b.Images.Above[p], func(above string) bool { return !drop[above] }) {
				keep(p)
				again = true
			}
		}
	}
	left, err := b.Discard(ctx, drop)
	return append(kept, left...), err
}
