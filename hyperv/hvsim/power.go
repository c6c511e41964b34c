package hvsim

import (
	"fmt"
	"maps"
	"time"
)

func init() {
	handle("Msvm_ComputerSystem", map[string]handler{"RequestStateChange": requestStateChange})
	handle("Msvm_PlannedComputerSystem", map[string]handler{"RequestStateChange": func(*call) uint32 { return rvInvalidState }})
	handle("Msvm_ShutdownComponent", map[string]handler{
		"InitiateShutdown":  func(c *call) uint32 { return initiate(c, stOff) },
		"InitiateReboot":    func(c *call) uint32 { return initiate(c, stReset) },
		"InitiateHibernate": func(c *call) uint32 { return initiate(c, stOff) },
	})
}

// change is a state change: the states it starts from, the state in between and the final one [D: RequestStateChange of
// Msvm_ComputerSystem].
type change struct {
	from        []int
	through, to int
	kind        int
	caption     string
}

var changes = map[int][]change{
	stRunning: {
		{[]int{stOff}, stStarting, stRunning, jtStart, "Starting Virtual Machine"},
		{[]int{stSaved}, stStarting, stRunning, jtRestore, "Restoring Virtual Machine"},
		{[]int{stPaused}, stResuming, stRunning, jtResume, "Resuming Virtual Machine"},
	},
	stOff:    {{[]int{stRunning, stPaused}, stStopping, stOff, jtOff, "Turning Off Virtual Machine"}},
	stSaved:  {{[]int{stRunning, stPaused}, stSaving, stSaved, jtSave, "Saving Virtual Machine State"}},
	stPaused: {{[]int{stRunning}, stPausing, stPaused, jtPause, "Pausing Virtual Machine"}},
	stReset:  {{[]int{stRunning, stPaused}, stRunning, stRunning, jtReset, "Resetting Virtual Machine"}},
}

func requestStateChange(c *call) uint32 {
	h := c.h
	if c.obj == h.self {
		return rvNotSupported
	}
	m := h.vms[c.obj.Str("Name")]
	if m == nil {
		return rvNotAvailable
	}
	want, given := c.in["RequestedState"].(uint16)
	if !given {
		return rvInvalidParam
	}
	if want == stStopping || want == stStarting { // 4 is documented for V1 alone; microsoft/wmi's graceful stop sends it [G]; 10 is "Reboot" [D]
		to := stOff
		if want == stStarting {
			to = stReset
		}
		if rv := m.askGuest(to, false); rv != rvOK {
			return rv
		}
		j := h.startJob(jobSpec{kind: jtShutDown, name: c.method.Name, caption: "Shutting Down Virtual Machine", vm: m, finish: ok})
		c.out["Job"] = j.inst.Ref()
		return rvJob
	}
	l, known := changes[int(want)]
	if !known {
		return rvInvalidParam
	}
	for _, ch := range l {
		for _, from := range ch.from {
			if m.state() == from && m.busy == nil {
				j := m.transition(ch, from, c.method.Name)
				c.out["Job"] = j.inst.Ref()
				return rvJob
			}
		}
	}
	return rvInvalidState // also when it is in that state already [O]
}

// transition starts the job of a state change.
func (m *machine) transition(ch change, from int, method string) *job {
	h := m.h
	if ch.to == stSaved {
		if why := m.pinned(); why != "" {
			return h.startJob(jobSpec{kind: ch.kind, name: method, caption: ch.caption, vm: m, finish: func() *fail {
				return &fail{code: rvNotSupported, text: "The virtual machine cannot be saved: " + why}
			}})
		}
	}
	m.cs.Set("RequestedState", map[int]int{stRunning: 2, stOff: 3, stSaved: 6, stPaused: 9}[ch.to])
	m.setState(ch.through)
	spec := jobSpec{kind: ch.kind, name: method, caption: ch.caption, vm: m}
	spec.finish = func() *fail {
		m.busy = nil
		return m.arrive(ch, from)
	}
	if ch.kind == jtSave || ch.kind == jtStart {
		spec.cancel = func() { m.busy = nil; m.setState(from) }
	}
	j := h.prepareJob(spec)
	m.busy = j
	h.launch(j)
	return j
}

// arrive ends a state change.
func (m *machine) arrive(ch change, from int) *fail {
	switch ch.kind {
	case jtStart:
		if f := m.canStart(); f != nil {
			m.setState(from)
			return f
		}
		m.autoCheckpoint()
		m.boot()
	case jtRestore:
		if m.needMemory() > m.h.freeMemory() {
			m.setState(from)
			return &fail{code: rvOutOfMemory, text: "Not enough memory in the system to start the virtual machine " + m.name() + "."}
		}
		m.setState(stRunning)
		m.cfg.sd.Set("IsSaved", false)
		m.plug()
	case jtReset:
		m.boot()
	case jtOff:
		m.stop()
	case jtSave:
		m.setState(stSaved)
		m.cfg.sd.Set("IsSaved", true)
		m.dropDevices()
	default:
		m.setState(ch.to)
	}
	return nil
}

// boot brings the machine into the state after a fresh start.
func (m *machine) boot() {
	m.memory = map[string]string{}
	m.booted = m.h.sim.now()
	m.setState(stRunning)
	m.cs.Set("RequestedState", 2).Set("ProcessID", 4000+len(m.h.order))
	for _, d := range m.cfg.disks() {
		if x := m.h.disk(hostResource(d)); x != nil {
			x.write = m.h.sim.newID() // opened for writing
		}
	}
	m.dropDevices()
	m.plug()
	if m.guest.BootTime > 0 {
		// Until the guest has booted, its integration services do not answer.
		boot := m.booted
		m.h.after(m.guest.BootTime, func() {
			if m.booted.Equal(boot) && m.state() == stRunning {
				m.plug()
			}
		})
	}
}

