package hvsim

import (
	"slices"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

func init() {
	handle("Msvm_VirtualSystemSnapshotService", map[string]handler{
		"CreateSnapshot":      createSnapshot,
		"ApplySnapshot":       applySnapshot,
		"DestroySnapshot":     func(c *call) uint32 { return destroySnapshot(c, "AffectedSnapshot", false) },
		"DestroySnapshotTree": func(c *call) uint32 { return destroySnapshot(c, "SnapshotSettingData", true) },
		"ClearSnapshotState":  clearSnapshotState,
	})
}

// Second entries of OperationalStatus during an operation (believed: values of Msvm_SummaryInformation.OperationalStatus).
const (
	opCreating, opApplying, opDeleting, opMerging, opExporting, opMigrating = 32768, 32769, 32770, 32772, 32773, 32774
)

// Checkpoint kinds of a machine [D: Msvm_VirtualSystemSettingData.UserSnapshotType; O].
const (
	userDisabled, userProductionOrStandard, userProduction, userStandard = 2, 3, 4, 5
)

// occupy marks a machine as busy with a job for the duration of a checkpoint operation.
func (m *machine) occupy(j *job, op int) {
	m.busy = j
	m.cs.Set("OperationalStatus", []any{11, op}).Set("StatusDescriptions", []any{"In service", j.inst.Str("Caption")})
}

// vacate ends occupy.
func (m *machine) vacate() {
	m.busy = nil
	m.cs.Set("OperationalStatus", []any{2}).Set("StatusDescriptions", []any{"Operating normally"})
}

// long starts a job that occupies a machine; finish and cancel run with the machine free again.
func (c *call) long(m *machine, op int, spec jobSpec) *job {
	spec.vm, spec.name = m, c.method.Name
	finish, cancel := spec.finish, spec.cancel
	spec.finish = func() *fail { m.vacate(); return finish() }
	if cancel != nil {
		spec.cancel = func() { m.vacate(); cancel() }
	}
	j := c.h.prepareJob(spec)
	m.occupy(j, op)
	c.out["Job"] = j.inst.Ref()
	return j
}

// createSnapshot answers with the CIM list of return values [D: CreateSnapshot].
func createSnapshot(c *call) uint32 {
	m := c.machine("AffectedSystem")
	if m == nil || m.planned {
		return cimInvalidParam
	}
	kind, given := c.in["SnapshotType"].(uint16)
	if !given {
		return cimInvalidParam
	}
	production := false
	if s := c.str("SnapshotSettings"); s != "" {
		i, good := c.embedded(s, "Msvm_VirtualSystemSnapshotSettingData")
		if !good {
			return cimInvalidParam
		}
		production = i.Uint("ConsistencyLevel") == 1
	}
	user := int(m.cfg.sd.Uint("UserSnapshotType"))
	switch {
	case kind != 2 && kind != 32768:
		return cimNotSupported // 3, disks only, is documented; that Hyper-V refuses it is believed
	case kind == 2 && user == userDisabled:
		return cimNotSupported
	case m.busy != nil || !slices.Contains([]int{stRunning, stOff, stSaved, stPaused}, m.state()):
		return cimInvalidState
	case m.cfg.hasPCI() || m.pinned() != "" && m.memory != nil:
		return cimNotSupported
	case len(m.snaps) >= 50: // [D: "Plan for Hyper-V scalability": 50 checkpoints]
		return cimInvalidState
	}
	var j *job
	j = c.long(m, opCreating, jobSpec{kind: jtSnapshot, caption: "Taking Virtual Machine Checkpoint", cancel: func() {}, finish: func() *fail {
		ram := m.memory != nil && kind == 2
		if running := m.state() == stRunning || m.state() == stPaused; ram && running && (user != userStandard || production) {
			// Production: the guest flushes through VSS or file system freeze, no RAM is kept [D: "Choose between standard or production checkpoints"].
			able := !m.guest.NoTools && m.component("Msvm_VssComponentSettingData")
			switch {
			case able:
				ram = false
			case user == userProduction || production:
				return &fail{code: rvFailed, text: "Production checkpoints cannot be created for '" + m.name() + "': the guest's integration services do not answer."}
			}
		}
		s, f := m.take(kind == 32768, ram)
		if f != nil {
			return f
		}
		j.affected = append(j.affected, s.cfg.sd)
		return nil
	}})
	c.h.launch(j)
	return rvJob
}

// take makes a checkpoint: the current disks are frozen, with new differencing disks on top.
func (m *machine) take(recovery, ram bool) (*snapshot, *fail) {
	h := m.h
	for _, d := range m.cfg.disks() {
		if _, good := h.chain(hostResource(d)); !good {
			return nil, corrupt(hostResource(d))
		}
	}
	if len(m.cfg.bySub(subPhysDisk)) > 0 {
		return nil, &fail{code: rvNotSupported, text: "Checkpoints are not supported for virtual machines with physical disks."}
	}
	now := h.sim.now()
	s := &snapshot{vm: m, parent: m.parent}
	s.cfg = m.cfg.clone(h, m, s, h.sim.newID())
	kind := typeSnapshot
	if recovery {
		kind = typeRecovery
	}
	sd := s.cfg.sd.Set("InstanceID", "Microsoft:"+s.cfg.id).Set("VirtualSystemType", kind).Set("CreationTime", cimx.Datetime(now)).
		Set("ElementName", m.name()+now.UTC().Format(" - (1/2/2006 - 3:04:05 PM)")).Set("ConfigurationID", s.cfg.id).Set("IsAutomaticSnapshot", false).Set("IsSaved", ram)
	if m.parent != nil {
		sd.Set("Parent", m.parent.cfg.sd.Ref().Path())
	} else {
		sd.Set("Parent", nil)
	}
	if ram {
		s.memory = m.snapshotMemory()
	}
	for _, d := range m.cfg.disks() {
		p := hostResource(d)
		n := h.newDiff(h.overlay(p), h.file(p).path)
		d.Set("HostResource", []any{n.path})
	}
	s.cfg.store()
	m.snaps = append(m.snaps, s)
	m.parent = s
	m.cfg.sd.Set("Parent", sd.Ref().Path())
	return s, nil
}

// snapshotOf resolves a reference to a checkpoint's settings.
func (c *call) snapshotOf(name string) *snapshot {
	cfg := c.h.byConf[c.target(name)]
	if cfg == nil {
		return nil
	}
	return cfg.snap
}

// applySnapshot always starts a job [D: ApplySnapshot].
func applySnapshot(c *call) uint32 {
	s := c.snapshotOf("Snapshot")
	if s == nil {
		return rvInvalidParam
	}
	m := s.vm
	if m.busy != nil || (m.state() != stOff && m.state() != stSaved) {
		return rvInvalidState // believed: the manager turns a running machine off first
	}
	if m.cfg.hasPCI() {
		return cimNotSupported
	}
	j := c.long(m, opApplying, jobSpec{kind: jtApply, caption: "Applying Virtual Machine Checkpoint", finish: func() *fail {
		return m.apply(s)
	}})
	c.h.launch(j)
	return rvJob
}

// apply restores the state of a checkpoint. The current state is lost [D: ApplySnapshot].
func (m *machine) apply(s *snapshot) *fail {
	h := m.h
	if !slices.Contains(m.snaps, s) {
		return &fail{code: rvInvalidParam, text: "The checkpoint is gone."}
	}
	for _, d := range s.cfg.disks() {
		if _, good := h.chain(hostResource(d)); !good {
			return corrupt(hostResource(d))
		}
	}
	name := m.name()
	old := m.cfg
	for _, d := range old.disks() {
		m.left[key(hostResource(d))] = true
	}
	for _, r := range old.res {
		h.virt.remove(r)
	}
	next := s.cfg.clone(h, m, nil, m.id)
	for _, d := range next.disks() {
		p := hostResource(d)
		d.Set("HostResource", []any{h.newDiff(h.overlay(p), h.file(p).path).path})
	}
	for _, r := range next.res {
		h.virt.add(r)
	}
	old.res = next.res
	for n, p := range old.sd.Class.Props {
		switch p.Name {
		case "InstanceID", "ElementName", "VirtualSystemIdentifier", "VirtualSystemType", "ConfigurationID", "CreationTime", "IsAutomaticSnapshot":
		default:
			old.sd.Set(p.Name, s.cfg.sd.At(n))
		}
	}
	old.sd.Set("ElementName", name).Set("Parent", s.cfg.sd.Ref().Path()).Set("IsSaved", s.memory != nil)
	m.parent, m.applied = s, s
	m.memory = nil
	m.setState(stOff)
	if s.memory != nil {
		m.memory = map[string]string{}
		for k, v := range s.memory {
			m.memory[k] = v
		}
		m.setState(stSaved)
	}
	m.merge()
	return nil
}

// destroySnapshot removes one checkpoint or a subtree; the disks merge afterwards in a job of their own.
func destroySnapshot(c *call, param string, tree bool) uint32 {
	s := c.snapshotOf(param)
	if s == nil {
		return cimInvalidParam
	}
	m := s.vm
	if m.busy != nil {
		return cimInvalidState
	}
	j := c.long(m, opDeleting, jobSpec{kind: jtDelete, caption: "Deleting Virtual Machine Checkpoint", finish: func() *fail {
		if !slices.Contains(m.snaps, s) {
			return &fail{code: rvInvalidParam, text: "The checkpoint is gone."}
		}
		m.removeSnapshot(s, tree)
		m.merge()
		return nil
	}})
	c.h.launch(j)
	return rvJob
}

// removeSnapshot removes a checkpoint from the tree. Without tree, its children move to its parent (believed).
func (m *machine) removeSnapshot(s *snapshot, tree bool) {
	for _, k := range slices.Clone(m.snaps) {
		if k.parent != s {
			continue
		}
		if tree {
			m.removeSnapshot(k, true)
			continue
		}
		k.parent = s.parent
		k.cfg.sd.Set("Parent", s.parentPath())
	}
	if m.parent == s {
		m.parent = s.parent
		m.cfg.sd.Set("Parent", s.parentPath())
	}
	if m.applied == s {
		m.applied = nil
	}
	for _, d := range s.cfg.disks() {
		l, _ := m.h.chain(hostResource(d))
		for _, p := range l {
			m.left[key(p)] = true
		}
	}
	m.snaps = slices.DeleteFunc(m.snaps, func(x *snapshot) bool { return x == s })
	m.h.removeConfig(s.cfg)
}

func (s *snapshot) parentPath() any {
	if s.parent == nil {
		return nil
	}
	return s.parent.cfg.sd.Ref().Path()
}

// clearSnapshotState drops the saved RAM of a checkpoint, or of a saved machine (the latter is believed).
func clearSnapshotState(c *call) uint32 {
	cfg := c.h.byConf[c.target("SnapshotSettingData")]
	if cfg == nil {
		return cimInvalidParam
	}
	m := cfg.vm
	if cfg.snap == nil && m.state() != stSaved || m.busy != nil {
		return cimInvalidState
	}
	return c.run(false, jobSpec{kind: jtClear, caption: "Clearing Saved State", vm: m, finish: func() *fail {
		if cfg.snap != nil {
			cfg.snap.memory = nil
			cfg.sd.Set("IsSaved", false)
		} else {
			m.stop()
		}
		return nil
	}})
}

// autoCheckpoint takes the automatic checkpoint of a starting machine [D: "Using checkpoints": automatic checkpoints].
func (m *machine) autoCheckpoint() {
	if !m.cfg.sd.Bool("AutomaticSnapshotsEnabled") || m.planned || m.cfg.hasPCI() {
		return
	}
	if s, f := m.take(false, false); f == nil {
		s.cfg.sd.Set("IsAutomaticSnapshot", true).Set("ElementName", "Automatic Checkpoint - "+s.cfg.sd.Str("ElementName"))
	}
}

// dropAutomatic removes automatic checkpoints when the machine is turned off [D: same page].
func (m *machine) dropAutomatic() {
	for _, s := range slices.Clone(m.snaps) {
		if s.cfg.sd.Bool("IsAutomaticSnapshot") {
			m.removeSnapshot(s, false)
		}
	}
	m.merge()
}
