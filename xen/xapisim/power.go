package xapisim

import (
	"fmt"
	"slices"
	"strings"
)

// Power follows xen-api's ocaml/xapi/xapi_vm.ml and message_forwarding.ml.

var powerHandlers = map[string]handler{
	"VM.start":          func(c *call) (any, error) { return c.start("start", nullRef, c.is(1)) },
	"VM.start_on":       func(c *call) (any, error) { return c.start("start_on", c.str(1), c.is(2)) },
	"VM.resume":         func(c *call) (any, error) { return c.resume("resume", nullRef, c.is(1)) },
	"VM.resume_on":      func(c *call) (any, error) { return c.resume("resume_on", c.str(1), c.is(2)) },
	"VM.pause":          func(c *call) (any, error) { return c.simple("pause", "Paused") },
	"VM.unpause":        func(c *call) (any, error) { return c.simple("unpause", "Running") },
	"VM.clean_shutdown": func(c *call) (any, error) { return c.shutdown("clean_shutdown") },
	"VM.hard_shutdown":  func(c *call) (any, error) { return c.shutdown("hard_shutdown") },
	"VM.shutdown":       func(c *call) (any, error) { return c.anyShutdown() },
	"VM.clean_reboot":   func(c *call) (any, error) { return c.reboot("clean_reboot") },
	"VM.hard_reboot":    func(c *call) (any, error) { return c.reboot("hard_reboot") },
	"VM.suspend":        suspend,
	"VM.power_state_reset": func(c *call) (any, error) {
		vm, err := c.get("VM", c.str(0))
		if err != nil {
			return nil, err
		}
		return c.withOp(vm, "power_state_reset", func() (any, error) {
			if h := c.look("host", vm.str("resident_on")); h != nil && c.hostLive(h) && c.nodes[c.master].host != h.ref {
				return nil, fail("HOST_IS_LIVE", h.ref)
			}
			c.halt(vm)
			return nil, nil
		})
	},
}

// start boots a halted VM, on the given host or on one that the pool chooses.
func (c *call) start(op, host string, paused bool) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	if host != nullRef {
		if _, err := c.get("host", host); err != nil {
			return nil, err
		}
	}
	if err := c.licensed("vm_start"); err != nil {
		return nil, err
	}
	return c.withOp(vm, op, func() (any, error) {
		if err := c.validateStart(vm); err != nil {
			return nil, err
		}
		if host == nullRef && !c.seen(vm) && c.look("host", vm.str("resident_on")) != nil {
			host = vm.str("resident_on")
		}
		h, err := c.allocate(vm, host)
		if err != nil {
			return nil, err
		}
		if err = c.checkSharing(vm); err == nil {
			err = c.checkPCIs(vm, h)
		}
		if err != nil {
			c.release(vm)
			return nil, err
		}
		if err := c.work(1); err != nil {
			c.release(vm)
			return nil, err
		}
		c.memory[vm.ref] = "boot-" + randomUUID()
		if !c.seen(vm) {
			return nil, c.bootUnseen(vm, h)
		}
		c.guard(vm, true)
		c.boot(vm, h, paused)
		return nil, nil
	})
}

// validateStart checks what VM.create did not (validate_basic_parameters).
func (s *Sim) validateStart(vm *object) error {
	most, first := vm.num("VCPUs_max"), vm.num("VCPUs_at_startup")
	switch {
	case most < 1:
		return fail("INVALID_VALUE", "VCPUs_max", fmt.Sprint(most))
	case first < 1:
		return fail("INVALID_VALUE", "VCPUs-at-startup", fmt.Sprint(first))
	case first > most:
		return fail("VALUE_NOT_SUPPORTED", "VCPUs-at-startup", fmt.Sprint(first), "value greater than VCPUs-max")
	case vm.num("memory_static_min") > vm.num("memory_static_max"):
		return fail("MEMORY_CONSTRAINT_VIOLATION")
	}
	if s.flag(vm, "nested_virt") && vm.num("memory_dynamic_min") != vm.num("memory_static_max") {
		return fail("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", "nested virt")
	}
	return nil
}

// genericBIOS is what a VM gets when it starts without BIOS strings of its own (xen-api ocaml/xapi-consts/constants.ml).
var genericBIOS = dictOf("bios-vendor", "Xen", "bios-version", "", "system-manufacturer", "Xen", "system-product-name", "HVM domU",
	"system-version", "", "system-serial-number", "")

