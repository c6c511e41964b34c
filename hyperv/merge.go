package hyperv

import (
	"context"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// DeleteSnapshot implements hypervisor.Snapshotter. The host's job ends
// before its disks are merged, so the backing chains of the disks are watched
// until they have the expected length.
func (d *driver) DeleteSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.DeleteSnapshotOptions) (hypervisor.DriverTask, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	s, err := m.snapshot(snap)
	if err != nil {
		return nil, err
	}
	current, err := m.currentSnapshot(ctx)
	if err != nil {
		return nil, err
	}
	tree := m.tree(current)
	gone := map[hypervisor.SnapshotID]bool{hypervisor.SnapshotID(ownerOf(s.Str("InstanceID"))): true}
	touched := map[hypervisor.SnapshotID]bool{}
	for _, i := range tree { // parents come first
		if gone[i.Parent] && r.Children {
			gone[i.ID] = true
		}
		if gone[i.ID] || gone[i.Parent] {
			touched[i.ID] = true // its image is merged or merged into
		}
	}
	images, err := m.images(ctx, touched)
	if err != nil {
		return nil, err
	}
	if err := d.unshared(ctx, m, images); err != nil {
		return nil, err
	}
	shorter := shrink(tree, current, gone, r.Children)
	want, err := m.depths(ctx)
	if err != nil {
		return nil, err
	}
	method, arg := "DestroySnapshot", "AffectedSnapshot"
	if r.Children {
		method, arg = "DestroySnapshotTree", "SnapshotSettingData"
	}
	t, err := m.native(ctx, "delete snapshot", m.request(m.done(absent(m.s, m.snapshotRef(s))), m.h.snapshots(), method, cim.Arg{Name: arg, Value: m.snapshotRef(s)}), func(o *op) (hypervisor.Ref, error) {
		o.ctx = o.Commit(o.ctx)
		o.Phase("merging", -1)
		return hypervisor.Ref{}, o.merged(m, want, shorter)
	})
	return t, m.contended(ctx, err)
}

// Second values of OperationalStatus (Msvm_SummaryInformation reference).
const (
	statusDeleting = 32770
	statusMerging  = 32772
)

// mergeGrace is the time for which the images of a deleted machine may stay
// open for its checkpoints, and for which a disk may keep its backing chain
// after the host reports that it no longer merges.
var mergeGrace = 30 * time.Second

// merged waits until the host reports that it no longer merges and every
// disk's backing chain is shorter by a number of images. The host's report
// alone is not enough: a failed merge ends too.
func (o *op) merged(m *machine, before map[string]int, shorter int) error {
	var quiet time.Time
	for step := 0; ; step++ {
		sys, err := cim.Read(o.ctx, o.s, m.ref())
		if err != nil {
			return err
		}
		busy := false
		for _, st := range sys.Uints("OperationalStatus") {
			busy = busy || st == statusMerging || st == statusDeleting
		}
		if !busy {
			done, err := m.shortened(o.ctx, before, shorter)
			if done || err != nil {
				return err
			}
			if quiet.IsZero() {
				quiet = time.Now()
			}
			if time.Since(quiet) > mergeGrace {
				return hypervisor.Errorf(hypervisor.ErrBusy, m.id.Ref(), "the snapshot is gone, but the host did not merge its disks; it tries again when the machine is powered off or started")
			}
		}
		if err := o.d.poll.Next(o.ctx, step); err != nil {
			return err
		}
	}
}

// shortened compares the backing chains of the disks with their former
// lengths.
func (m *machine) shortened(ctx context.Context, before map[string]int, shorter int) (bool, error) {
	if shorter == 0 {
		return true, nil
	}
	now, err := m.depths(ctx)
	if err != nil {
		return false, err
	}
	for disk, n := range now {
		if b, ok := before[disk]; ok && n > max(0, b-shorter) {
			return false, nil
		}
	}
	return true, nil
}

// shrink returns the number of images by which the backing chains get shorter
// when snapshots are deleted. With a whole subtree, each image of the path to
// the present state merges. A single one merges only if nothing else depends
// on its image.
func shrink(tree []hypervisor.SnapshotInfo, current hypervisor.SnapshotID, gone map[hypervisor.SnapshotID]bool, subtree bool) int {
	parent, users := map[hypervisor.SnapshotID]hypervisor.SnapshotID{}, map[hypervisor.SnapshotID]int{current: 1}
	for _, i := range tree {
		parent[i.ID] = i.Parent
		users[i.Parent]++
	}
	n := 0
	for i := current; i != ""; i = parent[i] {
		if gone[i] && (subtree || users[i] == 1) {
			n++
		}
	}
	return n
}
