//go:build cgo

package libxl

import (
	"context"
	"fmt"
	"slices"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// Clone implements hypervisor.Cloner.
func (d *driver) Clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, Name: r.Name}
	if err := libvirtx.CheckName("clone's name", r.Name, on); err != nil {
		return nil, err
	}
	switch {
	case r.Mode == hypervisor.Instant:
		return nil, refuse(src.Ref(), hypervisor.CloneInstant)
	case r.From != "":
		return nil, refuse(src.Ref(), hypervisor.CloneFromSnapshot)
	case r.Customize != nil:
		return nil, refuse(src.Ref(), hypervisor.CloneCustomize)
	case r.Placement.Pool != "" || r.Placement.Folder != "":
		return nil, hypervisor.Unsupported(on, hypervisor.CloneFull, hypervisor.ReasonPlatform, "libvirt has no resource pools and folders: leave Placement.Pool and Folder empty")
	}
	uuid := libvirtx.NewUUID()
	if r.Token != "" {
		uuid = libvirtx.TokenUUID(r.Token)
	}
	tid := d.TaskID("clone", hypervisor.VMID(uuid))
	if t, ok, err := d.Made(ctx, tid, r.Token, uuid); ok || err != nil {
		return t, err
	}
	h, err := d.Locate(ctx, src)
	if err != nil {
		return nil, err
	}
	if r.Placement.Host != "" && r.Placement.Host != h.ID() {
		if _, err := d.Host(r.Placement.Host); err != nil {
			return nil, err
		}
		return nil, hypervisor.Unsupported(src.Ref(), hypervisor.CloneFull, hypervisor.ReasonNotImplemented, "a clone is made on its source's host: leave Placement.Host out and migrate the clone")
	}
	f, err := h.Identify(ctx)
	if err != nil {
		return nil, err
	}
	k, err := fleet.OnHost(ctx, h, src, 6, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (*cloning, error) {
		return d.planClone(h, c, dom, src, uuid, r)
	})
	if err != nil {
		return nil, err
	}
	k.at.Facts = f
	mode := fleet.Reading
	if k.writes {
		mode = fleet.LongWork
	}
	release, err := d.Take(ctx, src, "clone (task "+string(tid)+")", mode)
	if err != nil {
		return nil, err
	}
	t, err := d.RunAs(ctx, tid, "clone", hypervisor.VMID(uuid), fleet.LongWork, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		defer release()
		return d.Make(ctx, k.at, k.x, k.mark, tid, r.Start, report, func(ctx context.Context, c *libvirt.Connect, _ *fleet.Making) ([]libvirtx.Volume, error) {
			return k.images(ctx, c, report)
		})
	})
	if err != nil {
		release()
	}
	return t, err
}

// cloning is one clone call, checked and planned.
type cloning struct {
	src    hypervisor.VMID
	r      hypervisor.CloneRequest
	at     fleet.Site
	x      *libvirtxml.Domain // the clone's definition; its disks name the images to copy
	mark   libvirtx.Mark
	writes bool // the source's own disks change: it gets overlays
}

// planClone refuses what can't be done and makes the clone's definition.
func (d *driver) planClone(h *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain, src hypervisor.VMID, uuid string, r hypervisor.CloneRequest) (*cloning, error) {
	x, mark, err := libvirtx.Inactive(dom)
	if err != nil {
		return nil, err
	}
	if mark.Role != "" {
		return nil, hypervisor.Errorf(hypervisor.KindNotFound, src.Ref(), "no such machine")
	}
	s, err := libvirtx.State(dom)
	if err != nil {
		return nil, err
	}
	k := &cloning{src: src, r: r, x: x, mark: mark}
	template := fleet.IsTemplate(x, mark)
	switch {
	case s == hypervisor.Suspended:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, src.Ref(), "the machine is suspended and its disks belong to the saved RAM: resume it or power it off first")
	case s != hypervisor.Off:
		return nil, refuse(src.Ref(), hypervisor.CloneRunning)
	}
	k.writes = r.Mode == hypervisor.Linked && !template
	if template {
		if err := fleet.MakeMachine(k.x, &k.mark); err != nil {
			return nil, err
		}
	}
	pools, err := libvirtx.Pools(c)
	if err != nil {
		return nil, err
	}
	k.at = fleet.Site{Host: h, Pools: pools}
	if r.Placement.Datastore != "" {
		pool, ok := fleet.ChoosePool(pools, r.Placement.Datastore)
		if !ok {
			return nil, hypervisor.Errorf(hypervisor.KindNotFound, r.Placement.Datastore.Ref(), "the host has no such datastore")
		}
		k.at.Pool = pool
	}
	return k, k.define(uuid)
}

