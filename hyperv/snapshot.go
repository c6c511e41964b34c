package hyperv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
)

// Values of Msvm_VirtualSystemSettingData.UserSnapshotType: the kind of
// checkpoint that CreateSnapshot makes.
const (
	checkpointProduction = uint16(4) // the guest flushes; fails instead of falling back
	checkpointStandard   = uint16(5) // with RAM
)

// Values of CreateSnapshot.SnapshotType and of
// Msvm_VirtualSystemSnapshotSettingData.ConsistencyLevel.
const (
	snapshotFull          = uint16(2)
	consistentApplication = uint8(1)
	consistentCrash       = uint8(2)
)

// snapshot finds a snapshot of the machine.
func (m *machine) snapshot(id hypervisor.SnapshotID) (*cim.Instance, error) {
	for _, s := range userSnapshots(m.snaps) {
		if strings.EqualFold(ownerOf(s.Str("InstanceID")), string(id)) {
			return s, nil
		}
	}
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "machine %s has no such snapshot", m.id)
}

func (m *machine) snapshotRef(s *cim.Instance) cim.Ref {
	return m.h.settingRef("Msvm_VirtualSystemSettingData", s.Str("InstanceID"))
}

// currentSnapshot reads the snapshot that the machine's present state
// descends from.
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
		i.State = hypervisor.StateOff
		if i.Memory {
			i.State = hypervisor.StateRunning
		}
	}
	return i
}

// CreateSnapshot implements hypervisor.Snapshotter. With RAM it makes a
// standard checkpoint. Without RAM it makes a production checkpoint that is
// crash-consistent, or application-consistent if it is to be quiesced. The
// machine's setting for the kind is changed for the duration of the call.
func (d *driver) CreateSnapshot(ctx context.Context, id hypervisor.VMID, r hypervisor.SnapshotRequest) (hypervisor.DriverTask, error) {
	return d.createSnapshot(ctx, id, r, false)
}

// createSnapshot is CreateSnapshot. With base it marks the snapshot as the
// base of a clone.
func (d *driver) createSnapshot(ctx context.Context, id hypervisor.VMID, r hypervisor.SnapshotRequest, base bool) (hypervisor.DriverTask, error) {
	unlock, err := d.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	unlock = sync.OnceFunc(unlock)
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
	alive := m.state == hypervisor.StateRunning || m.state == hypervisor.StatePaused
	c := capability.SnapshotDisk
	switch {
	case r.Memory:
		c = capability.SnapshotMemory
		if !alive {
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s, so there is no RAM to keep", m.state)
		}
	case r.Quiesce:
		c = capability.SnapshotQuiesce
		if m.state != hypervisor.StateRunning {
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s: only a running guest can quiesce its file systems", m.state)
		}
		if err := m.hasVSS(ctx, c); err != nil {
			return nil, err
		}
	case alive:
		if err := m.hasVSS(ctx, c); err != nil {
			return nil, err
		}
	case m.state == hypervisor.StateSuspended:
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is suspended: Hyper-V would keep its saved RAM too; resume it or power it off")
	}
	if err := m.unpinned(ctx, c); err != nil {
		return nil, err
	}
	t, err := m.begin(ctx, "snapshot", func(ctx context.Context) (hypervisor.DriverTask, error) {
		return m.takeSnapshot(ctx, r, base, unlock)
	})
	locked = err != nil
	return t, err
}

