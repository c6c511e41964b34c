package hvsim

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// definition is a machine definition file (.vmcx): of a live machine, or exported.
type definition struct {
	live   *machine // nil for an exported one
	cfg    *config  // exported settings; not stored in any host's classes
	snaps  []exported
	at     int // the checkpoint on which the settings are based, -1 for none
	memory map[string]string
	saved  bool
}

// exported is a checkpoint inside an exported definition; parents come first.
type exported struct {
	cfg    *config
	parent int
	memory map[string]string
}

func init() {
	handle("Msvm_VirtualSystemManagementService", map[string]handler{"ExportSystemDefinition": exportSystem})
}

// exportDefaults are the properties of a machine's export settings [D: Msvm_VirtualSystemExportSettingData].
func exportDefaults(h *Host) *cimx.Instance {
	return h.virt.new("Msvm_VirtualSystemExportSettingData").Set("CopySnapshotConfiguration", 0).Set("CopyVmStorage", true).
		Set("CopyVmRuntimeInformation", true).Set("CreateVmExportSubdirectory", true).Set("CaptureLiveState", 1).Set("ExportForLiveMigration", false)
}

// exportSettings is the export setting instance of a machine, reached by Msvm_SystemExportSettingData [D: that class].
func (h *Host) exportSettings(m *machine) *cimx.Instance {
	return exportDefaults(h).Set("InstanceID", "Microsoft:"+m.id)
}

// exportClass makes the export settings of all machines.
func (h *Host) exportClass() virtual {
	return virtual{
		all: func() (out []*cimx.Instance) {
			for _, m := range h.order {
				out = append(out, h.exportSettings(m))
			}
			return out
		},
		byKey: func(r cimx.Ref) *cimx.Instance {
			if m := h.vms[strings.ToUpper(strings.TrimPrefix(r.Value("InstanceID"), "Microsoft:"))]; m != nil {
				return h.exportSettings(m)
			}
			return nil
		},
	}
}

func exportSystem(c *call) uint32 {
	m := c.machine("ComputerSystem")
	if m == nil || m.planned {
		return rvInvalidParam
	}
	set := exportDefaults(c.h)
	if s := c.str("ExportSettingData"); s != "" {
		i, good := c.embedded(s, "Msvm_VirtualSystemExportSettingData")
		if !good {
			return rvInvalidParam
		}
		set.Merge(i)
	}
	root := c.str("ExportDirectory")
	if !absolute(root) || set.Uint("CopySnapshotConfiguration") > 3 || set.Uint("CaptureLiveState") > 2 {
		return rvInvalidParam
	}
	if m.busy != nil || !slices.Contains([]int{stOff, stRunning, stSaved, stPaused}, m.state()) {
		return rvInvalidState
	}
	var from *snapshot
	if n := set.Uint("CopySnapshotConfiguration"); n >= 2 {
		ref, err := cimx.ParsePath(set.Str("SnapshotVirtualSystem"))
		if err != nil {
			return rvInvalidParam
		}
		cfg := c.h.byConf[c.h.lookup(ref)]
		if cfg == nil || cfg.snap == nil || cfg.vm != m {
			return rvInvalidParam
		}
		from = cfg.snap
	}
	if set.Bool("CreateVmExportSubdirectory") {
		root = join(root, fileName(m.name()))
	}
	j := c.long(m, opExporting, jobSpec{kind: jtExport, caption: "Exporting Virtual Machine", cancel: func() {}, finish: func() *fail {
		return (&exporter{h: c.h, m: m, from: from, set: set, root: root}).run()
	}})
	c.h.launch(j)
	return rvJob
}

// fileName replaces characters that a Windows file name cannot have.
func fileName(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune(`<>:"/\|?*`, r) {
			return '_'
		}
		return r
	}, s)
}

// exporter copies one machine.
type exporter struct {
	h     *Host
	m     *machine
	from  *snapshot // the checkpoint to export as the machine; nil for its current state
	set   *cimx.Instance
	root  string
	moved map[string]string // copied disk files, old to new
}

