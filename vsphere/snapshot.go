package vsphere

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
)

// flatten lists a snapshot tree, parents before children. A snapshot with RAM
// is one of a machine that ran at the time (API reference,
// VirtualMachineSnapshotTree.state).
func flatten(list []types.VirtualMachineSnapshotTree, parent hypervisor.SnapshotID, depth int) []hypervisor.SnapshotInfo {
	var out []hypervisor.SnapshotInfo
	for _, s := range list {
		i := hypervisor.SnapshotInfo{ID: hypervisor.SnapshotID(s.Snapshot.Value), VM: hypervisor.VMID(s.Vm.Value), Name: unescape(s.Name),
			Description: s.Description, Parent: parent, Quiesced: s.Quiesced, State: stateOf(s.State), CreatedAt: s.CreateTime, Depth: depth}
		i.Memory = i.State == hypervisor.StateRunning
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

// CreateSnapshot takes one CreateSnapshot_Task.
func (d *driver) CreateSnapshot(ctx context.Context, id hypervisor.VMID, r hypervisor.SnapshotRequest) (hypervisor.DriverTask, error) {
	p, err := d.one(ctx, vmRef(id), "runtime.powerState", "summary.config.template", "guest.toolsRunningStatus", "config.hardware.device", notePath, basePath)
	if err != nil {
		return nil, err
	}
	state := stateOf(get[types.VirtualMachinePowerState](p, "runtime.powerState"))
	switch {
	case d.isTemplate(vmRef(id), p):
		return nil, invalidState(id.Ref(), "this is a template: vSphere makes no snapshots of templates")
	case r.Memory && state != hypervisor.StateRunning:
		return nil, invalidState(id.Ref(), "the machine is %s: only a running one has RAM to keep", state)
	case r.Memory && passthroughLabel(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice) != "":
		return nil, hypervisor.Unsupported(id.Ref(), capability.SnapshotMemory, hypervisor.ReasonVMPassthrough, passthroughHolds)
	case r.Memory && independentDisk(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice) != "":
		return nil, hypervisor.Unsupported(id.Ref(), capability.SnapshotMemory, hypervisor.ReasonConfig,
			independentDisk(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice))
	case r.Quiesce && state != hypervisor.StateRunning:
		// A machine that is off is quiesced.
		r.Quiesce = false
	case r.Quiesce && p.str("guest.toolsRunningStatus") != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning):
		return nil, hypervisor.Unsupported(id.Ref(), capability.SnapshotQuiesce, hypervisor.ReasonToolsMissing, toolsMissing)
	}
	return d.start(ctx, id.Ref(), func(ctx context.Context) (ref, error) { return d.snapshot(ctx, id, r) }, func(j *serverTask) {
		j.notes = leftOut(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice)
	})
}

// independentDisk returns the reason why a machine's RAM can't be kept, or
// nothing: the disk would not match the RAM (vSphere 7 manual, "Snapshot
// Limitations").
func independentDisk(devs []types.BaseVirtualDevice) string {
	for _, x := range disksOf(devs) {
		if mode := modeOf(x); strings.HasPrefix(mode, "independent") {
			return fmt.Sprintf("disk %s (%s) is %s: vSphere keeps no RAM of a machine with such a disk; take a snapshot of the disks alone", keyID(x.Key), imageOf(x), mode)
		}
	}
	return ""
}

// leftOut names the disks that no snapshot holds: independent ones, and raw
// ones in physical mode (vSphere 7 manual, "Snapshot Limitations").
func leftOut(devs []types.BaseVirtualDevice) (notes []string) {
	for _, x := range disksOf(devs) {
		if mode := modeOf(x); strings.HasPrefix(mode, "independent") {
			notes = append(notes, fmt.Sprintf("disk %s (%s) is %s: the snapshot doesn't hold it", keyID(x.Key), imageOf(x), mode))
		} else if raw(x) {
			notes = append(notes, fmt.Sprintf("disk %s (%s) is a raw device: the snapshot doesn't hold it", keyID(x.Key), imageOf(x)))
		}
	}
	return notes
}

func (d *driver) snapshot(ctx context.Context, id hypervisor.VMID, r hypervisor.SnapshotRequest) (ref, error) {
	return d.launch(ctx, vmRef(id), "createSnapshot", nil, func() (ref, error) {
		return taskOf(methods.CreateSnapshot_Task(ctx, d.rt, &types.CreateSnapshot_Task{This: vmRef(id), Name: escape(r.Name),
			Description: r.Description, Memory: r.Memory, Quiesce: r.Quiesce}))
	})
}

// hasSnapshot checks that a snapshot is one of the machine's.
func (d *driver) hasSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID) (hypervisor.SnapshotInfo, error) {
	p, err := d.one(ctx, vmRef(id), "snapshot")
	if err != nil {
		return hypervisor.SnapshotInfo{}, err
	}
	list := flatten(get[types.VirtualMachineSnapshotInfo](p, "snapshot").RootSnapshotList, "", 0)
	i := slices.IndexFunc(list, func(s hypervisor.SnapshotInfo) bool { return s.ID == snap })
	if i < 0 {
		return hypervisor.SnapshotInfo{}, hypervisor.Errorf(hypervisor.ErrNotFound, snap.Ref(), "machine %s has no such snapshot", id)
	}
	return list[i], nil
}

