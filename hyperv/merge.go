package hyperv

import (
	"context"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// DeleteSnapshot implements hypervisor.Snapshotter. The host's job ends before
// its disks are merged, so the chains of the disks are watched until they have
// the length that they must have.
func (d *driver) DeleteSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.DeleteSnapshotRequest) (hypervisor.DriverTask, error) {
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
	return d.native(ctx, m.h, m.done(absent(m.s, m.snapshotRef(s))), m.h.snapshots(), method, []cim.Arg{{Name: arg, Value: m.snapshotRef(s)}}, func(o *op, _ *cim.Result) (hypervisor.Ref, error) {
		o.commit()
		o.phase("merging", -1)
		return hypervisor.Ref{}, o.merged(m, want, shorter)
	})
}

// Second values of OperationalStatus (Msvm_SummaryInformation reference).
const (
	statusDeleting = 32770
	statusMerging  = 32772
)

// mergeGrace is how long a disk may keep its chain after the host says that
// it merges no more.
const mergeGrace = 30 * time.Second

// merged waits until the host says that it merges no more and every disk's
// chain is shorter by a number of images. The host's word alone is not
// enough: a merge that fails ends too.
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
				return hypervisor.Errorf(hypervisor.KindBusy, m.id.Ref(), "the snapshot is gone, but the host did not merge its disks; it tries again when the machine is powered off or started")
			}
		}
		if err := o.d.poll.Next(o.ctx, step); err != nil {
			return err
		}
	}
}

// shortened compares the chains of the disks with what they were.
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

// shrink is by how many images the chains get shorter when snapshots go. With
// a whole subtree, each image of the path to the present state merges; a
// single one only if nothing else stands on its image.
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