// boot makes the VM run on a host.
func (s *Sim) boot(vm, host *object, paused bool) {
	s.domid++
	s.set(vm, "domid", s.domid)
	s.set(vm, "resident_on", host.ref)
	s.bindGPUs(vm, host)
	s.release(vm)
	s.updateMemory(host)
	s.set(vm, "memory_target", vm.num("memory_dynamic_max"))
	if len(vm.dict("bios_strings")) == 0 {
		s.set(vm, "bios_strings", genericBIOS)
	}
	s.plugAll(vm, true)
	kind := vm.str("domain_type")
	if kind == "unspecified" {
		kind = "hvm"
	}
	if m := s.look("VM_metrics", vm.str("metrics")); m != nil {
		s.set(m, "current_domain_type", kind)
		s.set(m, "hvm", kind == "hvm")
		s.set(m, "memory_actual", vm.num("memory_target"))
		s.set(m, "VCPUs_number", vm.num("VCPUs_at_startup"))
		s.set(m, "nomigrate", vm.entry("platform", "nomigrate") == "true")
		s.set(m, "nested_virt", slices.Contains([]string{"true", "1"}, vm.entry("platform", "nested-virt")))
		s.set(m, "start_time", s.now())
		s.set(m, "last_updated", s.now())
	}
	if len(vm.refs("consoles")) == 0 {
		s.newObject("console", map[string]any{
			"VM": vm.ref, "protocol": "rfb", "location": "https://" + host.str("address") + "/console?uuid=" + vm.str("uuid"),
		})
	}
	s.bootGuest(vm)
	s.set(vm, "power_state", map[bool]string{true: "Paused", false: "Running"}[paused])
	s.refreshDevices(vm)
	s.refresh(vm)
}

// bootGuest makes the guest's agent report, if there is one.
func (s *Sim) bootGuest(vm *object) {
	if s.cfg.NoGuestTools || vm.entry("other_config", "xapisim-guest-tools") == "false" {
		return
	}
	gm := s.look("VM_guest_metrics", vm.str("guest_metrics"))
	if gm == nil {
		gm = s.newObject("VM_guest_metrics", nil)
		s.set(vm, "guest_metrics", gm.ref)
	}
	nets := map[string]any{}
	for _, v := range vm.refs("VIFs") {
		vif := s.look("VIF", v)
		ip := guestIP(vif.str("MAC"))
		nets[vif.str("device")+"/ip"] = ip
		nets[vif.str("device")+"/ipv4/0"] = ip
	}
	for k, v := range map[string]any{
		"os_version":         dictOf("name", "Debian GNU/Linux 12 (bookworm)", "uname", "6.1.0-18-amd64", "distro", "debian", "major", "12", "minor", "0"),
		"PV_drivers_version": dictOf("major", "8", "minor", "4", "micro", "0", "build", "1"),
		"other":              dictOf("feature-suspend", "1", "feature-shutdown", "1", "feature-poweroff", "1", "feature-reboot", "1", "feature-vcpu-hotplug", "1", "feature-balloon", "1", "platform-feature-multiprocessor-suspend", "1", "hostname", vm.str("name_label")),
		"networks":           nets, "PV_drivers_detected": true, "PV_drivers_up_to_date": true, "live": true,
		"can_use_hotplug_vbd": "yes", "can_use_hotplug_vif": "yes", "last_updated": s.now(),
	} {
		s.set(gm, k, v)
	}
}

// guestIP derives an address from a MAC, so that it never changes.
func guestIP(mac string) string {
	var b [6]int
	_, _ = fmt.Sscanf(mac, "%x:%x:%x:%x:%x:%x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5])
	return fmt.Sprintf("10.%d.%d.%d", b[3], b[4], b[5])
}

// halt leaves the state of a domain that ended (force_state_reset).
func (s *Sim) halt(vm *object) {
	s.plugAll(vm, false)
	s.unbind(vm)
	if gm := s.look("VM_guest_metrics", vm.str("guest_metrics")); gm != nil {
		s.remove(gm)
		s.set(vm, "guest_metrics", nullRef)
	}
	for _, r := range vm.refs("consoles") {
		s.remove(s.look("console", r))
	}
	if vdi := s.look("VDI", vm.str("suspend_VDI")); vdi != nil {
		s.destroyVDI(vdi)
		s.set(vm, "suspend_VDI", nullRef)
	}
	if m := s.look("VM_metrics", vm.str("metrics")); m != nil {
		s.set(m, "memory_actual", int64(0))
		s.set(m, "VCPUs_number", int64(0))
		s.set(m, "current_domain_type", "unspecified")
	}
	delete(s.memory, vm.ref)
	s.set(vm, "power_state", "Halted")
	s.refreshDevices(vm)
	s.refresh(vm)
}

// unbind takes the VM off its host.
func (s *Sim) unbind(vm *object) {
	host := s.look("host", vm.str("resident_on"))
	s.set(vm, "resident_on", nullRef)
	if host != nil {
		s.updateMemory(host)
	}
	s.set(vm, "scheduled_to_be_resident_on", nullRef)
	s.set(vm, "domid", int64(-1))
	s.unbindGPUs(vm)
}

func (c *call) simple(op, to string) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, op, func() (any, error) {
		if err := c.work(1); err != nil {
			return nil, err
		}
		c.set(vm, "power_state", to)
		return nil, nil
	})
}

