package xapisim_test

import (
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestRules asks for operations that something other than the power state forbids (xapi_vm_lifecycle.ml).
func TestRules(t *testing.T) {
	set := func(class, field string, value any) func(*xapisim.Sim, *client, string) {
		return func(sim *xapisim.Sim, c *client, vm string) {
			id := vm
			switch class {
			case "VM_metrics":
				id = c.ref("VM.get_metrics", vm)
			case "VM_guest_metrics":
				id = c.ref("VM.get_guest_metrics", vm)
			case "VDI":
				id = c.diskOf(vm)
			}
			if err := sim.SetField(class, id, field, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	for label, x := range map[string]struct {
		running bool
		prepare func(*xapisim.Sim, *client, string)
		ops     []string
		code    string
		allowed string // an operation that is allowed all the same
	}{
		"blocked":             {false, func(_ *xapisim.Sim, c *client, vm string) { c.must("VM.add_to_blocked_operations", vm, "start", "WHY") }, []string{"start"}, "OPERATION_BLOCKED", "start_on"},
		"nomigrate":           {true, set("VM_metrics", "nomigrate", true), []string{"suspend", "checkpoint", "pool_migrate", "migrate_send"}, "VM_IS_IMMOBILE", "snapshot"},
		"nomigrate, to be":    {false, func(_ *xapisim.Sim, c *client, vm string) { c.must("VM.add_to_platform", vm, "nomigrate", "true") }, []string{"migrate_send"}, "VM_IS_IMMOBILE", "start"},
		"nested":              {true, set("VM_metrics", "nested_virt", true), []string{"suspend", "pool_migrate"}, "VM_IS_IMMOBILE", "clean_shutdown"},
		"nested, balloon":     {true, set("VM_metrics", "nested_virt", true), []string{"changing_dynamic_range"}, "VM_IS_USING_NESTED_VIRT", "pause"},
		"guest says no":       {true, set("VM_guest_metrics", "other", map[string]any{"data-cant-suspend-reason": "busy"}), []string{"suspend", "checkpoint", "pool_migrate", "migrate_send"}, "VM_NON_SUSPENDABLE", "pause"},
		"disk resets":         {true, set("VDI", "sm_config", map[string]any{"on_boot": "reset"}), []string{"snapshot", "checkpoint", "suspend"}, "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION", "pool_migrate"},
		"disk resets, cached": {true, set("VDI", "sm_config", map[string]any{"on_boot": "reset", "caching": "true"}), []string{"pool_migrate"}, "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION", "pause"},
	} {
		t.Run(label, func(t *testing.T) {
			sim, c := start(t, xapisim.Config{Hosts: 2})
			vm := c.newVM("ruled", nil)
			c.addDisk(vm, "0", 1<<30)
			if x.running {
				c.must("VM.start", vm, false, false)
			}
			c.must("VM.assert_operation_valid", vm, x.allowed)
			for _, op := range x.ops {
				c.must("VM.assert_operation_valid", vm, op)
			}
			x.prepare(sim, c, vm)
			for _, op := range x.ops {
				c.refused(x.code, nil, "VM.assert_operation_valid", vm, op)
			}
			c.must("VM.assert_operation_valid", vm, x.allowed)
		})
	}
}

// TestControlDomains are not for guests' operations.
func TestControlDomains(t *testing.T) {
	sim, c := start(t, xapisim.Config{})
	for _, vm := range sim.Refs("VM") {
		if c.must("VM.get_is_control_domain", vm) != true {
			continue
		}
		for _, method := range []string{"VM.hard_shutdown", "VM.pause", "VM.hard_reboot"} {
			c.refused("OPERATION_NOT_ALLOWED", nil, method, vm)
		}
		c.refused("OPERATION_NOT_ALLOWED", nil, "VM.snapshot", vm, "s")
		c.refused("VM_BAD_POWER_STATE", nil, "VM.destroy", vm)
	}
}

// TestStartRules starts what VM.create took without a look, and on hosts that lack something.
func TestStartRules(t *testing.T) {
	_, c := start(t, xapisim.Config{CPUsPerHost: 4, StrictPCPUs: true})
	for code, with := range map[string]map[string]any{
		"INVALID_VALUE":                                          {"VCPUs_max": 0},
		"VALUE_NOT_SUPPORTED":                                    {"VCPUs_max": 1, "VCPUs_at_startup": 2},
		"MEMORY_CONSTRAINT_VIOLATION_MAXPIN":                     {"platform": map[string]any{"nested-virt": "true"}, "memory_dynamic_min": 1 << 28},
		"VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION": {"hardware_platform_version": 3},
		"HOST_NOT_ENOUGH_PCPUS":                                  {"VCPUs_max": 8, "VCPUs_at_startup": 8},
	} {
		vm := c.newVM(code, with)
		c.refused(code, nil, "VM.assert_can_boot_here", vm, c.hosts()[0])
		c.refused(code, nil, "VM.start_on", vm, c.hosts()[0], false, false)
	}
	_, plain := start(t, xapisim.Config{NoHVM: true})
	vm := plain.newVM("hvm", nil)
	plain.refused("VM_HVM_REQUIRED", []string{vm}, "VM.start_on", vm, plain.hosts()[0], false, false)
}

// TestReach starts and resumes where the network or the image of the RAM is out of reach.
func TestReach(t *testing.T) {
	sim, c := start(t, xapisim.Config{Hosts: 2, Networks: 2})
	h, vm := c.hosts(), c.newVM("reach", nil)
	c.addNIC(vm)
	for _, p := range sim.Refs("PIF") { // host2 loses its port on the network
		if c.ref("PIF.get_host", p) == h[1] && c.ref("PIF.get_device", p) == "eth0" {
			if err := sim.SetField("PIF", p, "network", list(c.must("network.get_by_name_label", "Pool-wide network associated with eth1"))[0]); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.refused("VM_REQUIRES_NETWORK", []string{vm, c.network()}, "VM.start_on", vm, h[1], false, false)
	c.must("VM.start_on", vm, h[0], false, false)
	c.refused("INVALID_VALUE", []string{"VCPU values must satisfy: 0 < VCPUs ≤ VCPUs_max", "2"}, "VM.set_VCPUs_number_live", vm, 3)
	c.must("VM.suspend", vm)
	if err := sim.SetField("VM", vm, "suspend_VDI", "OpaqueRef:NULL"); err != nil {
		t.Fatal(err)
	}
	c.refused("SUSPEND_IMAGE_NOT_ACCESSIBLE", nil, "VM.resume", vm, false, false)
}

// TestPartOfAppliance keeps a machine of an appliance from becoming a template.
func TestPartOfAppliance(t *testing.T) {
	_, c := start(t, xapisim.Config{})
	vm := c.newVM("part", nil)
	app := c.ref("VM_appliance.create", map[string]any{"name_label": "app", "name_description": ""})
	c.must("VM.set_appliance", vm, app)
	c.refused("VM_IS_PART_OF_AN_APPLIANCE", []string{vm, app}, "VM.set_is_a_template", vm, true)
	c.must("VM.set_appliance", vm, "OpaqueRef:NULL")
	c.must("VM.set_is_a_template", vm, true)
}

// TestMeasured repeats what a xapi 24.11 did otherwise than its sources seem to say.
func TestMeasured(t *testing.T) {
	_, c := start(t, xapisim.Config{Hosts: 2})
	vm := c.newVM("measured", nil)
	c.addDisk(vm, "0", 1<<30)
	nic := c.addNIC(vm)
	allowed := func(class, ref string) string {
		return strings.Join(list(c.must(class+".get_allowed_operations", ref)), " ")
	}
	c.must("VM.start", vm, false, false)
	if ops := allowed("VBD", list(c.must("VM.get_VBDs", vm))[0]); !strings.Contains(ops, "pause") || !strings.Contains(ops, "unplug_force") {
		t.Errorf("an attached disk allows %s", ops)
	}
	if ops := allowed("VIF", nic); ops != "attach unplug" {
		t.Errorf("an attached adapter allows %s", ops)
	}
	c.must("VM.set_blocked_operations", vm, map[string]any{"hard_shutdown": "NO"})
	if ops := allowed("VM", vm); !strings.Contains(ops, "hard_shutdown") {
		t.Errorf("a machine whose hard_shutdown is blocked lists %s", ops)
	}
	c.refused("OPERATION_BLOCKED", []string{vm, "NO"}, "VM.hard_shutdown", vm)
	c.must("host.disable", c.hosts()[1])
	if ops := allowed("host", c.hosts()[1]); !strings.Contains(ops, "vm_start") || !strings.Contains(ops, "enable") {
		t.Errorf("a disabled host allows %s", ops)
	}
	c.refused("UUID_INVALID", []string{"VM", "nope"}, "message.create", "n", 1, "VM", "nope", "b")
	off := c.newVM("off", nil)
	net := c.ref("network.create", map[string]any{"name_label": "n", "name_description": "", "MTU": 1500, "other_config": map[string]any{}, "bridge": "", "managed": true, "tags": []any{}})
	vif := c.ref("VIF.create", map[string]any{"device": "0", "network": net, "VM": off, "MAC": "", "MTU": 1500, "other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{}})
	c.must("network.destroy", net)
	c.refused("HANDLE_INVALID", []string{"VIF", vif}, "VIF.get_uuid", vif)
	if status, _ := c.post("/nope", "{}"); status != 500 {
		t.Errorf("an unknown path: %d", status)
	}
}
