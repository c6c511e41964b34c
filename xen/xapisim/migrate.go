package xapisim

import (
	"slices"
	"strings"
)

// Migration inside the pool follows xen-api's ocaml/xapi/xapi_vm_migrate.ml and message_forwarding.ml.

var migrateHandlers = map[string]handler{
	"VM.pool_migrate":       poolMigrate,
	"VM.migrate_send":       migrateSend,
	"VM.assert_can_migrate": func(c *call) (any, error) { _, err := c.planMigration(); return nil, err },
	"VDI.pool_migrate":      vdiPoolMigrate,
	"host.migrate_receive":  migrateReceive,
}

// featureNames are the names in LICENCE_RESTRICTION (xen-api ocaml/xapi-types/features.ml).
var featureNames = map[string]string{
	"storage_xen_motion": "Storage_motion", "xen_motion": "Xen_motion", "checkpoint": "Checkpoint", "wlb": "WLB", "dmc": "DMC", "xha": "HA",
	"set_vcpus_number_live": "Live_set_vcpus", "network_sriov": "Network_sriov", "nested_virt": "Nested_virt", "vm_start": "VM_start",
	"vgpu": "VGPU", "gpu": "GPU", "usb_passthrough": "USB_passthrough", "vm_groups": "VM_groups", "cbt": "CBT",
}

// licensed refuses what the edition lacks.
func (s *Sim) licensed(feature string) error {
	if s.restricted(feature) {
		return fail("LICENCE_RESTRICTION", featureNames[feature])
	}
	return nil
}

func poolMigrate(c *call) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	to, err := c.get("host", c.str(1))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, "pool_migrate", func() (any, error) {
		if err := c.canBoot(vm, to, true); err != nil {
			return nil, err
		}
		if err := c.licensed("xen_motion"); err != nil {
			return nil, err
		}
		from := vm.str("resident_on")
		if err := c.reserve(vm, to); err != nil {
			return nil, err
		}
		hostTask := c.taskRef()
		c.put(to, "current_operations", hostTask, "vm_migrate")
		defer c.drop(to, "current_operations", hostTask)
		if err = c.work(0.5); err == nil {
			err = c.inject("VM.pool_migrate/memory")
		}
		if err == nil {
			err = c.work(1)
		}
		if err == nil && !c.hostLive(to) {
			err = fail("HOST_NOT_LIVE")
		}
		if vm.gone || vm.str("resident_on") != from { // it was shut down meanwhile
			c.release(vm)
			return nil, fail("VM_BAD_POWER_STATE", vm.ref, "running", strings.ToLower(vm.str("power_state")))
		}
		if err != nil {
			c.release(vm)
			return nil, err
		}
		c.land(vm, to)
		return nil, nil
	})
}

// land makes a running VM run on another host with the RAM it has.
func (s *Sim) land(vm, to *object) {
	if old := s.look("host", vm.str("resident_on")); old != nil && old != to {
		defer s.updateMemory(old)
	}
	s.unbindGPUs(vm)
	m := s.look("VM_metrics", vm.str("metrics"))
	var began any
	if m != nil {
		began = m.val("start_time")
	}
	s.boot(vm, to, vm.str("power_state") == "Paused")
	if m != nil {
		s.set(m, "start_time", began)
	}
}

// destination is a parsed dest map.
type destination struct {
	sim  *Sim
	host *object // in sim, which must be locked to look at it
	ref  string
	here bool
}

// parseDest reads what migrate_receive gave, here or in another simulated pool of this process.
func (c *call) parseDest(m map[string]any) (destination, error) {
	for _, k := range []string{"host", "session_id", "master", "xenops", "SM"} {
		if _, ok := m[k]; !ok {
			return destination{}, fail("INTERNAL_ERROR", "Not_found")
		}
	}
	ref := m["host"].(string)
	if h := c.look("host", ref); h != nil {
		return destination{c.Sim, h, ref, true}, nil
	}
	master := m["master"].(string)
	other := findSim(master)
	if other == nil {
		return destination{}, fail("CANNOT_CONTACT_HOST", strings.TrimSuffix(strings.TrimPrefix(master, "https://"), "/"))
	}
	return destination{sim: other, ref: ref}, nil
}

// plan is a migration that passed all checks.
type plan struct {
	vm     *object
	dest   destination
	vdis   map[string]string // VDI to SR
	vifs   map[string]string // VIF to network, across pools
	gpus   map[string]string
	copies bool
}