// takeSnapshot starts the work of CreateSnapshot, which unlocks at its end.
func (m *machine) takeSnapshot(ctx context.Context, r hypervisor.SnapshotRequest, base bool, unlock func()) (t hypervisor.DriverTask, err error) {
	defer func() {
		if err != nil {
			unlock()
		}
	}()
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
	late, cancel := job.Late(ctx)
	defer cancel()
	if kind != before {
		if err := m.modifyNow(ctx, "UserSnapshotType", kind); err != nil {
			return nil, notBack(err, back(late))
		}
	}
	args := []cim.Arg{{Name: "AffectedSystem", Value: m.ref()}, {Name: "SnapshotSettings", Value: snapshotSettings(r, level)}, {Name: "SnapshotType", Value: snapshotFull}}
	made := ""
	look := m.done(func(ctx context.Context) (_ bool, err error) { made, err = m.newSnapshot(ctx); return made != "", err })
	q := m.request(once(look), m.h.snapshots(), "CreateSnapshot", args...)
	answer, lost := q.call(ctx)
	if lost != nil && !errors.Is(lost, cim.ErrLost) {
		return nil, notBack(m.contended(ctx, lost), back(late))
	}
	t, err = m.start(ctx, "snapshot", taskOf(m.h, answer), func(o *op) (hypervisor.Ref, error) {
		defer unlock()
		res, err := q.follow(o.ctx, answer, lost)
		if err == nil {
			err = o.wait(res)
		}
		err = m.contended(o.ctx, err)
		late, cancel := job.Late(o.ctx)
		defer cancel()
		berr := back(late)
		if berr != nil && err == nil {
			o.Note(kindOfCheckpoint + " could not be set back: " + berr.Error())
		} else if berr != nil {
			err = o.Also(err, "%s could not be set back: %v", kindOfCheckpoint, berr)
		}
		if err == nil && made == "" {
			made, err = o.snapshotOf(late, m, res)
		} else if !errors.Is(err, cim.ErrLost) && err != nil {
			return hypervisor.Ref{}, err
		}
		if err != nil {
			// As long as its ID is unknown it is called by its name.
			o.Remove(hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, Name: r.Name}, func(ctx context.Context) error {
				if found, err := look.look(ctx); found == nil {
					return err
				}
				return o.destroySnapshot(ctx, m, hypervisor.SnapshotID(ownerOf(made)))
			})
			return hypervisor.Ref{}, err
		}
		ref, err := o.nameSnapshot(late, m, made, r, base)
		return ref, m.contended(late, err)
	})
	return t, err
}

const kindOfCheckpoint = "the machine's kind of checkpoint"

// notBack returns the error of a refusal, and reports if the kind could not
// be restored.
func notBack(err, back error) error {
	if back == nil {
		return err
	}
	return fmt.Errorf("%w (and %s could not be set back: %v)", err, kindOfCheckpoint, back)
}

// newSnapshot finds the snapshot that was made since the machine was read, or
// "" if there is none. It still has the machine's notes; a snapshot by
// another client of this package gets its own notes at once.
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
	return "", hypervisor.Errorf(hypervisor.ErrAmbiguous, m.id.Ref(), "%d snapshots of it were made at once", len(made))
}

// snapshotSettings returns nil for a standard checkpoint, which has none.
func snapshotSettings(r hypervisor.SnapshotRequest, level uint8) any {
	if r.Memory {
		return nil
	}
	return cim.NewEmbedded("Msvm_VirtualSystemSnapshotSettingData", "ConsistencyLevel", level, "IgnoreNonSnapshottableDisks", false)
}

// hasVSS checks that the guest's backup service answers. Without it there are
// no production checkpoints of a running machine.
func (m *machine) hasVSS(ctx context.Context, c capability.Name) error {
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

// answers reports whether an integration service is in contact: its first
// OperationalStatus is 2, OK.
func answers(i *cim.Instance) bool {
	if i == nil {
		return false
	}
	st := i.Uints("OperationalStatus")
	return len(st) > 0 && st[0] == 2
}

// snapshotOf returns the InstanceID of the snapshot that an answer names.
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
		err = hypervisor.Errorf(hypervisor.ErrNotFound, m.id.Ref(), "the host made a snapshot and does not report which")
	}
	return id, err
}

// nameSnapshot sets the name of a new snapshot, because the call that makes
// the snapshot accepts none.
func (o *op) nameSnapshot(ctx context.Context, m *machine, id string, r hypervisor.SnapshotRequest, base bool) (hypervisor.Ref, error) {
	snap := hypervisor.SnapshotID(ownerOf(id)).Ref()
	n := notes{Description: r.Description, State: m.state, Quiesced: r.Quiesce, Base: base}
	e := cim.NewEmbedded("Msvm_VirtualSystemSettingData", "InstanceID", id, "ElementName", r.Name, "Notes", n.strings())
	err := m.ask(ctx, m.set(e), o.h.management(), "ModifySystemSettings", cim.Arg{Name: "SystemSettings", Value: e})
	if err != nil {
		o.Left(snap)
	}
	return snap, err
}
