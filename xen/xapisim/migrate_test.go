package xapisim_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func (c *client) hosts() []string { c.t.Helper(); return list(c.must("host.get_all")) }

// srNamed gives an SR by its name.
func (c *client) srNamed(name string) string {
	c.t.Helper()
	return list(c.must("SR.get_by_name_label", name))[0]
}

func (c *client) network() string {
	c.t.Helper()
	return list(c.must("network.get_by_name_label", "Pool-wide network associated with eth0"))[0]
}

func (c *client) addNIC(vm string) string {
	c.t.Helper()
	return c.ref("VIF.create", map[string]any{
		"device": "0", "network": c.network(), "VM": vm, "MAC": "", "MTU": 1500, "other_config": map[string]any{},
		"qos_algorithm_type": "", "qos_algorithm_params": map[string]any{},
	})
}

func TestPoolMigrate(t *testing.T) {
	sim, c := start(t, xapisim.Config{Hosts: 2})
	h := c.hosts()
	vm := c.newVM("m", nil)
	c.addDisk(vm, "0", 1<<30)
	c.must("VM.start_on", vm, h[0], false, false)
	ram := sim.Memory(vm)
	c.must("VM.pool_migrate", vm, h[1], map[string]any{"live": "true"})
	if c.ref("VM.get_resident_on", vm) != h[1] || sim.Memory(vm) != ram {
		t.Error("did not move with its RAM")
	}
	c.must("host.disable", h[0])
	c.refused("HOST_DISABLED", []string{h[0]}, "VM.pool_migrate", vm, h[0], map[string]any{})
	c.must("host.enable", h[0])
	big := c.newVM("big", map[string]any{"memory_static_max": 1 << 40, "memory_dynamic_max": 1 << 40, "memory_dynamic_min": 1 << 40})
	c.refused("NO_HOSTS_AVAILABLE", []string{}, "VM.start", big, false, false)
	_, err := c.call("VM.start_on", big, h[0], false, false)
	if e, ok := err.(*apiError); !ok || e.Code != "HOST_NOT_ENOUGH_FREE_MEMORY" || len(e.Params) != 2 {
		t.Error(err)
	}
	if got := c.must("VM.get_possible_hosts", big).([]any); len(got) != 0 {
		t.Error(got)
	}
}

func TestStorageMigration(t *testing.T) {
	sim, c := start(t, xapisim.Config{Hosts: 2})
	h := c.hosts()
	vm := c.newVM("s", nil)
	vdi, _ := c.addDisk(vm, "0", 1<<30)
	if err := sim.WriteDisk(vdi, 3, "data"); err != nil {
		t.Fatal(err)
	}
	c.must("VM.start_on", vm, h[0], false, false)
	local := c.srNamed("Local storage on host1")
	moved := c.ref("VDI.pool_migrate", vdi, local, map[string]any{})
	if c.ref("VDI.get_SR", moved) != local || c.diskOf(vm) != moved {
		t.Error("the disk did not move")
	}
	c.refused("VM_REQUIRES_SR", []string{vm, local}, "VM.pool_migrate", vm, h[1], map[string]any{})
	dest := c.must("host.migrate_receive", h[1], c.network(), map[string]any{})
	there := c.srNamed("Local storage on host2")
	none := map[string]any{}
	c.refused("VDI_NOT_IN_MAP", []string{moved}, "VM.assert_can_migrate", vm, dest, true, none, none, none, none)
	args := []any{vm, dest, true, map[string]any{moved: there}, none, none, none}
	c.must("VM.assert_can_migrate", args...)
	hold := sim.Hold("VM.migrate_send", 1)
	task := c.ref("Async.VM.migrate_send", args...)
	<-hold.Reached()
	c.refused("OTHER_OPERATION_IN_PROGRESS", []string{"VM", vm, "migrate_send", task}, "VM.pause", vm)
	c.must("task.cancel", task)
	if r := c.wait(task); r["status"] != "cancelled" {
		t.Fatalf("%v", r)
	}
	if c.ref("VM.get_resident_on", vm) != h[0] || c.diskOf(vm) != moved || len(list(c.must("SR.get_VDIs", there))) != 0 {
		t.Error("a cancelled migration left something")
	}
	if r := c.wait(c.ref("Async.VM.migrate_send", args...)); r["status"] != "success" || r["result"] != "<value>"+vm+"</value>" {
		t.Fatalf("%v", r)
	}
	if c.ref("VM.get_resident_on", vm) != h[1] || c.ref("VDI.get_SR", c.diskOf(vm)) != there {
		t.Error("not there")
	}
	if got := must[map[int64]string](t)(sim.ReadDisk(c.diskOf(vm))); got[3] != "data" {
		t.Error(got)
	}
}

