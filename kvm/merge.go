//go:build cgo

package kvm

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// DeleteSnapshot implements hypervisor.Snapshotter.
func (d *driver) DeleteSnapshot(ctx context.Context, id hypervisor.VMID, sid hypervisor.SnapshotID, r hypervisor.DeleteSnapshotOptions) (hypervisor.DriverTask, error) {
	return d.Run(ctx, "delete-snapshot", id, fleet.LongWork, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		names := []string{string(sid)}
		if r.Children {
			var err error
			if names, err = d.subtree(ctx, id, sid); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		for i, n := range names {
			if err := ctx.Err(); err != nil {
				return hypervisor.Ref{}, err
			}
			j.Phase("merging", float64(i)/float64(len(names)))
			note, err := d.deleteSnapshot(ctx, id, hypervisor.SnapshotID(n))
			if note != "" {
				j.Note(note)
			}
			if err != nil {
				return hypervisor.Ref{}, err
			}
		}
		return hypervisor.Ref{}, nil
	})
}

// subtree returns a snapshot and all of its descendants, children first.
func (d *driver) subtree(ctx context.Context, id hypervisor.VMID, sid hypervisor.SnapshotID) ([]string, error) {
	return fleet.OnDomain(ctx, d.Fleet, id, 2, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) ([]string, error) {
		snaps, err := readSnapshots(dom)
		if err != nil {
			return nil, err
		}
		if _, err := findSnapshot(snaps, sid); err != nil {
			return nil, err
		}
		in := map[string]bool{string(sid): true}
		names := []string{string(sid)}
		for _, s := range snaps { // parents before children
			if s.Parent != nil && in[s.Parent.Name] {
				in[s.Name] = true
				names = append(names, s.Name)
			}
		}
		slices.Reverse(names)
		return names, nil
	})
}

// deleteSnapshot merges one snapshot away. If the connection breaks, it
// continues from the present state.
func (d *driver) deleteSnapshot(ctx context.Context, id hypervisor.VMID, sid hypervisor.SnapshotID) (note string, err error) {
	h, err := d.Locate(ctx, id)
	if err != nil {
		return "", err
	}
	sure := context.WithoutCancel(ctx)
	var was *fleet.Books                  // the books at the beginning
	var snaps []libvirtxml.DomainSnapshot // the snapshot tree after the merge
	err = h.Again(sure, func(again bool) error {
		if again {
			_, err := fleet.OnHost(sure, h, id, 2, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
				return struct{}{}, endJobs(h.Conn.Alive(), c, dom, string(id))
			})
			if err != nil {
				return err
			}
		}
		b, err := d.Books(sure, h)
		if err != nil {
			return err
		}
		if was == nil {
			first := *b
			was = &first
		}
		_, err = fleet.OnHost(sure, h, id, 12, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			if snaps == nil {
				var all []libvirtxml.DomainSnapshot
				if note, all, err = mergeSnapshot(b, was, c, dom, string(id), sid); err != nil {
					return struct{}{}, err
				}
				snaps = all
			}
			return struct{}{}, forget(dom, sid, snaps, again)
		})
		return err
	})
	return note, err
}

// endJobs waits for the end of every job of a merge whose caller died.
func endJobs(ctx context.Context, c *libvirt.Connect, dom *libvirt.Domain, uuid string) error {
	if err := endHelper(c, uuid); err != nil {
		return err
	}
	return endCommits(ctx, dom, func(string) bool { return true })
}

// endCommits waits for block commits left by a caller that died, on disks
// whose image theirs accepts.
func endCommits(ctx context.Context, dom *libvirt.Domain, theirs func(image string) bool) error {
	x, _, err := libvirtx.Parse(dom, 0)
	if err != nil {
		return err
	}
	for _, k := range libvirtx.Writable(x) {
		j, err := dom.GetBlockJobInfo(k.Target.Dev, 0)
		active := j != nil && j.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT
		if err == nil && (active || j.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_COMMIT) && theirs(libvirtx.DiskPath(k)) {
			if err := finish(ctx, dom, k.Target.Dev, active); err != nil {
				return err
			}
		}
	}
	return nil
}

