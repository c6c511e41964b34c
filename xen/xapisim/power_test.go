package xapisim_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// allowed lists a VM's allowed_operations in order.
func (c *client) allowed(vm string) string {
	c.t.Helper()
	ops := list(c.must("VM.get_allowed_operations", vm))
	slices.Sort(ops)
	return strings.Join(ops, " ")
}

const haltedOps = "changing_NVRAM changing_dynamic_range changing_shadow_memory changing_static_range clone copy create_vtpm destroy export make_into_template migrate_send snapshot start start_on"

// TestPowerWithoutDrivers follows what a real xapi answered for a guest without drivers.
func TestPowerWithoutDrivers(t *testing.T) {
	_, c := start(t, xapisim.Config{NoGuestTools: true})
	vm := c.newVM("t1", nil)
	if got := c.allowed(vm); got != haltedOps {
		t.Errorf("halted: %s", got)
	}
	c.refused("VM_BAD_POWER_STATE", []string{vm, "running", "halted"}, "VM.pause", vm)
	c.must("VM.start", vm, false, false)
	const running = "changing_dynamic_range hard_reboot hard_shutdown pause snapshot"
	if got := c.allowed(vm); got != running {
		t.Errorf("running: %s", got)
	}
	c.refused("VM_BAD_POWER_STATE", []string{vm, "halted", "running"}, "VM.start", vm, false, false)
	c.refused("VM_BAD_POWER_STATE", []string{vm, "paused", "running"}, "VM.unpause", vm)
	c.must("VM.set_memory_dynamic_range", vm, 1<<29, 1<<30)
	c.refused("VM_BAD_POWER_STATE", []string{vm, "halted", "running"}, "VM.set_memory_static_max", vm, 1<<30)
	c.refused("VM_LACKS_FEATURE", []string{vm}, "VM.checkpoint", vm, "chk")
	c.refused("VM_LACKS_FEATURE", []string{vm}, "VM.suspend", vm)
	c.refused("VM_BAD_POWER_STATE", []string{vm, "suspended", "running"}, "VM.resume", vm, false, false)
	c.refused("VM_LACKS_FEATURE", []string{vm}, "VM.clean_reboot", vm)
	c.refused("VM_LACKS_FEATURE", []string{vm}, "VM.clean_shutdown", vm)
	c.must("VM.hard_reboot", vm)
	if got := c.allowed(vm); got != running {
		t.Errorf("rebooted: %s", got)
	}
	c.must("VM.hard_shutdown", vm)
	if got := c.allowed(vm); got != haltedOps {
		t.Errorf("halted again: %s", got)
	}
	c.refused("VM_BAD_POWER_STATE", []string{vm, "paused, suspended, running", "halted"}, "VM.hard_shutdown", vm)
	c.refused("VM_BAD_POWER_STATE", []string{vm, "paused, running", "halted"}, "VM.hard_reboot", vm)
}

func TestAsyncStart(t *testing.T) {
	_, c := start(t, xapisim.Config{Hosts: 2})
	vm := c.newVM("a", nil)
	task := c.wait(c.ref("Async.VM.start", vm, false, false))
	if task["status"] != "success" || task["progress"] != 1.0 || task["result"] != "<value></value>" {
		t.Fatalf("task %v", task)
	}
	if s := c.ref("VM.get_power_state", vm); s != "Running" {
		t.Fatal(s)
	}
	bad := c.wait(c.ref("Async.VM.start", "OpaqueRef:none", false, false))
	if bad["status"] != "failure" || strings.Join(list(bad["error_info"]), " ") != "HANDLE_INVALID VM OpaqueRef:none" {
		t.Fatalf("task %v", bad)
	}
	c.must("VM.suspend", vm)
	if s := c.ref("VM.get_power_state", vm); s != "Suspended" {
		t.Fatal(s)
	}
	c.must("VM.resume", vm, false, false)
	c.must("VM.pause", vm)
	c.must("VM.unpause", vm)
	c.must("VM.clean_reboot", vm)
	c.must("VM.clean_shutdown", vm)
	c.must("VM.destroy", vm)
	c.refused("HANDLE_INVALID", []string{"VM", vm}, "VM.get_record", vm)
}
