package hyperv

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// Values of Msvm_VirtualSystemSettingData.UserSnapshotType: what kind of
// checkpoint CreateSnapshot makes.
const (
	checkpointProduction = uint16(4) // the guest flushes; fails rather than fall back
	checkpointStandard   = uint16(5) // with RAM
)

// Values of CreateSnapshot.SnapshotType and of
// Msvm_VirtualSystemSnapshotSettingData.ConsistencyLevel.
const (
	snapshotFull          = uint16(2)
	consistentApplication = uint16(1)
	consistentCrash       = uint16(2)
)

// snapshot finds a snapshot of the machine.
func (m *machine) snapshot(id hypervisor.SnapshotID) (*cim.Instance, error) {
	for _, s := range userSnapshots(m.snaps) {
		if strings.EqualFold(ownerOf(s.Str("InstanceID")), string(id)) {
			return s, nil
		}
	}
	return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "machine %s has no such snapshot", m.id)
}

func (m *machine) snapshotRef(s *cim.Instance) cim.Ref {
	return m.h.settingRef("Msvm_VirtualSystemSettingData", s.Str("InstanceID"))
}

// currentSnapshot reads what the machine's present state descends from.
func (m *machine) currentSnapshot(ctx context.Context) (hypervisor.SnapshotID, error) {
	rows, err := cim.Collect(m.s.Query(ctx, cim.Virtualization, cim.AssociatorsOf(m.ref(), cim.Assoc{Class: "Msvm_MostCurrentSnapshotInBranch"})))
	for _, r := range rows {
		if o := ownerOf(r.Str("InstanceID")); o != "" {
			return hypervisor.SnapshotID(o), nil
		}
	}
	return "", err
}

// Snapshots implements hypervisor.Snapshotter.
func (d *driver) Snapshots(ctx context.Context, id hypervisor.VMID) ([]hypervisor.SnapshotInfo, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	current, err := m.currentSnapshot(ctx)
	if err != nil {
		return nil, err
	}
	return m.tree(current), nil
}

// tree lists the snapshots, parents before children, older ones first.
func (m *machine) tree(current hypervisor.SnapshotID) []hypervisor.SnapshotInfo {
	kids := map[hypervisor.SnapshotID][]hypervisor.SnapshotInfo{}
	known := map[hypervisor.SnapshotID]bool{}
	for _, s := range userSnapshots(m.snaps) {
		known[hypervisor.SnapshotID(ownerOf(s.Str("InstanceID")))] = true
	}
	for _, s := range userSnapshots(m.snaps) {
		i := m.snapshotInfo(s)
		i.Current = i.ID == current
		if !known[i.Parent] {
			i.Parent = ""
		}
		kids[i.Parent] = append(kids[i.Parent], i)
	}
	var out []hypervisor.SnapshotInfo
	var walk func(parent hypervisor.SnapshotID, depth int)
	walk = func(parent hypervisor.SnapshotID, depth int) {
		list := kids[parent]
		slices.SortFunc(list, func(a, b hypervisor.SnapshotInfo) int {
			if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
				return c
			}
			return strings.Compare(string(a.ID), string(b.ID))
		})
		for _, i := range list {
			i.Depth = depth
			out = append(out, i)
			walk(i.ID, depth+1)
		}
	}
	walk("", 0)
	return out
}

func (m *machine) snapshotInfo(s *cim.Instance) hypervisor.SnapshotInfo {
	n := parseNotes(s.Strs("Notes"))
	i := hypervisor.SnapshotInfo{
		ID: hypervisor.SnapshotID(ownerOf(s.Str("InstanceID"))), VM: m.id, Name: s.Str("ElementName"), Description: n.Description,
		Memory: s.Bool("IsSaved"), Quiesced: n.Quiesced, State: n.State, Kind: "standard", CreatedAt: s.Time("CreationTime"),
	}
	if p, ok := s.Ref("Parent"); ok {
		i.Parent = hypervisor.SnapshotID(ownerOf(p.Key("InstanceID")))
	}
	if uint16(s.Uint("UserSnapshotType")) != checkpointStandard && !i.Memory {
		i.Kind = "production"
	}
	if i.State == "" { // made by another tool
		i.State = hypervisor.Off
		if i.Memory {
			i.State = hypervisor.Running
		}
	}
	return i
}

