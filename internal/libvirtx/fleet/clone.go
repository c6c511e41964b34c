//go:build cgo

package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Cloning is one clone call.
type Cloning struct {
	Source  hypervisor.VMID
	State   hypervisor.PowerState // of the source
	Request hypervisor.CloneRequest
	UUID    string             // of the clone
	Domain  *libvirtxml.Domain // the clone's definition; its disks name the images to copy
	Mark    libvirtx.Mark
	Site    Site
	Notes   []string // what the source has and the clone lacks
	// Freeze is set where the source's own disks change. It gives the source
	// overlays, so that its present images stay unchanged. thaw merges them
	// back after a full clone.
	Freeze func(ctx context.Context, c *libvirt.Connect, m *Making) (thaw func() error, err error)
}

// CloneAs clones a machine. plan is called with a Cloning that has the
// source's definition, mark and state. It refuses what can't be done, removes
// from the definition what only one machine can have, and sets Freeze.
func (f *Fleet) CloneAs(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest, plan func(k *Cloning, dom *libvirt.Domain) error) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: r.Name}
	if err := libvirtx.CheckName("clone's name", r.Name, on); err != nil {
		return nil, err
	}
	if r.Placement.Pool != "" || r.Placement.Folder != "" {
		return nil, hypervisor.Unsupported(on, capability.CloneFull, hypervisor.ReasonPlatform, "libvirt has no resource pools and folders: leave Placement.Pool and Folder empty")
	}
	uuid := libvirtx.NewUUID()
	if r.Token != "" {
		uuid = libvirtx.TokenUUID(r.Token)
	}
	tid := f.TaskID("clone", hypervisor.VMID(uuid))
	if t, ok, err := f.Made(ctx, tid, r.Token, uuid); ok || err != nil {
		return t, err
	}
	h, err := f.Locate(ctx, src)
	if err != nil {
		return nil, err
	}
	if r.Placement.Host != "" && r.Placement.Host != h.ID() {
		if _, err := f.Host(r.Placement.Host); err != nil {
			return nil, err
		}
		return nil, hypervisor.Unsupported(src.Ref(), capability.CloneFull, hypervisor.ReasonNotImplemented, "a clone is made on its source's host: leave Placement.Host out and migrate the clone")
	}
	facts, err := h.Identify(ctx)
	if err != nil {
		return nil, err
	}
	read := func(ctx context.Context) (*Cloning, error) {
		return OnHost(ctx, h, src, 6, func(_ *Host, c *libvirt.Connect, dom *libvirt.Domain) (*Cloning, error) {
			k := &Cloning{Source: src, Request: r, UUID: uuid, Site: Site{Host: h, Facts: facts}}
			return k, f.planClone(k, c, dom, plan)
		})
	}
	k, err := read(ctx)
	if err != nil {
		return nil, err
	}
	mode := Reading
	if k.Freeze != nil {
		mode = LongWork
	}
	release, err := f.Take(ctx, src, "clone (task "+string(tid)+")", mode)
	if err != nil {
		return nil, err
	}
	t, err := f.RunAs(ctx, tid, "clone", hypervisor.VMID(uuid), LongWork, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		defer release()
		return f.Make(ctx, j, k.Site, k.Domain, k.Mark, r.Start, func(ctx context.Context, c *libvirt.Connect, m *Making) error {
			_, err := f.UnderLease(ctx, j, src, mode, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
				// Another process may have changed the disks before this one got
				// the lease.
				now, err := read(ctx)
				if err == nil && now.Freeze != nil && mode == Reading {
					err = hypervisor.Errorf(hypervisor.ErrBusy, src.Ref(), "the machine was started while its clone began: repeat the call")
				}
				if err != nil {
					return hypervisor.Ref{}, err
				}
				*k.Domain = *now.Domain // Make defines it
				now.Domain = k.Domain
				for _, n := range now.Notes {
					j.Note(n)
				}
				return hypervisor.Ref{}, now.images(ctx, c, m, j)
			})
			return err
		})
	})
	if err != nil {
		release()
	}
	return t, err
}

// planClone refuses what can't be done and makes the clone's definition.
func (f *Fleet) planClone(k *Cloning, c *libvirt.Connect, dom *libvirt.Domain, plan func(*Cloning, *libvirt.Domain) error) error {
	var err error
	if k.Domain, k.Mark, err = libvirtx.Inactive(dom); err != nil {
		return err
	}
	if k.Mark.Role != "" {
		return hypervisor.Errorf(hypervisor.ErrNotFound, k.Source.Ref(), "no such machine")
	}
	if k.State, err = libvirtx.State(dom); err != nil {
		return err
	}
	if k.State == hypervisor.StateSuspended && k.Request.From == "" {
		return hypervisor.Errorf(hypervisor.ErrInvalidState, k.Source.Ref(), "the machine is suspended and its disks belong to the saved RAM: resume it or power it off first")
	}
	template := IsTemplate(k.Domain, k.Mark)
	if err := plan(k, dom); err != nil {
		return err
	}
	verb := capability.CloneFull
	if k.Request.Mode == hypervisor.CloneModeLinked {
		verb = capability.CloneLinked
	}
	if err := libvirtx.Whole(k.Domain, k.Source.Ref(), verb); err != nil {
		return err
	}
	if template {
		if err := MakeMachine(k.Domain, &k.Mark); err != nil {
			return err
		}
	}
	if k.Site.Pools, err = libvirtx.Pools(c); err != nil {
		return err
	}
	if ds := k.Request.Placement.Datastore; ds != "" {
		pool, ok := ChoosePool(k.Site.Pools, ds)
		if !ok {
			return hypervisor.Errorf(hypervisor.ErrNotFound, ds.Ref(), "the host has no such datastore")
		}
		k.Site.Pool = pool
	}
	return f.define(k)
}

