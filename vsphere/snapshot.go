package vsphere

import (
	"context"
	"slices"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// flatten lists a snapshot tree, parents before children. A snapshot with RAM
// is one of a machine that ran then (API reference,
// VirtualMachineSnapshotTree.state).
func flatten(list []types.VirtualMachineSnapshotTree, parent hypervisor.SnapshotID, depth int) []hypervisor.SnapshotInfo {
	var out []hypervisor.SnapshotInfo
	for _, s := range list {
		i := hypervisor.SnapshotInfo{ID: hypervisor.SnapshotID(s.Snapshot.Value), VM: hypervisor.VMID(s.Vm.Value), Name: unescape(s.Name),
			Description: s.Description, Parent: parent, Quiesced: s.Quiesced, State: stateOf(s.State), CreatedAt: s.CreateTime, Depth: depth}
		i.Memory = i.State == hypervisor.Running
		out = append(out, i)
		out = append(out, flatten(s.ChildSnapshotList, i.ID, depth+1)...)
	}
	return out
}

// Snapshots reads the tree and the sizes of its files in one call.
func (d *driver) Snapshots(ctx context.Context, id hypervisor.VMID) ([]hypervisor.SnapshotInfo, error) {
	p, err := d.one(ctx, vmRef(id), "snapshot", "layoutEx")
	if err != nil {
		return nil, err
	}
	info := get[types.VirtualMachineSnapshotInfo](p, "snapshot")
	out := flatten(info.RootSnapshotList, "", 0)
	sizes := snapshotSizes(get[types.VirtualMachineFileLayoutEx](p, "layoutEx"))
	for i := range out {
		out[i].Current = info.CurrentSnapshot != nil && info.CurrentSnapshot.Value == string(out[i].ID)
		out[i].SizeBytes = sizes[string(out[i].ID)]
	}
	return out, nil
}

// snapshotSizes adds up the files that only a snapshot has: its data, its RAM,
// and the images that came with it (API reference,
// VirtualMachineFileLayoutEx.snapshot).
func snapshotSizes(l types.VirtualMachineFileLayoutEx) map[string]int64 {
	size := map[int32]int64{}
	for _, f := range l.File {
		size[f.Key] = f.Size
	}
	out := map[string]int64{}
	for _, s := range l.Snapshot {
		n := size[s.DataKey]
		if s.MemoryKey > 0 && s.MemoryKey != s.DataKey {
			n += size[s.MemoryKey]
		}
		for _, disk := range s.Disk {
			if k := len(disk.Chain); k > 0 {
				for _, f := range disk.Chain[k-1].FileKey {
					n += size[f]
				}
			}
		}
		out[s.Key.Value] = n
	}
	return out
}

// CreateSnapshot is one CreateSnapshot_Task.
func (d *driver) CreateSnapshot(ctx context.Context, id hypervisor.VMID, r hypervisor.SnapshotRequest) (hypervisor.DriverTask, error) {
	p, err := d.one(ctx, vmRef(id), "runtime.powerState", "summary.config.template", "guest.toolsRunningStatus", "config.hardware.device")
	if err != nil {
		return nil, err
	}
	state := stateOf(get[types.VirtualMachinePowerState](p, "runtime.powerState"))
	switch {
	case get[bool](p, "summary.config.template"):
		return nil, invalidState(id.Ref(), "this is a template: vSphere makes no snapshots of templates")
	case r.Memory && state != hypervisor.Running:
		return nil, invalidState(id.Ref(), "the machine is %s: only a running one has RAM to keep", state)
	case r.Memory && passthroughLabel(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice) != "":
		return nil, hypervisor.Unsupported(id.Ref(), hypervisor.SnapshotMemory, hypervisor.ReasonVMPassthrough, passthroughHolds)
	case r.Quiesce && state != hypervisor.Running:
		// A machine that is off is quiet.
		r.Quiesce = false
	case r.Quiesce && p.str("guest.toolsRunningStatus") != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning):
		return nil, hypervisor.Unsupported(id.Ref(), hypervisor.SnapshotQuiesce, hypervisor.ReasonToolsMissing, toolsMissing)
	}
	self, err := d.snapshot(ctx, id, r)
	if err != nil {
		return nil, err
	}
	return d.job(self), nil
}

