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

// land makes a running VM run on another host with its present RAM.
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

// moveInside mirrors the disks that change their SR, then moves the RAM. It returns the new disks by the old ones' references.
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
