package hypervisor

import (
	"context"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// SnapshotInfo is what is known about a snapshot.
type SnapshotInfo struct {
	ID          SnapshotID `json:"id"`
	VM          VMID       `json:"vm"`
	Name        string     `json:"name"`
	Description string     `json:"description,omitempty"`
	Parent      SnapshotID `json:"parent,omitempty"` // empty at a root
	Current     bool       `json:"current,omitempty"`
	Memory      bool       `json:"memory"` // holds RAM
	Quiesced    bool       `json:"quiesced,omitempty"`
	State       PowerState `json:"state"`          // of the machine when the snapshot was made
	Kind        string     `json:"kind,omitempty"` // the platform's kind: "internal", "external", "production", …
	CreatedAt   time.Time  `json:"createdAt"`
	SizeBytes   int64      `json:"sizeBytes,omitempty"` // space taken in the datastore, 0 if unknown
	Depth       int        `json:"depth"`               // number of ancestors, 0 at a root
}

// SnapshotRequest is what a driver gets for VM.CreateSnapshot.
type SnapshotRequest struct {
	Name string
	SnapshotOptions
}

// Capability returns the capability that the request needs.
func (o SnapshotOptions) Capability() capability.Name {
	switch {
	case o.Memory:
		return capability.SnapshotMemory
	case o.Quiesce:
		return capability.SnapshotQuiesce
	}
	return capability.SnapshotDisk
}

// SnapshotOptions are the options for VM.CreateSnapshot. Nil means disks
// only, not quiesced.
type SnapshotOptions struct {
	Description string
	// Memory keeps the RAM too. A machine that is off has no RAM, so it is
	// refused with ErrInvalidState.
	Memory bool
	// Quiesce has the guest flush and freeze its file systems. A guest that
	// can't do this is ErrUnsupported with ReasonToolsMissing. Quiesce can't
	// be combined with Memory.
	Quiesce bool
}

// RevertOptions are the options for Snapshot.Revert.
type RevertOptions struct {
	KeepOff bool // leave the machine Off or Suspended even if the snapshot holds RAM
}

// DeleteSnapshotOptions are the options for Snapshot.Delete.
type DeleteSnapshotOptions struct {
	Children bool // delete its descendants too
}

// Snapshot is a handle on a snapshot of one machine.
type Snapshot struct {
	vm *VM
	id SnapshotID
}

// Snapshot returns the handle for an ID. It makes no call.
func (m *VM) Snapshot(id SnapshotID) *Snapshot { return &Snapshot{m, id} }

// ID returns the snapshot's ID, for CloneOptions.From.
func (s *Snapshot) ID() SnapshotID { return s.id }

// Ref returns the Ref of the snapshot.
func (s *Snapshot) Ref() Ref { return s.id.Ref() }

// VM returns the machine.
func (s *Snapshot) VM() *VM { return s.vm }

// Snapshots lists the machine's snapshots, parents before children.
func (m *VM) Snapshots(ctx context.Context) ([]SnapshotInfo, error) {
	return read(ctx, m.c, op.SnapshotList, m.Ref(), capability.SnapshotDisk, nil, func(ctx context.Context, d Snapshotter) ([]SnapshotInfo, error) {
		return d.Snapshots(ctx, m.id)
	})
}

// FindSnapshot returns the snapshot with this name, or ErrNotFound or
// ErrAmbiguous.
func (m *VM) FindSnapshot(ctx context.Context, name string) (*Snapshot, error) {
	i, err := m.oneSnapshot(ctx, op.SnapshotFind, Ref{Kind: ObjectSnapshot, Name: name}, func(i SnapshotInfo) bool { return i.Name == name })
	if err != nil {
		return nil, err
	}
	return m.Snapshot(i.ID), nil
}

// Info reads the snapshot.
func (s *Snapshot) Info(ctx context.Context) (SnapshotInfo, error) {
	return s.vm.oneSnapshot(ctx, op.SnapshotInfo, s.Ref(), func(i SnapshotInfo) bool { return i.ID == s.id })
}

func (m *VM) oneSnapshot(ctx context.Context, name op.Name, on Ref, match func(SnapshotInfo) bool) (SnapshotInfo, error) {
	return read(ctx, m.c, name, on, capability.SnapshotDisk, nil, func(ctx context.Context, d Snapshotter) (SnapshotInfo, error) {
		all, err := d.Snapshots(ctx, m.id)
		if err != nil {
			return SnapshotInfo{}, err
		}
		return only(on, all, match, func(i SnapshotInfo) Ref { return i.ID.Ref() })
	})
}

// CreateSnapshot makes a snapshot below the current one. Afterwards the
// machine is in the same state as before.
func (m *VM) CreateSnapshot(ctx context.Context, name string, o *SnapshotOptions) *Task[*Snapshot] {
	const op = op.SnapshotCreate
	r := SnapshotRequest{name, orDefault(o)}
	bad := checkNewName(op, m.Ref(), "snapshot name", name)
	if bad == nil {
		bad = checkText(op, m.Ref(), "description", r.Description)
	}
	if bad == nil && r.Memory && r.Quiesce {
		bad = invalid(op, m.Ref(), "Memory and Quiesce contradict each other: a snapshot with RAM needs no quiesced disks; choose one")
	}
	return start(ctx, m.c, op, m.Ref(), r.Capability(), bad, func(ctx context.Context, d Snapshotter) (DriverTask, error) {
		return d.CreateSnapshot(ctx, m.id, r)
	}, func(_ context.Context, s TaskState) (*Snapshot, error) {
		return m.Snapshot(SnapshotID(s.Result.ID)), nil
	})
}

// Revert takes the machine back to the snapshot. The machine then runs if the
// snapshot has RAM, and is Off if not. Changes made since the snapshot are
// lost.
func (s *Snapshot) Revert(ctx context.Context, o *RevertOptions) *Task[None] {
	return start(ctx, s.vm.c, op.SnapshotRevert, s.id.Ref(), capability.SnapshotDisk, nil, func(ctx context.Context, d Snapshotter) (DriverTask, error) {
		return d.RevertSnapshot(ctx, s.vm.id, s.id, orDefault(o))
	}, noResult)
}

// Delete merges the snapshot away; the machine's present content stays. Its
// children move to its parent, or are deleted too if the options ask for it.
// Done means merged: until then the task's phase is "merging". Where the
// platform merges after the task has ended, or not at all, a note says so.
func (s *Snapshot) Delete(ctx context.Context, o *DeleteSnapshotOptions) *Task[None] {
	return start(ctx, s.vm.c, op.SnapshotDelete, s.id.Ref(), capability.SnapshotDisk, nil, func(ctx context.Context, d Snapshotter) (DriverTask, error) {
		return d.DeleteSnapshot(ctx, s.vm.id, s.id, orDefault(o))
	}, noResult)
}
