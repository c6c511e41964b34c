package xapisim_test

import (
	"testing"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func (c *client) enableHA() { c.t.Helper(); c.must("pool.enable_ha", []any{}, map[string]any{}) }

func TestEnableHA(t *testing.T) {
	sim, c := start(t, xapisim.Config{Hosts: 2})
	c.refused("HA_NOT_ENABLED", []string{}, "pool.disable_ha")
	local := ""
	for _, sr := range sim.Refs("SR") {
		if c.must("SR.get_shared", sr) == false {
			local = sr
		}
	}
	c.refused("SR_NO_PBDS", []string{local}, "pool.enable_ha", []any{local}, map[string]any{})
	iso := list(c.must("SR.get_by_name_label", "ISO library"))[0]
	c.refused("SR_OPERATION_NOT_SUPPORTED", []string{iso}, "pool.enable_ha", []any{iso}, map[string]any{})
	images := sim.Count("VDI")
	c.enableHA()
	pool := sim.Refs("pool")[0]
	if c.must("pool.get_ha_enabled", pool) != true || c.ref("pool.get_ha_cluster_stack", pool) != "xhad" {
		t.Error("HA is not on")
	}
	state := list(c.must("pool.get_ha_statefiles", pool))
	if len(state) != 1 || c.ref("VDI.get_type", state[0]) != "ha_statefile" {
		t.Fatalf("state files %v", state)
	}
	c.refused("HA_IS_ENABLED", []string{}, "VDI.destroy", state[0])
	c.refused("HA_IS_ENABLED", []string{}, "pool.enable_ha", []any{}, map[string]any{})
	c.must("pool.disable_ha")
	if n := sim.Count("VDI"); n != images {
		t.Errorf("%d images, before HA there were %d", n, images)
	}
	if err := sim.KillHost("host2"); err != nil {
		t.Fatal(err)
	}
	c.refused("HOST_OFFLINE", []string{c.hosts()[1]}, "pool.enable_ha", []any{}, map[string]any{})

	_, bare := start(t, xapisim.Config{Hosts: 2, SharedSRs: -1})
	bare.refused("CANNOT_CREATE_STATE_FILE", []string{}, "pool.enable_ha", []any{}, map[string]any{})
	_, free := start(t, xapisim.Config{Hosts: 2, Restrictions: []string{"xha"}})
	free.refused("LICENCE_RESTRICTION", []string{"HA"}, "pool.enable_ha", []any{}, map[string]any{})
	if m := free.must("pool.get_restrictions", string(list(free.must("pool.get_all"))[0])).(map[string]any); m["enable_xha"] != "false" || m["restrict_xha"] != nil {
		t.Error("HA's flag is enable_xha")
	}
}

// TestFailover lets a host fail that has room for two machines less than it had: the protected ones come back, by their order.
func TestHostFailure(t *testing.T) {
	sim, c := start(t, xapisim.Config{Hosts: 2, MemoryPerHost: 11 << 30})
	h := c.hosts()
	names := []string{"first", "second", "last", "best", "never"} // the pool lists those of a host the other way round
	vms := map[string]string{}
	for _, n := range names {
		vms[n] = c.newVM(n, nil)
		c.must("VM.set_memory_limits", vms[n], 2<<30, 2<<30, 2<<30, 2<<30)
	}
	for n, order := range map[string]int{"first": 1, "second": 2, "last": 5} {
		c.must("VM.set_ha_restart_priority", vms[n], "restart")
		c.must("VM.set_order", vms[n], order)
	}
	c.must("VM.set_ha_restart_priority", vms["best"], "best-effort")
	c.refused("INVALID_VALUE", []string{"ha_restart_priority", "always"}, "VM.set_ha_restart_priority", vms["never"], "always")
	c.refused("INVALID_VALUE", []string{"order must be non-negative", "-1"}, "VM.set_order", vms["never"], -1)
	c.refused("INVALID_VALUE", []string{"start_delay must be non-negative", "-1"}, "VM.set_start_delay", vms["never"], -1)
	if c.must("VM.get_ha_always_run", vms["first"]) != false {
		t.Error("HA looks after a machine that is off")
	}
	for _, n := range names[:3] {
		c.must("VM.start_on", vms[n], h[1], false, false)
		if c.must("VM.get_ha_always_run", vms[n]) != true {
			t.Errorf("HA does not look after %s", n)
		}
	}
	blocker := c.newVM("blocker", nil)
	c.must("VM.set_memory_limits", blocker, 3<<30, 3<<30, 3<<30, 3<<30)
	c.must("VM.start_on", blocker, h[0], false, false)
	c.enableHA()
	if err := sim.KillHost("host2"); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[string]string{"first": "Running", "second": "Running", "last": "Halted"} {
		if got := c.ref("VM.get_power_state", vms[n]); got != want {
			t.Errorf("%s is %s", n, got)
		}
	}
	c.refused("HOST_NOT_LIVE", []string{}, "VM.start_on", vms["never"], h[1], false, false)
	// A machine that ends by itself comes back too; one that is shut down doesn't.
	ram := sim.Memory(vms["first"])
	if err := sim.Crash(vms["first"]); err != nil {
		t.Fatal(err)
	}
	if got := sim.Memory(vms["first"]); got == "" || got == ram {
		t.Errorf("after a crash its memory is %q", got)
	}
	c.must("VM.hard_shutdown", vms["first"])
	if c.must("VM.get_ha_always_run", vms["first"]) != false {
		t.Error("HA looks after a machine that was shut down")
	}
}

func TestBestEffort(t *testing.T) {
	sim, c := start(t, xapisim.Config{Hosts: 2})
	h := c.hosts()
	best, never := c.newVM("best", nil), c.newVM("never", nil)
	c.must("VM.set_ha_restart_priority", best, "best-effort")
	c.enableHA()
	for _, vm := range []string{best, never} {
		c.must("VM.start_on", vm, h[1], false, false)
	}
	c.refused("HOST_EVACUATE_VM_NOT_HA_PROTECTED", nil, "host.evacuate", h[1])
	if err := sim.KillHost("host2"); err != nil {
		t.Fatal(err)
	}
	if c.ref("VM.get_resident_on", best) != h[0] || c.ref("VM.get_power_state", never) != "Halted" {
		t.Error("best effort")
	}
}

// TestFailoverPlan keeps a plan for the failure of one host of three.
func TestFailoverPlan(t *testing.T) {
	sim, c := start(t, xapisim.Config{Hosts: 3, MemoryPerHost: 8 << 30})
	h, pool := c.hosts(), sim.Refs("pool")[0]
	big := func(name string, gib int) string {
		vm := c.newVM(name, nil)
		n := gib << 30
		c.must("VM.set_memory_limits", vm, n, n, n, n)
		return vm
	}
	status := func(want float64, over bool) {
		t.Helper()
		if n, o := c.must("pool.get_ha_plan_exists_for", pool), c.must("pool.get_ha_overcommitted", pool); n != want || o != over {
			t.Errorf("a plan exists for %v failures, overcommitted %v; want %v, %v", n, o, want, over)
		}
	}
	a, b, d := big("a", 2), big("b", 2), big("d", 2)
	for i, vm := range []string{a, b, d} {
		c.must("VM.start_on", vm, h[i], false, false)
	}
	c.enableHA()
	c.refused("INVALID_VALUE", []string{"ha_host_failures_to_tolerate", "-1"}, "pool.set_ha_host_failures_to_tolerate", pool, -1)
	c.must("pool.set_ha_host_failures_to_tolerate", pool, 1)
	status(1, false)
	for _, vm := range []string{a, b} {
		c.must("VM.set_ha_restart_priority", vm, "restart")
	}
	status(1, false)
	if c.must("pool.ha_compute_max_host_failures_to_tolerate") != 1.0 || c.must("pool.ha_failover_plan_exists", 2) != false {
		t.Error("two failures can't be tolerated: one host has no room for two such machines besides its own")
	}
	// Another machine would take the room that is kept.
	e := big("e", 2)
	for _, host := range []string{h[0], h[1]} {
		c.must("VM.start_on", e, host, false, false)
		c.must("VM.hard_shutdown", e)
	}
	f := big("f", 2)
	c.must("VM.start_on", e, h[2], false, false)
	c.refused("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN", []string{}, "VM.start_on", f, h[1], false, false)
	c.refused("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN", []string{}, "host.disable", h[1])
	c.must("VM.hard_shutdown", e)
	// A machine on local storage can't be protected.
	local := big("local", 1)
	for _, sr := range sim.Refs("SR") {
		if c.must("SR.get_shared", sr) == false {
			disk := c.ref("VDI.create", map[string]any{"name_label": "l", "name_description": "", "SR": sr, "virtual_size": 1 << 30, "type": "user", "sharable": false, "read_only": false, "other_config": map[string]any{}, "xenstore_data": map[string]any{}, "sm_config": map[string]any{}, "tags": []any{}})
			c.must("VBD.create", map[string]any{"VM": local, "VDI": disk, "userdevice": "0", "bootable": true, "mode": "RW", "type": "Disk", "empty": false, "other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{}})
			break
		}
	}
	c.must("VM.start", local, false, false)
	c.refused("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN", []string{}, "VM.set_ha_restart_priority", local, "restart")
	c.refused("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", nil, "VM.assert_agile", local)
	c.must("pool.set_ha_allow_overcommit", pool, true)
	c.must("VM.set_ha_restart_priority", local, "restart")
	status(0, true)
}

// TestProtectedMachine ends by itself where nothing can start it again: HA waits for a chance, so it can't become a template.
func TestProtectedMachine(t *testing.T) {
	sim, c := start(t, xapisim.Config{})
	vm := c.newVM("kept", nil)
	c.must("VM.set_ha_restart_priority", vm, "restart")
	c.must("VM.start", vm, false, false)
	c.enableHA()
	c.must("host.disable", c.hosts()[0])
	if err := sim.Crash(vm); err != nil {
		t.Fatal(err)
	}
	if got := c.ref("VM.get_power_state", vm); got != "Halted" {
		t.Fatal(got)
	}
	c.refused("VM_IS_PROTECTED", []string{vm}, "VM.set_is_a_template", vm, true)
	c.must("VM.set_ha_restart_priority", vm, "")
	c.must("VM.set_is_a_template", vm, true)
}

// TestRevertedMachine is looked after again only when it starts.
func TestRevertedMachine(t *testing.T) {
	_, c := start(t, xapisim.Config{})
	vm := c.newVM("kept", nil)
	c.must("VM.set_ha_restart_priority", vm, "restart")
	c.must("VM.start", vm, false, false)
	c.must("VM.revert", c.ref("VM.snapshot", vm, "s"))
	if c.must("VM.get_ha_always_run", vm) != false || c.ref("VM.get_ha_restart_priority", vm) != "restart" {
		t.Error("HA looks after a machine that is off")
	}
}
