package xapisim

import (
	"maps"
	"slices"
	"strings"
)

// VM records: creation, destruction and the setters with rules of their own (xen-api ocaml/xapi/xapi_vm.ml).

var vmHandlers = map[string]handler{
	"VM.create": func(c *call) (any, error) {
		f := c.dict(0)
		if f["power_state"] == "Suspended" && (f["suspend_VDI"] == nullRef || f["last_booted_record"] == "") {
			return nil, fail("VM_BAD_POWER_STATE", newRef(), "halted", "suspended")
		}
		return c.createVM(f).ref, nil
	},
	"VM.destroy": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		return c.withOp(vm, "destroy", func() (any, error) {
			if err := c.work(1); err != nil {
				return nil, err
			}
			c.destroyVM(vm)
			return nil, nil
		})
	},
	"VM.set_is_a_template": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		if c.is(1) { // the forwarding layer checks make_into_template one way only
			if err := c.checkOp(vm, "make_into_template"); err != nil {
				return nil, err
			}
			if c.pool.is("ha_enabled") && protected(vm) {
				return nil, fail("VM_IS_PROTECTED", vm.ref)
			}
			c.set(vm, "ha_always_run", false)
			c.set(vm, "groups", emptySet)
			m := vm.str("metrics")
			row := c.look("VM_metrics", m)
			c.remove(row)
			c.set(vm, "metrics", nullRef)
			if row == nil { // set_is_a_template destroys the row and forgets its reference, whether that works or not
				return nil, fail("HANDLE_INVALID", "VM_metrics", m)
			}
		} else {
			c.set(c.look("VM_metrics", vm.str("metrics")), "install_time", c.now())
		}
		c.set(vm, "is_a_template", c.is(1))
		c.refresh(vm)
		return nil, nil
	},
	"VM.provision": provision,
	"VM.get_allowed_VBD_devices": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		return anys(c.freeDevices(vm, "VBDs", "VBD", 255)), nil
	},
	"VM.get_allowed_VIF_devices": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		return anys(c.freeDevices(vm, "VIFs", "VIF", 7)), nil
	},
	"VM.update_allowed_operations": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err == nil {
			c.refresh(vm)
		}
		return nil, err
	},
	"VM.assert_operation_valid": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		return nil, c.checkOp(vm, c.str(1))
	},
	"VM.set_blocked_operations":         setter("VM", "blocked_operations"),
	"VM.add_to_blocked_operations":      adder("VM", "blocked_operations"),
	"VM.remove_from_blocked_operations": remover("VM", "blocked_operations"),
	"VM.set_other_config":               setter("VM", "other_config"),
	"VM.add_to_other_config":            adder("VM", "other_config"),
	"VM.remove_from_other_config":       remover("VM", "other_config"),
	"VM.set_platform":                   withRefresh(setter("VM", "platform")),
	"VM.add_to_platform":                withRefresh(adder("VM", "platform")),
	"VM.remove_from_platform":           withRefresh(remover("VM", "platform")),
	"VM.set_actions_after_crash":        setter("VM", "actions_after_crash"),
	"VM.set_has_vendor_device": func(c *call) (any, error) {
		if _, err := c.halted("changing_static_range"); err != nil {
			return nil, err
		}
		return setter("VM", "has_vendor_device")(c)
	},
	"VM.set_appliance":     withRefresh(setter("VM", "appliance")),
	"VM.set_NVRAM":         whenOp("changing_NVRAM", setter("VM", "NVRAM")),
	"VM.add_to_NVRAM":      whenOp("changing_NVRAM", adder("VM", "NVRAM")),
	"VM.remove_from_NVRAM": whenOp("changing_NVRAM", remover("VM", "NVRAM")),
	"VM.set_domain_type": func(c *call) (any, error) { // a xapi 24.11 sets it for a running machine too
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		c.set(vm, "domain_type", c.str(1))
		c.set(vm, "HVM_boot_policy", map[bool]string{true: "BIOS order", false: ""}[c.str(1) == "hvm"])
		return nil, nil
	},
	"VM.set_HVM_boot_policy": func(c *call) (any, error) {
		vm, err := c.halted("changing_static_range")
		if err != nil {
			return nil, err
		}
		c.set(vm, "HVM_boot_policy", c.str(1))
		c.set(vm, "domain_type", map[bool]string{true: "pv", false: "hvm"}[c.str(1) == ""])
		return nil, nil
	},
	"VM.set_bios_strings": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		if len(vm.dict("bios_strings")) > 0 {
			return nil, fail("VM_BIOS_STRINGS_ALREADY_SET")
		}
		all := maps.Clone(genericBIOS)
		maps.Copy(all, c.dict(1))
		c.set(vm, "bios_strings", all)
		return nil, nil
	},
	"VM.set_suspend_VDI": setter("VM", "suspend_VDI"),
	"VM.set_groups": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		if len(c.strs(1)) > 1 {
			return nil, fail("TOO_MANY_GROUPS")
		}
		c.set(vm, "groups", c.args[1])
		for _, g := range c.all("VM_group") {
			var members []any
			for _, v := range c.all("VM") {
				if slices.Contains(v.refs("groups"), g.ref) {
					members = append(members, v.ref)
				}
			}
			c.set(g, "VMs", append([]any{}, members...))
		}
		return nil, nil
	},
}

// halted returns the VM of the first argument if the operation is allowed for it.
func (c *call) halted(op string) (*object, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return vm, c.checkOp(vm, op)
}