// CreateSnapshot implements hypervisor.Snapshotter. With RAM it is a standard
// checkpoint; without, a production checkpoint that is crash-consistent, or
// consistent for applications if it is to be quiesced. The machine's setting
// for the kind is changed for the time of the call.
func (d *driver) CreateSnapshot(ctx context.Context, id hypervisor.VMID, r hypervisor.SnapshotRequest) (hypervisor.DriverTask, error) {
	return d.createSnapshot(ctx, id, r, false)
}

// createSnapshot marks a snapshot that is made as the base of a clone.
func (d *driver) createSnapshot(ctx context.Context, id hypervisor.VMID, r hypervisor.SnapshotRequest, base bool) (hypervisor.DriverTask, error) {
	unlock, err := d.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	locked := true
	defer func() {
		if locked {
			unlock()
		}
	}()
	m, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := m.startable(); err != nil {
		return nil, err
	}
	alive := m.state == hypervisor.Running || m.state == hypervisor.Paused
	c := hypervisor.SnapshotDisk
	switch {
	case r.Memory:
		c = hypervisor.SnapshotMemory
		if !alive {
			return nil, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "the machine is %s, so there is no RAM to keep", m.state)
		}
	case r.Quiesce:
		c = hypervisor.SnapshotQuiesce
		if m.state != hypervisor.Running {
			return nil, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "the machine is %s: only a running guest can quiet its file systems", m.state)
		}
		if err := m.hasVSS(ctx, c); err != nil {
			return nil, err
		}
	case alive:
		if err := m.hasVSS(ctx, c); err != nil {
			return nil, err
		}
	case m.state == hypervisor.Suspended:
		return nil, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "the machine is suspended: Hyper-V would keep its saved RAM too; resume it or power it off")
	}
	if err := m.unpinned(ctx, c); err != nil {
		return nil, err
	}
	kind, before := checkpointProduction, uint16(m.settings.Uint("UserSnapshotType"))
	level := consistentCrash
	if r.Memory {
		kind = checkpointStandard
	} else if r.Quiesce {
		level = consistentApplication
	}
	if kind != before {
		if err := m.modifyNow(ctx, "UserSnapshotType", kind); err != nil {
			return nil, err
		}
	}
	back := func(ctx context.Context) error {
		if kind == before || before == 0 {
			return nil
		}
		return m.modifyNow(ctx, "UserSnapshotType", before)
	}
	args := []cim.Arg{{Name: "AffectedSystem", Value: m.ref()}, {Name: "SnapshotSettings", Value: snapshotSettings(r, level)}, {Name: "SnapshotType", Value: snapshotFull}}
	res, err := cim.Call(ctx, m.s, m.h.snapshots(), "CreateSnapshot", args...)
	if err != nil {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
		defer cancel()
		_ = back(late) // the refusal is the error to tell
		return nil, err
	}
	var tid hypervisor.TaskID
	if job, ok := res.Job(); ok {
		tid = jobTask(m.h, job)
	}
	locked = false
	t, err := d.start(ctx, m.h, tid, func(o *op) (hypervisor.Ref, error) {
		defer unlock()
		err := o.wait(res)
		late, cancel := o.late()
		defer cancel()
		if berr := back(late); err == nil && berr != nil {
			o.note("the machine's kind of checkpoint could not be set back: " + berr.Error())
		}
		if err != nil {
			return hypervisor.Ref{}, err
		}
		return o.nameSnapshot(late, m, res, r, base)
	})
	if err != nil {
		unlock()
	}
	return t, err
}

// snapshotSettings is nil for a standard checkpoint, which has none.
func snapshotSettings(r hypervisor.SnapshotRequest, level uint16) any {
	if r.Memory {
		return nil
	}
	return cim.NewEmbedded("Msvm_VirtualSystemSnapshotSettingData", "ConsistencyLevel", level, "IgnoreNonSnapshottableDisks", false)
}

// hasVSS checks that the guest's backup service answers; without it there are
// no production checkpoints of a running machine.
func (m *machine) hasVSS(ctx context.Context, c hypervisor.Capability) error {
	i, err := cim.First(m.s.Query(ctx, cim.Virtualization, cim.Select("Msvm_VssComponent", nil, "SystemName = "+cim.Quote(string(m.id)))), "the guest's VSS component")
	if err != nil && !isGone(err) {
		return err
	}
	if !answers(i) {
		return hypervisor.Unsupported(m.id.Ref(), c, hypervisor.ReasonToolsMissing,
			"a snapshot of a running machine without RAM needs the guest's backup service, which does not answer (integration services missing, switched off, or not started yet)")
	}
	return nil
}

