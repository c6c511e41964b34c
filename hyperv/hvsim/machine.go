package hvsim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// EnabledState values [D: Msvm_ComputerSystem].
const (
	stRunning  = 2
	stOff      = 3
	stSaved    = 6
	stPaused   = 9
	stStarting = 10
	stReset    = 11
	stSaving   = 32773
	stStopping = 4
	stPausing  = 32776
	stResuming = 32777
)

// Kinds of settings [D: Msvm_VirtualSystemSettingData.VirtualSystemType].
const (
	typeRealized = "Microsoft:Hyper-V:System:Realized"
	typePlanned  = "Microsoft:Hyper-V:System:Planned"
	typeSnapshot = "Microsoft:Hyper-V:Snapshot:Realized"
	typeRecovery = "Microsoft:Hyper-V:Snapshot:Recovery"
)

// machine is a virtual machine or a planned one.
type machine struct {
	h       *Host
	id      string
	planned bool
	cs      *cimx.Instance
	cfg     *config
	snaps   []*snapshot // in order of creation
	parent  *snapshot   // the checkpoint on which the current state is based
	applied *snapshot
	memory  map[string]string // content of the guest's RAM; nil while it is off
	booted  time.Time
	devices []*cimx.Instance // exist only while it runs
	busy    *job             // the job that has it in a transitional state
	guest   Guest
	kvp     map[string]string // host → guest items
	merging bool
	source  *definition     // the definition from which a planned machine was imported
	left    map[string]bool // automatic disks that the current state left behind
}

// config is a set of settings: those of a machine or of a checkpoint.
type config struct {
	h    *Host
	vm   *machine
	snap *snapshot // nil for the current settings
	id   string    // GUID in the InstanceIDs
	sd   *cimx.Instance
	res  []*cimx.Instance // resource, component and feature settings
}

// snapshot is a checkpoint.
type snapshot struct {
	cfg    *config
	parent *snapshot
	memory map[string]string // nil for a checkpoint without RAM
	vm     *machine
}

func (m *machine) state() int { return int(m.cs.Uint("EnabledState")) }

func (m *machine) name() string { return m.cfg.sd.Str("ElementName") }

func (m *machine) gen2() bool { return strings.HasSuffix(m.cfg.sd.Str("VirtualSystemSubType"), ":2") }

func (m *machine) uptime() uint64 {
	if m.memory == nil || m.state() == stSaved {
		return 0
	}
	return uint64(max(0, m.h.sim.now().Sub(m.booted)/time.Millisecond))
}

func (m *machine) setState(n int) {
	m.cs.Set("EnabledState", n).Set("TimeOfLastStateChange", cimx.Datetime(m.h.sim.now()))
	op, text := 2, "Operating normally"
	if n == stStarting || n == stSaving || n == stStopping {
		op, text = 11, "In service"
	}
	m.cs.Set("OperationalStatus", []any{op}).Set("StatusDescriptions", []any{text})
}

// newMachine adds a machine with its computer system and settings, without resources.
func (h *Host) newMachine(id string, planned bool, sd *cimx.Instance) *machine {
	class := "Msvm_ComputerSystem"
	if planned {
		class = "Msvm_PlannedComputerSystem"
	}
	now := h.sim.now()
	m := &machine{h: h, id: id, planned: planned, kvp: map[string]string{}, left: map[string]bool{}}
	m.cs = h.virt.new(class).Set("CreationClassName", class).Set("Name", id).Set("ElementName", sd.Str("ElementName")).
		Set("Caption", map[bool]string{false: "Virtual Machine", true: "Planned Virtual Machine"}[planned]).
		Set("Description", map[bool]string{false: "Microsoft Virtual Machine", true: "Microsoft Planned Virtual Machine"}[planned]). // display text, see [G]
		Set("EnabledState", stOff).Set("RequestedState", 12).Set("HealthState", 5).Set("OperationalStatus", []any{2}).
		Set("StatusDescriptions", []any{"Operating normally"}).Set("Status", "Operating normally").
		Set("InstallDate", cimx.Datetime(now)).Set("TimeOfLastConfigurationChange", cimx.Datetime(now)).
		Set("TimeOfLastStateChange", cimx.Datetime(now)).Set("EnabledDefault", 2)
	for _, p := range []string{"ReplicationState", "ReplicationHealth", "ReplicationMode"} {
		setIf(m.cs, p, 0)
	}
	m.cfg = &config{h: h, vm: m, id: id, sd: sd}
	kind := typeRealized
	if planned {
		kind = typePlanned
	}
	sd.Set("InstanceID", "Microsoft:"+id).Set("VirtualSystemIdentifier", id).Set("VirtualSystemType", kind)
	h.vms[id] = m
	h.order = append(h.order, m)
	h.virt.add(m.cs)
	h.virt.add(sd)
	h.byConf[sd] = m.cfg
	return m
}

