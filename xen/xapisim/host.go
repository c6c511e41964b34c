package xapisim

import (
	"cmp"
	"slices"
	"strings"
)

// Hosts follow xen-api's ocaml/xapi/xapi_host.ml.

var hostHandlers = map[string]handler{
	"host.get_servertime": func(c *call) (any, error) {
		_, err := c.get("host", c.str(0))
		return c.now(), err
	},
	"host.get_server_localtime": func(c *call) (any, error) {
		_, err := c.get("host", c.str(0))
		return c.now(), err
	},
	"host.compute_free_memory": func(c *call) (any, error) {
		h, err := c.get("host", c.str(0))
		if err != nil {
			return nil, err
		}
		return c.freeMemory(h), nil
	},
	"host.compute_memory_overhead": func(c *call) (any, error) {
		h, err := c.get("host", c.str(0))
		if err != nil {
			return nil, err
		}
		return h.num("memory_overhead"), nil
	},
	"host.call_plugin": func(c *call) (any, error) { // no host has plug-ins (xapi_plugins.ml)
		if _, err := c.get("host", c.str(0)); err != nil {
			return nil, err
		}
		return nil, fail("XENAPI_MISSING_PLUGIN", c.str(1))
	},
	"host.disable": func(c *call) (any, error) {
		h, err := c.get("host", c.str(0))
		if err != nil {
			return nil, err
		}
		if err := c.keepsPlan(haChange{disable: h}); err != nil {
			return nil, err
		}
		c.set(h, "enabled", false)
		c.refreshHost(h)
		c.updateHA()
		return nil, nil
	},
	"host.enable": func(c *call) (any, error) {
		h, err := c.get("host", c.str(0))
		if err != nil {
			return nil, err
		}
		c.set(h, "enabled", true)
		c.refreshHost(h)
		c.updateHA()
		return nil, nil
	},
	"host.get_vms_which_prevent_evacuation": func(c *call) (any, error) {
		h, err := c.get("host", c.str(0))
		if err != nil {
			return nil, err
		}
		out := map[string]any{}
		for vm, f := range c.evacuation(h).stuck {
			out[vm] = append([]any{f.Code}, anys(f.Params)...)
		}
		return out, nil
	},
	"host.assert_can_evacuate": func(c *call) (any, error) {
		h, err := c.get("host", c.str(0))
		if err != nil {
			return nil, err
		}
		var all []string
		for _, f := range c.evacuation(h).stuck {
			all = append(all, strings.Join(append([]string{f.Code}, f.Params...), ","))
		}
		if len(all) > 0 {
			slices.Sort(all)
			return nil, fail("CANNOT_EVACUATE_HOST", strings.Join(all, "|"))
		}
		return nil, nil
	},
	"host.evacuate": evacuate,
	"host.get_uncooperative_resident_VMs": func(c *call) (any, error) {
		_, err := c.get("host", c.str(0))
		return emptySet, err
	},
	"host.reboot":            func(c *call) (any, error) { return c.downHost(true) },
	"host.shutdown":          func(c *call) (any, error) { return c.downHost(false) },
	"host.get_sched_gran":    func(c *call) (any, error) { _, err := c.get("host", c.str(0)); return "core", err },
	"host.set_power_on_mode": setter("host", "power_on_mode"),
	"host.list_methods":      func(c *call) (any, error) { return anys(c.methods()), nil },
	"host.apply_edition": func(c *call) (any, error) {
		h, err := c.get("host", c.str(0))
		if err == nil {
			c.set(h, "edition", c.str(1))
		}
		return nil, err
	},
	"host.get_management_interface": func(c *call) (any, error) {
		h, err := c.get("host", c.str(0))
		if err != nil {
			return nil, err
		}
		for _, r := range h.refs("PIFs") {
			if c.look("PIF", r).is("management") {
				return r, nil
			}
		}
		return nullRef, nil
	},
}