// mergeSnapshot merges the image above each frozen image down into it, so
// that only the changes since the snapshot are copied. was are the books from
// before the merge began. It returns the snapshot tree after the merge.
func mergeSnapshot(b, was *fleet.Books, c *libvirt.Connect, dom *libvirt.Domain, uuid string, sid hypervisor.SnapshotID) (note string, after []libvirtxml.DomainSnapshot, err error) {
	snaps, err := readSnapshots(dom)
	if err != nil {
		return "", nil, err
	}
	s, err := findSnapshot(snaps, sid)
	if err != nil {
		return "", nil, err
	}
	if internal(s) {
		return "", snaps, free(b, s, hypervisor.VMID(uuid))
	}
	if st, err := libvirtx.State(dom); err != nil {
		return "", nil, err
	} else if st == hypervisor.StateSuspended {
		return "", nil, hypervisor.Errorf(hypervisor.ErrInvalidState, hypervisor.VMID(uuid).Ref(), "the machine is suspended, its saved RAM names its present images: resume it or power it off first")
	}
	x, mark, err := libvirtx.Inactive(dom)
	if err != nil {
		return "", nil, err
	}
	own := b.Of(uuid, x, mark)
	ice := frozen(s)
	for _, f := range ice { // refused before anything is touched
		if refs := b.Above(f, own); len(refs) > 0 {
			return "", nil, fleet.BusyWith(sid.Ref(), refs, "the snapshot is the base of")
		}
	}
	for _, f := range ice {
		for _, p := range b.Images.Above[f] {
			if refs := inside(snaps, p); len(refs) > 0 {
				return "", nil, fleet.BusyWith(sid.Ref(), refs, "the image above the snapshot, which would be merged, holds")
			}
			// The driver changes the base that an image names only for images
			// of its own.
			if slices.ContainsFunc(b.Images.Above[p], func(a string) bool { return slices.Contains(b.Images.Outside, a) }) {
				return "", nil, fleet.BusyWith(sid.Ref(), b.Above(p, own), "the image above the snapshot, which would be merged, is the base of")
			}
		}
	}
	for dev, f := range ice {
		above := b.Images.Above[f]
		merged := "" // into f, and only its record remains to be removed
		if w := was.Images.Above[f]; len(w) == 1 && len(above) > 1 && len(was.Images.Above[w[0]]) > 0 && len(b.Images.Above[w[0]]) == 0 {
			merged, above = w[0], w
		}
		switch {
		case merged == "" && frozenBy(snaps, f, s.Name):
			// Another snapshot holds the same image: nothing was written in
			// between.
		case len(above) == 0:
			if !slices.ContainsFunc(libvirtx.Writable(x), func(k *libvirtxml.DomainDisk) bool { return libvirtx.DiskPath(k) == f }) {
				if _, err := b.Remove(c, fleet.Paths{f: true}); err != nil {
					return note, nil, err
				}
			}
		case len(above) == 1 && len(b.Users(above[0])) == 0 && len(b.Images.Above[above[0]]) == 0:
			if len(was.Users(above[0])) == 0 {
				note = fmt.Sprintf("image %s stays as the base of %s, which is no machine's disk any more", f, above[0])
				continue
			}
			// Merged already, and nobody uses the image any more.
			if _, err := b.Remove(c, fleet.Paths{above[0]: true}); err != nil {
				return note, nil, err
			}
		case len(above) == 1:
			if merged == "" {
				if err := commitOverlay(b, c, dom, dev, f, above[0]); err != nil {
					return note, nil, err
				}
			}
			if err := forgetOverlay(b, c, dom, f, above[0], snaps); err != nil {
				return note, nil, err
			}
		default:
			note = fmt.Sprintf("image %s stays as the common base of %d branches until one of them is deleted", f, len(above))
		}
	}
	if s.Memory != nil && s.Memory.File != "" {
		if _, err := b.Remove(c, fleet.Paths{s.Memory.File: true}); err != nil {
			return note, nil, err
		}
	}
	return note, snaps, nil
}