// planMigration does the checks of VM.assert_can_migrate: vm, dest, live, vdi_map, vif_map, options, vgpu_map.
func (c *call) planMigration() (*plan, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	if err := c.licensed("storage_xen_motion"); err != nil {
		return nil, err
	}
	dest, err := c.parseDest(c.dict(1))
	if err != nil {
		return nil, err
	}
	p := &plan{vm: vm, dest: dest, vdis: texts(c.dict(3)), vifs: texts(c.dict(4)), gpus: texts(c.dict(6)), copies: c.dict(5)["copy"] == "true"}
	for _, vdi := range c.vdisOf(vm) {
		if _, ok := p.vdis[vdi.ref]; !ok && !readOnlySR(c.look("SR", vdi.str("SR"))) {
			return nil, fail("VDI_NOT_IN_MAP", vdi.ref)
		}
	}
	if dest.here {
		if p.copies {
			return nil, fail("OPERATION_NOT_ALLOWED", "Copy mode is disallowed on intra pool storage migration, try efficient alternatives, for example, VM.copy/clone.")
		}
		if err := c.checkMoves(p); err != nil {
			return nil, err
		}
		if err := c.canReceive(vm, dest.host, p); err != nil {
			return nil, err
		}
		if len(p.vifs) > 0 {
			return nil, fail("OPERATION_NOT_ALLOWED", "VIF mapping is not allowed for intra-pool migration -all VIFs must be on the same network")
		}
	} else {
		if err := c.checkMoves(p); err != nil {
			return nil, err
		}
		if state := vm.str("power_state"); p.copies && state != "Halted" {
			return nil, fail("VM_BAD_POWER_STATE", vm.ref, "halted", strings.ToLower(state))
		}
		for _, r := range vm.refs("VIFs") {
			if _, ok := p.vifs[r]; !ok {
				return nil, fail("VIF_NOT_IN_MAP", r)
			}
		}
		if err := c.checkRemote(p); err != nil {
			return nil, err
		}
	}
	for v, sr := range p.vdis {
		vdi := c.look("VDI", v)
		if vdi == nil {
			return nil, fail("HANDLE_INVALID", "VDI", v)
		}
		if vdi.str("SR") == sr {
			continue
		}
		if vdi.is("cbt_enabled") {
			return nil, fail("VDI_CBT_ENABLED", v)
		}
		if _, ok := vdi.dict("sm_config")["key_hash"]; ok {
			return nil, fail("VDI_IS_ENCRYPTED", v)
		}
	}
	return p, nil
}

// checkMoves: both SRs of a disk that moves must be able to.
func (c *call) checkMoves(p *plan) error {
	for v, sr := range p.vdis {
		vdi := c.look("VDI", v)
		if vdi == nil {
			return fail("HANDLE_INVALID", "VDI", v)
		}
		if vdi.str("SR") == sr {
			continue
		}
		if from := c.look("SR", vdi.str("SR")); readOnlySR(from) {
			return fail("SR_DOES_NOT_SUPPORT_MIGRATION", from.ref, "VDI_SNAPSHOT;VDI_MIRROR")
		}
		if p.dest.here {
			to, err := c.get("SR", sr)
			if err != nil {
				return err
			}
			if readOnlySR(to) {
				return fail("SR_DOES_NOT_SUPPORT_MIGRATION", to.ref, "VDI_SNAPSHOT;VDI_MIRROR_IN")
			}
		}
		if vdi.str("on_boot") == "reset" {
			return fail("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION", v)
		}
	}
	return nil
}

// canReceive is canBoot with the disks where they will be.
func (c *call) canReceive(vm, host *object, p *plan) error {
	if err := c.canBoot(vm, host, true); err != nil {
		if f, ok := err.(*Failure); !ok || f.Code != "VM_REQUIRES_SR" {
			return err
		}
	}
	for _, vdi := range c.vdisOf(vm) {
		sr := vdi.str("SR")
		if to, ok := p.vdis[vdi.ref]; ok {
			sr = to
		}
		if !c.seesSR(host, sr) {
			return fail("VM_REQUIRES_SR", vm.ref, sr)
		}
	}
	return nil
}

func texts(m map[string]any) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		out[k], _ = v.(string)
	}
	return out
}

func migrateSend(c *call) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, "migrate_send", func() (any, error) {
		p, err := c.planMigration()
		if err != nil {
			return nil, err
		}
		if c.storageMigrations >= 3 {
			return nil, fail("TOO_MANY_STORAGE_MIGRATES", "3")
		}
		c.storageMigrations++
		defer func() { c.storageMigrations-- }()
		if !p.dest.here {
			return c.sendAway(p)
		}
		if _, err := c.moveInside(p); err != nil {
			return nil, err
		}
		return vm.ref, nil
	})
}