func TestCrossPoolMigration(t *testing.T) {
	a, ca := start(t, xapisim.Config{})
	b, cb := start(t, xapisim.Config{})
	vm := ca.newVM("away", nil)
	vdi, _ := ca.addDisk(vm, "0", 1<<30)
	nic := ca.addNIC(vm)
	if err := a.WriteDisk(vdi, 1, "kept"); err != nil {
		t.Fatal(err)
	}
	ca.must("VM.start", vm, false, false)
	ram, uuid := a.Memory(vm), ca.ref("VM.get_uuid", vm)
	dest := cb.must("host.migrate_receive", cb.hosts()[0], cb.network(), map[string]any{})
	none := map[string]any{}
	vdis := map[string]any{vdi: cb.srNamed("Shared storage 1")}
	ca.refused("VIF_NOT_IN_MAP", []string{nic}, "VM.assert_can_migrate", vm, dest, true, vdis, none, none, none)
	vifs := map[string]any{nic: cb.network()}
	remove := a.Fault(xapisim.Fault{Method: "VM.migrate_send/memory", Err: &xapisim.Failure{Code: "MIRROR_FAILED", Params: []string{vdi}}})
	ca.refused("MIRROR_FAILED", []string{vdi}, "VM.migrate_send", vm, dest, true, vdis, vifs, none, none)
	if remove() != 1 || b.Count("VDI") != 2 || ca.ref("VM.get_power_state", vm) != "Running" {
		t.Error("a failed migration left something")
	}
	there := ca.ref("VM.migrate_send", vm, dest, true, vdis, vifs, none, none)
	ca.refused("HANDLE_INVALID", []string{"VM", vm}, "VM.get_record", vm)
	if cb.ref("VM.get_uuid", there) != uuid || b.Memory(there) != ram || cb.ref("VM.get_power_state", there) != "Running" {
		t.Error("not the same machine")
	}
	if got := must[map[int64]string](t)(b.ReadDisk(cb.diskOf(there))); got[1] != "kept" {
		t.Error(got)
	}
	if a.Count("VDI") != 2 {
		t.Errorf("%d disks left behind", a.Count("VDI"))
	}
}

func TestEvacuate(t *testing.T) {
	_, c := start(t, xapisim.Config{Hosts: 3})
	h := c.hosts()
	var vms []string
	for range 4 {
		vm := c.newVM("e", nil)
		c.must("VM.start_on", vm, h[0], false, false)
		vms = append(vms, vm)
	}
	c.refused("HOST_NOT_DISABLED", []string{}, "host.reboot", h[0])
	c.must("host.disable", h[0])
	c.must("host.evacuate", h[0], "OpaqueRef:NULL", 1)
	for _, vm := range vms {
		if c.ref("VM.get_resident_on", vm) == h[0] {
			t.Error("still there")
		}
	}
	c.must("host.disable", h[1])
	c.must("host.disable", h[2])
	stuck := c.must("host.get_vms_which_prevent_evacuation", c.ref("VM.get_resident_on", vms[0])).(map[string]any)
	if got := stuck[vms[0]]; got == nil || got.([]any)[0] != "NO_HOSTS_AVAILABLE" {
		t.Errorf("%v", stuck)
	}
}

