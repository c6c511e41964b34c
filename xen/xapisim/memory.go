package xapisim

import "strconv"

// Memory and vCPUs follow xen-api's ocaml/xapi/xapi_vm.ml and xapi_vm_memory_constraints.ml.

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func atoi(t string) int64 {
	n, _ := strconv.ParseInt(t, 10, 64)
	return n
}

var memoryHandlers = map[string]handler{
	"VM.set_memory_dynamic_range": func(c *call) (any, error) { return c.dynamicRange(c.num(1), c.num(2)) },
	"VM.set_memory_dynamic_min": func(c *call) (any, error) {
		return c.dynamicRange(c.num(1), c.now64("memory_dynamic_max"))
	},
	"VM.set_memory_dynamic_max": func(c *call) (any, error) {
		return c.dynamicRange(c.now64("memory_dynamic_min"), c.num(1))
	},
	"VM.set_memory_static_range": func(c *call) (any, error) { return c.staticRange(c.num(1), c.num(2)) },
	"VM.set_memory_static_min": func(c *call) (any, error) {
		return c.staticRange(c.num(1), c.now64("memory_static_max"))
	},
	"VM.set_memory_static_max": func(c *call) (any, error) {
		return c.staticRange(c.now64("memory_static_min"), c.num(1))
	},
	"VM.set_memory_limits": func(c *call) (any, error) { // static_min, static_max, dynamic_min, dynamic_max
		return c.memoryLimits(c.num(1), c.num(3), c.num(4), c.num(2))
	},
	"VM.set_memory": func(c *call) (any, error) {
		return c.memoryLimits(c.now64("memory_static_min"), c.num(1), c.num(1), c.num(1))
	},
	"VM.set_VCPUs_max":        func(c *call) (any, error) { return c.vcpus("VCPUs_max") },
	"VM.set_VCPUs_at_startup": func(c *call) (any, error) { return c.vcpus("VCPUs_at_startup") },
	"VM.set_VCPUs_number_live": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		return c.withOp(vm, "changing_VCPUs_live", func() (any, error) {
			if err := c.licensed("set_vcpus_number_live"); err != nil {
				return nil, err
			}
			n := c.num(1)
			if n < 1 || n > vm.num("VCPUs_max") {
				return nil, fail("INVALID_VALUE", "VCPU values must satisfy: 0 < VCPUs ≤ VCPUs_max", itoa(vm.num("VCPUs_max")))
			}
			if err := c.work(1); err != nil {
				return nil, err
			}
			c.set(vm, "VCPUs_at_startup", n) // persisted, so that the next boot has them too
			if m := c.look("VM_metrics", vm.str("metrics")); m != nil {
				c.set(m, "VCPUs_number", n)
			}
			return nil, nil
		})
	},
	"VM.set_HVM_shadow_multiplier": whenOp("changing_shadow_memory", setter("VM", "HVM_shadow_multiplier")),
	"VM.set_shadow_multiplier_live": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		return c.withOp(vm, "changing_shadow_memory_live", func() (any, error) { return setter("VM", "HVM_shadow_multiplier")(c) })
	},
	"VM.set_memory_target_live":  func(c *call) (any, error) { _, err := c.get("VM", c.str(0)); return nil, err }, // has no effect any more
	"VM.wait_memory_target_live": func(c *call) (any, error) { _, err := c.get("VM", c.str(0)); return nil, err },
	"VM.get_cooperative":         func(c *call) (any, error) { _, err := c.get("VM", c.str(0)); return true, err },
}

// now64 reads a number of the VM that the call is about.
func (c *call) now64(field string) int64 {
	if vm := c.look("VM", c.str(0)); vm != nil {
		return vm.num(field)
	}
	return 0
}

// checkMemory refuses limits in a wrong order: MEMORY_CONSTRAINT_VIOLATION_ORDER [] (seen from a real xapi). Without dynamic memory control
// in the licence all must equal static_max.
func (s *Sim) checkMemory(vm *object, smin, dmin, dmax, smax int64) error {
	reason := ""
	switch {
	case s.restricted("dmc"):
		reason = "DMC disabled"
	case vm.is("is_control_domain"):
		reason = "control domain"
	case s.flag(vm, "nested_virt"):
		reason = "nested virt"
	}
	if reason != "" {
		if smin > dmin || dmin != dmax || dmax != smax {
			return fail("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", reason)
		}
		return nil
	}
	if smin < 0 || smin > dmin || dmin > dmax || dmax > smax {
		return fail("MEMORY_CONSTRAINT_VIOLATION_ORDER")
	}
	return nil
}

func (c *call) dynamicRange(lo, hi int64) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, "changing_dynamic_range", func() (any, error) {
		if err := c.checkMemory(vm, vm.num("memory_static_min"), lo, hi, vm.num("memory_static_max")); err != nil {
			return nil, err
		}
		if err := c.work(1); err != nil {
			return nil, err
		}
		c.set(vm, "memory_dynamic_min", lo)
		c.set(vm, "memory_dynamic_max", hi)
		c.set(vm, "memory_target", hi)
		if m := c.look("VM_metrics", vm.str("metrics")); m != nil && vm.str("power_state") == "Running" {
			c.set(m, "memory_actual", hi) // the balloon follows at once
			c.set(m, "last_updated", c.now())
		}
		return nil, nil
	})
}

func (c *call) staticRange(lo, hi int64) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, "changing_static_range", func() (any, error) {
		if err := c.checkMemory(vm, lo, vm.num("memory_dynamic_min"), vm.num("memory_dynamic_max"), hi); err != nil {
			return nil, err
		}
		c.set(vm, "memory_static_min", lo)
		c.set(vm, "memory_static_max", hi)
		c.set(vm, "memory_overhead", overhead(vm))
		return nil, nil
	})
}

func (c *call) memoryLimits(smin, dmin, dmax, smax int64) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, "changing_memory_limits", func() (any, error) {
		if err := c.checkMemory(vm, smin, dmin, dmax, smax); err != nil {
			return nil, err
		}
		for k, v := range map[string]int64{
			"memory_static_min": smin, "memory_dynamic_min": dmin, "memory_dynamic_max": dmax, "memory_static_max": smax, "memory_target": dmin,
		} {
			c.set(vm, k, v)
		}
		c.set(vm, "memory_overhead", overhead(vm))
		return nil, nil
	})
}

// vcpus sets one of the two counts of a VM, the larger one of a halted VM only. The other must still fit (set_VCPUs_max, set_VCPUs_at_startup).
func (c *call) vcpus(field string) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	set := func() (any, error) {
		most, first := vm.num("VCPUs_max"), vm.num("VCPUs_at_startup")
		if field == "VCPUs_max" {
			most = c.num(1)
		} else {
			first = c.num(1)
		}
		switch {
		case most < 1:
			return nil, fail("INVALID_VALUE", "VCPUs_max", itoa(most))
		case first < 1:
			return nil, fail("INVALID_VALUE", "VCPUs-at-startup", itoa(first))
		case first > most:
			return nil, fail("VALUE_NOT_SUPPORTED", "VCPUs-at-startup", itoa(first), "value greater than VCPUs-max")
		}
		c.set(vm, field, c.num(1))
		return nil, nil
	}
	if field == "VCPUs_at_startup" { // a xapi 24.11 sets it for a running machine too
		return set()
	}
	return c.withOp(vm, "changing_VCPUs", set)
}