func (d *driver) snapshot(ctx context.Context, id hypervisor.VMID, r hypervisor.SnapshotRequest) (ref, error) {
	return d.launch(ctx, vmRef(id), "createSnapshot", nil, func() (ref, error) {
		res, err := methods.CreateSnapshot_Task(ctx, d.rt, &types.CreateSnapshot_Task{This: vmRef(id), Name: escape(r.Name),
			Description: r.Description, Memory: r.Memory, Quiesce: r.Quiesce})
		if err != nil {
			return ref{}, err
		}
		return res.Returnval, nil
	})
}

// hasSnapshot makes sure that a snapshot is one of the machine's.
func (d *driver) hasSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID) (hypervisor.SnapshotInfo, error) {
	p, err := d.one(ctx, vmRef(id), "snapshot")
	if err != nil {
		return hypervisor.SnapshotInfo{}, err
	}
	list := flatten(get[types.VirtualMachineSnapshotInfo](p, "snapshot").RootSnapshotList, "", 0)
	i := slices.IndexFunc(list, func(s hypervisor.SnapshotInfo) bool { return s.ID == snap })
	if i < 0 {
		return hypervisor.SnapshotInfo{}, hypervisor.Errorf(hypervisor.KindNotFound, snap.Ref(), "machine %s has no such snapshot", id)
	}
	return list[i], nil
}

// RevertSnapshot is one RevertToSnapshot_Task, which restores the power state
// too.
func (d *driver) RevertSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.RevertRequest) (hypervisor.DriverTask, error) {
	if _, err := d.hasSnapshot(ctx, id, snap); err != nil {
		return nil, err
	}
	res, err := methods.RevertToSnapshot_Task(ctx, d.rt, &types.RevertToSnapshot_Task{This: snapRef(snap), SuppressPowerOn: types.NewBool(r.KeepOff)})
	if err != nil {
		return nil, err
	}
	return d.job(res.Returnval), nil
}

// DeleteSnapshot is one RemoveSnapshot_Task with consolidation, after a look
// for linked clones that stand on the images which would be merged.
func (d *driver) DeleteSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.DeleteSnapshotRequest) (hypervisor.DriverTask, error) {
	snaps, err := d.frozenImages(ctx, vmRef(id))
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(snaps, func(f frozen) bool { return f.self == snapRef(snap) })
	if i < 0 {
		return nil, hypervisor.Errorf(hypervisor.KindNotFound, snap.Ref(), "machine %s has no such snapshot", id)
	}
	gone := snaps[i : i+1]
	if r.Children {
		gone = snaps[i:] // parents come before children: more is checked than goes
		if p, err := d.one(ctx, vmRef(id), "snapshot"); err != nil {
			return nil, err
		} else {
			below := subtree(get[types.VirtualMachineSnapshotInfo](p, "snapshot").RootSnapshotList, snap, false)
			gone = slices.DeleteFunc(slices.Clone(gone), func(f frozen) bool { return !slices.Contains(below, f.self) })
		}
	}
	all, err := d.owners(ctx)
	if err != nil {
		return nil, err
	}
	var images []hypervisor.VolumeID
	for _, f := range gone {
		for _, c := range f.chains {
			if len(c) > 0 {
				images = append(images, c[0].id)
			}
		}
	}
	if by := dependants(all, vmRef(id), images); len(by) > 0 {
		return nil, busyWith(snap.Ref(), "linked clones stand on the snapshot", by)
	}
	self, err := d.removeSnapshot(ctx, snap, r.Children)
	if err != nil {
		return nil, err
	}
	return d.job(self), nil
}

func (d *driver) removeSnapshot(ctx context.Context, snap hypervisor.SnapshotID, children bool) (ref, error) {
	res, err := methods.RemoveSnapshot_Task(ctx, d.rt, &types.RemoveSnapshot_Task{This: snapRef(snap), RemoveChildren: children, Consolidate: types.NewBool(true)})
	if err != nil {
		return ref{}, err
	}
	return res.Returnval, nil
}

// subtree returns a snapshot and all below it.
func subtree(list []types.VirtualMachineSnapshotTree, top hypervisor.SnapshotID, inside bool) []ref {
	var out []ref
	for _, s := range list {
		in := inside || s.Snapshot.Value == string(top)
		if in {
			out = append(out, s.Snapshot)
		}
		out = append(out, subtree(s.ChildSnapshotList, top, in)...)
	}
	return out
}