// define turns the source's definition into the clone's: new names and
// addresses, and the requested size.
func (f *Fleet) define(k *Cloning) error {
	x, r := k.Domain, k.Request
	x.UUID, x.Name, x.ID, x.Title, x.Description = k.UUID, r.Name, nil, "", r.Description
	for i := range x.Devices.Interfaces {
		n := &x.Devices.Interfaces[i]
		n.MAC, n.Target, n.Alias = &libvirtxml.DomainInterfaceMAC{Address: f.platform.NewMAC()}, nil, nil
	}
	x.Devices.Hostdevs = nil // a host's device can be in one machine only
	x.Devices.Interfaces = slices.DeleteFunc(x.Devices.Interfaces, func(n libvirtxml.DomainInterface) bool { return n.Source != nil && n.Source.Hostdev != nil })
	f.platform.Resize(x, r.CPUs, r.MemoryBytes>>10)
	k.Mark = libvirtx.Mark{Token: r.Token, Created: time.Now().UTC().Format(time.RFC3339Nano), GuestOS: k.Mark.GuestOS, MinKiB: k.Mark.MinKiB, Labels: k.Mark.Labels}
	if r.Labels != nil {
		k.Mark.SetLabels(r.Labels)
	}
	return libvirtx.MarkDefinition(x, k.Mark)
}

// images makes the clone's images and points its definition at them.
func (k *Cloning) images(ctx context.Context, c *libvirt.Connect, m *Making, j *job.Job) (err error) {
	disks := libvirtx.Writable(k.Domain)
	if k.Freeze != nil {
		j.Phase("freezing", -1)
		thaw, ferr := k.Freeze(ctx, c, m)
		if ferr != nil {
			return ferr
		}
		if k.Request.Mode == hypervisor.CloneModeFull {
			defer func() {
				if terr := thaw(); terr != nil {
					err = errors.Join(err, fmt.Errorf("merge the source's overlay back: %w", terr))
				}
			}()
		}
	}
	for i, disk := range disks {
		if err := ctx.Err(); err != nil {
			return err
		}
		j.Phase("copying", float64(i)/float64(len(disks)))
		base := libvirtx.DiskPath(disk)
		var v libvirtx.Volume
		if k.Request.Mode == hypervisor.CloneModeLinked {
			v, err = Overlay(c, k.Site.Pools, k.UUID, disk.Target.Dev, base, k.Site.Pool)
		} else {
			v, err = k.copy(c, disk, base)
		}
		if err != nil {
			return err
		}
		libvirtx.SetDiskPath(disk, v.Path, v.Format)
	}
	return nil
}

// copy makes an independent image of the same size and checks it.
func (k *Cloning) copy(c *libvirt.Connect, disk *libvirtxml.DomainDisk, base string) (libvirtx.Volume, error) {
	from, err := libvirtx.FindImage(c, k.Site.Pools, base)
	if err != nil {
		return libvirtx.Volume{}, err
	}
	pool := from.Pool
	if k.Site.Pool.UUID != "" {
		pool = k.Site.Pool.UUID
	}
	v, err := libvirtx.CreateVolume(c, k.Site.Pools, libvirtx.VolumeSpec{Pool: pool, Name: libvirtx.ImageName(k.UUID, disk.Target.Dev, "qcow2"),
		Capacity: from.Capacity, Format: "qcow2", From: base})
	if err == nil && (v.Capacity != from.Capacity || v.Backing != "") {
		err = fmt.Errorf("the copy of %s has %d bytes on base %q, wanted %d on none", base, v.Capacity, v.Backing, from.Capacity)
	}
	return v, err
}

// Overlay makes an empty image on a base, in the base's pool or another.
func Overlay(c *libvirt.Connect, pools []libvirtx.Pool, uuid, disk, base string, in libvirtx.Pool) (libvirtx.Volume, error) {
	b, err := libvirtx.FindImage(c, pools, base)
	if err != nil {
		return libvirtx.Volume{}, err
	}
	pool := in.UUID
	if pool == "" {
		pool = b.Pool
	}
	return libvirtx.CreateVolume(c, pools, libvirtx.VolumeSpec{Pool: pool, Name: libvirtx.ImageName(uuid, disk, "qcow2"),
		Capacity: b.Capacity, Format: "qcow2", Backing: base, BackingFormat: b.Format})
}
