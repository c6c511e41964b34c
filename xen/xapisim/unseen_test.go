package xapisim_test

import (
	"fmt"
	"testing"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestUnseen repeats what was recorded from a xapi 24.11 of a VM that was made a template and turned back.
func TestUnseen(t *testing.T) {
	const null = "OpaqueRef:NULL"
	sim, c := start(t, xapisim.Config{Hosts: 2})
	host := list(c.must("host.get_all"))
	blind := func() (vm, uuid, vdi string) {
		vm = c.newVM("golden", nil)
		vdi, _ = c.addDisk(vm, "0", 8<<30)
		c.must("VM.set_is_a_template", vm, true)
		if m := c.ref("VM.get_metrics", vm); m != null {
			t.Errorf("a template has the metrics %s", m)
		}
		c.must("VM.set_is_a_template", vm, false)
		return vm, c.must("VM.get_uuid", vm).(string), vdi
	}
	vm, uuid, vdi := blind()
	c.must("VM.start_on", vm, host[0], false, false)
	if s, on := c.must("VM.get_power_state", vm), c.ref("VM.get_resident_on", vm); s != "Halted" || on != host[0] || len(sim.Domains(uuid)) != 1 {
		t.Errorf("it is %v on %v, runs on %v", s, on, sim.Domains(uuid))
	}
	c.refused("VM_BAD_POWER_STATE", []string{vm, "Halted", "Running"}, "VM.start", vm, false, false)
	c.refused("VM_BAD_POWER_STATE", []string{vm, "paused, suspended, running", "halted"}, "VM.hard_shutdown", vm)
	c.must("VM.start_on", vm, host[1], false, false)
	if n := sim.Domains(uuid); len(n) != 2 {
		t.Errorf("it runs on %v", n)
	}
	if on := c.must("VBD.get_currently_attached", list(c.must("VM.get_VBDs", vm))[0]); on != true {
		t.Error("its disk is not attached")
	}
	c.must("VM.clone", vm, "k")
	c.must("VM.destroy", vm)
	c.must("VDI.destroy", vdi)
	if n := sim.Domains(uuid); len(n) != 2 {
		t.Errorf("deleted, it runs on %v", n)
	}

	const gone = "OpaqueRef:5a1c0f3e-0000-4000-8000-00000000dead"
	vm, _, _ = blind()
	c.refused("HANDLE_INVALID", []string{"VM_metrics", null}, "VM.set_is_a_template", vm, true)
	if err := sim.SetField("VM", vm, "metrics", gone); err != nil {
		t.Fatal(err)
	}
	c.refused("HANDLE_INVALID", []string{"VM_metrics", gone}, "VM.set_is_a_template", vm, true)
	if m, is := c.ref("VM.get_metrics", vm), c.must("VM.get_is_a_template", vm); m != null || is != false {
		t.Errorf("it is a template: %v, its metrics are %s", is, m)
	}
	c.must("VM.destroy", vm)

	vm = c.newVM("provisioned", nil)
	c.addDisk(vm, "0", 8<<30)
	c.must("VM.set_is_a_template", vm, true)
	c.must("VM.provision", vm)
	if m := c.ref("VM.get_metrics", vm); m != null {
		t.Errorf("provisioned, it has the metrics %s", m)
	}
	c.must("VM.revert", c.ref("VM.snapshot", vm, "s"))
	if m := c.ref("VM.get_metrics", vm); m == null {
		t.Error("reverted, it has no metrics")
	}
	c.must("VM.start", vm, false, false)
	if s := fmt.Sprint(c.must("VM.get_power_state", vm)); s != "Running" {
		t.Errorf("repaired, it is %s", s)
	}
}

// TestResumedUnseen: the pool does not see a VM without metrics resume either.
func TestResumedUnseen(t *testing.T) {
	sim, c := start(t, xapisim.Config{})
	vm := c.newVM("asleep", nil)
	c.addDisk(vm, "0", 8<<30)
	c.must("VM.start", vm, false, false)
	c.must("VM.suspend", vm)
	if err := sim.SetField("VM", vm, "metrics", "OpaqueRef:NULL"); err != nil {
		t.Fatal(err)
	}
	c.must("VM.resume", vm, false, false)
	if s, on := c.must("VM.get_power_state", vm), sim.Domains(c.ref("VM.get_uuid", vm)); s != "Suspended" || len(on) != 1 {
		t.Errorf("it is %v, and runs on %v", s, on)
	}
}
