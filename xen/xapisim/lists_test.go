package xapisim_test

import (
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestTasksOfTasks: messages about tasks and events have no tasks of their own, so their Async forms return references that nothing has.
func TestTasksOfTasks(t *testing.T) {
	sim, c := start(t, xapisim.Config{})
	vm := c.newVM("v", nil)
	hold := sim.Hold("VM.start", 1)
	defer hold.Release()
	task := c.ref("Async.VM.start", vm, false, false)
	<-hold.Reached()
	ref := c.ref("Async.task.cancel", task)
	if !strings.HasPrefix(ref, "DummyRef:|") || !strings.HasSuffix(ref, "|Async.task.cancel") {
		t.Errorf("the task is %s", ref)
	}
	c.refused("HANDLE_INVALID", []string{"task", ref}, "task.get_record", ref)
	if got := c.wait(task)["status"]; got != "cancelled" {
		t.Errorf("the start is %v", got)
	}
}

// TestEveryClass: the pool has the classes that nothing here acts on too, empty ones. VMPP was removed.
func TestEveryClass(t *testing.T) {
	_, c := start(t, xapisim.Config{Build: "24.11.0"})
	for _, class := range strings.Fields("subject Cluster Cluster_host Certificate Repository Observer pool_patch PVS_site SDN_controller DR_task host_crashdump host_patch") {
		if got := list(c.must(class + ".get_all")); len(got) > 0 {
			t.Errorf("%s has %v", class, got)
		}
		c.refused("UUID_INVALID", []string{class, "nope"}, class+".get_by_uuid", "nope")
	}
	for _, message := range []string{"VMPP.get_all", "VMPP.get_all_records"} {
		c.refused("MESSAGE_REMOVED", []string{}, message)
	}
	c.refused("MESSAGE_METHOD_UNKNOWN", []string{"Driver_variant.get_all"}, "Driver_variant.get_all") // came with 25.2
	batch := c.must("event.from", []string{"*"}, "", 0.0).(map[string]any)
	if n := len(batch["valid_ref_counts"].(map[string]any)); n < 65 { // a real one counted 68
		t.Errorf("%d classes are counted", n)
	}
}

// TestQueries compares fields by the database's names.
func TestQueries(t *testing.T) {
	_, c := start(t, xapisim.Config{})
	a := c.newVM("a", nil)
	c.newVM("b", nil)
	for _, expr := range []string{
		`field "name__label" = "a"`, `field "name__label" = "a" and field "is_a_template" = "false"`,
		`field "name__label" = "a" and not (field "memory__static_max" = "1")`,
	} {
		got := c.must("VM.get_all_records_where", expr).(map[string]any)
		if got[a] == nil || len(got) != 1 {
			t.Errorf("%s: %d machines", expr, len(got))
		}
	}
	c.refused("INTERNAL_ERROR", []string{"missing field", "name_label", ""}, "host.get_all_records_where", `field "name_label"="x"`)
	c.refused("INVALID_VALUE", []string{"?", "lexing: empty token"}, "host.get_all_records_where", "?")
}

// TestEventNext follows changes in the older way.
func TestEventNext(t *testing.T) {
	sim, c := start(t, xapisim.Config{})
	c.refused("SESSION_NOT_REGISTERED", nil, "event.next")
	c.must("event.register", []string{"VM"})
	c.must("event.register", []string{"network"})
	c.must("event.unregister", []string{"network"})
	vm := c.newVM("next", nil)
	c.must("network.set_name_label", c.network(), "renamed")
	next := func() map[string]any {
		events := c.must("event.next").([]any)
		if len(events) != 1 {
			t.Fatalf("%v", events)
		}
		return events[0].(map[string]any)
	}
	if e := next(); e["class"] != "vm" || e["operation"] != "add" || e["ref"] != vm {
		t.Errorf("%v", e)
	}
	token := c.ref("event.inject", "VM", vm)
	if e := next(); e["operation"] != "mod" || e["ref"] != vm {
		t.Errorf("after inject: %v", e)
	}
	batch := c.must("event.from", []string{"VM"}, token, 0.0).(map[string]any)
	if events := batch["events"].([]any); len(events) != 1 || events[0].(map[string]any)["ref"] != vm {
		t.Errorf("from the token of inject: %v", events)
	}
	c.refused("HANDLE_INVALID", []string{"VM", "nope"}, "event.inject", "VM", "nope")
	ended := make(chan error, 1)
	go func() {
		_, err := c.call("event.next")
		ended <- err
	}()
	for sim.Calls()["event.next"] < 4 {
		time.Sleep(time.Millisecond)
	}
	sim.ExpireSessions()
	if err, ok := (<-ended).(*apiError); !ok || err.Code != "SESSION_INVALID" {
		t.Errorf("a wait of a session that ended: %v", err)
	}
}

// TestRefused: a real xapi refuses some messages itself, by other names. What only xapisim lacks has the message's own.
func TestRefused(t *testing.T) {
	_, c := start(t, xapisim.Config{Hosts: 2})
	host, vm := c.hosts()[0], c.newVM("v", nil)
	c.refused("VM_BAD_POWER_STATE", []string{vm, "running", "halted"}, "VM.send_sysrq", vm, "a")
	c.refused("VM_BAD_POWER_STATE", []string{vm, "running", "halted"}, "VM.set_shadow_multiplier_live", vm, 2.0)
	c.must("VM.start", vm, false, false)
	c.refused("NOT_IMPLEMENTED", []string{"send_sysrq"}, "VM.send_sysrq", vm, "a")
	c.refused("NOT_IMPLEMENTED", []string{"get_log"}, "host.get_log", host)
	c.refused("NOT_IMPLEMENTED", []string{"VM.get_data_sources"}, "VM.get_data_sources", vm)
	c.refused("XENAPI_MISSING_PLUGIN", []string{"p"}, "host.call_plugin", host, "p", "f", map[string]any{})
	c.refused("SR_UNKNOWN_DRIVER", []string{"none"}, "SR.probe", host, map[string]any{}, "none", map[string]any{})
	c.must("SR.probe", host, map[string]any{}, "nfs", map[string]any{})
	c.refused("SR_BACKEND_FAILURE", []string{"Disk too small", "-1", "0"}, "VDI.create", map[string]any{
		"name_label": "d", "name_description": "", "SR": c.ref("pool.get_default_SR", list(c.must("pool.get_all"))[0]), "virtual_size": -1, "type": "user",
		"sharable": false, "read_only": false, "other_config": map[string]any{}})
}

// TestPorts brings ports of hosts up and down.
func TestPorts(t *testing.T) {
	_, c := start(t, xapisim.Config{Networks: 2})
	vm := c.newVM("v", nil)
	c.addNIC(vm)
	c.must("PIF.scan", c.hosts()[0])
	for _, p := range list(c.must("PIF.get_all")) {
		if c.must("PIF.get_management", p) == true {
			c.refused("PIF_IS_MANAGEMENT_INTERFACE", []string{p}, "PIF.unplug", p)
			continue
		}
		c.must("PIF.unplug", p)
		if c.must("PIF.get_currently_attached", p) != false {
			t.Error("a port is still attached")
		}
		c.must("PIF.plug", p)
	}
}

// TestVTPM gives a machine a virtual TPM, one at most.
func TestVTPM(t *testing.T) {
	_, c := start(t, xapisim.Config{})
	vm := c.newVM("v", nil)
	tpm := c.ref("VTPM.create", vm, false)
	c.refused("VTPM_MAX_AMOUNT_REACHED", []string{"1"}, "VTPM.create", vm, false)
	if got := list(c.must("VM.get_VTPMs", vm)); len(got) != 1 || got[0] != tpm {
		t.Errorf("the machine has %v", got)
	}
	c.must("VM.start", vm, false, false)
	c.refused("VM_BAD_POWER_STATE", []string{vm, "halted, suspended", "running"}, "VTPM.destroy", tpm)
	c.must("VM.hard_shutdown", vm)
	c.must("VTPM.destroy", tpm)
	if got := list(c.must("VM.get_VTPMs", vm)); len(got) != 0 {
		t.Errorf("the machine has %v", got)
	}
}
