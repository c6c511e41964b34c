//go:build cgo

package kvm

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

// findSnapshot returns one of a machine's snapshots.
func findSnapshot(snaps []libvirtxml.DomainSnapshot, id hypervisor.SnapshotID) (*libvirtxml.DomainSnapshot, error) {
	i := slices.IndexFunc(snaps, func(s libvirtxml.DomainSnapshot) bool { return s.Name == string(id) })
	if i < 0 {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "the machine has no such snapshot")
	}
	return &snaps[i], nil
}

// RevertSnapshot implements hypervisor.Snapshotter.
func (d *driver) RevertSnapshot(ctx context.Context, id hypervisor.VMID, sid hypervisor.SnapshotID, r hypervisor.RevertOptions) (hypervisor.DriverTask, error) {
	return d.Run(ctx, "revert", id, fleet.LongWork, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		h, b, err := d.BooksOf(ctx, id)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		var made []libvirtx.Volume
		var old *libvirtxml.Domain
		sure := context.WithoutCancel(ctx)
		_, err = fleet.OnHost(sure, h, id, 12, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			var err error
			made, old, err = revert(ctx, b, c, dom, id, sid, r, j)
			return struct{}{}, err
		})
		if err == nil && old != nil {
			left, err := b.Discard(sure, overtaken(b, old, string(id)))
			j.Left(left...)
			return hypervisor.Ref{}, err
		}
		left := h.Tidy(sure, made)
		if old != nil { // the old definition may still be needed
			left = append(left, h.Unused(sure, images(b, overtaken(b, old, string(id))))...)
		}
		j.Left(left...)
		return hypervisor.Ref{}, err
	})
}

// revert returns the images that it made, and the machine's previous
// definition if it changed that.
func revert(ctx context.Context, b *fleet.Books, c *libvirt.Connect, dom *libvirt.Domain, id hypervisor.VMID, sid hypervisor.SnapshotID, r hypervisor.RevertOptions, j *job.Job) (made []libvirtx.Volume, old *libvirtxml.Domain, err error) {
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
		return nil, nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "this is a template: turn it into a machine first")
	}
	if internal(s) {
		return nil, nil, revertInternal(b, dom, s, id, r)
	}
	then, err := definitionOf(s)
	if err != nil {
		return made, nil, err
	}
	// The disks and hardware are restored. The machine's name and metadata
	// are not part of a snapshot.
	then.Name, then.Metadata, then.Description = now.Name, now.Metadata, now.Description
	stays := fleet.Paths{}
	for _, k := range libvirtx.Writable(then) {
		for _, p := range b.Images.Chain(libvirtx.DiskPath(k)) {
			stays[p] = true
		}
	}
	for _, k := range libvirtx.Writable(now) {
		if refs := inside(snaps, libvirtx.DiskPath(k)); len(refs) > 0 && !stays[libvirtx.DiskPath(k)] {
			return nil, nil, fleet.BusyWith(sid.Ref(), refs, "image "+libvirtx.DiskPath(k)+", which the machine would leave, holds")
		}
	}
	keepLeftOut(s, then, now, j)
	noteLater(then, now, j)
	j.Phase("making overlays", -1)
	moved := map[string]libvirtx.Volume{}
	for _, k := range libvirtx.Writable(then) {
		if leftOut(s, k.Target.Dev) {
			continue
		}
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
	j.Phase("switching over", -1)
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
		return nil, hypervisor.Errorf(hypervisor.ErrUnknown, hypervisor.SnapshotID(s.Name).Ref(), "the snapshot has no definition of its machine")
	}
	// A copy, made through the text: the snapshot itself is written back
	// later.
	doc, err := x.Marshal()
	if err != nil {
		return nil, err
	}
	out, _, err := libvirtx.ParseXML(doc)
	out.ID = nil
	return out, err
}

// repoint replaces images with new ones.
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

// off brings a machine to Off from any state.
func off(dom *libvirt.Domain) error {
	s, err := libvirtx.State(dom)
	if err != nil {
		return err
	}
	switch s {
	case hypervisor.StateOff:
		return nil
	case hypervisor.StateSuspended:
		return dom.ManagedSaveRemove(0)
	}
	if err := dom.Destroy(); err != nil && libvirtx.Kind(err) != hypervisor.ErrInvalidState {
		return err
	}
	return nil
}

// keepLeftOut copies the disks that a snapshot does not include, in their
// present state, into its definition.
func keepLeftOut(s *libvirtxml.DomainSnapshot, then, now *libvirtxml.Domain, j *job.Job) {
	for i := range then.Devices.Disks {
		k := &then.Devices.Disks[i]
		if k.Target == nil || !slices.Contains(libvirtx.Writable(then), k) || !leftOut(s, k.Target.Dev) {
			continue
		}
		if is, err := libvirtx.FindDisk(now, hypervisor.DiskID(k.Target.Dev)); err == nil {
			*k = *is
		}
		j.Note("disk " + k.Target.Dev + " is not part of the snapshot and stays as it is: " + libvirtx.DiskPath(k))
	}
}

// noteLater names the disks and host devices that a machine has now and did
// not have when the snapshot was taken.
func noteLater(then, now *libvirtxml.Domain, j *job.Job) {
	for i := range now.Devices.Disks {
		k := &now.Devices.Disks[i]
		if k.Target == nil {
			continue
		}
		if _, err := libvirtx.FindDisk(then, hypervisor.DiskID(k.Target.Dev)); err != nil {
			j.Note("disk " + k.Target.Dev + " came after the snapshot, and the machine has it no longer; its image stays: " + libvirtx.DiskPath(k))
		}
	}
	for _, a := range attached("", now) {
		if !has(then, a.ID) {
			j.Note("device " + string(a.ID) + " came after the snapshot, and the machine has it no longer")
		}
	}
}

// overtaken returns the images that a machine wrote to before a revert, if
// they are overlays on images that one of its snapshots froze, nothing
// depends on them, and no snapshot froze them. The image of a disk that was
// added later is not one of them.
func overtaken(b *fleet.Books, before *libvirtxml.Domain, uuid string) fleet.Paths {
	out := fleet.Paths{}
	for _, k := range libvirtx.Writable(before) {
		p := libvirtx.DiskPath(k)
		v := b.Images.ByPath[p]
		used := slices.ContainsFunc(b.Users(p), func(u fleet.User) bool { return u.VM.ID != uuid || u.Snapshot != "" })
		frozen := slices.ContainsFunc(b.Images.Chain(v.Backing), func(below string) bool {
			return slices.ContainsFunc(b.Users(below), func(u fleet.User) bool { return u.VM.ID == uuid && u.Snapshot != "" })
		})
		if frozen && libvirtx.OwnedBy(p, uuid) && len(b.Images.Above[p]) == 0 && !used {
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

// revertInternal lets libvirt do the revert, which writes to the image that
// holds the snapshot. It refuses while something depends on that image.
func revertInternal(b *fleet.Books, dom *libvirt.Domain, s *libvirtxml.DomainSnapshot, id hypervisor.VMID, r hypervisor.RevertOptions) error {
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

// free checks that nothing depends on the images of an internal snapshot.
func free(b *fleet.Books, s *libvirtxml.DomainSnapshot, id hypervisor.VMID) error {
	for _, p := range frozen(s) {
		if refs := b.Above(p, nil); len(refs) > 0 {
			return fleet.BusyWith(hypervisor.SnapshotID(s.Name).Ref(), refs, "the snapshot is inside an image that is the base of")
		}
	}
	return nil
}
