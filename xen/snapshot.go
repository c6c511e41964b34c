package xen

import (
	"context"
	"maps"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Snapshots reads the snapshots of one machine, parents before children.
func (d *driver) Snapshots(ctx context.Context, id hypervisor.VMID) ([]hypervisor.SnapshotInfo, error) {
	_, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	recs, err := records[vmRec](ctx, d, "VM", v.Snapshots)
	if err != nil {
		return nil, err
	}
	sizes, err := d.snapshotSizes(ctx, recs)
	if err != nil {
		return nil, err
	}
	depth := func(r xapi.Ref) int {
		n := 0
		for p := recs[r].Parent; ; p = recs[p].Parent {
			if _, ok := recs[p]; !ok || n > len(recs) {
				return n
			}
			n++
		}
	}
	var out []hypervisor.SnapshotInfo
	for ref, s := range recs {
		i := hypervisor.SnapshotInfo{ID: hypervisor.SnapshotID(s.UUID), VM: id, Name: s.Name, Description: s.Description, Current: v.Parent == ref,
			Memory: state(s.PowerState) == hypervisor.StateSuspended, CreatedAt: s.SnapshotTime.Time, SizeBytes: sizes[ref], Depth: depth(ref), State: hypervisor.StateOff, Kind: "snapshot"}
		if p, ok := recs[s.Parent]; ok {
			i.Parent = hypervisor.SnapshotID(p.UUID)
		}
		// snapshot_info has the state of the machine at the time.
		if st := state(s.SnapshotInfo["power-state-at-snapshot"]); st != hypervisor.StateUnknown {
			i.State = st
		}
		if i.Memory {
			i.Kind = "checkpoint"
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b hypervisor.SnapshotInfo) int {
		if a.Depth != b.Depth {
			return a.Depth - b.Depth
		}
		return a.CreatedAt.Compare(b.CreatedAt)
	})
	return out, nil
}

// snapshotSizes adds up the space of the images and the RAM of each snapshot.
func (d *driver) snapshotSizes(ctx context.Context, recs map[xapi.Ref]vmRec) (map[xapi.Ref]int64, error) {
	var refs []xapi.Ref
	for _, s := range recs {
		refs = append(refs, s.VBDs...)
	}
	vbds, err := records[vbdRec](ctx, d, "VBD", refs)
	if err != nil {
		return nil, err
	}
	refs = nil
	for _, b := range vbds {
		refs = append(refs, b.VDI)
	}
	for _, s := range recs {
		if !s.SuspendVDI.IsNull() {
			refs = append(refs, s.SuspendVDI)
		}
	}
	vdis, err := records[vdiRec](ctx, d, "VDI", refs)
	if err != nil {
		return nil, err
	}
	out := map[xapi.Ref]int64{}
	for ref, s := range recs {
		out[ref] = vdis[s.SuspendVDI].Used
		for _, b := range s.VBDs {
			out[ref] += vdis[vbds[b].VDI].Used
		}
	}
	return out, nil
}

// CreateSnapshot calls VM.snapshot, or VM.checkpoint with RAM.
func (d *driver) CreateSnapshot(ctx context.Context, id hypervisor.VMID, r hypervisor.SnapshotRequest) (hypervisor.DriverTask, error) {
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	k := capability.SnapshotDisk
	switch {
	case v.Template:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, on, "this is a template: XAPI makes snapshots of machines only")
	case r.Quiesce:
		return nil, hypervisor.Unsupported(on, capability.SnapshotQuiesce, hypervisor.ReasonAPIVersion, quiesceDetail)
	case r.Memory:
		k = capability.SnapshotMemory
		if st := state(v.PowerState); st == hypervisor.StateOff {
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, on, "the machine is off and has no RAM to keep: leave Memory out")
		}
		if err := d.allowed(ctx, on, k); err != nil {
			return nil, err
		}
	}
	return d.compose(ctx, "snapshot", on, k, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		method := "VM.snapshot"
		if r.Memory {
			method = "VM.checkpoint"
		}
		ref, err := j.runTo(ctx, 0, 0.9, goal{vm: vm, there: func(ctx context.Context) (xapi.Ref, bool, error) {
			return d.newSnapshot(ctx, vm, v.Snapshots, r.Name)
		}}, method, vm, r.Name)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		ctx, stop := job.Late(ctx)
		defer stop()
		var s vmRec
		if err := d.c.Call(ctx, &s, "VM.get_record", ref); err != nil {
			return hypervisor.Ref{}, err
		}
		made := hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, ID: s.UUID, Name: s.Name}
		if r.Description != v.Description {
			if err = d.c.Call(ctx, nil, "VM.set_name_description", ref, r.Description); err != nil {
				j.Left(made) // it is complete, except for its text
			}
		}
		return made, err
	})
}

