//go:build cgo

package kvm

import (
	"context"
	"errors"
	"slices"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// Clone implements hypervisor.Cloner.
func (d *driver) Clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	switch {
	case r.Mode == hypervisor.Instant:
		return nil, d.refuse(src.Ref(), hypervisor.CloneInstant)
	case r.Customize != nil:
		return nil, d.refuse(src.Ref(), hypervisor.CloneCustomize)
	}
	return d.CloneAs(ctx, src, r, d.planClone)
}

// planClone decides what is copied, and whether the source needs overlays.
func (d *driver) planClone(k *fleet.Cloning, dom *libvirt.Domain) error {
	on := k.State == hypervisor.Running || k.State == hypervisor.Paused
	template := fleet.IsTemplate(k.Domain, k.Mark)
	if k.Request.From != "" || on || k.Request.Mode == hypervisor.Linked && !template {
		snaps, err := readSnapshots(dom)
		if err != nil {
			return err
		}
		if k.Request.From != "" {
			if k.Domain, err = snapshotToClone(snaps, k.Request.From); err != nil {
				return err
			}
		} else {
			if slices.ContainsFunc(snaps, func(s libvirtxml.DomainSnapshot) bool { return internal(&s) }) {
				return hypervisor.Unsupported(k.Source.Ref(), hypervisor.CloneLinked, hypervisor.ReasonVMSnapshots,
					"the machine has internal snapshots, which an overlay would cut off: delete them, or make a full clone while it is off")
			}
			live, _, err := libvirtx.Parse(dom, 0)
			if err != nil {
				return err
			}
			k.Freeze = func(ctx context.Context, c *libvirt.Connect, m *fleet.Making) (func() error, error) {
				return freeze(ctx, c, k, m, on, agentConnected(live))
			}
		}
	}
	d.makeSingle(k.Domain, k.UUID)
	return nil
}

// snapshotToClone is the definition that a snapshot keeps.
func snapshotToClone(snaps []libvirtxml.DomainSnapshot, id hypervisor.SnapshotID) (*libvirtxml.Domain, error) {
	snap, err := findSnapshot(snaps, id)
	if err != nil {
		return nil, err
	}
	if internal(snap) {
		return nil, hypervisor.Unsupported(id.Ref(), hypervisor.CloneFromSnapshot, hypervisor.ReasonPlatform,
			"the snapshot is inside its image, where libvirt can't copy it from: revert to it and clone the machine")
	}
	return definitionOf(snap)
}

// makeSingle takes out of a definition what only one machine can have.
func (d *driver) makeSingle(x *libvirtxml.Domain, uuid string) {
	x.GenID, x.HWUUID, x.SysInfo = nil, "", nil
	if x.OS != nil {
		x.OS.NVRam = nil
	}
	for i := range x.Devices.Channels {
		if s := x.Devices.Channels[i].Source; s != nil && s.UNIX != nil {
			s.UNIX = &libvirtxml.DomainChardevSourceUNIX{} // a path with the source's name
		}
	}
	for i := range x.Devices.Serials {
		if l := x.Devices.Serials[i].Log; l != nil && d.cfg.SerialLogDir != "" {
			l.File = d.cfg.SerialLogDir + "/" + uuid + ".serial"
		}
	}
}

// freeze gives the source overlays, so that its present images stay as they
// are. The function that it returns merges them back.
func freeze(ctx context.Context, c *libvirt.Connect, k *fleet.Cloning, m *fleet.Making, on, agent bool) (func() error, error) {
	dom, err := c.LookupDomainByUUIDString(string(k.Source))
	if err != nil {
		return nil, err
	}
	defer dom.Free()
	x, mark, err := libvirtx.Inactive(dom)
	if err != nil {
		return nil, err
	}
	sure := context.WithoutCancel(ctx)
	// Whoever cleans up finds what was made for the source by this, and takes
	// back what is in Overlays.
	if err := m.Note(sure, func(n *libvirtx.Mark) { n.Source = string(k.Source) }); err != nil {
		return nil, err
	}
	made, list, err := overlays(c, string(k.Source), x)
	if err == nil { // before the source has them
		err = m.Note(sure, func(n *libvirtx.Mark) {
			for _, v := range made {
				n.Overlays = append(n.Overlays, v.Path)
			}
		})
	}
	if err == nil && on {
		doc := libvirtxml.DomainSnapshot{Memory: &libvirtxml.DomainSnapshotMemory{Snapshot: "no"}, Disks: list}
		flags := libvirt.DOMAIN_SNAPSHOT_CREATE_REUSE_EXT | libvirt.DOMAIN_SNAPSHOT_CREATE_ATOMIC | libvirt.DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.DOMAIN_SNAPSHOT_CREATE_NO_METADATA
		// An agent that fails to freeze is no reason to give up: a clone of a
		// running machine is promised to be crash-consistent only.
		err = errors.New("no agent")
		if agent {
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
		err = k.Site.Host.Define(sure, x)
	}
	if err != nil {
		return nil, err
	}
	if k.Request.Mode == hypervisor.Linked {
		for _, disk := range libvirtx.Writable(k.Domain) {
			if p := libvirtx.DiskPath(disk); !libvirtx.OwnedBy(p, string(k.Source)) && !slices.Contains(mark.Images, p) {
				mark.Images = append(mark.Images, p)
			}
		}
		if len(mark.Images) > 0 {
			if err := libvirtx.MarkDomain(dom, mark); err != nil {
				return nil, err
			}
		}
	}
	devs := libvirtx.Writable(k.Domain)
	bases := make([]string, len(devs))
	for i, disk := range devs {
		bases[i] = libvirtx.DiskPath(disk)
	}
	return func() error {
		dom, err := c.LookupDomainByUUIDString(string(k.Source))
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
