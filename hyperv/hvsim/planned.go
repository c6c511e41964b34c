package hvsim

import (
	"maps"
	"slices"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

func init() {
	handle("Msvm_VirtualSystemManagementService", map[string]handler{
		"ImportSystemDefinition":    importSystem,
		"ImportSnapshotDefinitions": importSnapshots,
		"ValidatePlannedSystem":     validatePlanned,
		"RealizePlannedSystem":      realizePlanned,
	})
}

// importSystem makes a planned machine from a definition file [D: ImportSystemDefinition].
func importSystem(c *call) uint32 {
	h := c.h
	f := h.file(c.str("SystemDefinitionFile"))
	if f == nil || f.def == nil {
		return rvInvalidParam // the code for a missing file is believed
	}
	fresh := c.flag("GenerateNewSystemIdentifier")
	def := f.def
	if def.live != nil {
		def = def.live.define()
	}
	id := def.cfg.id
	if fresh {
		id = h.sim.newID()
	} else if h.vms[id] != nil {
		return rvInvalidState // an object with this identifier exists (believed)
	}
	var made *machine
	build := func() *fail {
		if h.vms[id] != nil {
			return &fail{code: rvInvalidState, text: "A virtual machine with the identifier " + id + " exists."}
		}
		made = h.plan(def, id, fresh)
		if s := c.str("SnapshotFolder"); s != "" {
			made.addSnapshots(fresh)
		}
		return nil
	}
	if _, slow := h.sim.cfg.JobTimes[c.method.Name]; !slow && !h.sim.cfg.AllJobs {
		if f := build(); f != nil {
			return uint32(f.code)
		}
		c.out["ImportedSystem"] = made.cs.Ref()
		return rvOK
	}
	var j *job
	j = h.prepareJob(jobSpec{kind: jtImport, name: c.method.Name, caption: "Importing Virtual Machine", cancel: func() {}, finish: func() *fail {
		f := build()
		if f == nil {
			j.affected = append(j.affected, made.cs)
		}
		return f
	}})
	h.launch(j)
	c.out["Job"] = j.inst.Ref()
	return rvJob
}

// define makes a definition of a live machine in place.
func (m *machine) define() *definition {
	d := &definition{cfg: m.cfg.clone(m.h, nil, nil, m.id), at: slices.Index(m.snaps, m.parent), memory: maps.Clone(m.memory), saved: m.state() == stSaved}
	if !d.saved {
		d.memory = nil
	}
	for _, s := range m.snaps {
		d.snaps = append(d.snaps, exported{cfg: s.cfg.clone(m.h, nil, nil, s.cfg.id), parent: slices.Index(m.snaps, s.parent), memory: maps.Clone(s.memory)})
	}
	return d
}

// plan adds the planned machine of a definition.
func (h *Host) plan(def *definition, id string, fresh bool) *machine {
	cfg := def.cfg.clone(h, nil, nil, id)
	sd := cfg.sd
	// Its folder stays that of the file, unless it is changed before it is realized (believed: so Import-VM registers in place).
	sd.Set("Parent", nil).Set("ConfigurationID", id)
	m := h.newMachine(id, true, sd)
	m.source = def
	for _, r := range cfg.res {
		m.cfg.add(r)
	}
	if fresh {
		for _, nic := range append(m.cfg.bySub(subNIC), m.cfg.bySub(subLegacy)...) {
			if !nic.Bool("StaticMacAddress") {
				m.cfg.setMAC(nic) // believed
			}
		}
	}
	if def.saved {
		m.memory = maps.Clone(def.memory)
	}
	return m
}

// addSnapshots brings the checkpoints of the definition into a planned machine.
func (m *machine) addSnapshots(fresh bool) []*cimx.Instance {
	h := m.h
	var out []*cimx.Instance
	var made []*snapshot
	for _, x := range m.source.snaps {
		id := x.cfg.id
		if fresh || h.virt.get(cimx.Ref{Class: "Msvm_VirtualSystemSettingData", Keys: []cimx.KeyValue{{Name: "InstanceID", Value: "Microsoft:" + id}}}) != nil {
			id = h.sim.newID()
		}
		s := &snapshot{vm: m, memory: maps.Clone(x.memory)}
		s.cfg = x.cfg.clone(h, m, s, id)
		s.cfg.sd.Set("VirtualSystemIdentifier", m.id).Set("VirtualSystemType", typePlannedSnapshot).Set("Parent", nil)
		if x.parent >= 0 {
			s.parent = made[x.parent]
			s.cfg.sd.Set("Parent", s.parent.cfg.sd.Ref().Path())
		}
		made = append(made, s)
		s.cfg.store()
		out = append(out, s.cfg.sd)
	}
	m.snaps = made
	if n := m.source.at; n >= 0 && n < len(made) {
		m.parent = made[n]
		m.cfg.sd.Set("Parent", made[n].cfg.sd.Ref().Path())
	}
	return out
}

const typePlannedSnapshot = "Microsoft:Hyper-V:Snapshot:Planned"

func importSnapshots(c *call) uint32 {
	m := c.machine("PlannedSystem")
	if m == nil || !m.planned || c.str("SnapshotFolder") == "" {
		return rvInvalidParam
	}
	if len(m.snaps) > 0 || m.source == nil {
		return rvInvalidState
	}
	c.out["ImportedSnapshots"] = refs(m.addSnapshots(m.source.cfg.id != m.id))
	return c.run(true, jobSpec{kind: jtImport, caption: "Importing Checkpoints", vm: m, finish: ok})
}

// problems lists everything that prevents a planned machine from being realized on its host [D: ValidatePlannedSystem].
func (m *machine) problems() []fail {
	var out []fail
	for _, c := range append([]*config{m.cfg}, m.configs()...) {
		for _, d := range c.disks() {
			p := hostResource(d)
			if m.h.file(p) == nil {
				out = append(out, *notFound(p))
			} else if _, good := m.h.chain(p); !good {
				out = append(out, *corrupt(p))
			}
		}
	}
	for _, conn := range m.cfg.bySub(subConn) {
		if p := hostResource(conn); p != "" {
			if ref, err := cimx.ParsePath(p); err != nil || m.h.lookup(ref) == nil {
				out = append(out, fail{text: "Could not find Ethernet switch '" + conn.Str("LastKnownSwitchName") + "'.", id: idSwitch})
			}
		}
	}
	if n := m.cfg.one("Msvm_ProcessorSettingData").Uint("VirtualQuantity"); n > uint64(m.h.cfg.Processors) {
		out = append(out, fail{text: "The virtual machine has more virtual processors than the host has logical processors.", id: idProcessors})
	}
	return out
}

func validatePlanned(c *call) uint32 {
	m := c.machine("PlannedSystem")
	if m == nil || !m.planned {
		return rvInvalidParam
	}
	var j *job
	j = c.h.prepareJob(jobSpec{kind: jtImport, name: c.method.Name, caption: "Validating Virtual Machine", vm: m, finish: func() *fail { return j.all(m.problems()) }})
	c.h.launch(j)
	c.out["Job"] = j.inst.Ref()
	return rvJob
}

// all fails a job with several errors; the last one is the job's own.
func (j *job) all(l []fail) *fail {
	if len(l) == 0 {
		return nil
	}
	for _, f := range l[:len(l)-1] {
		j.fault(rvFailed, f)
	}
	last := l[len(l)-1]
	last.code = rvFailed
	return &last
}

func realizePlanned(c *call) uint32 {
	m := c.machine("PlannedSystem")
	if m == nil || !m.planned {
		return rvInvalidParam
	}
	var j *job
	j = c.h.prepareJob(jobSpec{kind: jtDefine, name: c.method.Name, caption: "Realizing Virtual Machine", vm: m, finish: func() *fail {
		if c.h.vms[m.id] != m || !m.planned {
			return &fail{code: rvInvalidState, text: "The planned virtual machine is gone."}
		}
		if f := j.all(m.problems()); f != nil {
			return f
		}
		m.realize()
		j.affected = append(j.affected, m.cs)
		return nil
	}})
	c.h.launch(j)
	c.out["Job"] = j.inst.Ref()
	if j.done && j.inst.Uint("JobState") == jobCompleted {
		c.out["ResultingSystem"] = m.cs.Ref()
	}
	return rvJob
}

// realize turns a planned machine into a real one.
func (m *machine) realize() {
	h := m.h
	old := m.cs
	h.virt.remove(old)
	m.planned = false
	m.cs = h.virt.new("Msvm_ComputerSystem")
	m.cs.Merge(old)
	m.cs.Set("CreationClassName", "Msvm_ComputerSystem").Set("Name", m.id).Set("Caption", "Virtual Machine").Set("Description", "Microsoft Virtual Machine").
		Set("ElementName", m.name()).Set("ReplicationState", 0).Set("ReplicationHealth", 0).Set("ReplicationMode", 0).Set("EnhancedSessionModeState", 3)
	h.virt.add(m.cs)
	m.cfg.sd.Set("VirtualSystemType", typeRealized)
	for _, s := range m.snaps {
		s.cfg.sd.Set("VirtualSystemType", typeSnapshot)
	}
	if m.memory != nil {
		m.setState(stSaved)
		m.cfg.sd.Set("IsSaved", true)
	}
	for _, conn := range m.cfg.bySub(subConn) {
		if ref, err := cimx.ParsePath(hostResource(conn)); err == nil {
			if sw := h.lookup(ref); sw != nil {
				conn.Set("HostResource", []any{sw.Ref().Path()})
			}
		}
	}
	m.source = nil
	m.saveDefinition()
}