// newSnapshot finds a snapshot of a machine that is not one of those known.
func (d *driver) newSnapshot(ctx context.Context, vm xapi.Ref, known []xapi.Ref, name string) (xapi.Ref, bool, error) {
	var now vmRec
	if err := d.c.Call(ctx, &now, "VM.get_record", vm); err != nil {
		return "", false, err
	}
	recs, err := records[vmRec](ctx, d, "VM", now.Snapshots)
	for ref, s := range recs {
		if s.Name == name && !slices.Contains(known, ref) {
			return ref, true, err
		}
	}
	return "", false, err
}

// snapshot finds a machine's snapshot.
func (d *driver) snapshot(ctx context.Context, vm xapi.Ref, id hypervisor.SnapshotID) (xapi.Ref, vmRec, error) {
	ref, s, err := d.anyVM(ctx, hypervisor.VMID(id))
	if err != nil {
		if kindOf(err) == hypervisor.ErrNotFound {
			err = hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "%w", err)
		}
		return ref, s, err
	}
	if !s.IsSnapshot || s.SnapshotOf != vm {
		return ref, s, notFound(id.Ref(), "snapshot of this machine")
	}
	return ref, s, nil
}

// RevertSnapshot calls VM.revert, which leaves the machine Halted or, after a
// checkpoint, Suspended. Then it resumes the machine.
func (d *driver) RevertSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.RevertOptions) (hypervisor.DriverTask, error) {
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	ref, s, err := d.snapshot(ctx, vm, snap)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	notes, err := d.lostByRevert(ctx, on, v, s)
	if err != nil {
		return nil, err
	}
	return d.compose(ctx, "revert", on, capability.SnapshotDisk, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		for _, n := range notes {
			j.Note(n)
		}
		if _, err := j.runTo(ctx, 0, 0.6, d.reverted(vm, ref, v, s), "VM.revert", ref); err != nil {
			return on, err
		}
		if r.KeepOff || state(s.PowerState) != hypervisor.StateSuspended {
			return on, nil
		}
		// The snapshot's RAM is useless where it is not resumed. A message that
		// did not arrive is sent again: its goal showed that nothing happened.
		var err error
		for range 2 {
			_, err = j.runTo(ctx, 0.6, 1, *d.inState(vm, "", hypervisor.StateRunning), "VM.resume", vm, false, false)
			if ctx.Err() != nil || !xapi.Lost(err) && !forgotten(err) {
				break
			}
		}
		return on, err
	})
}

