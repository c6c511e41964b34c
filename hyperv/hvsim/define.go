package hvsim

import (
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

func init() {
	handle("Msvm_VirtualSystemManagementService", map[string]handler{
		"DefineSystem":         func(c *call) uint32 { return defineSystem(c, false) },
		"DefinePlannedSystem":  func(c *call) uint32 { return defineSystem(c, true) },
		"DestroySystem":        destroySystem,
		"ModifySystemSettings": modifySystemSettings,
	})
}

// configVersion is the newest configuration version by build [O: constants; D: "Upgrade virtual machine version"].
func (h *Host) configVersion() string {
	switch {
	case h.cfg.Build >= 26100:
		return "12.0"
	case h.cfg.Build >= 20348:
		return "10.0"
	case h.cfg.Build >= 17763:
		return "9.0"
	}
	return "8.0"
}

// defaultSettings are the settings of a machine for which nothing was specified.
func (h *Host) defaultSettings() *cimx.Instance {
	return h.virt.new("Msvm_VirtualSystemSettingData").Set("ElementName", "New Virtual Machine").
		Set("VirtualSystemSubType", "Microsoft:Hyper-V:SubType:1").Set("Version", h.configVersion()).
		Set("ConfigurationDataRoot", `C:\ProgramData\Microsoft\Windows\Hyper-V`).
		Set("SnapshotDataRoot", `C:\ProgramData\Microsoft\Windows\Hyper-V`).
		Set("AutomaticShutdownAction", 3).Set("AutomaticStartupAction", 3).Set("AutomaticStartupActionDelay", "00000000000000.000000:000").
		Set("AutomaticCriticalErrorAction", 1).Set("AutomaticCriticalErrorActionTimeout", "00000000003000.000000:000").
		Set("AutomaticRecoveryAction", 3).Set("UserSnapshotType", 3).
		// Automatic checkpoints are on by default only on client editions [D: "Using checkpoints": Windows 10 1709 and later].
		Set("AutomaticSnapshotsEnabled", h.cfg.Edition.client()).Set("IsAutomaticSnapshot", false).
		Set("LowMmioGapSize", 128).Set("HighMmioGapSize", 512).Set("GuestControlledCacheTypes", false).Set("VirtualNumaEnabled", true).
		Set("IsSaved", false).Set("IncrementalBackupEnabled", false).Set("TurnOffOnGuestRestart", false)
}

func defineSystem(c *call, planned bool) uint32 {
	h := c.h
	sd := h.defaultSettings()
	if s := c.str("SystemSettings"); s != "" {
		given, ok := c.embedded(s, "Msvm_VirtualSystemSettingData")
		if !ok {
			return rvInvalidParam
		}
		sd.Merge(given)
	}
	if ref := c.target("ReferenceConfiguration"); ref != nil {
		base := ref.Copy()
		base.Merge(sd)
		sd.Merge(base)
	}
	if rv := checkSystem(sd); rv != 0 {
		return rv
	}
	res := make([]*cimx.Instance, 0, 4)
	for _, s := range c.list("ResourceSettings") {
		i, ok := c.embedded(s, "CIM_ResourceAllocationSettingData")
		if !ok || kindOf(i) == nil {
			return rvInvalidParam
		}
		res = append(res, i)
	}
	var made *machine
	build := func() *fail {
		id := h.sim.newID()
		sd.Set("CreationTime", cimx.Datetime(h.sim.now())).Set("ConfigurationID", id).Set("BIOSGUID", "{"+h.sim.newID()+"}")
		if sd.Str("VirtualSystemSubType") == "Microsoft:Hyper-V:SubType:2" && sd.Get("SecureBootEnabled") == nil {
			sd.Set("SecureBootEnabled", true)
		}
		made = h.newMachine(id, planned, sd)
		made.addDefaults()
		for _, r := range res {
			if _, rv := made.cfg.addResource(r); rv != 0 {
				made.destroy()
				made = nil
				return &fail{code: uint16(rv), text: "A resource setting was refused."}
			}
		}
		made.saveDefinition()
		return nil
	}
	spec := jobSpec{kind: jtDefine, caption: "Defining Virtual Machine", finish: build}
	if !h.sim.cfg.AllJobs {
		if _, slow := h.sim.cfg.JobTimes[c.method.Name]; !slow {
			if f := build(); f != nil {
				return uint32(f.code)
			}
			c.out["ResultingSystem"] = made.cs.Ref()
			return rvOK
		}
	}
	var j *job
	spec.finish = func() *fail {
		f := build()
		if f == nil {
			j.affected = append(j.affected, made.cs) // found through Msvm_AffectedJobElement [G: DefineSystem's Job]
		}
		return f
	}
	spec.name = c.method.Name
	sd.Set("IsSaved", false)
	j = h.prepareJob(spec)
	h.launch(j)
	c.out["Job"] = j.inst.Ref()
	return rvJob
}

// checkSystem refuses settings that no machine can have.
func checkSystem(sd *cimx.Instance) uint32 {
	if n := sd.Str("ElementName"); n == "" || len([]rune(n)) > 100 { // the length limit is believed
		return rvInvalidParam
	}
	switch sd.Str("VirtualSystemSubType") {
	case "Microsoft:Hyper-V:SubType:1", "Microsoft:Hyper-V:SubType:2":
	default:
		return rvInvalidParam
	}
	in := func(p string, lo, hi uint64) bool { n := sd.Uint(p); return n >= lo && n <= hi }
	if !in("AutomaticShutdownAction", 2, 4) || !in("AutomaticStartupAction", 2, 4) || !in("UserSnapshotType", 2, 5) { // [D]
		return rvInvalidParam
	}
	return 0
}

// addDefaults gives a new machine what every machine has: processor, memory, integration services, and on generation 1
// two IDE controllers and serial ports.
func (m *machine) addDefaults() {
	h, c := m.h, m.cfg
	root := "Microsoft:" + m.id + `\`
	plain := func(k *kind, id, name string) *cimx.Instance {
		i := h.virt.new(k.class).Set("InstanceID", root+id).Set("ElementName", name).Set("ResourceType", k.restype).Set("ResourceSubType", k.subtype).
			Set("ConsumerVisibility", 3).Set("AutomaticAllocation", true).Set("AutomaticDeallocation", true)
		for p, v := range k.defaults {
			i.Set(p, v)
		}
		return c.add(i)
	}
	plain(&kinds[0], idProcessor, "Processor")
	plain(&kinds[1], idMemory, "Memory")
	plain(subKind(subDisplay), idDisplay, "Virtual Monitor")
	if !m.gen2() {
		for n := range 2 {
			plain(subKind(subIDE), strings.Replace(idIDE, "%d", string(rune('0'+n)), 1), "IDE Controller "+string(rune('0'+n))).Set("Address", string(rune('0'+n)))
			plain(subKind(subSerial), `8E3A359F-559A-4B6A-98A9-1690A6100ED7\`+string(rune('0'+n)), "COM "+string(rune('1'+n)))
		}
	}
	for _, k := range components {
		state := 3
		if k.on {
			state = 2
		}
		c.add(h.virt.new(k.settings).Set("InstanceID", root+k.id).Set("EnabledState", state).Set("ElementName", strings.TrimSuffix(strings.TrimPrefix(k.settings, "Msvm_"), "SettingData")))
	}
}

func subKind(sub string) *kind {
	for n := range kinds {
		if kinds[n].subtype == sub {
			return &kinds[n]
		}
	}
	panic("hvsim: no kind " + sub)
}

func (m *machine) saveDefinition() {
	m.h.put(&file{path: m.definitionFile(), def: &definition{live: m}})
}

func destroySystem(c *call) uint32 {
	m := c.machine("AffectedSystem")
	if m == nil {
		return rvInvalidParam
	}
	if s := m.state(); (s != stOff && s != stSaved) || m.busy != nil {
		return rvInvalidState // believed
	}
	return c.run(true, jobSpec{kind: jtDestroy, caption: "Destroying Virtual Machine", vm: m, finish: func() *fail {
		if m.h.vms[m.id] != m {
			return &fail{code: rvInvalidState, text: "The virtual machine is gone."}
		}
		m.hold()
		m.destroy()
		return nil
	}})
}

// hold keeps the images of a machine with checkpoints open for the duration of a merge: DestroySystem ends before the host is
// done with them (believed: checkpoints are merged after their method has ended).
func (m *machine) hold() {
	if len(m.snaps) == 0 {
		return
	}
	until := m.h.sim.now().Add(m.h.sim.jobTime("Merge"))
	for _, c := range append([]*config{m.cfg}, m.configs()...) {
		for _, d := range c.disks() {
			l, _ := m.h.chain(hostResource(d))
			for _, p := range l {
				m.h.held[key(p)] = until
				if !strings.HasPrefix(ext(p), ".avhd") {
					break // its base belongs to another machine
				}
			}
		}
	}
}

// runtimeSettings may change while the machine runs (believed; the rest needs it off).
var runtimeSettings = map[string]bool{"ElementName": true, "Notes": true, "AutomaticShutdownAction": true, "AutomaticStartupAction": true,
	"AutomaticStartupActionDelay": true, "UserSnapshotType": true, "AutomaticSnapshotsEnabled": true, "AutomaticCriticalErrorAction": true,
	"AutomaticCriticalErrorActionTimeout": true, "AutomaticRecoveryAction": true, "IncrementalBackupEnabled": true, "LockOnDisconnect": true,
	"SnapshotDataRoot": true, "SwapFileDataRoot": true, "ConfigurationDataRoot": false}

// fixedSettings are read-only after creation.
var fixedSettings = map[string]bool{"VirtualSystemSubType": true, "VirtualSystemIdentifier": true, "VirtualSystemType": true, "CreationTime": true,
	"Version": true, "Parent": true, "ConfigurationID": true, "IsSaved": true, "ConfigurationFile": true}

func modifySystemSettings(c *call) uint32 {
	h := c.h
	given, ok := c.embedded(c.str("SystemSettings"), "Msvm_VirtualSystemSettingData")
	if !ok {
		return rvInvalidParam
	}
	sd := h.virt.get(given.Ref())
	cfg := h.byConf[sd]
	if cfg == nil {
		return rvInvalidParam
	}
	next := sd.Copy()
	for n, p := range given.Class.Props {
		v := given.At(n)
		if v == nil || p.Key || cimxEqual(v, sd.Get(p.Name)) {
			continue
		}
		switch {
		case fixedSettings[p.Name]:
			continue // ignored, as reading and writing back a whole instance must work (believed)
		case cfg.snap != nil && p.Name != "ElementName" && p.Name != "Notes":
			return rvInvalidState
		case cfg.snap == nil && !runtimeSettings[p.Name] && cfg.vm.state() != stOff:
			return rvInvalidState
		}
		next.Set(p.Name, v)
	}
	if rv := checkSystem(next); rv != 0 {
		return rv
	}
	if cfg.snap == nil && cfg.hasPCI() && next.Uint("AutomaticShutdownAction") != 2 {
		return rvInvalidState // [D: "Deploy graphics devices by using Discrete Device Assignment": stop action must be TurnOff]
	}
	return c.run(true, jobSpec{kind: jtModify, caption: "Modifying Virtual Machine Settings", vm: cfg.vm, finish: func() *fail {
		sd.Merge(next)
		if cfg.snap == nil {
			cfg.vm.cs.Set("ElementName", sd.Str("ElementName")).Set("TimeOfLastConfigurationChange", cimx.Datetime(h.sim.now()))
		}
		return nil
	}})
}

func cimxEqual(a, b any) bool {
	x, ok1 := a.([]any)
	y, ok2 := b.([]any)
	if ok1 != ok2 {
		return false
	}
	if !ok1 {
		return a == b
	}
	if len(x) != len(y) {
		return false
	}
	for n := range x {
		if x[n] != y[n] {
			return false
		}
	}
	return true
}
