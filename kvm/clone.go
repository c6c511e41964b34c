//go:build cgo

package kvm

import (
	"context"
	"errors"
	"slices"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// Clone implements hypervisor.Cloner.
func (d *driver) Clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	switch {
	case r.Mode == hypervisor.CloneModeInstant:
		return nil, d.refuse(src.Ref(), capability.CloneInstant)
	case r.Customize != nil:
		return nil, d.refuse(src.Ref(), capability.CloneCustomize)
	}
	return d.CloneAs(ctx, src, r, d.planClone)
}

// planClone decides what to copy, and whether the source needs overlays.
func (d *driver) planClone(k *fleet.Cloning, dom *libvirt.Domain) error {
	on := k.State == hypervisor.StateRunning || k.State == hypervisor.StatePaused
	template := fleet.IsTemplate(k.Domain, k.Mark)
	if k.Request.From != "" || on || k.Request.Mode == hypervisor.CloneModeLinked && !template {
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
				return hypervisor.Unsupported(k.Source.Ref(), capability.CloneLinked, hypervisor.ReasonVMSnapshots,
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
	for _, a := range attached("", k.Domain) {
		k.Notes = append(k.Notes, "the clone does not have its source's device "+string(a.ID)+", which can be in one machine only")
	}
	k.Notes = append(k.Notes, libvirtx.MakeSingle(k.Domain)...)
	for i := range k.Domain.Devices.Serials {
		if l := k.Domain.Devices.Serials[i].Log; l != nil && d.cfg.SerialLogDir != "" {
			l.File = d.cfg.SerialLogDir + "/" + k.UUID + ".serial"
		}
	}
	return nil
}

// snapshotToClone returns the definition that a snapshot keeps.
func snapshotToClone(snaps []libvirtxml.DomainSnapshot, id hypervisor.SnapshotID) (*libvirtxml.Domain, error) {
	snap, err := findSnapshot(snaps, id)
	if err != nil {
		return nil, err
	}
	if internal(snap) {
		return nil, hypervisor.Unsupported(id.Ref(), capability.CloneFromSnapshot, hypervisor.ReasonPlatform,
			"the snapshot is inside its image, where libvirt can't copy it from: revert to it and clone the machine")
	}
	return definitionOf(snap)
}

// freeze gives the source overlays, so that its present images stay
// unchanged. The function that it returns merges them back.
func freeze(ctx context.Context, c *libvirt.Connect, k *fleet.Cloning, m *fleet.Making, on, agent bool) (func() error, error) {
	dom, err := c.LookupDomainByUUIDString(string(k.Source))
	if err != nil {
		return nil, err
	}
	defer dom.Free()
	x, mark, err := libvirtx.Inactive(dom)
	if err == nil && on { // the image that the machine writes to, whatever it gets at its next start
		x, _, err = libvirtx.Parse(dom, 0)
	}
	if err != nil {
		return nil, err
	}
	sure := context.WithoutCancel(ctx)
	// Whoever cleans up uses this to find what was made for the source, and
	// merges back the images in Overlays.
	if err := m.Note(sure, func(n *libvirtx.Mark) { n.Source = string(k.Source) }); err != nil {
		return nil, err
	}
	made, list, err := overlays(c, string(k.Source), x)
	if err == nil { // before the source uses them
		err = m.Note(sure, func(n *libvirtx.Mark) {
			for _, v := range made {
				n.Overlays = append(n.Overlays, v.Path)
			}
		})
	}
	if err == nil && on {
		doc := libvirtxml.DomainSnapshot{Memory: &libvirtxml.DomainSnapshotMemory{Snapshot: "no"}, Disks: list}
		flags := libvirt.DOMAIN_SNAPSHOT_CREATE_REUSE_EXT | libvirt.DOMAIN_SNAPSHOT_CREATE_ATOMIC | libvirt.DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.DOMAIN_SNAPSHOT_CREATE_NO_METADATA
		// If the agent fails to freeze, the clone continues: a clone of a
		// running machine is only promised to be crash-consistent.
		err = errors.New("no agent")
		if agent {
			err = createSnapshot(dom, doc, flags|libvirt.DOMAIN_SNAPSHOT_CREATE_QUIESCE)
		}
		if err != nil {
			err = createSnapshot(dom, doc, flags)
		}
		if err == nil {
			err = checkChain(sure, c, dom, k.Source, made)
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
	if k.Request.Mode == hypervisor.CloneModeLinked {
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
			if err := commit(k.Site.Host.Conn.Alive(), dom, disk.Target.Dev, bases[i], made[i].Path, true); err != nil {
				return err
			}
			if err := libvirtx.DeleteVolume(c, made[i].Pool, made[i].Name); err != nil {
				return err
			}
		}
		return nil
	}, nil
}