// stop turns the machine off.
func (m *machine) stop() {
	m.setState(stOff)
	m.cs.Set("ProcessID", nil)
	m.memory = nil
	m.cfg.sd.Set("IsSaved", false)
	m.dropDevices()
	m.dropAutomatic()
}

// canStart checks what the start of a machine needs; texts are in the manner of Hyper-V's.
func (m *machine) canStart() *fail {
	h := m.h
	if need, free := m.needMemory(), h.freeMemory(); need > free {
		return &fail{code: rvOutOfMemory, text: fmt.Sprintf("Not enough memory in the system to start the virtual machine %s with ram size %d megabytes.", m.name(), need)}
	}
	if p := m.cfg.one("Msvm_ProcessorSettingData"); p.Uint("VirtualQuantity") > uint64(h.cfg.Processors) {
		return &fail{code: rvInvalidParam, text: "The virtual machine has more virtual processors than the host has logical processors."}
	}
	for _, d := range m.cfg.disks() {
		p := hostResource(d)
		if _, good := h.chain(p); !good {
			return &fail{code: rvFileNotFound, text: "Attachment '" + p + "' not found, or the chain of virtual hard disks is corrupted. Error: The system cannot find the file specified."}
		}
		if o := h.writer(p); o != nil && o != m {
			return &fail{code: rvInUse, text: "Failed to open attachment '" + p + "'. Error: The process cannot access the file because it is being used by another process."}
		}
		for _, o := range h.order {
			if o != m && o.state() != stOff && o.state() != stSaved && o.reads(p) {
				return &fail{code: rvInUse, text: "Failed to open attachment '" + p + "': it is the parent of a disk in use."}
			}
		}
	}
	for _, d := range m.cfg.bySub(subISO) {
		if p := hostResource(d); p != "" && h.file(p) == nil {
			return &fail{code: rvFileNotFound, text: "Attachment '" + p + "' not found."}
		}
	}
	return m.devicesFree()
}

// writer returns the machine that has a disk open for writing, or nil if there is none.
func (h *Host) writer(p string) *machine {
	for _, hh := range h.sim.hosts {
		if hh != h && hh.fs(p) != h.fs(p) {
			continue
		}
		for _, m := range hh.order {
			if s := m.state(); s == stOff || s == stSaved {
				continue
			}
			for _, d := range m.cfg.disks() {
				if key(hostResource(d)) == key(p) {
					return m
				}
			}
		}
	}
	return nil
}

// reads reports whether a machine's disks depend on the file p.
func (m *machine) reads(p string) bool {
	for _, d := range m.cfg.disks() {
		l, _ := m.h.chain(hostResource(d))
		for n, q := range l {
			if n > 0 && key(q) == key(p) {
				return true
			}
		}
	}
	return false
}

func (m *machine) needMemory() uint64 {
	return m.cfg.one("Msvm_MemorySettingData").Uint("VirtualQuantity")
}

// freeMemory is the memory that running machines leave, in MB.
func (h *Host) freeMemory() uint64 {
	used := uint64(2048) // the host's own share, believed
	for _, m := range h.order {
		if m.memory != nil && m.state() != stSaved && m.state() != stStarting {
			used += m.needMemory()
		}
	}
	if used > h.cfg.MemoryMB {
		return 0
	}
	return h.cfg.MemoryMB - used
}

func initiate(c *call, to int) uint32 {
	m := c.h.vms[c.obj.Str("SystemName")]
	if m == nil {
		return rvNotAvailable
	}
	return m.askGuest(to, c.flag("Force"))
}

// Return values of the shutdown component [D: Msvm_ShutdownComponent.InitiateShutdown].
const (
	rvNotReady         = 32780
	rvLocked           = 32781
	rvShutdownUnderway = 32782
)

// askGuest asks the guest's integration service to shut down or reboot.
func (m *machine) askGuest(to int, force bool) uint32 {
	if m.state() != stRunning || m.busy != nil {
		return rvInvalidState
	}
	switch {
	case m.guest.NoTools || !m.component("Msvm_ShutdownComponentSettingData"):
		return rvNotSupported
	case m.h.sim.now().Sub(m.booted) < m.guest.BootTime:
		return rvNotReady
	case m.guest.stopping:
		return rvShutdownUnderway
	case m.guest.Locked && !force:
		return rvLocked
	case m.guest.IgnoresShutdown:
		return rvOK // accepted, and nothing happens
	}
	m.guest.stopping = true
	boot := m.booted
	m.h.after(max(m.guest.ShutdownTime, time.Millisecond), func() {
		m.guest.stopping = false
		if !m.booted.Equal(boot) || m.state() != stRunning {
			return
		}
		if to == stReset {
			m.boot()
		} else {
			m.stop()
		}
	})
	return rvOK
}

// component reports whether an integration service is switched on in the settings.
func (m *machine) component(settings string) bool {
	s := m.cfg.one(settings)
	return s != nil && s.Uint("EnabledState") == 2
}

// snapshotMemory copies the RAM for a checkpoint or a saved state.
func (m *machine) snapshotMemory() map[string]string { return maps.Clone(m.memory) }