// removeConfig removes a set of settings from the store.
func (h *Host) removeConfig(c *config) {
	for _, r := range c.res {
		h.virt.remove(r)
	}
	h.virt.remove(c.sd)
	delete(h.byConf, c.sd)
}

// destroy removes a machine. Its disk files stay (believed: Hyper-V's manager says so, no reference page does).
func (m *machine) destroy() {
	h := m.h
	m.dropDevices()
	for _, s := range slices.Clone(m.snaps) {
		m.removeSnapshot(s, false) // [D: DestroySystem destroys the checkpoints too]
	}
	if !m.planned {
		m.mergeable(false)
	}
	for _, r := range m.cfg.res {
		m.cfg.release(r)
	}
	h.removeConfig(m.cfg)
	h.virt.remove(m.cs)
	delete(h.vms, m.id)
	h.order = slices.DeleteFunc(h.order, func(x *machine) bool { return x == m })
	if f := m.cfg.sd.Str("ConfigurationDataRoot"); f != "" {
		h.drop(m.definitionFile())
	}
}

// definitionFile returns the location of a machine's own definition.
func (m *machine) definitionFile() string {
	return join(m.cfg.sd.Str("ConfigurationDataRoot"), `Virtual Machines\`+m.id+".vmcx")
}

// add puts a resource setting into a configuration and the store.
func (c *config) add(r *cimx.Instance) *cimx.Instance {
	c.res = append(c.res, r)
	return c.h.virt.add(r)
}

func (c *config) remove(r *cimx.Instance) {
	if r.Class.Name == "Msvm_EthernetPortAllocationSettingData" { // features go with their connection (believed)
		for _, f := range c.byClass("Msvm_EthernetSwitchPortFeatureSettingData") {
			if strings.HasPrefix(f.Str("InstanceID"), r.Str("InstanceID")+`\`) {
				c.remove(f)
			}
		}
	}
	c.res = slices.DeleteFunc(c.res, func(x *cimx.Instance) bool { return x == r })
	c.h.virt.remove(r)
}

// byClass lists the settings of a class.
func (c *config) byClass(class string) (out []*cimx.Instance) {
	for _, r := range c.res {
		if r.Class.IsA(class) {
			out = append(out, r)
		}
	}
	return out
}

func (c *config) one(class string) *cimx.Instance {
	if l := c.byClass(class); len(l) > 0 {
		return l[0]
	}
	return nil
}

// disks lists the virtual hard disks of a configuration.
func (c *config) disks() (out []*cimx.Instance) {
	for _, r := range c.byClass("Msvm_StorageAllocationSettingData") {
		if r.Str("ResourceSubType") == subVHD && hostResource(r) != "" {
			out = append(out, r)
		}
	}
	return out
}

func hostResource(r *cimx.Instance) string {
	if l := r.Strings("HostResource"); len(l) > 0 {
		return l[0]
	}
	return ""
}

// ofConfig finds the configuration that a setting belongs to, or nil if there is none.
func (h *Host) ofConfig(i *cimx.Instance) *config {
	if c := h.byConf[i]; c != nil {
		return c
	}
	id := owner(i)
	if m := h.vms[id]; m != nil {
		return m.cfg
	}
	for _, m := range h.order {
		for _, s := range m.snaps {
			if s.cfg.id == id {
				return s.cfg
			}
		}
	}
	return nil
}

// cloneConfig copies settings under another GUID, with the links between resources following.
func (c *config) clone(to *Host, vm *machine, snap *snapshot, id string) *config {
	n := &config{h: to, vm: vm, snap: snap, id: id}
	n.sd = rename(c.sd, to, c.id, id)
	for _, r := range c.res {
		n.res = append(n.res, rename(r, to, c.id, id))
	}
	return n
}

// store adds all settings of a configuration to the host's classes.
func (c *config) store() {
	c.h.virt.add(c.sd)
	c.h.byConf[c.sd] = c
	for _, r := range c.res {
		c.h.virt.add(r)
	}
}

// rename copies a setting with another GUID and host name in its ID and links.
func rename(i *cimx.Instance, to *Host, oldID, newID string) *cimx.Instance {
	n := i.Copy()
	oldHost := n.Host
	n.Host = to.cfg.Name
	fix := func(s string) string {
		s = strings.ReplaceAll(s, "Microsoft:"+oldID, "Microsoft:"+newID)
		if oldHost != to.cfg.Name && strings.HasPrefix(s, `\\`+oldHost+`\root`) {
			s = `\\` + to.cfg.Name + s[len(oldHost)+2:]
		}
		return s
	}
	n.Set("InstanceID", fix(n.Str("InstanceID")))
	if n.Class.Prop("Parent") >= 0 && n.Get("Parent") != nil {
		n.Set("Parent", fix(n.Str("Parent")))
	}
	return n
}

// String is for test failures.
func (m *machine) String() string { return fmt.Sprintf("%s (%s) on %s", m.name(), m.id, m.h.cfg.Name) }
