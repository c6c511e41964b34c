package xapisim_test

import (
	"testing"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestLostSR: what needs an SR that is gone fails with its reference, as each reading of a missing row does (exnHelper.ml).
func TestLostSR(t *testing.T) {
	const gone = "OpaqueRef:11111111-2222-4333-8444-555555555555"
	sim, c := start(t, xapisim.Config{Hosts: 2})
	vm := c.newVM("lost", nil)
	vdi, _ := c.addDisk(vm, "0", 4<<30)
	host, sr := list(c.must("host.get_all")), list(c.must("SR.get_all"))[0]
	if err := sim.SetField("VDI", vdi, "SR", gone); err != nil {
		t.Fatal(err)
	}
	dest := c.must("host.migrate_receive", host[1], c.network(), map[string]any{})
	for method, args := range map[string][]any{
		"VDI.snapshot": {vdi, map[string]any{}}, "VDI.clone": {vdi, map[string]any{}}, "VDI.copy": {vdi, sr, "OpaqueRef:NULL", "OpaqueRef:NULL"}, "VDI.destroy": {vdi}, "VDI.resize": {vdi, 5 << 30},
		"VDI.forget": {vdi}, "VDI.update": {vdi}, "VDI.set_on_boot": {vdi, "reset"}, "VDI.enable_cbt": {vdi}, "VDI.set_name_label": {vdi, "x"},
		"VDI.set_name_description": {vdi, "x"}, "VDI.pool_migrate": {vdi, sr, map[string]any{}}, "VM.clone": {vm, "x"}, "VM.copy": {vm, "x", "OpaqueRef:NULL"}, "VM.snapshot": {vm, "x"},
		"VM.migrate_send":       {vm, dest, true, map[string]any{vdi: sr}, map[string]any{}, map[string]any{}, map[string]any{}},
		"VM.assert_can_migrate": {vm, dest, true, map[string]any{vdi: sr}, map[string]any{}, map[string]any{}, map[string]any{}},
	} {
		c.refused("HANDLE_INVALID", []string{"SR", gone}, method, args...)
	}
	if _, err := c.call("VM.start", vm, false, false); err == nil {
		t.Error("it starts")
	}
	c.must("VM.destroy", vm)
}