// RevertSnapshot takes one RevertToSnapshot_Task, which restores the power
// state too. The task removes a disk that is in no snapshot from the machine,
// with its file (vSphere 7 manual, "Restoring Snapshots"). Such a disk is
// therefore detached first, so that its file stays.
func (d *driver) RevertSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.RevertOptions) (hypervisor.DriverTask, error) {
	p, err := d.one(ctx, vmRef(id), "snapshot", "config.hardware.device")
	if err != nil {
		return nil, err
	}
	snaps, err := d.frozenOf(ctx, p)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(snaps, func(f frozen) bool { return f.self == snapRef(snap) })
	if i < 0 {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, snap.Ref(), "machine %s has no such snapshot", id)
	}
	late, notes := lateDisks(get[types.ArrayOfVirtualDevice](p, "config.hardware.device").VirtualDevice, snaps, snaps[i])
	revert := func(ctx context.Context) (ref, error) {
		return d.launch(ctx, vmRef(id), "Snapshot.revert", nil, func() (ref, error) {
			return taskOf(methods.RevertToSnapshot_Task(ctx, d.rt, &types.RevertToSnapshot_Task{This: snapRef(snap), SuppressPowerOn: types.NewBool(r.KeepOff)}))
		})
	}
	if len(late) == 0 {
		return d.start(ctx, snap.Ref(), revert, func(j *serverTask) { j.notes = notes })
	}
	return d.compose(ctx, "revert", id.Ref(), func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		var out, in types.VirtualMachineConfigSpec
		for _, x := range late {
			out.DeviceChange = append(out.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: x})
			in.DeviceChange = append(in.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: x})
		}
		j.SetBack("the disks that came after the snapshot", func(ctx context.Context) error { return d.change(ctx, id, in) })
		if err := d.change(ctx, id, out); err != nil {
			return id.Ref(), err
		}
		if _, err := d.step(ctx, j.Report, revert); err != nil {
			return id.Ref(), err
		}
		for _, n := range notes {
			j.Note(n)
		}
		return id.Ref(), nil
	})
}

// lateDisks returns the disks of a machine that are in none of its snapshots,
// and notes about everything that a revert to one does not restore.
func lateDisks(now []types.BaseVirtualDevice, snaps []frozen, to frozen) (late []*types.VirtualDisk, notes []string) {
	shares := func(x *types.VirtualDisk, f frozen) bool {
		return slices.ContainsFunc(chain(x.Backing), func(l link) bool {
			return slices.ContainsFunc(f.chains, func(c []link) bool { return slices.ContainsFunc(c, func(m link) bool { return m.id == l.id }) })
		})
	}
	for _, x := range disksOf(now) {
		name := fmt.Sprintf("disk %s (%s)", keyID(x.Key), imageOf(x))
		switch mode := modeOf(x); {
		case len(chain(x.Backing)) == 0:
			notes = append(notes, fmt.Sprintf("disk %s is of a kind that this driver doesn't know: vSphere decides what the revert does with it", keyID(x.Key)))
		case shares(x, to) && strings.HasPrefix(mode, "independent"):
			notes = append(notes, fmt.Sprintf("%s is %s: it holds what it held before the revert", name, mode))
		case shares(x, to):
		case slices.ContainsFunc(snaps, func(f frozen) bool { return shares(x, f) }):
			notes = append(notes, name+" came after the snapshot: the machine has it no more, and a later snapshot holds it")
		default:
			late = append(late, x)
			notes = append(notes, name+" came after the snapshot: it was detached, and its file stays")
		}
	}
	return late, notes
}

// DeleteSnapshot takes one RemoveSnapshot_Task with consolidation, after a
// check for linked clones that depend on the images to be merged.
func (d *driver) DeleteSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.DeleteSnapshotOptions) (hypervisor.DriverTask, error) {
	snaps, err := d.frozenImages(ctx, vmRef(id))
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(snaps, func(f frozen) bool { return f.self == snapRef(snap) })
	if i < 0 {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, snap.Ref(), "machine %s has no such snapshot", id)
	}
	gone := snaps[i : i+1]
	if r.Children {
		gone = snaps[i:] // parents come before children; this checks more than is removed
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
		return nil, d.busyWith(ctx, snap.Ref(), "linked clones depend on the snapshot", by, "delete them first")
	}
	return d.start(ctx, snap.Ref(), func(ctx context.Context) (ref, error) { return d.removeSnapshot(ctx, id, snap, r.Children) }, nil)
}

func (d *driver) removeSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, children bool) (ref, error) {
	return d.launch(ctx, vmRef(id), "Snapshot.remove", nil, func() (ref, error) {
		return taskOf(methods.RemoveSnapshot_Task(ctx, d.rt, &types.RemoveSnapshot_Task{This: snapRef(snap), RemoveChildren: children, Consolidate: types.NewBool(true)}))
	})
}

// subtree returns a snapshot and all of its descendants.
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