// forget removes the record of a snapshot or, if it is internal, the snapshot
// itself. again means that it may be gone already.
func forget(dom *libvirt.Domain, sid hypervisor.SnapshotID, snaps []libvirtxml.DomainSnapshot, again bool) error {
	s, err := findSnapshot(snaps, sid)
	if err != nil {
		return err
	}
	snap, err := dom.SnapshotLookupByName(s.Name, 0)
	switch {
	case again && libvirtx.NotFound(err):
	case err != nil:
		return err
	default:
		defer snap.Free()
		flags := libvirt.DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY
		if internal(s) {
			flags = 0
		}
		if err := snap.Delete(flags); err != nil {
			return err
		}
	}
	if internal(s) {
		return nil
	}
	return restate(dom, snaps, s)
}

// restate writes the remaining snapshots back unchanged. When libvirt forgets
// an external snapshot it assumes that the overlay is merged, and changes the
// definitions of the snapshots below, also where the overlay stays.
func restate(dom *libvirt.Domain, snaps []libvirtxml.DomainSnapshot, gone *libvirtxml.DomainSnapshot) error {
	now, err := readSnapshots(dom)
	if err != nil {
		return err
	}
	for i := range snaps {
		o := &snaps[i]
		if o == gone {
			continue
		}
		if o.Parent != nil && o.Parent.Name == gone.Name {
			o.Parent = gone.Parent
		}
		if n := slices.IndexFunc(now, func(s libvirtxml.DomainSnapshot) bool { return s.Name == o.Name }); n >= 0 && maps.Equal(frozen(&now[n]), frozen(o)) {
			continue
		}
		if err := createSnapshot(dom, *o, libvirt.DOMAIN_SNAPSHOT_CREATE_REDEFINE); err != nil {
			return err
		}
	}
	return nil
}

// frozenBy reports whether another external snapshot froze the image.
// Internal ones are inside it and stay there.
func frozenBy(snaps []libvirtxml.DomainSnapshot, p, but string) bool {
	return slices.ContainsFunc(snaps, func(s libvirtxml.DomainSnapshot) bool {
		return s.Name != but && !internal(&s) && slices.Contains(mapValues(frozen(&s)), p)
	})
}

// commitOverlay commits image top into image base, which backs nothing else.
func commitOverlay(b *fleet.Books, c *libvirt.Connect, dom *libvirt.Domain, dev, base, top string) error {
	live, _, err := libvirtx.Parse(dom, 0)
	if err != nil {
		return err
	}
	on, err := dom.IsActive()
	if err != nil {
		return err
	}
	active := "" // the image that the machine writes to, if it runs on this chain
	for _, k := range libvirtx.Writable(live) {
		if on && slices.Contains(b.Images.Chain(libvirtx.DiskPath(k)), top) {
			active, dev = libvirtx.DiskPath(k), k.Target.Dev
		}
	}
	if active != "" {
		return commit(b.Alive(), dom, dev, base, top, active == top)
	}
	return commitApart(b, c, dom, base, top)
}

// forgetOverlay makes everything that named top name base, and removes top if
// it backs nothing.
func forgetOverlay(b *fleet.Books, c *libvirt.Connect, dom *libvirt.Domain, base, top string, snaps []libvirtxml.DomainSnapshot) error {
	moved := map[string]libvirtx.Volume{top: b.Images.ByPath[base]}
	for i := range snaps {
		o := &snaps[i]
		if !slices.Contains(mapValues(frozen(o)), top) {
			continue
		}
		repoint(o.Domain, moved)
		if o.InactiveDomain != nil {
			repoint(&o.InactiveDomain.Domain, moved)
		}
		if err := createSnapshot(dom, *o, libvirt.DOMAIN_SNAPSHOT_CREATE_REDEFINE); err != nil {
			return err
		}
	}
	x, _, err := libvirtx.Inactive(dom)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(libvirtx.Writable(x), func(k *libvirtxml.DomainDisk) bool { return libvirtx.DiskPath(k) == top }) {
		repoint(x, moved)
		if err := libvirtx.Define(c, x); err != nil {
			return err
		}
	}
	pools := b.Pools
	if b.Images, err = libvirtx.LoadImages(c, pools, b.Images.Outside); err != nil {
		return err
	}
	if len(b.Images.Above[top]) == 0 {
		_, err = b.Remove(c, fleet.Paths{top: true})
	}
	return err
}