func whenOp(op string, h handler) handler {
	return func(c *call) (any, error) {
		if _, err := c.halted(op); err != nil {
			return nil, err
		}
		return h(c)
	}
}

// withRefresh updates allowed_operations after a change that affects them.
func withRefresh(h handler) handler {
	return func(c *call) (any, error) {
		v, err := h(c)
		if vm := c.look("VM", c.str(0)); vm != nil && err == nil {
			c.refresh(vm)
		}
		return v, err
	}
}

// createVM makes a halted VM. Like xapi it checks next to nothing: parameters are checked when the VM starts.
func (s *Sim) createVM(f map[string]any) *object {
	if m, _ := f["other_config"].(map[string]any); m == nil || m["mac_seed"] == nil {
		with := map[string]any{"mac_seed": randomUUID()}
		for k, v := range m {
			with[k] = v
		}
		f["other_config"] = with
	}
	if f["domain_type"] == nil || f["domain_type"] == "unspecified" {
		f["domain_type"] = "hvm"
		if p, _ := f["HVM_boot_policy"].(string); p == "" {
			f["domain_type"] = "pv"
		}
	}
	f["metrics"] = s.newObject("VM_metrics", nil).ref
	f["power_state"] = "Halted"
	f["is_a_snapshot"] = false
	f["domid"] = int64(-1)
	vm := s.newObject("VM", f)
	s.set(vm, "memory_overhead", overhead(vm))
	s.refresh(vm)
	return vm
}

// destroyVM removes the record and its devices. Disks stay: removing them is the caller's task.
func (s *Sim) destroyVM(vm *object) {
	for _, kid := range vm.refs("children") {
		s.set(s.look("VM", kid), "parent", vm.str("parent"))
	}
	for _, x := range []struct{ field, class string }{
		{"VBDs", "VBD"}, {"VIFs", "VIF"}, {"VGPUs", "VGPU"}, {"VTPMs", "VTPM"}, {"VUSBs", "VUSB"}, {"consoles", "console"},
	} {
		for _, r := range vm.refs(x.field) {
			if o := s.look(x.class, r); o != nil {
				vdi := o.str("VDI")
				s.remove(o)
				if v := s.look("VDI", vdi); v != nil {
					s.refreshVDI(v)
				}
			}
		}
	}
	for _, x := range []struct{ field, class string }{{"metrics", "VM_metrics"}, {"guest_metrics", "VM_guest_metrics"}} {
		if o := s.look(x.class, vm.str(x.field)); o != nil {
			s.remove(o)
		}
	}
	delete(s.memory, vm.ref)
	delete(s.metadata, vm.ref)
	s.remove(vm)
	for _, snap := range s.all("VM") { // snapshots outlive the VM; their link then points nowhere
		if snap.str("snapshot_of") == vm.ref {
			s.touch(snap)
		}
	}
}

func (s *Sim) freeDevices(vm *object, field, class string, n int) []string {
	used := map[string]bool{}
	for _, r := range vm.refs(field) {
		o := s.look(class, r)
		used[o.str("device")], used[o.str("userdevice")] = true, true
	}
	var out []string
	for i := range n {
		if d := itoa(int64(i)); !used[d] {
			out = append(out, d)
		}
	}
	return out
}

// provision makes the disks that a template's other_config lists, and turns the template into a VM (xapi_templates.ml). Each disk must name its
// SR: an empty one, as in the default templates, is refused (recorded), since xe and others put the SR in before. Disks that were made before
// a failure stay.
func provision(c *call) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, "provision", func() (any, error) {
		if err := c.work(0.1); err != nil {
			return nil, err
		}
		disks := parseDisks(vm.entry("other_config", "disks"))
		for i, d := range disks {
			sr := c.tables["SR"].byUUID[d.sr]
			if sr == nil {
				return nil, fail("UUID_INVALID", "sr", d.sr)
			}
			vdi, err := c.newVDI(sr, map[string]any{"name_label": vm.str("name_label") + " " + d.device, "type": "system", "virtual_size": d.size})
			if err != nil {
				return nil, err
			}
			vbd := c.newObject("VBD", map[string]any{
				"VM": vm.ref, "VDI": vdi.ref, "userdevice": d.device, "device": "", "bootable": d.bootable, "mode": "RW", "type": "Disk",
				"unpluggable": true, "empty": false, "other_config": dictOf("owner", ""),
			})
			c.refreshVBD(vbd)
			if err := c.work(0.1 + 0.9*float64(i+1)/float64(len(disks))); err != nil {
				return nil, err
			}
		}
		c.drop(vm, "other_config", "disks")
		c.set(c.look("VM_metrics", vm.str("metrics")), "install_time", c.now())
		c.set(vm, "is_a_template", false)
		return nil, nil
	})
}

type diskWish struct {
	device, sr string
	size       int64
	bootable   bool
}

// parseDisks reads <provision><disk device="0" size="…" sr="" bootable="true" type="system"/></provision>.
func parseDisks(text string) []diskWish {
	var out []diskWish
	for part := range strings.SplitSeq(text, "<disk ") {
		if !strings.Contains(part, "device=") {
			continue
		}
		attr := func(name string) string {
			_, rest, ok := strings.Cut(part, name+`="`)
			if !ok {
				return ""
			}
			v, _, _ := strings.Cut(rest, `"`)
			return v
		}
		out = append(out, diskWish{attr("device"), attr("sr"), atoi(attr("size")), attr("bootable") == "true"})
	}
	return out
}
