//go:build cgo

package kvm

import (
	"context"
	"errors"
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
		return nil, d.refuse(src.Ref(), hypervisor.CloneInstant)
	case r.Customize != nil:
		return nil, d.refuse(src.Ref(), hypervisor.CloneCustomize)
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
		return d.Make(ctx, k.at, k.x, k.mark, tid, r.Start, report, func(ctx context.Context, c *libvirt.Connect, m *fleet.Making) ([]libvirtx.Volume, error) {
			return k.images(ctx, c, m, report)
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
	on     bool // the source runs
	agent  bool
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
	live, _, err := libvirtx.Parse(dom, 0)
	if err != nil {
		return nil, err
	}
	s, err := libvirtx.State(dom)
	if err != nil {
		return nil, err
	}
	k := &cloning{src: src, r: r, x: x, mark: mark, agent: agentConnected(live)}
	k.on = s == hypervisor.Running || s == hypervisor.Paused
	template := fleet.IsTemplate(x, mark)
	switch {
	case r.From != "":
		snaps, err := readSnapshots(dom)
		if err != nil {
			return nil, err
		}
		snap, err := findSnapshot(snaps, r.From)
		if err != nil {
			return nil, err
		}
		if internal(snap) {
			return nil, hypervisor.Unsupported(r.From.Ref(), hypervisor.CloneFromSnapshot, hypervisor.ReasonPlatform,
				"the snapshot is inside its image, where libvirt can't copy it from: revert to it and clone the machine")
		}
		if k.x, err = definitionOf(snap); err != nil {
			return nil, err
		}
		k.on = false
	case s == hypervisor.Suspended:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, src.Ref(), "the machine is suspended and its disks belong to the saved RAM: resume it or power it off first")
	default:
		k.writes = k.on || r.Mode == hypervisor.Linked && !template
	}
	if k.writes {
		snaps, err := readSnapshots(dom)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(snaps, func(s libvirtxml.DomainSnapshot) bool { return internal(&s) }) {
			return nil, hypervisor.Unsupported(src.Ref(), hypervisor.CloneLinked, hypervisor.ReasonVMSnapshots,
				"the machine has internal snapshots, which an overlay would cut off: delete them, or make a full clone while it is off")
		}
	}
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
	return k, k.define(uuid, d.cfg.SerialLogDir)
}

// define makes the source's definition the clone's: new names and addresses,
// nothing that only one machine can have.
func (k *cloning) define(uuid, serialLogDir string) error {
	x, r := k.x, k.r
	x.UUID, x.Name, x.ID, x.Description, x.GenID, x.HWUUID = uuid, r.Name, nil, r.Description, nil, ""
	x.Title = ""
	if x.OS != nil {
		x.OS.NVRam = nil
	}
	x.SysInfo = nil
	for i := range x.Devices.Interfaces {
		n := &x.Devices.Interfaces[i]
		n.MAC, n.Target, n.Alias = &libvirtxml.DomainInterfaceMAC{Address: platform.NewMAC()}, nil, nil
	}
	for i := range x.Devices.Channels {
		if s := x.Devices.Channels[i].Source; s != nil && s.UNIX != nil {
			s.UNIX = &libvirtxml.DomainChardevSourceUNIX{} // a path with the source's name
		}
	}
	for i := range x.Devices.Serials {
		if l := x.Devices.Serials[i].Log; l != nil && serialLogDir != "" {
			l.File = serialLogDir + "/" + uuid + ".serial"
		}
	}
	x.Devices.Hostdevs = nil // a host's device is in one machine
	if r.CPUs > 0 {
		if x.VCPU == nil {
			x.VCPU = &libvirtxml.DomainVCPU{}
		}
		x.VCPU.Current, x.VCPU.Value = uint(r.CPUs), max(x.VCPU.Value, uint(r.CPUs))
		x.VCPUs = nil
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
func (k *cloning) images(ctx context.Context, c *libvirt.Connect, m *fleet.Making, report func(hypervisor.TaskState)) (made []libvirtx.Volume, err error) {
	disks := libvirtx.Writable(k.x)
	if k.writes {
		thawed, err := k.freeze(ctx, c, m, report)
		if err != nil {
			return nil, err
		}
		if k.r.Mode == hypervisor.FullClone {
			defer func() {
				if terr := thawed(); terr != nil {
					err = errors.Join(err, fmt.Errorf("merge the source's overlay back: %w", terr))
				}
			}()
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

// freeze gives the source overlays, so that its present images stay as they
// are. The function that it returns merges them back.
func (k *cloning) freeze(ctx context.Context, c *libvirt.Connect, m *fleet.Making, report func(hypervisor.TaskState)) (func() error, error) {
	report(hypervisor.TaskState{Fraction: -1, Phase: "freezing"})
	dom, err := c.LookupDomainByUUIDString(string(k.src))
	if err != nil {
		return nil, err
	}
	defer dom.Free()
	x, mark, err := libvirtx.Inactive(dom)
	if err != nil {
		return nil, err
	}
	sure := context.WithoutCancel(ctx)
	if k.r.Mode == hypervisor.FullClone {
		if err := m.Note(sure, func(n *libvirtx.Mark) { n.Source = string(k.src) }); err != nil {
			return nil, err
		}
	}
	made, list, err := overlays(c, string(k.src), x)
	if err == nil && k.r.Mode == hypervisor.FullClone { // before the source has them
		err = m.Note(sure, func(n *libvirtx.Mark) {
			for _, v := range made {
				n.Overlays = append(n.Overlays, v.Path)
			}
		})
	}
	if err == nil && k.on {
		doc := libvirtxml.DomainSnapshot{Memory: &libvirtxml.DomainSnapshotMemory{Snapshot: "no"}, Disks: list}
		flags := libvirt.DOMAIN_SNAPSHOT_CREATE_REUSE_EXT | libvirt.DOMAIN_SNAPSHOT_CREATE_ATOMIC | libvirt.DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.DOMAIN_SNAPSHOT_CREATE_NO_METADATA
		// An agent that fails to freeze is no reason to give up: a clone of a
		// running machine is promised to be crash-consistent only.
		err = errors.New("no agent")
		if k.agent {
			err = createSnapshot(dom, doc, flags|libvirt.DOMAIN_SNAPSHOT_CREATE_QUIESCE)
		}
		if err != nil {
			err = createSnapshot(dom, doc, flags)
		}
	} else if err == nil {
		moved := map[string]libvirtx.Volume{}
		for i, disk := range libvirtx.Writable(x) {
			moved[libvirtx.DiskPath(disk)] = made[i]
		}
		repoint(x, moved)
		err = libvirtx.Define(c, x)
	}
	if err != nil {
		for _, v := range made {
			_ = libvirtx.DeleteVolume(c, v.Pool, v.Name) // what this call made
		}
		return nil, err
	}
	if k.r.Mode == hypervisor.Linked {
		for _, disk := range libvirtx.Writable(k.x) {
			if p := libvirtx.DiskPath(disk); !libvirtx.OwnedBy(p, string(k.src)) && !slices.Contains(mark.Images, p) {
				mark.Images = append(mark.Images, p)
			}
		}
		if len(mark.Images) > 0 {
			if err := libvirtx.MarkDomain(dom, mark); err != nil {
				return nil, err
			}
		}
	}
	devs := libvirtx.Writable(k.x)
	bases := make([]string, len(devs))
	for i, disk := range devs {
		bases[i] = libvirtx.DiskPath(disk)
	}
	return func() error {
		dom, err := c.LookupDomainByUUIDString(string(k.src))
		if err != nil {
			return err
		}
		defer dom.Free()
		for i, disk := range devs {
			if err := commit(dom, disk.Target.Dev, bases[i], made[i].Path, true); err != nil {
				return err
			}
			if err := libvirtx.DeleteVolume(c, made[i].Pool, made[i].Name); err != nil {
				return err
			}
		}
		return nil
	}, nil
}