// define makes the source's definition the clone's: new names and addresses,
// nothing that only one machine can have.
func (k *cloning) define(uuid string) error {
	x, r := k.x, k.r
	x.UUID, x.Name, x.ID, x.Title, x.Description = uuid, r.Name, nil, "", r.Description
	for i := range x.Devices.Interfaces {
		n := &x.Devices.Interfaces[i]
		n.MAC, n.Target, n.Alias = &libvirtxml.DomainInterfaceMAC{Address: platform.NewMAC()}, nil, nil
	}
	x.Devices.Hostdevs = nil // a host's device is in one machine
	if r.CPUs > 0 {
		if x.VCPU == nil {
			x.VCPU = &libvirtxml.DomainVCPU{Value: 1}
		}
		setCPUs(x, r.CPUs, 0)
	}
	if r.MemoryBytes > 0 {
		resize(x, r.MemoryBytes>>10)
	}
	k.mark = libvirtx.Mark{Token: r.Token, Created: time.Now().UTC().Format(time.RFC3339Nano), GuestOS: k.mark.GuestOS, MinKiB: k.mark.MinKiB, Labels: k.mark.Labels}
	if r.Labels != nil {
		k.mark.SetLabels(r.Labels)
	}
	return libvirtx.MarkDefinition(x, k.mark)
}

// images makes the clone's images and points its definition at them.
func (k *cloning) images(ctx context.Context, c *libvirt.Connect, report func(hypervisor.TaskState)) (made []libvirtx.Volume, err error) {
	disks := libvirtx.Writable(k.x)
	if k.writes {
		if err := k.freeze(c, report); err != nil {
			return nil, err
		}
	}
	for i, disk := range disks {
		if err := ctx.Err(); err != nil {
			return made, err
		}
		report(hypervisor.TaskState{Fraction: float64(i) / float64(len(disks)), Phase: "copying"})
		base := libvirtx.DiskPath(disk)
		var v libvirtx.Volume
		if k.r.Mode == hypervisor.Linked {
			v, err = overlay(c, k.at.Pools, k.x.UUID, disk.Target.Dev, base, k.at.Pool)
		} else {
			v, err = k.copy(c, disk, base)
		}
		if err != nil {
			return made, err
		}
		made = append(made, v)
		libvirtx.SetDiskPath(disk, v.Path, v.Format)
	}
	return made, nil
}

// copy makes an independent image of the same size and checks it.
func (k *cloning) copy(c *libvirt.Connect, disk *libvirtxml.DomainDisk, base string) (libvirtx.Volume, error) {
	from, err := libvirtx.FindImage(c, k.at.Pools, base)
	if err != nil {
		return libvirtx.Volume{}, err
	}
	pool := from.Pool
	if k.at.Pool.UUID != "" {
		pool = k.at.Pool.UUID
	}
	v, err := libvirtx.CreateVolume(c, k.at.Pools, libvirtx.VolumeSpec{Pool: pool, Name: libvirtx.ImageName(k.x.UUID, disk.Target.Dev, "qcow2"),
		Capacity: from.Capacity, Format: "qcow2", From: base})
	if err == nil && (v.Capacity != from.Capacity || v.Backing != "") {
		err = fmt.Errorf("the copy of %s has %d bytes on base %q, wanted %d on none", base, v.Capacity, v.Backing, from.Capacity)
		_ = libvirtx.DeleteVolume(c, v.Pool, v.Name) // what this call made
	}
	return v, err
}

// freeze gives the source, which is off, overlays, so that its present images
// stay as they are.
func (k *cloning) freeze(c *libvirt.Connect, report func(hypervisor.TaskState)) error {
	report(hypervisor.TaskState{Fraction: -1, Phase: "freezing"})
	dom, err := c.LookupDomainByUUIDString(string(k.src))
	if err != nil {
		return err
	}
	defer dom.Free()
	x, mark, err := libvirtx.Inactive(dom)
	if err != nil {
		return err
	}
	if err := fleet.Ready(dom, mark, k.src, "cloned"); err != nil {
		return err // started meanwhile
	}
	var made []libvirtx.Volume
	for _, disk := range libvirtx.Writable(x) {
		base := libvirtx.DiskPath(disk)
		if !libvirtx.OwnedBy(base, string(k.src)) && !slices.Contains(mark.Images, base) {
			mark.Images = append(mark.Images, base)
		}
		var v libvirtx.Volume
		if v, err = overlay(c, k.at.Pools, string(k.src), disk.Target.Dev, base, libvirtx.Pool{}); err != nil {
			break
		}
		made = append(made, v)
		libvirtx.SetDiskPath(disk, v.Path, v.Format)
	}
	if err == nil {
		err = libvirtx.MarkDefinition(x, mark)
	}
	if err == nil {
		err = libvirtx.Define(c, x)
	}
	if err != nil {
		for _, v := range made {
			_ = libvirtx.DeleteVolume(c, v.Pool, v.Name) // what this call made
		}
	}
	return err
}

// overlay makes an image that stands on another, in a pool or in that of its
// base.
func overlay(c *libvirt.Connect, pools []libvirtx.Pool, uuid, dev, base string, pool libvirtx.Pool) (libvirtx.Volume, error) {
	from, err := libvirtx.FindImage(c, pools, base)
	if err != nil {
		return libvirtx.Volume{}, err
	}
	if pool.UUID == "" {
		pool.UUID = from.Pool
	}
	return libvirtx.CreateVolume(c, pools, libvirtx.VolumeSpec{Pool: pool.UUID, Name: libvirtx.ImageName(uuid, dev, "qcow2"),
		Capacity: from.Capacity, Format: "qcow2", Backing: from.Path, BackingFormat: from.Format})
}
