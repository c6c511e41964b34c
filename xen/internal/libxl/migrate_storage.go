//go:build cgo

package libxl

import (
	"context"
	"slices"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// planStorage looks whether the disks of a machine can go to another datastore
// of its host, which copies them while the machine is off.
func (m *move) planStorage(ctx context.Context, id hypervisor.VMID, r hypervisor.MigrateRequest, x *libvirtxml.Domain) error {
	pool, ok := fleet.ChoosePool(m.pools, r.Storage)
	if !ok {
		return hypervisor.Errorf(hypervisor.KindNotFound, r.Storage.Ref(), "host %s has no such datastore", m.from.ID())
	}
	m.to, m.pool, m.keep = m.from, pool, r.KeepSource
	m.report.Method = "cold: the host copies the disks"
	switch {
	case m.state == hypervisor.Suspended:
		m.block(hypervisor.ReasonVMState, id.Ref(), "the machine is suspended and its disks belong to the saved RAM: resume it or power it off first")
	case r.Mode == hypervisor.Live:
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
				m.block(hypervisor.ReasonDiskUnreachable, hypervisor.Ref{Kind: hypervisor.KindOfVolume, ID: libvirtx.DiskPath(k)}, "image %s is in no storage pool of its host: define a pool for its folder", libvirtx.DiskPath(k))
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

// copyDisks has the host copy the disks of a machine that is off. The
// definition changes when all are there, the old images go after that.
func (m *move) copyDisks(ctx context.Context, d *driver, id hypervisor.VMID, report func(hypervisor.TaskState)) hypervisor.TaskState {
	sure := context.WithoutCancel(ctx)
	var made []libvirtx.Volume
	old := fleet.Paths{}
	next, err := fleet.OnHost(sure, m.from, id, 8, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (*libvirtxml.Domain, error) {
		x, mark, err := libvirtx.Inactive(dom)
		if err != nil {
			return nil, err
		}
		if err := fleet.Ready(dom, mark, id, "moved"); err != nil {
			return nil, err // started meanwhile
		}
		disks := libvirtx.Writable(x)
		for i, k := range disks {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			report(hypervisor.TaskState{Fraction: float64(i) / float64(len(disks)), Phase: "copying " + k.Target.Dev})
			from, err := libvirtx.FindImage(c, m.pools, libvirtx.DiskPath(k))
			if err != nil {
				return nil, err
			}
			to, err := libvirtx.CreateVolume(c, m.pools, libvirtx.VolumeSpec{Pool: m.pool.UUID, Name: libvirtx.ImageName(string(id), k.Target.Dev, from.Format),
				Capacity: from.Capacity, Format: from.Format, From: from.Path})
			if to.Name != "" {
				made = append(made, to)
			}
			if err != nil {
				return nil, err
			}
			old[from.Path] = true
			libvirtx.SetDiskPath(k, to.Path, to.Format)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		mark.Images = nil // bases that stay behind
		return x, libvirtx.MarkDefinition(x, mark)
	})
	if err == nil {
		err = m.from.Define(sure, next)
	}
	if err != nil {
		return hypervisor.TaskState{Err: err, Leftover: m.from.Tidy(sure, made)}
	}
	r := &hypervisor.MigrateResult{Downtime: -1}
	for _, v := range made {
		r.BytesCopied += v.Allocation
	}
	r.Kept, err = m.dropSource(sure, d, id, old)
	return hypervisor.TaskState{Migration: r, Err: err}
}

// dropSource removes images that the machine no longer uses. One that
// something else stands on or uses stays, and so do all with KeepSource.
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
