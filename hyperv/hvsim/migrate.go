package hvsim

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// Migration types [D: Msvm_VirtualSystemMigrationSettingData.MigrationType].
const (
	migVM, migStorage, migStaged, migBoth, migDeepCheck = 32768, 32769, 32770, 32771, 32772
)

func init() {
	handle("Msvm_VirtualSystemMigrationService", map[string]handler{
		"MigrateVirtualSystemToHost":     func(c *call) uint32 { return migrate(c, false) },
		"CheckVirtualSystemIsMigratable": func(c *call) uint32 { return migrate(c, true) },
		"GetSystemCompatibilityInfo":     compatibilityInfo,
		"CheckSystemCompatibilityInfo":   checkCompatibility,
		"ModifyServiceSettings":          modifyMigration,
	})
}

// migration is one request to move a machine.
type migration struct {
	m       *machine
	kind    int
	src     *Host
	dst     *Host // src for storage alone; nil if the name is unknown
	set     *cimx.Instance
	system  *cimx.Instance            // NewSystemSettingData, nil if not given
	res     map[string]*cimx.Instance // NewResourceSettingData by InstanceID
	files   map[string]string         // what moves: old path (key) to new path
	sources map[string]string         // key to path
}

// migrate checks the parameters at once. The job reports everything about machines and hosts [D: no 0 among the return values].
func migrate(c *call, checkOnly bool) uint32 {
	m := c.machine("ComputerSystem")
	if m == nil || m.planned {
		return rvInvalidParam
	}
	g := &migration{m: m, src: c.h, set: c.h.virt.new("Msvm_VirtualSystemMigrationSettingData"), res: map[string]*cimx.Instance{}}
	if s := c.str("MigrationSettingData"); s != "" {
		i, good := c.embedded(s, "Msvm_VirtualSystemMigrationSettingData")
		if !good {
			return rvInvalidParam
		}
		g.set.Merge(i)
	}
	if !checkOnly {
		c.h.sim.moves[m.id] = g.set
	}
	g.kind = int(g.set.Uint("MigrationType"))
	if g.kind == 0 {
		g.kind = migVM
	}
	if s := c.str("NewSystemSettingData"); s != "" {
		i, good := c.embedded(s, "Msvm_VirtualSystemSettingData")
		if !good {
			return rvInvalidParam
		}
		g.system = i
	}
	for _, s := range c.list("NewResourceSettingData") {
		i, good := c.embedded(s, "CIM_ResourceAllocationSettingData")
		if !good {
			return rvInvalidParam
		}
		old := c.h.virt.get(i.Ref())
		if old == nil || c.h.ofConfig(old) == nil || c.h.ofConfig(old).vm != m {
			return rvInvalidParam
		}
		g.res[strings.ToLower(i.Str("InstanceID"))] = i
	}
	dest := c.str("DestinationHost")
	switch g.kind {
	case migStorage, migDeepCheck:
		if dest != "" && c.h.sim.hostByName(dest) != c.h || g.kind == migDeepCheck && !checkOnly {
			return rvInvalidParam
		}
		g.dst = c.h
	case migVM, migBoth, migStaged:
		if dest == "" || c.h.sim.hostByName(dest) == c.h {
			return rvInvalidParam
		}
		g.dst = c.h.sim.hostByName(dest)
	default:
		return rvInvalidParam
	}
	if m.busy != nil {
		return rvInvalidState
	}
	jobKind := map[int]int{migVM: jtMoveVM, migBoth: jtMoveBoth, migStorage: jtMoveStorage, migStaged: 300}[g.kind]
	if checkOnly {
		jobKind = map[int]int{migVM: jtCheckVM, migStaged: jtCheckVM, migBoth: 302, migStorage: 303, migDeepCheck: 304}[g.kind]
	}
	spec := jobSpec{class: "Msvm_MigrationJob", kind: jobKind, name: c.method.Name, caption: "Moving Virtual Machine", vm: m, cancel: func() {}}
	if checkOnly {
		spec.caption = "Checking Virtual Machine Migration"
	}
	var j *job
	spec.finish = func() *fail {
		if f := j.all(g.blockers()); f != nil || checkOnly {
			return f
		}
		return g.move()
	}
	if checkOnly || g.kind == migStaged {
		j = c.h.prepareJob(spec)
		c.out["Job"] = j.inst.Ref()
	} else {
		c.h.active(g.kind, 1)
		finish := spec.finish
		spec.finish = func() *fail { c.h.active(g.kind, -1); return finish() }
		spec.cancel = func() { c.h.active(g.kind, -1) }
		j = c.long(m, opMigrating, spec)
	}
	j.inst.Set("DestinationHost", dest).Set("MigrationType", g.kind).Set("VirtualSystemName", m.id)
	// Errors that are there from the start are reported before any time is spent on copying.
	if l := g.blockers(); len(l) > 0 {
		j.end = j.start
	}
	c.h.launch(j)
	return rvJob
}

