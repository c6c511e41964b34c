package hyperv

import (
	"context"
	"errors"
	"slices"
	"strings"

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
	back := func(ctx context.Context) error {
		if kind == before || before == 0 {
			return nil
		}
		return m.modifyNow(ctx, "UserSnapshotType", before)
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
	defer cancel()
	if kind != before {
		if err := m.modifyNow(ctx, "UserSnapshotType", kind); err != nil {
			return nil, notBack(err, back(late))
		}
	}
	args := []cim.Arg{{Name: "AffectedSystem", Value: m.ref()}, {Name: "SnapshotSettings", Value: snapshotSettings(r, level)}, {Name: "SnapshotType", Value: snapshotFull}}
	made := ""
	look := m.done(func(ctx context.Context) (_ bool, err error) { made, err = m.newSnapshot(ctx); return made != "", err })
	q := &request{m.s, once(look), m.h.snapshots(), "CreateSnapshot", args}
	answer, lost := q.call(ctx)
	if lost != nil && !errors.Is(lost, cim.ErrLost) {
		return nil, notBack(lost, back(late))
	}
	locked = false
	t, err := d.start(ctx, m.h, taskOf(m.h, answer), func(o *op) (hypervisor.Ref, error) {
		defer unlock()
		res, err := q.follow(o.ctx, answer, lost)
		if err == nil {
			err = o.wait(res)
		}
		late, cancel := o.late()
		defer cancel()
		berr := back(late)
		if berr != nil && err == nil {
			o.note(kindOfCheckpoint + " could not be set back: " + berr.Error())
		} else if berr != nil {
			err = stays(err, kindOfCheckpoint, berr)
		}
		if err == nil && made == "" {
			made, err = o.snapshotOf(late, m, res)
		} else if !errors.Is(err, cim.ErrLost) && err != nil {
			return hypervisor.Ref{}, err
		}
		if err != nil {
			// As long as nobody knows its ID it is called by its name.
			o.onFailure(hypervisor.Ref{Kind: hypervisor.KindOfSnapshot, Name: r.Name}, func(ctx context.Context) error {
				if found, err := look(ctx); found == nil {
					return err
				}
				return o.destroySnapshot(ctx, m, hypervisor.SnapshotID(ownerOf(made)))
			})
			return hypervisor.Ref{}, err
		}
		return o.nameSnapshot(late, m, made, r, base)
	})
	if err != nil {
		unlock()
	}
	return t, err
}

const kindOfCheckpoint = "the machine's kind of checkpoint"

// notBack is the error of a refusal, and tells if the kind could not be set
// back.
func notBack(err, back error) error {
	if back == nil {
		return err
	}
	return stays(err, kindOfCheckpoint, back)
}

// newSnapshot finds the snapshot that was made since the machine was read; ""
// if there is none. It has the machine's notes still: one that another client
// of this package made gets its own at once.
func (m *machine) newSnapshot(ctx context.Context) (string, error) {
	now, err := m.d.read(ctx, m.h, m.s, m.id)
	if err != nil || now == nil {
		return "", err
	}
	var made []string
	for _, s := range userSnapshots(now.snaps) {
		id := s.Str("InstanceID")
		if !slices.ContainsFunc(m.snaps, func(x *cim.Instance) bool { return x.Str("InstanceID") == id }) && slices.Equal(s.Strs("Notes"), now.settings.Strs("Notes")) {
			made = append(made, id)
		}
	}
	switch len(made) {
	case 0:
		return "", nil
	case 1:
		return made[0], nil
	}
	return "", hypervisor.Errorf(hypervisor.KindAmbiguous, m.id.Ref(), "%d snapshots of it were made at once", len(made))
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

// snapshotOf is the InstanceID of the snapshot that an answer tells of.
func (o *op) snapshotOf(ctx context.Context, m *machine, res *cim.Result) (string, error) {
	if ref, ok := res.Out.Ref("ResultingSnapshot"); ok && ref.Key("InstanceID") != "" {
		return ref.Key("InstanceID"), nil
	}
	job, _ := res.Job()
	made, err := cim.JobResult(ctx, o.s, job, "Msvm_VirtualSystemSettingData")
	if err != nil {
		return "", err
	}
	id := ""
	for _, i := range made {
		if strings.HasPrefix(i.Str("VirtualSystemType"), snapshotPrefix) {
			id = i.Str("InstanceID")
		}
	}
	if id == "" {
		err = hypervisor.Errorf(hypervisor.KindNotFound, m.id.Ref(), "the host made a snapshot and does not tell which")
	}
	return id, err
}

// nameSnapshot gives the snapshot that was made its name: the call that makes
// it takes none.
func (o *op) nameSnapshot(ctx context.Context, m *machine, id string, r hypervisor.SnapshotRequest, base bool) (hypervisor.Ref, error) {
	snap := hypervisor.SnapshotID(ownerOf(id)).Ref()
	n := notes{Description: r.Description, State: m.state, Quiesced: r.Quiesce, Base: base}
	e := cim.NewEmbedded("Msvm_VirtualSystemSettingData", "InstanceID", id, "ElementName", r.Name, "Notes", n.strings())
	err := m.ask(ctx, m.set(e), o.h.management(), "ModifySystemSettings", cim.Arg{Name: "SystemSettings", Value: e})
	if err != nil {
		o.state.Leftover = append(o.state.Leftover, snap)
	}
	return snap, err
}