func mapValues(m map[string]string) []string {
	var out []string
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// commit runs a block commit on a domain and waits for its end. If the domain
// writes to top, it writes to base afterwards. When ctx ends the commit is
// left as it is, for endCommits.
func commit(ctx context.Context, dom *libvirt.Domain, dev, base, top string, active bool) error {
	var flags libvirt.DomainBlockCommitFlags
	if active {
		flags |= libvirt.DOMAIN_BLOCK_COMMIT_ACTIVE
	}
	if err := dom.BlockCommit(dev, base, top, 0, flags); err != nil {
		return err
	}
	return finish(ctx, dom, dev, active)
}

// finish waits for a block job. With pivot it switches over when the job is
// in step. When ctx ends the job continues.
func finish(ctx context.Context, dom *libvirt.Domain, dev string, pivot bool) error {
	for {
		// In libvirt's raw numbers a job is in step when cur reaches end, and
		// an early 0 of 0 must not be mistaken for that.
		j, err := dom.GetBlockJobInfo(dev, 0)
		if err != nil {
			return err
		}
		if j.Type == 0 { // no job (any more): a commit below the top ends by itself
			if pivot {
				return hypervisor.Errorf(hypervisor.ErrUnknown, hypervisor.DiskID(dev).Ref(), "the block job ended before the switch-over")
			}
			return nil
		}
		if pivot && j.Cur == j.End && j.End > 0 {
			err := dom.BlockJobAbort(dev, libvirt.DOMAIN_BLOCK_JOB_ABORT_PIVOT)
			if err == nil || libvirtx.Kind(err) != hypervisor.ErrInvalidState && !libvirtx.Is(err, libvirt.ERR_BLOCK_COPY_ACTIVE) {
				return err
			}
		}
		// libvirt's job events would come through the process-wide loop, which a caller may not run.
		if err := fleet.Pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// helperName returns the name of the domain that merges images of a machine.
func helperName(uuid string) string { return libvirtx.HelperPrefix + uuid }

// endHelper ends a helper domain whose connection is gone. libvirtd does the
// same, but may not have done it yet.
func endHelper(c *libvirt.Connect, uuid string) error {
	dom, err := c.LookupDomainByName(helperName(uuid))
	if libvirtx.NotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dom.Free()
	if err := dom.Destroy(); err != nil && libvirtx.Kind(err) != hypervisor.ErrInvalidState && !libvirtx.NotFound(err) {
		return err
	}
	return nil
}

// commitApart merges images of a chain that no machine runs on. libvirt has
// no call for that: a paused helper domain opens the chain for the duration.
// It ends with this process, whatever happens.
func commitApart(b *fleet.Books, c *libvirt.Connect, like *libvirt.Domain, base, top string) error {
	open := top
	if a := b.Images.Above[top]; len(a) > 0 {
		open = a[0] // the commit changes its backing link to base
	}
	x, _, err := libvirtx.Inactive(like)
	if err != nil {
		return err
	}
	helper := &libvirtxml.Domain{Type: x.Type, Name: helperName(x.UUID), VCPU: &libvirtxml.DomainVCPU{Value: 1},
		OS: &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Type: "hvm", Arch: x.OS.Type.Arch, Machine: x.OS.Type.Machine}},
		Devices: &libvirtxml.DomainDeviceList{Emulator: x.Devices.Emulator, Disks: []libvirtxml.DomainDisk{{Device: "disk",
			Target: &libvirtxml.DomainDiskTarget{Dev: "vda", Bus: "virtio"}}}}}
	libvirtx.SetMemory(helper, 16<<10, 16<<10)
	libvirtx.SetDiskPath(&helper.Devices.Disks[0], open, "qcow2")
	if err := libvirtx.MarkDefinition(helper, libvirtx.Mark{Role: "helper"}); err != nil {
		return err
	}
	doc, err := helper.Marshal()
	if err != nil {
		return err
	}
	dom, err := c.DomainCreateXML(doc, libvirt.DOMAIN_START_PAUSED|libvirt.DOMAIN_START_AUTODESTROY)
	if err != nil {
		return err
	}
	defer dom.Free()
	err = commit(b.Alive(), dom, "vda", base, top, open == top)
	if derr := dom.Destroy(); err == nil && libvirtx.Kind(derr) != hypervisor.ErrInvalidState && !libvirtx.NotFound(derr) {
		err = derr
	}
	return err
}