func (e *exporter) run() *fail {
	h, m := e.h, e.m
	vmcx := join(e.root, `Virtual Machines\`+m.id+".vmcx")
	if h.file(vmcx) != nil {
		return &fail{code: rvFailed, text: "Failed to create the export directory '" + e.root + "': it exists already. (0x80070050)"}
	}
	e.moved = map[string]string{}
	src, ram := m.cfg, m.memory
	live := m.state() == stRunning || m.state() == stPaused
	if e.from != nil {
		src, ram = e.from.cfg, e.from.memory
	} else if live && e.set.Uint("CaptureLiveState") != 1 {
		ram = nil // crash- or application-consistent: no RAM [D: CaptureLiveState]
	}
	if !e.set.Bool("CopyVmRuntimeInformation") {
		ram = nil
	}
	all := e.set.Uint("CopySnapshotConfiguration") == 0
	def := &definition{at: -1, memory: maps.Clone(ram), saved: ram != nil}
	def.cfg = src.clone(h, nil, nil, m.id)
	def.cfg.sd.Set("InstanceID", "Microsoft:"+m.id).Set("VirtualSystemType", typeRealized).Set("ElementName", m.name()).Set("Parent", nil).
		Set("IsSaved", def.saved).Set("ConfigurationDataRoot", e.root).Set("SnapshotDataRoot", e.root)
	configs := []*config{def.cfg}
	if all {
		for _, s := range m.snaps {
			x := exported{cfg: s.cfg.clone(h, nil, nil, s.cfg.id), parent: slices.Index(m.snaps, s.parent), memory: maps.Clone(s.memory)}
			def.snaps = append(def.snaps, x)
			configs = append(configs, x.cfg)
		}
		def.at = slices.Index(m.snaps, m.parent)
	}
	for _, c := range configs {
		if f := e.disks(c, all); f != nil {
			e.undo()
			return f
		}
	}
	h.put(&file{path: vmcx, def: def})
	e.company(stem(vmcx), ram != nil)
	for _, x := range def.snaps {
		h.put(&file{path: join(e.root, `Snapshots\`+x.cfg.id+".vmcx"), size: 64 << 10})
	}
	return nil
}

// company writes what an export has beside the definition: the guest's state and the runtime state, and a folder of each kind [O:
// listings of exports in public; .vmgs since build 17763 is believed, an empty .vmrs without RAM too].
func (e *exporter) company(name string, ram bool) {
	folder := join(e.root, "Virtual Machines")
	runtime := uint64(64 << 10)
	if ram {
		runtime = e.m.needMemory() << 20
	}
	e.h.put(&file{path: join(folder, name+".vmrs"), size: runtime})
	if e.h.cfg.Build >= 17763 {
		e.h.put(&file{path: join(folder, name+".vmgs"), size: 4 << 20})
	}
	for _, d := range []string{e.root, folder, join(e.root, "Virtual Hard Disks"), join(e.root, "Snapshots")} {
		e.h.mkdir(d)
	}
}

// disks copies the disks of a configuration and points it to the copies: whole chains with checkpoints, else merged
// into one file [D: CopySnapshotConfiguration: for one checkpoint the storage is merged; for none it is believed].
func (e *exporter) disks(c *config, chains bool) *fail {
	if !e.set.Bool("CopyVmStorage") {
		return nil
	}
	skip := e.set.Strings("ExcludedVirtualHardDisks")
	for _, d := range c.disks() {
		p := hostResource(d)
		if containsFold(skip, d.Ref().Path()) || containsFold(skip, p) {
			continue
		}
		l, good := e.h.chain(p)
		if !good {
			return corrupt(p)
		}
		if chains {
			for _, q := range slices.Backward(l) {
				e.copy(q)
			}
			d.Set("HostResource", []any{e.moved[key(p)]})
			continue
		}
		to, done := e.moved[key(p)]
		if !done {
			to = e.free(base(l[len(l)-1]))
			src := e.h.disk(p)
			kind := uint16(diskDynamic)
			if e.h.disk(l[len(l)-1]).kind == diskFixed {
				kind = diskFixed
			}
			e.h.put(&file{path: to, disk: &disk{id: e.h.sim.newID(), write: e.h.sim.newID(), kind: kind, format: src.format, size: src.size, cells: e.h.content(p)}})
			e.moved[key(p)] = to
		}
		d.Set("HostResource", []any{to})
	}
	return nil
}

// copy copies one file of a chain; its parent has been copied before it.
func (e *exporter) copy(p string) {
	if e.moved[key(p)] != "" {
		return
	}
	to := e.free(base(p))
	f := e.h.copyFile(p, e.h, to)
	if f.disk.kind == diskDiff {
		f.disk.parent = e.moved[key(f.disk.parent)]
	}
	e.moved[key(p)] = to
}

func (e *exporter) free(name string) string {
	to := join(e.root, `Virtual Hard Disks\`+name)
	for n := 1; e.h.file(to) != nil; n++ {
		to = join(e.root, fmt.Sprintf(`Virtual Hard Disks\%d-%s`, n, name))
	}
	return to
}

func (e *exporter) undo() {
	for _, p := range e.moved {
		e.h.drop(p)
	}
}