// lostByRevert returns what a machine lacks after a revert. VM.revert
// destroys each image that the snapshot has a copy of and removes all other
// drives (xapi_vm_snapshot.ml), so it is refused if such an image is not the
// machine's alone.
func (d *driver) lostByRevert(ctx context.Context, on hypervisor.Ref, v, snap vmRec) (notes []string, err error) {
	nowDrives, err := records[vbdRec](ctx, d, "VBD", v.VBDs)
	if err != nil {
		return nil, err
	}
	thenDrives, err := records[vbdRec](ctx, d, "VBD", snap.VBDs)
	if err != nil {
		return nil, err
	}
	now, err := d.attachedImages(ctx, nowDrives)
	if err != nil {
		return nil, err
	}
	then, err := d.attachedImages(ctx, thenDrives)
	if err != nil {
		return nil, err
	}
	for _, a := range now {
		has := slices.ContainsFunc(then, func(t attached) bool { return t.vdi.SnapshotOf == a.ref })
		switch {
		case has && a.stays():
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, on, "the revert would delete image %s (%s), which is not the machine's alone: detach it first (KeepDisks); the machine then gets the snapshot's copy", a.vdi.UUID, a.vdi.Name)
		case !has:
			notes = append(notes, "disk "+a.vbd.UUID+" came after the snapshot: it is detached, image "+a.vdi.UUID+" ("+a.vdi.Name+") is kept")
		}
	}
	if p := v.Other[pciKey]; p != "" && snap.Other[pciKey] != p {
		notes = append(notes, "PCI functions "+p+" came after the snapshot: they are detached")
	}
	return append(notes, laterCDs(nowDrives, thenDrives)...), nil
}

// laterCDs names the CD drives that a machine has now and did not have then.
func laterCDs(now, then map[xapi.Ref]vbdRec) (notes []string) {
	for _, b := range now {
		had := false
		for _, t := range then {
			had = had || t.Type == "CD" && t.UserDevice == b.UserDevice
		}
		if b.Type == "CD" && !had {
			notes = append(notes, "CD drive "+b.UUID+" came after the snapshot: it is taken away")
		}
	}
	return notes
}

// reverted is the goal of a revert. A revert to the snapshot that already is
// the current one shows in the drives, which are all new. Without drives it
// can't be distinguished from no revert.
func (d *driver) reverted(vm, snap xapi.Ref, before, then vmRec) goal {
	return goal{vm: vm, there: func(ctx context.Context) (xapi.Ref, bool, error) {
		var v vmRec
		err := d.c.Call(ctx, &v, "VM.get_record", vm)
		st := state(v.PowerState)
		parent := before.Parent != snap && v.Parent == snap
		drives := len(v.VBDs) > 0 && len(v.VBDs) == len(then.VBDs) && !slices.ContainsFunc(v.VBDs, func(r xapi.Ref) bool { return slices.Contains(before.VBDs, r) })
		return vm, (parent || drives) && (st == hypervisor.StateOff || st == hypervisor.StateSuspended), err
	}}
}

// DeleteSnapshot destroys the snapshot and its images. XAPI passes its
// children to its parent. Then it waits until the storage manager has merged
// the images below.
func (d *driver) DeleteSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.DeleteSnapshotOptions) (hypervisor.DriverTask, error) {
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	ref, _, err := d.snapshot(ctx, vm, snap)
	if err != nil {
		return nil, err
	}
	gone := []xapi.Ref{ref}
	if r.Children {
		recs, err := records[vmRec](ctx, d, "VM", v.Snapshots)
		if err != nil {
			return nil, err
		}
		for i := 0; i < len(gone); i++ {
			for _, c := range recs[gone[i]].Children {
				if _, ok := recs[c]; ok { // the machine itself is a child too
					gone = append(gone, c)
				}
			}
		}
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	return d.compose(ctx, "delete snapshot", on, capability.SnapshotDisk, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		images := map[xapi.Ref]vdiRec{}
		for i, s := range slices.Backward(gone) {
			if err := ctx.Err(); err != nil {
				return on, err
			}
			went, err := d.destroyWith(ctx, s)
			if err != nil {
				return on, err
			}
			maps.Copy(images, went.images)
			j.Report(hypervisor.TaskState{Fraction: 0.5 * float64(len(gone)-i) / float64(len(gone)), Phase: "deleting"})
		}
		j.merged(ctx, images, 0.5)
		return on, nil
	})
}
