package hvsim

import (
	"slices"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

func init() {
	handle("Msvm_VirtualSystemManagementService", map[string]handler{
		"AddResourceSettings":        addResourceSettings,
		"ModifyResourceSettings":     modifyResourceSettings,
		"RemoveResourceSettings":     removeResourceSettings,
		"AddFeatureSettings":         addFeatureSettings,
		"ModifyFeatureSettings":      modifyFeatureSettings,
		"RemoveFeatureSettings":      removeFeatureSettings,
		"ModifyGuestServiceSettings": modifyGuestServiceSettings,
	})
}

func refs(l []*cimx.Instance) []any {
	out := make([]any, len(l))
	for n, i := range l {
		out[n] = i.Ref()
	}
	return out
}

func addResourceSettings(c *call) uint32 {
	cfg := c.h.byConf[c.target("AffectedConfiguration")]
	if m := c.machine("AffectedConfiguration"); m != nil {
		cfg = m.cfg // [O]
	}
	if cfg == nil {
		return rvInvalidParam
	}
	if cfg.snap != nil {
		return rvInvalidState
	}
	var in []*cimx.Instance
	for _, s := range c.list("ResourceSettings") {
		i, ok := c.embedded(s, "CIM_ResourceAllocationSettingData")
		if !ok || kindOf(i) == nil {
			return rvInvalidParam
		}
		in = append(in, i)
	}
	if len(in) == 0 {
		return rvInvalidParam
	}
	// Wrong parameters are reported at once. A job means that they were checked [D].
	var made []*cimx.Instance
	for _, i := range in {
		r, rv := cfg.addResource(i)
		if rv != 0 {
			for _, x := range made {
				cfg.remove(x)
			}
			return rv
		}
		made = append(made, r)
	}
	c.out["ResultingResourceSettings"] = refs(made)
	cfg.vm.plug()
	return c.run(cfg.vm.state() == stOff, jobSpec{kind: jtAddRes, caption: "Adding Virtual Machine Resources", vm: cfg.vm, affected: made, finish: ok})
}

func ok() *fail { return nil }

// addResource checks and adds one resource to a configuration.
func (c *config) addResource(in *cimx.Instance) (*cimx.Instance, uint32) {
	h, k := c.h, kindOf(in)
	running := c.vm.state() != stOff
	r := h.virt.new(k.class)
	for p, v := range k.defaults {
		setIf(r, p, v)
	}
	r.Merge(in)
	r.Set("ResourceType", k.restype).Set("ResourceSubType", k.subtype)
	root := "Microsoft:" + c.id + `\`
	switch k.subtype {
	case subProc, subMem:
		// Every machine has exactly one: DefineSystem's resource settings replace the default one [D: DefineSystem].
		old := c.one(k.class)
		if old == nil {
			return nil, rvInvalidParam
		}
		next := old.Copy()
		next.Merge(in)
		if rv := c.checkQuantity(next, old); rv != 0 {
			return nil, rv
		}
		old.Merge(next)
		return old, 0
	case subIDE, subSerial, subDisplay:
		return nil, rvInvalidParam // fixed parts of the machine
	case subSCSI:
		if running {
			return nil, rvInvalidState
		}
		n := len(c.bySub(subSCSI))
		if n >= 4 { // [D: "Plan for Hyper-V scalability": 4 SCSI controllers]
			return nil, rvInvalidParam
		}
		r.Set("InstanceID", root+h.sim.newID()+`\0`)
		if r.Str("ElementName") == "" || r.Str("ElementName") == "Default" {
			r.Set("ElementName", "SCSI Controller")
		}
	case subDisk, subPhysDisk, subDVD:
		if rv := c.placeDrive(r, running); rv != 0 {
			return nil, rv
		}
	case subVHD, subISO:
		if rv := c.placeMedium(r); rv != 0 {
			return nil, rv
		}
	case subNIC, subLegacy:
		if running && (k.subtype == subLegacy || !c.vm.gen2()) { // [D: hot add of network adapters: generation 2]
			return nil, rvInvalidState
		}
		if k.subtype == subLegacy && c.vm.gen2() || len(c.bySub(subNIC)) >= 8 {
			return nil, rvInvalidParam
		}
		r.Set("InstanceID", root+h.sim.newID())
		if rv := c.setMAC(r); rv != 0 {
			return nil, rv
		}
	case subConn:
		nic := c.parent(r)
		if nic == nil || nic.Class.Prop("StaticMacAddress") < 0 || !c.switchOK(r) {
			return nil, rvInvalidParam
		}
		if len(c.kids(nic)) > 0 {
			return nil, rvInvalidParam
		}
		r.Set("InstanceID", nic.Str("InstanceID")+`\C`).Set("Parent", nic.Ref().Path())
	case subPCI:
		if rv := c.placePCI(r, running); rv != 0 {
			return nil, rv
		}
		r.Set("InstanceID", root+h.sim.newID())
	case subGPUP:
		if rv := c.placePartition(r, running); rv != 0 {
			return nil, rv
		}
		r.Set("InstanceID", root+h.sim.newID())
	}
	return c.add(r), 0
}

func modifyResourceSettings(c *call) uint32 {
	type change struct {
		cfg       *config
		old, next *cimx.Instance
	}
	var todo []change
	for _, s := range c.list("ResourceSettings") {
		in, good := c.embedded(s, "CIM_ResourceAllocationSettingData")
		if !good {
			return rvInvalidParam
		}
		old := c.h.virt.get(in.Ref())
		if old == nil || old.Class != in.Class {
			return rvInvalidParam
		}
		cfg := c.h.ofConfig(old)
		if cfg == nil {
			return rvInvalidParam
		}
		if cfg.snap != nil {
			return rvInvalidState
		}
		next := old.Copy()
		next.Merge(in)
		if rv := cfg.checkChange(next, old); rv != 0 {
			return rv
		}
		todo = append(todo, change{cfg, old, next})
	}
	if len(todo) == 0 {
		return rvInvalidParam
	}
	var out []*cimx.Instance
	for _, t := range todo {
		t.old.Merge(t.next)
		out = append(out, t.old)
	}
	vm := todo[0].cfg.vm
	c.out["ResultingResourceSettings"] = refs(out)
	return c.run(vm.state() == stOff, jobSpec{kind: jtModRes, caption: "Modifying Virtual Machine Resources", vm: vm, affected: out, finish: ok})
}

// checkChange checks a changed resource.
func (c *config) checkChange(next, old *cimx.Instance) uint32 {
	if s := next.Str("ResourceSubType"); s != old.Str("ResourceSubType") {
		return rvInvalidParam
	}
	running := c.vm.state() != stOff
	switch old.Str("ResourceSubType") {
	case subProc, subMem:
		return c.checkQuantity(next, old)
	case subVHD, subISO:
		if p := hostResource(next); p != hostResource(old) {
			vhd := old.Str("ResourceSubType") == subVHD
			if vhd && running {
				return rvInvalidState // a disk of a running machine can't be exchanged in place (believed)
			}
			if p == "" && !vhd {
				return 0
			}
			return c.checkMedium(p, vhd)
		}
	case subNIC, subLegacy:
		if next.Str("Address") != old.Str("Address") || next.Bool("StaticMacAddress") != old.Bool("StaticMacAddress") {
			if running {
				return rvInvalidState
			}
			return c.setMAC(next)
		}
	case subConn:
		if !c.switchOK(next) {
			return rvInvalidParam
		}
	case subPCI, subGPUP:
		if running {
			return rvInvalidState
		}
	}
	return 0
}

func removeResourceSettings(c *call) uint32 {
	l, given := c.targets("ResourceSettings")
	if given == 0 || len(l) != given {
		return rvInvalidParam
	}
	var vm *machine
	for _, r := range l {
		cfg := c.h.ofConfig(r)
		if cfg == nil || r.Class.Prop("ResourceSubType") < 0 || !slices.Contains(cfg.res, r) {
			return rvInvalidParam
		}
		if cfg.snap != nil {
			return rvInvalidState
		}
		running := cfg.vm.state() != stOff
		switch s := r.Str("ResourceSubType"); s {
		case subProc, subMem, subIDE, subSerial, subDisplay:
			return rvInvalidParam
		case subSCSI:
			if running || len(cfg.kids(r)) > 0 {
				return rvInvalidState // believed
			}
		case subNIC, subLegacy:
			if running && (!cfg.vm.gen2() || s == subLegacy) {
				return rvInvalidState
			}
		case subPCI, subGPUP:
			if running {
				return rvInvalidState
			}
		case subDisk, subDVD, subVHD:
			if p := cfg.parent(r); running && p != nil && (p.Str("ResourceSubType") == subIDE || s == subVHD && onIDE(cfg, p)) {
				return rvInvalidState
			}
		}
		vm = cfg.vm
	}
	for _, r := range l {
		cfg := c.h.ofConfig(r)
		for _, k := range cfg.kids(r) {
			cfg.remove(k)
		}
		cfg.release(r)
		cfg.remove(r)
	}
	return c.run(vm.state() == stOff, jobSpec{kind: jtRemRes, caption: "Removing Virtual Machine Resources", vm: vm, finish: ok})
}

func onIDE(c *config, drive *cimx.Instance) bool {
	p := c.parent(drive)
	return p != nil && p.Str("ResourceSubType") == subIDE
}

func modifyGuestServiceSettings(c *call) uint32 {
	var out []*cimx.Instance
	for _, s := range c.list("GuestServiceSettings") {
		in, good := c.embedded(s, "CIM_SettingData")
		if !good {
			return rvInvalidParam
		}
		old := c.h.virt.get(in.Ref())
		cfg := c.h.ofConfig(in)
		if old == nil || cfg == nil || old.Class.Prop("EnabledState") < 0 {
			return rvInvalidParam
		}
		old.Merge(in)
		cfg.vm.plug()
		out = append(out, old)
	}
	c.out["ResultingGuestServiceSettings"] = refs(out)
	return c.run(true, jobSpec{kind: jtModRes, caption: "Modifying Guest Service Settings", finish: ok})
}