func TestFailover(t *testing.T) {
	sim, c := start(t, xapisim.Config{Hosts: 2})
	h := c.hosts()
	vm := c.newVM("f", nil)
	c.must("VM.start_on", vm, h[0], false, false)
	slave := &client{t: t, http: c.http, url: sim.URLs()[1]}
	_, err := slave.raw("session.login_with_password", sim.User(), sim.Password(), "2.0", "x")
	e, ok := err.(*apiError)
	if !ok || e.Code != "HOST_IS_SLAVE" || !strings.Contains(sim.URL(), e.Params[0]) {
		t.Fatalf("%v", err)
	}
	local, err := slave.raw("session.slave_local_login_with_password", sim.User(), sim.Password())
	if err != nil || !strings.HasPrefix(local.(string), "OpaqueRef:") {
		t.Fatal(err)
	}
	hold := sim.Hold("VM.pool_migrate", 2)
	task := c.ref("Async.VM.pool_migrate", vm, h[1], map[string]any{})
	<-hold.Reached()
	if err := sim.Failover(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.call("VM.get_all"); err == nil || err.(*apiError).Code != "HOST_IS_SLAVE" {
		t.Errorf("old coordinator: %v", err)
	}
	n := login(t, sim)
	n.refused("HANDLE_INVALID", []string{"task", task}, "task.get_record", task)
	hold.Release()
	token := ""
	for n.ref("VM.get_resident_on", vm) != h[1] {
		v := n.must("event.from", []string{"VM"}, token, 5.0).(map[string]any)
		token = v["token"].(string)
	}
}

func TestRestrictions(t *testing.T) {
	_, c := start(t, xapisim.Config{Hosts: 2, Edition: "free", Restrictions: []string{"storage_xen_motion", "dmc", "checkpoint", "wlb", "set_vcpus_number_live"}})
	h := c.hosts()
	if got := c.must("host.get_license_params", h[0]).(map[string]any); got["restrict_dmc"] != "true" || got["restrict_vgpu"] != "false" {
		t.Error(got)
	}
	vm := c.newVM("r", nil)
	c.must("VM.start_on", vm, h[0], false, false)
	c.refused("LICENCE_RESTRICTION", []string{"Checkpoint"}, "VM.checkpoint", vm, "c")
	c.refused("LICENCE_RESTRICTION", []string{"Live_set_vcpus"}, "VM.set_VCPUs_number_live", vm, 2)
	c.refused("LICENCE_RESTRICTION", []string{"WLB"}, "VM.retrieve_wlb_recommendations", vm)
	c.refused("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", []string{"DMC disabled"}, "VM.set_memory_dynamic_range", vm, 1<<29, 1<<30)
	dest := c.must("host.migrate_receive", h[1], c.network(), map[string]any{})
	none := map[string]any{}
	c.refused("LICENCE_RESTRICTION", []string{"Storage_motion"}, "VM.assert_can_migrate", vm, dest, true, none, none, none, none)
}

func TestFaults(t *testing.T) {
	sim, c := start(t, xapisim.Config{})
	vm := c.newVM("x", nil)
	sim.Fault(xapisim.Fault{Method: "VM.start", Skip: 1, Err: &xapisim.Failure{Code: "INTERNAL_ERROR", Params: []string{"boom"}}})
	c.must("VM.start", vm, false, false)
	c.must("VM.hard_shutdown", vm)
	c.refused("INTERNAL_ERROR", []string{"boom"}, "VM.start", vm, false, false)
	sim.Fault(xapisim.Fault{Method: "VM.start", DropAfter: true})
	if _, err := c.call("VM.start", vm, false, false); err == nil || strings.Contains(err.Error(), "INTERNAL_ERROR") {
		t.Errorf("want a broken connection, got %v", err)
	}
	if c.ref("VM.get_power_state", vm) != "Running" {
		t.Error("the dropped call was not done")
	}
	sim.Fault(xapisim.Fault{Method: "Async.VM.*", Drop: true})
	if _, err := c.call("Async.VM.pause", vm); err == nil {
		t.Error("not dropped")
	}
	sim.SetDuration("VM.pause", time.Hour)
	task := c.ref("Async.VM.pause", vm)
	c.refused("OTHER_OPERATION_IN_PROGRESS", []string{"VM", vm, "pause", task}, "VM.pause", vm)
	ops := c.must("VM.get_current_operations", vm).(map[string]any)
	if ops[task] != "pause" {
		t.Errorf("%v", ops)
	}
	c.must("VM.hard_shutdown", vm) // overtakes the pause
	if r := c.wait(task); r["status"] != "cancelled" {
		t.Errorf("%v", r)
	}
	sim.ExpireSessions()
	c.refused("SESSION_INVALID", []string{c.session}, "VM.get_all")
	calls := sim.Calls()
	if calls["VM.start"] != 3 || calls["Async.VM.pause"] != 2 {
		t.Errorf("%v", calls)
	}
}

func TestEvents(t *testing.T) {
	sim, c := start(t, xapisim.Config{})
	from := func(classes []string, token string) (map[string]any, []map[string]any) {
		v := c.must("event.from", classes, token, 0.0).(map[string]any)
		var out []map[string]any
		for _, e := range v["events"].([]any) {
			out = append(out, e.(map[string]any))
		}
		return v, out
	}
	v, all := from([]string{"*"}, "")
	token := v["token"].(string)
	if len(token) != 41 || token[20] != ',' || len(all) < 10 {
		t.Errorf("token %q, %d events", token, len(all))
	}
	vm := c.newVM("ev", nil)
	c.must("VM.set_name_label", vm, "other")
	v, ev := from([]string{"VM", "task/" + vm}, token)
	if len(ev) != 1 || ev[0]["operation"] != "add" || ev[0]["class"] != "vm" || ev[0]["snapshot"].(map[string]any)["name_label"] != "other" {
		t.Fatalf("%v", ev)
	}
	token = v["token"].(string)
	c.must("VM.start", vm, false, false)
	v, ev = from([]string{"vm"}, token)
	if i := slices.IndexFunc(ev, func(e map[string]any) bool { return e["ref"] == vm }); i < 0 || ev[i]["operation"] != "mod" {
		t.Fatalf("%v", ev)
	}
	token = v["token"].(string)
	c.must("VM.hard_shutdown", vm)
	c.must("VM.destroy", vm)
	if _, ev = from([]string{"VM"}, token); len(ev) == 0 || ev[len(ev)-1]["operation"] != "del" {
		t.Fatalf("%v", ev)
	}
	if _, ev = from([]string{"SR"}, token); len(ev) != 0 {
		t.Errorf("%v", ev)
	}
	c.refused("EVENT_FROM_TOKEN_PARSE_FAILURE", []string{"rubbish"}, "event.from", []string{"VM"}, "rubbish", 0.0)
	sim.ForgetDeletions()
	if _, ev = from([]string{"VM"}, token); len(ev) != 0 {
		t.Errorf("%v", ev)
	}
	from([]string{"VM"}, "")
}

// TestForgottenDeletions repeats what was recorded from a xapi 24.11: 3 known machines were deleted, then 560 others made and deleted.
func TestForgottenDeletions(t *testing.T) {
	_, c := start(t, xapisim.Config{})
	from := func(token string) (vms float64, dels int, next string) {
		b, _ := c.must("event.from", []string{"VM"}, token, 0.0).(map[string]any)
		for _, e := range b["events"].([]any) {
			if e.(map[string]any)["operation"] == "del" {
				dels++
			}
		}
		counts, _ := b["valid_ref_counts"].(map[string]any)
		return counts["vm"].(float64), dels, b["token"].(string)
	}
	var known []string
	for range 8 {
		known = append(known, c.newVM("known", nil))
	}
	before, _, token := from("")
	for _, vm := range known[:3] {
		c.must("VM.destroy", vm)
	}
	if _, dels, _ := from(token); dels != 3 {
		t.Errorf("%d deletions told at once, want 3", dels)
	}
	for n := range 560 {
		c.must("VM.destroy", c.newVM("other", nil))
		want, looked := map[int]int{200: 3, 559: 0}[n]
		if !looked {
			continue
		}
		if vms, dels, _ := from(token); dels != want || vms != before-3 {
			t.Errorf("after %d others: %d deletions told, %v machines", n+1, dels, vms)
		}
	}
}