// answers reports whether an integration service has contact: its first
// OperationalStatus is 2, OK.
func answers(i *cim.Instance) bool {
	if i == nil {
		return false
	}
	st := i.Uints("OperationalStatus")
	return len(st) > 0 && st[0] == 2
}

// nameSnapshot finds the snapshot that was made and gives it its name: the
// call that makes it takes none.
func (o *op) nameSnapshot(ctx context.Context, m *machine, res *cim.Result, r hypervisor.SnapshotRequest, base bool) (hypervisor.Ref, error) {
	ref, ok := res.Out.Ref("ResultingSnapshot")
	id := ref.Key("InstanceID")
	if !ok || id == "" {
		job, _ := res.Job()
		made, err := cim.JobResult(ctx, o.s, job, "Msvm_VirtualSystemSettingData")
		if err != nil {
			return hypervisor.Ref{}, err
		}
		for _, i := range made {
			if strings.HasPrefix(i.Str("VirtualSystemType"), snapshotPrefix) {
				id = i.Str("InstanceID")
			}
		}
	}
	if id == "" {
		return hypervisor.Ref{}, hypervisor.Errorf(hypervisor.KindNotFound, m.id.Ref(), "the host made a snapshot and does not tell which")
	}
	snap := hypervisor.SnapshotID(ownerOf(id)).Ref()
	n := notes{Description: r.Description, State: m.state, Quiesced: r.Quiesce, Base: base}
	e := cim.NewEmbedded("Msvm_VirtualSystemSettingData", "InstanceID", id, "ElementName", r.Name, "Notes", n.strings())
	rr, err := cim.Call(ctx, o.s, o.h.management(), "ModifySystemSettings", cim.Arg{Name: "SystemSettings", Value: e})
	if err == nil {
		err = o.d.finish(ctx, o.s, rr)
	}
	if err != nil {
		o.state.Leftover = append(o.state.Leftover, snap)
	}
	return snap, err
}

// RevertSnapshot implements hypervisor.Snapshotter.
func (d *driver) RevertSnapshot(ctx context.Context, id hypervisor.VMID, snap hypervisor.SnapshotID, r hypervisor.RevertRequest) (hypervisor.DriverTask, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	s, err := m.snapshot(snap)
	if err != nil {
		return nil, err
	}
	if err := m.unpinned(ctx, hypervisor.SnapshotDisk); err != nil {
		return nil, err
	}
	return d.start(ctx, m.h, "", func(o *op) (hypervisor.Ref, error) {
		// A machine that runs can't be reverted; what it did is lost anyway.
		if m.state != hypervisor.Off && m.state != hypervisor.Suspended {
			o.phase("powering off", -1)
			if err := o.turnOff(m); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		if err := o.ctx.Err(); err != nil {
			return hypervisor.Ref{}, err
		}
		o.commit() // a machine that was turned off for it is not left so
		o.phase("reverting", -1)
		if _, err := o.call(m.h.snapshots(), "ApplySnapshot", cim.Arg{Name: "Snapshot", Value: m.snapshotRef(s)}); err != nil {
			return hypervisor.Ref{}, err
		}
		// The notes came back with the settings; labels and token belong to
		// the machine, not to a point in its past.
		if err := m.modifyNow(o.ctx, "Notes", m.notes.strings()); err != nil {
			return hypervisor.Ref{}, err
		}
		if !s.Bool("IsSaved") || r.KeepOff {
			return hypervisor.Ref{}, nil
		}
		o.phase("resuming", -1)
		_, err := o.call(m.ref(), "RequestStateChange", cim.Arg{Name: "RequestedState", Value: uint16(stateEnabled)})
		return hypervisor.Ref{}, err
	})
}

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
	return d.native(ctx, m.h, m.h.snapshots(), method, []cim.Arg{{Name: arg, Value: m.snapshotRef(s)}}, func(o *op, _ *cim.Result) (hypervisor.Ref, error) {
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
		sys, err := o.s.Get(o.ctx, m.ref())
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