// refreshHost lists the operations that a host allows (xapi_host_helpers.ml).
func (s *Sim) refreshHost(h *object) {
	ops := []any{"provision", "vm_resume", "evacuate", "vm_migrate", "vm_start"} // vm_start of a disabled host too, which refuses it
	if h.is("enabled") {
		ops = append(ops, "power_on")
	} else {
		ops = append(ops, "shutdown", "reboot", "apply_updates", "enable")
	}
	s.set(h, "allowed_operations", ops)
}

type evacuationPlan struct {
	moves []struct{ vm, to *object }
	stuck map[string]*Failure
}

// evacuation is compute_evacuation_plan_no_wlb: a VM must be able to boot on every other enabled host, pool_migrate must be allowed,
// and all must fit. Without any other host: NO_HOSTS_AVAILABLE [vm].
func (s *Sim) evacuation(h *object) evacuationPlan {
	p := evacuationPlan{stuck: map[string]*Failure{}}
	var targets, vms []*object
	for _, o := range s.all("host") {
		if o != h && o.is("enabled") {
			targets = append(targets, o)
		}
	}
	for _, r := range h.refs("resident_VMs") {
		if vm := s.look("VM", r); !vm.is("is_control_domain") {
			vms = append(vms, vm)
		}
	}
	slices.SortFunc(vms, func(a, b *object) int {
		return cmp.Or(cmp.Compare(b.num("memory_dynamic_min"), a.num("memory_dynamic_min")), cmp.Compare(a.created, b.created))
	})
	free := map[string]int64{}
	for _, t := range targets {
		free[t.ref] = s.freeMemory(t)
	}
	for _, vm := range vms {
		stuck := func(err error) bool {
			f, ok := err.(*Failure)
			if ok {
				p.stuck[vm.ref] = f
			}
			return ok
		}
		if len(targets) == 0 {
			stuck(fail("NO_HOSTS_AVAILABLE", vm.ref))
			continue
		}
		if s.pool.is("ha_enabled") && !protected(vm) {
			stuck(fail("HOST_EVACUATE_VM_NOT_HA_PROTECTED", vm.ref))
			continue
		}
		if stuck(s.checkOp(vm, "pool_migrate")) {
			continue
		}
		if slices.ContainsFunc(targets, func(t *object) bool { return stuck(s.canBoot(vm, t, false)) }) {
			continue
		}
		to := slices.MaxFunc(targets, func(a, b *object) int { return cmp.Compare(free[a.ref], free[b.ref]) })
		need := vm.num("memory_dynamic_min") + overhead(vm)
		if free[to.ref] < need {
			stuck(fail("HOST_NOT_ENOUGH_FREE_MEMORY", vm.ref))
			continue
		}
		free[to.ref] -= need
		p.moves = append(p.moves, struct{ vm, to *object }{vm, to})
	}
	return p
}

func evacuate(c *call) (any, error) {
	h, err := c.get("host", c.str(0))
	if err != nil {
		return nil, err
	}
	p := c.evacuation(h)
	for _, f := range p.stuck {
		return nil, f
	}
	task := c.taskRef()
	c.put(h, "current_operations", task, "evacuate")
	defer func() { c.drop(h, "current_operations", task) }()
	for i, m := range p.moves {
		if _, err := c.withOp(m.vm, "pool_migrate", func() (any, error) {
			if err := c.canBoot(m.vm, m.to, true); err != nil {
				return nil, err
			}
			if err := c.work(float64(i+1) / float64(len(p.moves))); err != nil {
				return nil, err
			}
			c.land(m.vm, m.to)
			return nil, nil
		}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// downHost needs a disabled host without guests.
func (c *call) downHost(reboot bool) (any, error) {
	h, err := c.get("host", c.str(0))
	if err != nil {
		return nil, err
	}
	if h.is("enabled") {
		return nil, fail("HOST_NOT_DISABLED")
	}
	for _, r := range h.refs("resident_VMs") {
		if !c.look("VM", r).is("is_control_domain") {
			return nil, fail("HOST_IN_USE", h.ref, "VM", r)
		}
	}
	if err := c.work(1); err != nil {
		return nil, err
	}
	if !reboot {
		c.set(c.hostMetrics(h), "live", false)
		return nil, nil
	}
	c.applyDom0Access(h)
	return nil, nil
}