// active keeps the counters of the migration service.
func (h *Host) active(kind, d int) {
	p := "ActiveVirtualSystemMigrationCount"
	if kind == migStorage {
		p = "ActiveStorageMigrationCount"
	}
	h.virt.each(h.virt.ns.Class("Msvm_VirtualSystemMigrationService"), func(i *cimx.Instance) bool {
		i.Set(p, int(i.Uint(p))+d)
		return false
	})
}

// Numbers of messages, as Compare-VM prints them: 33012 is in public scripts, the others are believed.
const (
	idProcessors, idVersion, idFeatures, idSwitch = "14420", "24000", "24004", "33012"
)

// Values of Msvm_VirtualSystemMigrationServiceSettingData.AuthenticationType [D: that class].
const authCredSSP, authKerberos = 0, 1

// blockers lists everything that blocks the migration. Texts are in the manner of Hyper-V's.
func (g *migration) blockers() []fail {
	var out []fail
	why := func(id, format string, args ...any) {
		out = append(out, fail{rvFailed, fmt.Sprintf(format, args...), id})
	}
	no := func(format string, args ...any) { why("", format, args...) }
	m, src, dst := g.m, g.src, g.dst
	if src.vms[m.id] != m {
		no("The virtual machine is gone.")
		return out
	}
	name := m.name()
	if !slices.Contains([]int{stOff, stRunning, stSaved, stPaused}, m.state()) {
		no("Virtual machine '%s' is not in a state that can be moved.", name)
	}
	if g.kind == migStorage || g.kind == migDeepCheck {
		return append(out, g.planFiles()...)
	}
	if !src.migr.Bool("EnableVirtualSystemMigration") {
		no("Virtual machine migration operation for '%s' failed at migration source '%s': live migration is not enabled.", name, src.cfg.Name)
	}
	if dst == nil || dst.virt == nil || dst.migr == nil || !dst.migr.Bool("EnableVirtualSystemMigration") {
		no("The Virtual Machine Management Service failed to establish a connection for a Virtual Machine migration with the host: the host does not accept migrations. (0x8007274D)")
		return out
	}
	if src.cfg.NoDelegation || src.migr.Uint("AuthenticationType") == authCredSSP {
		// With CredSSP the host takes the caller's own credentials, which no login over the network brings [D: "Set up hosts for
		// live migration": log in on the source host, or use Kerberos and constrained delegation].
		no("Failed to authenticate the connection at the source host: no suitable credentials available. (0x8009030E)")
	}
	for _, a := range g.set.Strings("DestinationIPAddressList") {
		if !slices.Contains(dst.listeners(), any(a)) {
			no("The host does not listen on %s for migrations.", a)
		}
	}
	if m.h.sim.cluster.has(m) {
		no("Virtual machine '%s' is clustered: it must be moved with the cluster's tools.", name)
	}
	if why := m.pinned(); why != "" {
		no("Virtual machine '%s' cannot be moved: %s.", name, why)
	}
	if o := dst.vms[m.id]; o != nil && !o.planned {
		no("A virtual machine with the identifier %s exists on the destination host.", m.id)
	}
	if newer(m.cfg.sd.Str("Version"), dst.configVersion()) {
		why(idVersion, "The virtual machine is using configuration version %s, which host '%s' does not support.", m.cfg.sd.Str("Version"), dst.cfg.Name)
	}
	live := m.state() == stRunning || m.state() == stPaused
	if n := m.cfg.one("Msvm_ProcessorSettingData").Uint("VirtualQuantity"); n > uint64(dst.cfg.Processors) {
		why(idProcessors, "The virtual machine has more virtual processors than host '%s' has logical processors.", dst.cfg.Name)
	}
	if m.memory != nil && !cpuFits(src, dst, m.cfg.one("Msvm_ProcessorSettingData").Bool("LimitProcessorFeatures")) {
		why(idFeatures, "The virtual machine '%s' is using processor-specific features not supported on physical computer '%s'.", name, dst.cfg.Name)
	}
	if live && m.needMemory() > dst.freeMemory() {
		no("Not enough memory on host '%s' for virtual machine '%s'.", dst.cfg.Name, name)
	}
	for _, conn := range m.cfg.bySub(subConn) {
		if hostResource(conn) != "" && g.connection(conn) == nil {
			why(idSwitch, "Could not find Ethernet switch '%s'.", conn.Str("LastKnownSwitchName"))
		}
	}
	for _, d := range m.cfg.bySub(subISO) {
		if p := hostResource(d); p != "" && dst.file(p) == nil {
			no("Virtual machine '%s' cannot be moved: image '%s' is not accessible on host '%s'.", name, p, dst.cfg.Name)
		}
	}
	if n := len(m.cfg.bySub(subPhysDisk)); n > 0 {
		no("Virtual machine '%s' has physical disks.", name)
	}
	return append(out, g.planFiles()...)
}

