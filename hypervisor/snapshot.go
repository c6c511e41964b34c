package hypervisor

import (
	"context"
	"time"
)

// SnapshotInfo is what is known of a snapshot.
type SnapshotInfo struct {
	ID          SnapshotID `json:"id"`
	VM          VMID       `json:"vm"`
	Name        string     `json:"name"`
	Description string     `json:"description,omitempty"`
	Parent      SnapshotID `json:"parent,omitempty"` // empty at a root
	Current     bool       `json:"current,omitempty"`
	Memory      bool       `json:"memory"` // holds RAM
	Quiesced    bool       `json:"quiesced,omitempty"`
	State       PowerState `json:"state"`          // of the machine, then
	Kind        string     `json:"kind,omitempty"` // the platform's kind: "internal", "external", "production", …
	CreatedAt   time.Time  `json:"createdAt"`
	SizeBytes   int64      `json:"sizeBytes,omitempty"` // what it takes in the datastore, 0 if unknown
	Depth       int        `json:"depth"`               // ancestors, 0 at a root
}

// SnapshotRequest is what a driver gets for VM.CreateSnapshot.
type SnapshotRequest struct {
	Name, Description string
	Memory, Quiesce   bool
}

// SnapshotOptions for VM.CreateSnapshot; nil means disks only, not quiesced.
type SnapshotOptions struct {
	Description string
	// Memory keeps the RAM too. A machine that is off has none:
	// ErrInvalidState.
	Memory bool
	// Quiesce has the guest flush and freeze its file systems. A guest that
	// can't is ErrUnsupported with ReasonToolsMissing. Not with Memory.
	Quiesce bool
}

// RevertRequest is what a driver gets for Snapshot.Revert.
type RevertRequest struct{ KeepOff bool }

// RevertOptions for Snapshot.Revert.
type RevertOptions struct {
	KeepOff bool // leave the machine Off or Suspended even if the snapshot holds RAM
}

// DeleteSnapshotRequest is what a driver gets for Snapshot.Delete.
type DeleteSnapshotRequest struct{ Children bool }

// DeleteSnapshotOptions for Snapshot.Delete.
type DeleteSnapshotOptions struct {
	Children bool // delete the snapshots below it too
}

// Snapshot is a handle on a snapshot of one machine.
type Snapshot struct {
	vm *VM
	id SnapshotID
}

// Snapshot returns the handle for an ID. It asks nobody.
func (m *VM) Snapshot(id SnapshotID) *Snapshot { return &Snapshot{m, id} }

// ID returns the snapshot's ID, as CloneOptions.From takes it.
func (s *Snapshot) ID() SnapshotID { return s.id }

// VM returns the machine.
func (s *Snapshot) VM() *VM { return s.vm }

// Snapshots lists the machine's snapshots, parents before children.
func (m *VM) Snapshots(ctx context.Context) ([]SnapshotInfo, error) {
	return read(ctx, m.c, "snapshot.list", m.ref(), SnapshotDisk, nil, func(ctx context.Context, d Snapshotter) ([]SnapshotInfo, error) {
		return d.Snapshots(ctx, m.id)
	})
}

// FindSnapshot returns the snapshot with this name: ErrNotFound, ErrAmbiguous.
func (m *VM) FindSnapshot(ctx context.Context, name string) (*Snapshot, error) {
	all, err := m.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	on := Ref{Kind: KindOfSnapshot, Name: name}
	var found []SnapshotID
	for _, s := range all {
		if s.Name == name {
			found = append(found, s.ID)
		}
	}
	switch len(found) {
	case 0:
		return nil, &Error{Op: "snapshot.find", Object: on, Kind: KindNotFound}
	case 1:
		return m.Snapshot(found[0]), nil
	}
	e := Errorf(KindAmbiguous, on, "%d snapshots have this name: address one by its ID: %v", len(found), found)
	e.Op = "snapshot.find"
	return nil, e
}

// Info reads the snapshot.
func (s *Snapshot) Info(ctx context.Context) (SnapshotInfo, error) {
	all, err := s.vm.Snapshots(ctx)
	if err != nil {
		return SnapshotInfo{}, err
	}
	for _, i := range all {
		if i.ID == s.id {
			return i, nil
		}
	}
	return SnapshotInfo{}, &Error{Op: "snapshot.info", Object: s.id.Ref(), Kind: KindNotFound}
}

// CreateSnapshot makes a snapshot below the current one. The machine is
// afterwards in the state it was in.
func (m *VM) CreateSnapshot(ctx context.Context, name string, o *SnapshotOptions) *Task[*Snapshot] {
	const op = "snapshot.create"
	r := SnapshotRequest{Name: name}
	if o != nil {
		r.Description, r.Memory, r.Quiesce = o.Description, o.Memory, o.Quiesce
	}
	bad := checkName(op, m.ref(), "snapshot name", name)
	if bad == nil {
		bad = checkText(op, m.ref(), "description", r.Description)
	}
	if bad == nil && r.Memory && r.Quiesce {
		bad = invalid(op, m.ref(), "Memory and Quiesce contradict each other: a snapshot with RAM needs no quiet disks; choose one")
	}
	k := SnapshotDisk
	if r.Memory {
		k = SnapshotMemory
	} else if r.Quiesce {
		k = SnapshotQuiesce
	}
	return start(ctx, m.c, op, m.ref(), k, bad, func(ctx context.Context, d Snapshotter) (DriverTask, error) {
		return d.CreateSnapshot(ctx, m.id, r)
	}, func(_ context.Context, s TaskState) (*Snapshot, error) {
		return m.Snapshot(SnapshotID(s.Result.ID)), nil
	})
}

// Revert takes the machine back to the snapshot: it runs on if the snapshot
// has RAM, and is Off if not. What changed since is lost.
func (s *Snapshot) Revert(ctx context.Context, o *RevertOptions) *Task[None] {
	var r RevertRequest
	if o != nil {
		r.KeepOff = o.KeepOff
	}
	return start(ctx, s.vm.c, "snapshot.revert", s.id.Ref(), SnapshotDisk, checkID("snapshot.revert", s.id.Ref()), func(ctx context.Context, d Snapshotter) (DriverTask, error) {
		return d.RevertSnapshot(ctx, s.vm.id, s.id, r)
	}, noResult)
}

// Delete merges the snapshot away; the machine's present content stays. Its
// children move to its parent, or are deleted too if asked for. Done means
// merged.
func (s *Snapshot) Delete(ctx context.Context, o *DeleteSnapshotOptions) *Task[None] {
	var r DeleteSnapshotRequest
	if o != nil {
		r.Children = o.Children
	}
	return start(ctx, s.vm.c, "snapshot.delete", s.id.Ref(), SnapshotDisk, checkID("snapshot.delete", s.id.Ref()), func(ctx context.Context, d Snapshotter) (DriverTask, error) {
		return d.DeleteSnapshot(ctx, s.vm.id, s.id, r)
	}, noResult)
}