// stopOthers cancels the operations that a hard shutdown or reboot overtakes.
func (c *call) stopOthers(vm *object) {
	for task, op := range vm.dict("current_operations") {
		if run := c.running[task]; run != nil && run != c && op != "hard_shutdown" && !run.stopped {
			run.stopped = true
			close(run.stop)
		}
	}
}

func (c *call) shutdown(op string) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, op, func() (any, error) {
		if op == "hard_shutdown" {
			c.stopOthers(vm)
		} else if vm.entry("other_config", "xapisim-ignores-shutdown") == "true" {
			if err := c.work(0.9); err != nil {
				return nil, err
			}
			return nil, fail("VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT")
		}
		if err := c.work(1); err != nil {
			return nil, err
		}
		c.guard(vm, false)
		c.halt(vm)
		return nil, nil
	})
}

// anyShutdown asks the guest first and powers off if the guest does not shut down.
func (c *call) anyShutdown() (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	if err := c.checkOp(vm, "shutdown"); err != nil {
		return nil, err
	}
	if vm.str("power_state") == "Running" {
		if v, err := c.shutdown("clean_shutdown"); err == nil {
			return v, nil
		}
	}
	return c.shutdown("hard_shutdown")
}

func (c *call) reboot(op string) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, op, func() (any, error) {
		if op == "hard_reboot" {
			c.stopOthers(vm)
		}
		if err := c.work(1); err != nil {
			return nil, err
		}
		host := c.look("host", vm.str("resident_on"))
		if host == nil {
			return nil, fail("VM_BAD_POWER_STATE", vm.ref, "running", strings.ToLower(vm.str("power_state")))
		}
		c.halt(vm)
		c.memory[vm.ref] = "boot-" + randomUUID()
		c.boot(vm, host, false)
		return nil, nil
	})
}

// suspend writes the memory to a disk on the suspend SR.
func suspend(c *call) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, "suspend", func() (any, error) {
		vdi, err := c.saveMemory(vm)
		if err != nil {
			return nil, err
		}
		if err := c.work(1); err != nil {
			c.destroyVDI(vdi)
			return nil, err
		}
		c.guard(vm, false)
		c.set(vm, "suspend_VDI", vdi.ref)
		c.plugAll(vm, true) // the devices stay attached in the database while suspended
		c.unbind(vm)
		delete(c.memory, vm.ref)
		c.set(vm, "power_state", "Suspended")
		c.refreshDevices(vm)
		return nil, nil
	})
}

// saveMemory makes the suspend image, or returns VM_NO_SUSPEND_SR [ref] when there is no SR for it (seen from a real xapi).
func (c *call) saveMemory(vm *object) (*object, error) {
	sr := c.suspendSR(vm)
	if sr == nil {
		return nil, fail("VM_NO_SUSPEND_SR", vm.ref)
	}
	vdi, err := c.newVDI(sr, map[string]any{
		"name_label": "Suspend image", "name_description": "Suspend image of " + vm.str("name_label"), "type": "suspend",
		"virtual_size": vm.num("memory_static_max"), "sharable": false, "read_only": false,
	})
	if err != nil {
		return nil, err
	}
	c.memory[vdi.ref] = c.memory[vm.ref]
	if used := vm.num("memory_target"); used > vdi.num("physical_utilisation") { // the RAM is written to it
		c.set(vdi, "physical_utilisation", used)
		c.account(sr)
	}
	return vdi, nil
}

// suspendSR tries the VM, its host, the pool and the default SR in turn (helpers.ml, choose_suspend_sr).
func (s *Sim) suspendSR(vm *object) *object {
	host := s.look("host", vm.str("resident_on"))
	refs := []string{vm.str("suspend_SR")}
	if host != nil {
		refs = append(refs, host.str("suspend_image_sr"))
	}
	refs = append(refs, s.pool.str("suspend_image_SR"), s.pool.str("default_SR"))
	for _, r := range refs {
		if sr := s.look("SR", r); sr != nil {
			return sr
		}
	}
	return nil
}

func (c *call) resume(op, host string, paused bool) (any, error) {
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	return c.withOp(vm, op, func() (any, error) {
		vdi := c.look("VDI", vm.str("suspend_VDI"))
		if vdi == nil {
			return nil, fail("SUSPEND_IMAGE_NOT_ACCESSIBLE", vm.str("suspend_VDI"))
		}
		if op == "resume_on" && c.look("host", host) == nil {
			return nil, fail("HOST_NOT_LIVE")
		}
		h, err := c.allocate(vm, host)
		if err != nil {
			return nil, err
		}
		if err := c.work(1); err != nil {
			c.release(vm)
			return nil, err
		}
		c.memory[vm.ref] = c.memory[vdi.ref]
		c.set(vm, "suspend_VDI", nullRef)
		c.destroyVDI(vdi)
		if !c.seen(vm) {
			return nil, c.bootUnseen(vm, h)
		}
		c.guard(vm, true)
		c.boot(vm, h, paused)
		return nil, nil
	})
}