// connection finds the destination's switch for a port: the one that NewResourceSettingData names, or else the one with the same
// name. It returns the new HostResource, or nil if there is none.
func (g *migration) connection(conn *cimx.Instance) []any {
	if r := g.res[strings.ToLower(conn.Str("InstanceID"))]; r != nil && r.Get("HostResource") != nil {
		p := hostResource(r)
		if p == "" {
			return []any{}
		}
		ref, err := cimx.ParsePath(p)
		if err != nil {
			return nil
		}
		if sw := g.dst.lookup(ref); sw != nil && sw.Class.Name == "Msvm_VirtualEthernetSwitch" {
			return []any{sw.Ref().Path()}
		}
		return nil
	}
	ref, err := cimx.ParsePath(hostResource(conn))
	if err != nil {
		return nil
	}
	here := g.src.lookup(ref)
	var out []any
	g.dst.virt.each(g.dst.virt.ns.Class("Msvm_VirtualEthernetSwitch"), func(sw *cimx.Instance) bool {
		if here != nil && strings.EqualFold(sw.Str("ElementName"), here.Str("ElementName")) {
			out = []any{sw.Ref().Path()}
			return false
		}
		return true
	})
	return out
}

// move performs the migration.
func (g *migration) move() *fail {
	m, dst := g.m, g.dst
	if g.kind == migStaged {
		d := m.define()
		if dst.vms[m.id] != nil {
			return &fail{code: rvInvalidState, text: "A virtual machine with the identifier " + m.id + " exists on the destination host."}
		}
		d.memory, d.saved = nil, false
		p := dst.plan(d, m.id, false)
		g.arrange(p.cfg)
		return nil
	}
	g.transfer()
	if g.kind == migStorage {
		for _, c := range append([]*config{m.cfg}, m.configs()...) {
			g.redirect(c)
		}
		left := map[string]bool{}
		for p := range m.left {
			if to := g.files[p]; to != "" {
				p = key(to)
			}
			left[p] = true
		}
		m.left = left
		g.applySystem(m.cfg.sd)
		return nil
	}
	if o := dst.vms[m.id]; o != nil { // staged before
		o.destroy()
	}
	state, memory := m.state(), m.memory
	n := &machine{h: dst, id: m.id, memory: memory, booted: m.booted, guest: m.guest, kvp: maps.Clone(m.kvp), left: map[string]bool{}}
	n.cs = dst.virt.new("Msvm_ComputerSystem")
	n.cs.Merge(m.cs)
	n.cs.Set("CreationClassName", "Msvm_ComputerSystem").Set("Name", m.id)
	n.cfg = m.cfg.clone(dst, n, nil, m.id)
	n.cfg.vm = n
	olds := map[*snapshot]*snapshot{}
	for _, s := range m.snaps {
		x := &snapshot{vm: n, memory: s.memory}
		x.cfg = s.cfg.clone(dst, n, x, s.cfg.id)
		olds[s] = x
		n.snaps = append(n.snaps, x)
	}
	for s, x := range olds {
		x.parent = olds[s.parent]
	}
	n.parent, n.applied = olds[m.parent], olds[m.applied]
	for _, c := range append([]*config{n.cfg}, n.configs()...) {
		g.redirect(c)
	}
	g.arrange(n.cfg)
	g.applySystem(n.cfg.sd)
	m.leave()
	dst.vms[n.id] = n
	dst.order = append(dst.order, n)
	dst.virt.add(n.cs)
	for _, c := range append([]*config{n.cfg}, n.configs()...) {
		c.store()
	}
	n.setState(state)
	n.plug()
	n.saveDefinition()
	return nil
}

// leave removes a machine from its host without touching disks.
func (m *machine) leave() {
	m.dropDevices()
	for _, s := range m.snaps {
		m.h.removeConfig(s.cfg)
	}
	m.h.removeConfig(m.cfg)
	m.h.virt.remove(m.cs)
	delete(m.h.vms, m.id)
	m.h.order = slices.DeleteFunc(m.h.order, func(x *machine) bool { return x == m })
	m.h.drop(m.definitionFile())
}

// arrange connects the ports of a moved configuration and applies the other parts of NewResourceSettingData.
func (g *migration) arrange(c *config) {
	for _, conn := range c.bySub(subConn) {
		if hostResource(conn) == "" {
			continue
		}
		if old := g.src.virt.get(conn.Ref()); old != nil {
			conn.Set("HostResource", g.connection(old))
		}
	}
	for _, d := range c.disks() {
		if r := g.res[strings.ToLower(d.Str("InstanceID"))]; r != nil && hostResource(r) != "" {
			d.Set("HostResource", r.Get("HostResource"))
		}
	}
}

func (g *migration) applySystem(sd *cimx.Instance) {
	if g.system == nil {
		return
	}
	for _, p := range []string{"ConfigurationDataRoot", "SnapshotDataRoot", "SwapFileDataRoot"} {
		if v := g.system.Get(p); v != nil {
			sd.Set(p, v)
		}
	}
}

func modifyMigration(c *call) uint32 {
	i, good := c.embedded(c.str("ServiceSettingData"), "Msvm_VirtualSystemMigrationServiceSettingData")
	if !good {
		return rvInvalidParam
	}
	return c.run(true, jobSpec{kind: jtModify, caption: "Modifying Service Settings", finish: func() *fail {
		c.h.migr.Merge(i)
		c.h.cfg.NoMigration = !c.h.migr.Bool("EnableVirtualSystemMigration")
		c.obj.Set("MigrationServiceListenerIPAddressList", c.h.listeners())
		return nil
	}})
}
