package xen

import (
	"context"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
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
			Memory: state(s.PowerState) == hypervisor.Suspended, CreatedAt: s.SnapshotTime.Time, SizeBytes: sizes[ref], Depth: depth(ref), State: hypervisor.Off, Kind: "snapshot"}
		if p, ok := recs[s.Parent]; ok {
			i.Parent = hypervisor.SnapshotID(p.UUID)
		}
		// snapshot_info tells the state that the machine was in.
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

// snapshotSizes adds up what the images of each snapshot take.
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
	vdis, err := records[vdiRec](ctx, d, "VDI", refs)
	if err != nil {
		return nil, err
	}
	out := map[xapi.Ref]int64{}
	for ref, s := range recs {
		for _, b := range s.VBDs {
			out[ref] += vdis[vbds[b].VDI].Used
		}
	}
	return out, nil
}

// CreateSnapshot is VM.snapshot, or VM.checkpoint with RAM.
func (d *driver) CreateSnapshot(ctx context.Context, id hypervisor.VMID, r hypervisor.SnapshotRequest) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	k := hypervisor.SnapshotDisk
	switch {
	case v.Template:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, on, "this is a template: XAPI makes snapshots of machines only")
	case r.Quiesce:
		return nil, hypervisor.Unsupported(on, hypervisor.SnapshotQuiesce, hypervisor.ReasonAPIVersion, quiesceDetail)
	case r.Memory:
		k = hypervisor.SnapshotMemory
		if st := state(v.PowerState); st == hypervisor.Off {
			return nil, hypervisor.Errorf(hypervisor.KindInvalidState, on, "the machine is off and has no RAM to keep: leave Memory out")
		}
		if err := d.allowed(ctx, on, k); err != nil {
			return nil, err
		}
	}
	return d.compose(ctx, "snapshot", on, k, "", func(ctx context.Context, j *job) (hypervisor.Ref, error) {
		method, args := "VM.snapshot", []any{vm, r.Name}
		if r.Memory {
			method = "VM.checkpoint"
		} else if d.api >= 2021 {
			args = append(args, []xapi.Ref{}) // ignore_vdis, since API version 2.21
		}
		ref, err := j.runTo(ctx, 0, 0.9, goal{vm: vm, there: func(ctx context.Context) (xapi.Ref, bool, error) {
			return d.newSnapshot(ctx, vm, v.Snapshots, r.Name)
		}}, method, args...)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		ctx, stop := late(ctx)
		defer stop()
		var s vmRec
		if err := d.c.Call(ctx, &s, "VM.get_record", ref); err != nil {
			return hypervisor.Ref{}, err
		}
		made := hypervisor.Ref{Kind: hypervisor.KindOfSnapshot, ID: s.UUID, Name: s.Name}
		if r.Description != v.Description {
			if err = d.c.Call(ctx, nil, "VM.set_name_description", ref, r.Description); err != nil {
				j.left = append(j.left, made) // it is whole, but for its text
			}
		}
		return made, err
	})
}

// newSnapshot finds a snapshot of a machine that is none of those known.
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
		if kindOf(err) == hypervisor.KindNotFound {
			err = hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "%w", err)
		}
		return ref, s, err
	}
	if !s.IsSnapshot || s.SnapshotOf != vm {
		return ref, s, notFound(id.Ref(), "snapshot of this machine")
	}
	return ref, s, nil
}

// RevertSnapshot is VM.revert, which leaves the machine Halted or, after a
// checkpoint, Suspended; then it is resumed.
func (d *driver) RevertSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.RevertRequest) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	ref, s, err := d.snapshot(ctx, vm, snap)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	return d.compose(ctx, "revert", on, hypervisor.SnapshotDisk, "", func(ctx context.Context, j *job) (hypervisor.Ref, error) {
		if _, err := j.runTo(ctx, 0, 0.6, d.reverted(vm, ref, v), "VM.revert", ref); err != nil {
			return on, err
		}
		if r.KeepOff || state(s.PowerState) != hypervisor.Suspended {
			return on, nil
		}
		_, err := j.runTo(ctx, 0.6, 1, *d.inState(vm, "", hypervisor.Running), "VM.resume", vm, false, false)
		return on, err
	})
}

// reverted is the goal of a revert. One to the snapshot that is the current
// one already can't be told from none.
func (d *driver) reverted(vm, snap xapi.Ref, before vmRec) goal {
	return goal{vm: vm, there: func(ctx context.Context) (xapi.Ref, bool, error) {
		var v vmRec
		err := d.c.Call(ctx, &v, "VM.get_record", vm)
		st := state(v.PowerState)
		return vm, before.Parent != snap && v.Parent == snap && (st == hypervisor.Off || st == hypervisor.Suspended), err
	}}
}

// DeleteSnapshot destroys the snapshot and its images; XAPI hands its children
// to its parent. The storage manager coalesces chains later, in the
// background: XAPI shows no task for it, and the result is the same before.
func (d *driver) DeleteSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.DeleteSnapshotRequest) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, id)
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
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	return d.compose(ctx, "delete snapshot", on, hypervisor.SnapshotDisk, "", func(ctx context.Context, j *job) (hypervisor.Ref, error) {
		for i, s := range slices.Backward(gone) {
			if err := ctx.Err(); err != nil {
				return on, err
			}
			if err := d.destroyWithDisks(ctx, s); err != nil {
				return on, err
			}
			j.report(hypervisor.TaskState{Fraction: float64(len(gone)-i) / float64(len(gone)), Phase: "merging"})
		}
		return on, nil
	})
}