// moveInside mirrors the disks that change their SR, then moves the RAM. It gives the new disks by the old ones' references.
func (c *call) moveInside(p *plan) (map[string]*object, error) {
	vm := p.vm
	moved := map[string]*object{}
	var order []*object
	undo := func(err error) (map[string]*object, error) {
		for _, v := range moved {
			c.destroyVDI(v)
		}
		c.release(vm)
		return nil, err
	}
	live := vm.str("power_state") != "Halted"
	if live && vm.str("power_state") != "Suspended" && vm.str("resident_on") != p.dest.ref {
		if err := c.reserve(vm, p.dest.host); err != nil {
			return nil, err
		}
	}
	for _, vdi := range c.vdisOf(vm) {
		if to, ok := p.vdis[vdi.ref]; ok && to != vdi.str("SR") {
			order = append(order, vdi)
		}
	}
	for i, vdi := range order {
		if err := c.inject(c.name + "/mirror"); err != nil {
			return undo(err)
		}
		to := c.look("SR", p.vdis[vdi.ref])
		family := append([]*object{vdi}, c.snapshotsOf(vdi.ref)...)
		for _, v := range family {
			made, err := c.fullCopy(v, to, map[string]any{"is_a_snapshot": v.val("is_a_snapshot"), "snapshot_time": v.val("snapshot_time")})
			if err != nil {
				return undo(err)
			}
			moved[v.ref] = made
		}
		if err := c.work(0.8 * float64(i+1) / float64(len(order))); err != nil {
			return undo(err)
		}
	}
	if err := c.inject(c.name + "/memory"); err != nil {
		return undo(err)
	}
	if err := c.work(1); err != nil {
		return undo(err)
	}
	for old, made := range moved {
		was := c.look("VDI", old)
		if was == nil {
			continue
		}
		c.disks[made.ref].blocks = c.disks[old].content() // what was written meanwhile is mirrored
		if of := was.str("snapshot_of"); moved[of] != nil {
			c.set(made, "snapshot_of", moved[of].ref)
		}
		for _, r := range was.refs("VBDs") {
			c.set(c.look("VBD", r), "VDI", made.ref)
		}
		c.destroyVDI(was)
		c.refreshVDI(made)
	}
	if live && vm.str("power_state") != "Suspended" && vm.str("resident_on") != p.dest.ref {
		c.land(vm, p.dest.host)
	}
	c.release(vm)
	return moved, nil
}

// vdiPoolMigrate moves one disk of a VM; the others stay.
func vdiPoolMigrate(c *call) (any, error) {
	vdi, err := c.get("VDI", c.str(0))
	if err != nil {
		return nil, err
	}
	sr, err := c.get("SR", c.str(1))
	if err != nil {
		return nil, err
	}
	if len(vdi.refs("VBDs")) == 0 {
		return nil, fail("VDI_NEEDS_VM_FOR_MIGRATE", vdi.ref)
	}
	vm := c.look("VM", c.look("VBD", vdi.refs("VBDs")[0]).str("VM"))
	return c.withOp(vm, "migrate_send", func() (any, error) {
		if vdi.is("cbt_enabled") {
			return nil, fail("VDI_CBT_ENABLED", vdi.ref)
		}
		if err := c.licensed("storage_xen_motion"); err != nil {
			return nil, err
		}
		p := &plan{vm: vm, vdis: map[string]string{vdi.ref: sr.ref}, dest: destination{sim: c.Sim, here: true}}
		need := []string{sr.ref}
		for _, v := range c.vdisOf(vm) {
			if v != vdi {
				p.vdis[v.ref] = v.str("SR")
				need = append(need, v.str("SR"))
			}
		}
		sees := func(h *object) bool {
			return h != nil && !slices.ContainsFunc(need, func(r string) bool { return !c.seesSR(h, r) })
		}
		p.dest.host = c.look("host", vm.str("resident_on"))
		if !sees(p.dest.host) {
			p.dest.host = nil
			for _, h := range c.all("host") {
				if sees(h) && c.hostLive(h) {
					p.dest.host = h
					break
				}
			}
		}
		if p.dest.host == nil {
			return nil, fail("NO_HOSTS_AVAILABLE")
		}
		p.dest.ref = p.dest.host.ref
		if err := c.checkMoves(p); err != nil {
			return nil, err
		}
		if c.storageMigrations >= 3 {
			return nil, fail("TOO_MANY_STORAGE_MIGRATES", "3")
		}
		c.storageMigrations++
		defer func() { c.storageMigrations-- }()
		task := c.taskRef()
		c.put(vdi, "current_operations", task, "mirror")
		moved, err := c.moveInside(p)
		if !vdi.gone {
			c.drop(vdi, "current_operations", task)
			c.refreshVDI(vdi)
		}
		if err != nil {
			return nil, err
		}
		if made := moved[vdi.ref]; made != nil {
			return made.ref, nil
		}
		return vdi.ref, nil
	})
}

// migrateReceive opens the door for a VM from elsewhere.
func migrateReceive(c *call) (any, error) {
	h, err := c.get("host", c.str(0))
	if err != nil {
		return nil, err
	}
	n, err := c.get("network", c.str(1))
	if err != nil {
		return nil, err
	}
	ip := ""
	for _, r := range n.refs("PIFs") {
		if pif := c.look("PIF", r); pif.str("host") == h.ref {
			ip = pif.str("IP")
			if ip == "" {
				return nil, fail("INTERFACE_HAS_NO_IP", pif.ref)
			}
		}
	}
	if ip == "" {
		return nil, fail("HOST_CANNOT_ATTACH_NETWORK", h.ref, n.ref)
	}
	session := c.newObject("session", map[string]any{"this_host": h.ref, "last_active": c.now(), "originator": "host.migrate_receive", "parent": c.session.ref})
	base := "https://" + c.nodes[c.master].web.address()
	return map[string]any{
		"SM": base + "/services/SM?session_id=" + session.ref, "host": h.ref, "xenops": base + "/services/xenops?session_id=" + session.ref,
		"session_id": session.ref, "master": base + "/",
	}, nil
}
