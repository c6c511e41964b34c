package xapisim_test

import (
	"testing"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestMigrationRules asks whether a VM may move with disks that may not, and with maps and options that don't fit.
func TestMigrationRules(t *testing.T) {
	sim, c := start(t, xapisim.Config{Hosts: 2})
	h, vm := c.hosts(), c.newVM("ruled", nil)
	vdi, _ := c.addDisk(vm, "0", 1<<30)
	nic := c.addNIC(vm)
	dest := c.must("host.migrate_receive", h[1], c.network(), map[string]any{})
	local, iso := c.srNamed("Local storage on host2"), c.srNamed("ISO library")
	none := map[string]any{}
	vdis := map[string]any{vdi: local}
	c.must("VM.assert_can_migrate", vm, dest, false, vdis, none, none, none)
	for _, x := range []struct {
		code   string
		params []string
		field  string // of the disk
		value  any
	}{
		{"VDI_CBT_ENABLED", []string{vdi}, "cbt_enabled", true},
		{"VDI_IS_ENCRYPTED", []string{vdi}, "sm_config", map[string]any{"key_hash": "x"}},
		{"VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION", []string{vdi}, "on_boot", "reset"},
	} {
		was := must[any](t)(sim.Field("VDI", vdi, x.field))
		if err := sim.SetField("VDI", vdi, x.field, x.value); err != nil {
			t.Fatal(err)
		}
		c.refused(x.code, x.params, "VM.assert_can_migrate", vm, dest, false, vdis, none, none, none)
		c.must("VM.assert_can_migrate", vm, dest, false, map[string]any{vdi: c.ref("VDI.get_SR", vdi)}, none, none, none) // it stays where it is
		if err := sim.SetField("VDI", vdi, x.field, was); err != nil {
			t.Fatal(err)
		}
	}
	c.refused("SR_DOES_NOT_SUPPORT_MIGRATION", []string{iso, "VDI_SNAPSHOT;VDI_MIRROR_IN"}, "VM.assert_can_migrate", vm, dest, false, map[string]any{vdi: iso}, none, none, none)
	c.refused("OPERATION_NOT_ALLOWED", nil, "VM.assert_can_migrate", vm, dest, false, vdis, map[string]any{nic: c.network()}, none, none)
	c.refused("OPERATION_NOT_ALLOWED", nil, "VM.assert_can_migrate", vm, dest, false, vdis, none, map[string]any{"copy": "true"}, none)
	c.refused("VM_REQUIRES_SR", []string{vm, c.srNamed("Local storage on host1")}, "VM.assert_can_migrate", vm, dest, false, map[string]any{vdi: c.srNamed("Local storage on host1")}, none, none, none)
	loose := c.ref("VDI.clone", vdi)
	c.refused("VDI_NEEDS_VM_FOR_MIGRATE", []string{loose}, "VDI.pool_migrate", loose, local, none)

	_, other := start(t, xapisim.Config{})
	away := other.must("host.migrate_receive", other.hosts()[0], other.network(), map[string]any{})
	c.must("VM.start", vm, false, false)
	maps := []any{map[string]any{vdi: other.srNamed("Shared storage 1")}, map[string]any{nic: other.network()}}
	c.refused("VM_BAD_POWER_STATE", []string{vm, "halted", "running"}, "VM.assert_can_migrate", vm, away, true, maps[0], maps[1], map[string]any{"copy": "true"}, none)
	c.must("VM.assert_can_migrate", vm, away, true, maps[0], maps[1], none, none)
}

// TestManyStorageMigrations has three at work at once, and no fourth.
func TestManyStorageMigrations(t *testing.T) {
	sim, c := start(t, xapisim.Config{})
	local := c.srNamed("Local storage on host1")
	var tasks []string
	var holds []*xapisim.Hold
	for n := range 4 {
		vm := c.newVM("many", nil)
		vdi, _ := c.addDisk(vm, "0", 1<<30)
		if n == 3 {
			c.refused("TOO_MANY_STORAGE_MIGRATES", []string{"3"}, "VDI.pool_migrate", vdi, local, map[string]any{})
			break
		}
		h := sim.Hold("VDI.pool_migrate", 1)
		tasks, holds = append(tasks, c.ref("Async.VDI.pool_migrate", vdi, local, map[string]any{})), append(holds, h)
		<-h.Reached()
	}
	for n, h := range holds {
		h.Release()
		if r := c.wait(tasks[n]); r["status"] != "success" {
			t.Errorf("%v", r)
		}
	}
}

// TestEvacuationBlocked names the VMs that keep a host from being evacuated, and why.
func TestEvacuationBlocked(t *testing.T) {
	_, c := start(t, xapisim.Config{Hosts: 2, MemoryPerHost: 16 << 30})
	h := c.hosts()
	big := map[string]any{"memory_static_max": 8 << 30, "memory_dynamic_max": 8 << 30, "memory_dynamic_min": 8 << 30}
	local, first, second := c.newVM("local", nil), c.newVM("first", big), c.newVM("second", big)
	vdi, _ := c.addDisk(local, "0", 1<<30)
	c.must("VM.start_on", local, h[0], false, false)
	c.must("VDI.pool_migrate", vdi, c.srNamed("Local storage on host1"), map[string]any{})
	c.must("VM.start_on", first, h[0], false, false)
	c.must("VM.start_on", second, h[1], false, false)
	stuck := c.must("host.get_vms_which_prevent_evacuation", h[0]).(map[string]any)
	for vm, code := range map[string]string{local: "VM_REQUIRES_SR", first: "HOST_NOT_ENOUGH_FREE_MEMORY"} {
		if why, _ := stuck[vm].([]any); len(why) == 0 || why[0] != code {
			t.Errorf("%v, want %s", why, code)
		}
	}
	c.must("host.disable", h[0])
	_, err := c.call("host.evacuate", h[0])
	if e, ok := err.(*apiError); !ok || e.Code != "VM_REQUIRES_SR" && e.Code != "HOST_NOT_ENOUGH_FREE_MEMORY" {
		t.Errorf("evacuate: %v", err)
	}
	c.refused("CANNOT_EVACUATE_HOST", nil, "host.assert_can_evacuate", h[0])
	if c.ref("VM.get_resident_on", first) != h[0] || c.ref("VM.get_resident_on", local) != h[0] {
		t.Error("a refused evacuation moved something")
	}
}
