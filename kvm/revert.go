//go:build cgo

package kvm

import (
	"context"
	"slices"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// findSnapshot returns one of a machine's snapshots.
func findSnapshot(snaps []libvirtxml.DomainSnapshot, id hypervisor.SnapshotID) (*libvirtxml.DomainSnapshot, error) {
	i := slices.IndexFunc(snaps, func(s libvirtxml.DomainSnapshot) bool { return s.Name == string(id) })
	if i < 0 {
		return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "the machine has no such snapshot")
	}
	return &snaps[i], nil
}

// RevertSnapshot implements hypervisor.Snapshotter.
func (d *driver) RevertSnapshot(ctx context.Context, id hypervisor.VMID, sid hypervisor.SnapshotID, r hypervisor.RevertRequest) (hypervisor.DriverTask, error) {
	return d.Run(ctx, "revert", id, fleet.LongWork, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		h, err := d.Locate(ctx, id)
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		b, err := d.Books(ctx, h)
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		var made []libvirtx.Volume
		var old *libvirtxml.Domain
		sure := context.WithoutCancel(ctx)
		_, err = fleet.OnHost(sure, h, id, 12, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			var err error
			made, old, err = revert(ctx, b, c, dom, id, sid, r, report)
			return struct{}{}, err
		})
		if err == nil && old != nil {
			left, err := b.Discard(sure, overtaken(b, old, string(id)))
			return hypervisor.TaskState{Err: err, Leftover: left}
		}
		left := h.Tidy(sure, made)
		if old != nil { // what the machine was may be wanted still
			left = append(left, h.Unused(sure, images(b, overtaken(b, old, string(id))))...)
		}
		return hypervisor.TaskState{Err: err, Leftover: left}
	})
}

// revert returns the images that it made, and the definition that the machine
// had before if it changed that.
func revert(ctx context.Context, b *fleet.Books, c *libvirt.Connect, dom *libvirt.Domain, id hypervisor.VMID, sid hypervisor.SnapshotID, r hypervisor.RevertRequest, report func(hypervisor.TaskState)) (made []libvirtx.Volume, old *libvirtxml.Domain, err error) {
	snaps, err := readSnapshots(dom)
	if err != nil {
		return made, nil, err
	}
	s, err := findSnapshot(snaps, sid)
	if err != nil {
		return made, nil, err
	}
	now, mark, err := libvirtx.Inactive(dom)
	if err != nil {
		return made, nil, err
	}
	if fleet.IsTemplate(now, mark) {
		return nil, nil, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "this is a template: turn it into a machine first")
	}
	if internal(s) {
		return nil, nil, revertInternal(b, dom, s, id, r)
	}
	then, err := definitionOf(s)
	if err != nil {
		return made, nil, err
	}
	// The disks and hardware come back; what the machine is called and marked
	// with is not part of a snapshot.
	then.Name, then.Metadata, then.Description = now.Name, now.Metadata, now.Description
	report(hypervisor.TaskState{Fraction: -1, Phase: "making overlays"})
	moved := map[string]libvirtx.Volume{}
	for _, k := range libvirtx.Writable(then) {
		base := libvirtx.DiskPath(k)
		v, err := fleet.Overlay(c, b.Pools, string(id), k.Target.Dev, base, libvirtx.Pool{})
		if v.Name != "" {
			made = append(made, v)
		}
		if err != nil {
			return made, nil, err
		}
		moved[base] = v
	}
	repoint(then, moved)
	var saved string // the saved RAM's definition, with the new images
	if hasMemory(s) && !r.KeepOff {
		if saved, err = savedDefinition(c, s.Memory.File, now, moved); err != nil {
			return made, nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return made, nil, err
	}
	report(hypervisor.TaskState{Fraction: -1, Phase: "switching over"})
	if err := off(dom); err != nil {
		return made, nil, err
	}
	if err := libvirtx.Define(c, then); err != nil {
		return made, now, err
	}
	if saved != "" {
		flags := libvirt.DOMAIN_SAVE_RUNNING
		if s.State == "paused" {
			flags = libvirt.DOMAIN_SAVE_PAUSED
		}
		if err := c.DomainRestoreFlags(s.Memory.File, saved, flags); err != nil {
			return made, now, err
		}
	}
	return made, now, createSnapshot(dom, *s, libvirt.DOMAIN_SNAPSHOT_CREATE_REDEFINE|libvirt.DOMAIN_SNAPSHOT_CREATE_CURRENT)
}

// definitionOf returns the persistent definition that a snapshot keeps.
func definitionOf(s *libvirtxml.DomainSnapshot) (*libvirtxml.Domain, error) {
	x := s.Domain
	if s.InactiveDomain != nil {
		x = &s.InactiveDomain.Domain
	}
	if x == nil {
		return nil, hypervisor.Errorf(hypervisor.KindUnknown, hypervisor.SnapshotID(s.Name).Ref(), "the snapshot has no definition of its machine")
	}
	// A copy, by way of the text: the snapshot itself is written back later.
	doc, err := x.Marshal()
	if err != nil {
		return nil, err
	}
	out, _, err := libvirtx.ParseXML(doc)
	out.ID = nil
	return out, err
}

// repoint puts new images in the place of others.
func repoint(x *libvirtxml.Domain, moved map[string]libvirtx.Volume) {
	if x == nil || x.Devices == nil {
		return
	}
	for i := range x.Devices.Disks {
		k := &x.Devices.Disks[i]
		if v, ok := moved[libvirtx.DiskPath(k)]; ok {
			libvirtx.SetDiskPath(k, v.Path, v.Format)
		}
	}
}

// savedDefinition is the definition inside a RAM image, changed so that it
// starts on other images and under the machine's present name.
func savedDefinition(c *libvirt.Connect, file string, now *libvirtxml.Domain, moved map[string]libvirtx.Volume) (string, error) {
	doc, err := c.DomainSaveImageGetXMLDesc(file, libvirt.DOMAIN_SAVE_IMAGE_XML_SECURE)
	if err != nil {
		return "", err
	}
	x, _, err := libvirtx.ParseXML(doc)
	if err != nil {
		return "", err
	}
	repoint(x, moved)
	x.Name, x.Metadata = now.Name, now.Metadata
	return x.Marshal()
}

// off brings a machine to Off whatever it does.
func off(dom *libvirt.Domain) error {
	s, err := libvirtx.State(dom)
	if err != nil {
		return err
	}
	switch s {
	case hypervisor.Off:
		return nil
	case hypervisor.Suspended:
		return dom.ManagedSaveRemove(0)
	}
	if err := dom.Destroy(); err != nil && libvirtx.Kind(err) != hypervisor.KindInvalidState {
		return err
	}
	return nil
}

// overtaken are the images that a machine wrote to before a revert, if they are
// overlays of it that nothing stands on and no snapshot froze.
func overtaken(b *fleet.Books, before *libvirtxml.Domain, uuid string) fleet.Paths {
	out := fleet.Paths{}
	for _, k := range libvirtx.Writable(before) {
		p := libvirtx.DiskPath(k)
		v := b.Images.ByPath[p]
		used := slices.ContainsFunc(b.Users(p), func(u fleet.User) bool { return u.VM.ID != uuid || u.Snapshot != "" })
		if v.Backing != "" && libvirtx.OwnedBy(p, uuid) && len(b.Images.Above[p]) == 0 && !used {
			out[p] = true
		}
	}
	return out
}

func images(b *fleet.Books, of fleet.Paths) []libvirtx.Volume {
	var out []libvirtx.Volume
	for p := range of {
		out = append(out, b.Images.ByPath[p])
	}
	return out
}

// revertInternal lets libvirt do it, which writes to the image that holds the
// snapshot: not while something stands on that.
func revertInternal(b *fleet.Books, dom *libvirt.Domain, s *libvirtxml.DomainSnapshot, id hypervisor.VMID, r hypervisor.RevertRequest) error {
	if err := free(b, s, id); err != nil {
		return err
	}
	snap, err := dom.SnapshotLookupByName(s.Name, 0)
	if err != nil {
		return err
	}
	defer snap.Free()
	if err := snap.RevertToSnapshot(libvirt.DOMAIN_SNAPSHOT_REVERT_FORCE); err != nil {
		return err
	}
	if r.KeepOff {
		return off(dom)
	}
	return nil
}

// free demands that nothing stands on the images of an internal snapshot.
func free(b *fleet.Books, s *libvirtxml.DomainSnapshot, id hypervisor.VMID) error {
	for _, p := range frozen(s) {
		if refs := b.Above(p, nil); len(refs) > 0 {
			return fleet.BusyWith(hypervisor.SnapshotID(s.Name).Ref(), refs, "the snapshot is inside an image that is the base of")
		}
	}
	return nil
}
