package xen

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// golden are the messages that each operation sends, as "method×n", without
// event.from, whose number depends on how long the work takes.
var golden = map[string]string{
	"list brief":          "VM.get_all_records VM_metrics.get_all_records host.get_all_records",
	"list full":           "PCI.get_all_records PGPU.get_all_records SR.get_all_records VBD.get_all_records VDI.get_all_records VGPU.get_all_records VGPU_type.get_all_records VIF.get_all_records VM.get_all_records VM_guest_metrics.get_all_records VM_metrics.get_all_records host.get_all_records network.get_all_records",
	"info":                "SR.get_uuid VBD.get_record VDI.get_record VIF.get_record VM.get_by_uuid VM.get_record VM_guest_metrics.get_record VM_metrics.get_record host.get_uuid network.get_uuid",
	"hosts":               "PIF.get_all_records host.get_all_records host_metrics.get_all_records pool.get_all_records",
	"datastores":          "PBD.get_all_records SR.get_all_records host.get_all_records",
	"volumes":             "SR.get_all_records VDI.get_all_records",
	"networks":            "PIF.get_all_records host.get_all_records network.get_all_records",
	"devices":             "PCI.get_all_records PGPU.get_all_records VGPU.get_all_records VGPU_type.get_all_records VM.get_all_records host.get_all_records",
	"guest":               "VM.get_by_uuid VM.get_record VM_guest_metrics.get_record",
	"dependencies":        "PCI.get_all_records PGPU.get_all_records SR.get_all_records VBD.get_all_records VDI.get_all_records VGPU.get_all_records VGPU_type.get_all_records VIF.get_all_records VM.get_all_records VM.get_by_uuid VM.get_record VM_guest_metrics.get_all_records VM_metrics.get_all_records host.get_all_records network.get_all_records",
	"labels":              "VM.get_by_uuid VM.get_record VM.set_other_config",
	"snapshots":           "VBD.get_record VDI.get_record VM.get_by_uuid VM.get_record×2",
	"create":              "PIF.get_all_records VBD.create×2 VDI.create×2 VIF.create VM.create VM.get_record host_metrics.get_all_records pool.get_all_records×2 task.add_to_other_config task.create task.set_progress task.set_status",
	"create with token":   "Async.VM.start PIF.get_all_records VBD.create VDI.create VIF.create VM.add_to_other_config VM.create VM.get_all_records VM.get_record VM.remove_from_other_config host_metrics.get_all_records pool.get_all_records task.add_to_other_config×2 task.create task.destroy task.set_progress task.set_status",
	"clone full":          "Async.VM.copy VBD.get_record×2 VDI.add_to_other_config VDI.remove_from_other_config×2 VM.add_to_other_config VM.get_VBDs×2 VM.get_all_records VM.get_by_uuid VM.get_record×2 VM.remove_from_other_config VM.set_other_config VM_metrics.get_uuid host_metrics.get_all_records task.add_to_other_config×2 task.create task.destroy task.set_progress task.set_status",
	"clone linked":        "Async.VM.clone VBD.get_record×2 VDI.add_to_other_config VDI.remove_from_other_config×2 VM.add_to_other_config VM.get_VBDs×2 VM.get_all_records VM.get_by_uuid VM.get_record×2 VM.remove_from_other_config VM.set_VCPUs_at_startup VM.set_VCPUs_max VM.set_other_config VM_metrics.get_uuid host_metrics.get_all_records task.add_to_other_config×2 task.create task.destroy task.set_progress task.set_status",
	"clone running":       "Async.VM.copy Async.VM.snapshot VBD.get_record×3 VDI.add_to_other_config VDI.destroy VDI.get_record VDI.remove_from_other_config×2 VM.add_to_other_config VM.destroy VM.get_VBDs×2 VM.get_all_records VM.get_by_uuid VM.get_record×3 VM.remove_from_other_config VM.set_is_a_template VM.set_other_config VM_metrics.get_uuid host_metrics.get_all_records task.add_to_other_config×3 task.create task.destroy×2 task.set_progress task.set_status",
	"clone without token": "Async.VM.copy Async.VM.snapshot VBD.get_record×3 VDI.add_to_other_config VDI.destroy VDI.get_record VDI.remove_from_other_config×2 VM.add_to_other_config VM.destroy VM.get_VBDs×2 VM.get_by_uuid VM.get_record×3 VM.remove_from_other_config VM.set_is_a_template VM.set_other_config VM_metrics.get_uuid host_metrics.get_all_records task.add_to_other_config task.create task.destroy×2 task.set_progress task.set_status",
	"clone from snapshot": "Async.VM.copy VBD.get_record×2 VDI.add_to_other_config VDI.remove_from_other_config×2 VM.add_to_other_config VM.get_VBDs×2 VM.get_all_records VM.get_by_uuid×2 VM.get_record×3 VM.remove_from_other_config VM.set_is_a_template VM.set_other_config VM_metrics.get_uuid host_metrics.get_all_records task.add_to_other_config×2 task.create task.destroy task.set_progress task.set_status",
	"deploy":              "Async.VM.copy Async.VM.provision SR.get_uuid VBD.get_record VDI.remove_from_other_config VM.add_to_other_config VM.get_VBDs×2 VM.get_all_records VM.get_by_uuid VM.get_record×3 VM.remove_from_other_config VM.set_other_config×2 VM_metrics.get_uuid host_metrics.get_all_records pool.get_all_records task.add_to_other_config×3 task.create task.destroy×2 task.set_progress task.set_status",
	"snapshot":            "Async.VM.snapshot VM.get_by_uuid VM.get_record×2 VM_metrics.get_uuid task.add_to_other_config task.create task.destroy task.set_progress task.set_status",
	"checkpoint":          "Async.VM.checkpoint VM.get_by_uuid VM.get_record×2 VM.set_name_description VM_metrics.get_uuid pool.get_all_records task.add_to_other_config task.create task.destroy task.set_progress task.set_status",
	"revert":              "Async.VM.resume Async.VM.revert VBD.get_record×2 VDI.get_record×2 VM.get_by_uuid×2 VM.get_record×2 VM_metrics.get_uuid task.add_to_other_config task.create task.destroy×2 task.set_progress task.set_status",
	"delete snapshot":     "VBD.get_record VDI.destroy VDI.get_all_records VDI.get_record VM.destroy VM.get_by_uuid×2 VM.get_record×3 VM_metrics.get_uuid task.add_to_other_config task.create task.set_progress task.set_status",
	"delete":              "VBD.get_record×2 VDI.destroy×2 VDI.get_record×2 VM.destroy×2 VM.get_by_uuid VM.get_record×3 VM.get_snapshots×2 VM_metrics.get_uuid task.add_to_other_config task.create task.set_progress task.set_status",
	"start":               "Async.VM.start VM.get_by_uuid VM.get_record VM_metrics.get_uuid",
	"power off":           "Async.VM.hard_shutdown VM.get_by_uuid VM.get_record VM_metrics.get_uuid",
	"shutdown":            "Async.VM.clean_shutdown VM.get_by_uuid VM.get_record VM_guest_metrics.get_record VM_metrics.get_uuid task.add_to_other_config task.create task.destroy task.set_progress task.set_status",
	"reset":               "Async.VM.hard_reboot VM.get_by_uuid VM.get_record VM_metrics.get_uuid",
	"pause":               "Async.VM.pause VM.get_by_uuid VM.get_record VM_metrics.get_uuid",
	"suspend":             "Async.VM.suspend VM.get_by_uuid VM.get_record VM_metrics.get_uuid",
	"resume":              "Async.VM.unpause VM.get_by_uuid VM.get_record VM_metrics.get_uuid",
	"reconfigure":         "VM.get_by_uuid VM.get_record VM.set_VCPUs_at_startup VM.set_VCPUs_max VM.set_memory_limits VM.set_name_label VM_metrics.get_uuid host_metrics.get_all_records task.add_to_other_config task.create task.set_progress task.set_status",
	"attach disk":         "SR.get_by_uuid SR.get_uuid×2 VBD.create VBD.get_record×4 VBD.plug VDI.create VDI.get_record×3 VIF.get_record×2 VM.get_by_uuid×3 VM.get_record×3 VM_guest_metrics.get_record×2 VM_metrics.get_record×2 VM_metrics.get_uuid host.get_uuid×2 network.get_uuid×2 task.add_to_other_config task.create task.set_progress task.set_status",
	"attach image":        "Async.VDI.copy SR.get_by_uuid SR.get_uuid×2 VBD.create VBD.get_record×4 VDI.create VDI.get_by_uuid VDI.get_record×4 VIF.get_record×2 VM.get_by_uuid×3 VM.get_record×3 VM_metrics.get_record×2 VM_metrics.get_uuid network.get_uuid×2 task.add_to_other_config task.create task.destroy task.set_progress task.set_status",
	"detach disk":         "VBD.destroy VBD.get_by_uuid VBD.get_record VDI.destroy VDI.get_record VM.get_by_uuid VM.get_record VM_metrics.get_uuid task.add_to_other_config task.create task.set_progress task.set_status",
	"grow disk":           "Async.VDI.resize VBD.get_by_uuid VBD.get_record VDI.get_record VM.get_by_uuid VM.get_record VM_metrics.get_uuid",
	"attach adapter":      "PIF.get_all_records×2 SR.get_uuid VBD.get_record VDI.get_record VIF.create VIF.get_record×3 VIF.plug VM.get_allowed_VIF_devices VM.get_by_uuid×2 VM.get_record×2 VM_guest_metrics.get_record VM_metrics.get_record VM_metrics.get_uuid host.get_uuid network.get_uuid task.add_to_other_config task.create task.set_progress task.set_status",
	"detach adapter":      "VIF.destroy VIF.get_by_uuid VIF.get_record VM.get_by_uuid VM.get_record VM_metrics.get_uuid task.add_to_other_config task.create task.set_progress task.set_status",
	"restart priority":    "VM.get_by_uuid VM.get_record VM.set_ha_restart_priority VM.set_order VM_metrics.get_uuid host.get_all pool.get_all_records task.add_to_other_config task.create task.set_progress task.set_status",
	"availability":        "VM.get_by_uuid VM.get_record host.get_all pool.get_all_records×2",
	"mark template":       "VM.get_by_uuid VM.get_record VM.set_is_a_template VM_metrics.get_uuid",
	"mark machine":        "Async.VM.revert Async.VM.snapshot VBD.get_record×2 VDI.destroy VDI.get_record×2 VM.add_to_blocked_operations×2 VM.destroy VM.get_by_uuid VM.get_record×4 VM.remove_from_blocked_operations×2 VM.set_is_a_template VM_metrics.get_uuid task.add_to_other_config task.create task.destroy×2 task.set_progress task.set_status",
	"attach device":       "PCI.get_all_records×3 PGPU.get_all_records×3 SR.get_uuid VBD.get_record VDI.get_record VGPU.get_all_records×2 VGPU_type.get_all_records×3 VIF.get_record VM.get_all_records×2 VM.get_by_uuid×2 VM.get_record×2 VM.set_affinity VM.set_other_config VM_metrics.get_record VM_metrics.get_uuid host.get_all_records×3 network.get_uuid pool.get_all_records task.add_to_other_config task.create task.set_progress task.set_status",
	"attach vGPU":         "PCI.get_all_records×3 PGPU.get_all_records×3 SR.get_uuid VBD.get_record VDI.get_record VGPU.create VGPU.get_all_records×2 VGPU.get_record×2 VGPU_type.get_all_records×3 VIF.get_record VM.get_all_records×2 VM.get_by_uuid×2 VM.get_record×2 VM_metrics.get_record VM_metrics.get_uuid host.get_all_records×3 network.get_uuid pool.get_all_records task.add_to_other_config task.create task.set_progress task.set_status",
	"detach device":       "VGPU.destroy VGPU.get_by_uuid VM.get_by_uuid VM.get_record VM_metrics.get_uuid",
	"check migration":     "PBD.get_all_records PGPU.get_all_records PIF.get_all_records SR.get_all_records SR.get_uuid VBD.get_record VDI.get_record VGPU_type.get_all_records VIF.get_record VM.assert_can_boot_here VM.assert_operation_valid VM.get_by_uuid VM.get_record VM_guest_metrics.get_record VM_metrics.get_record VM_metrics.get_uuid host.get_all host.get_all_records host.get_by_uuid host.get_uuid host_metrics.get_all_records network.get_all_records network.get_uuid pool.get_all_records",
	"migrate":             "Async.VM.pool_migrate PBD.get_all_records PGPU.get_all_records PIF.get_all_records SR.get_all_records SR.get_uuid VBD.get_record VDI.get_record VGPU_type.get_all_records VIF.get_record VM.assert_can_boot_here VM.assert_operation_valid VM.get_by_uuid VM.get_record VM_guest_metrics.get_record VM_metrics.get_record VM_metrics.get_uuid host.get_all host.get_all_records host.get_by_uuid host.get_uuid host_metrics.get_all_records network.get_all_records network.get_uuid pool.get_all_records task.add_to_other_config task.create task.destroy task.set_progress task.set_status",
	"migrate storage":     "Async.VM.migrate_send PBD.get_all_records PGPU.get_all_records PIF.get_all_records SR.get_all_records SR.get_by_uuid SR.get_uuid VBD.get_record VDI.get_record VGPU_type.get_all_records VIF.get_record VM.assert_can_migrate VM.get_by_uuid VM.get_record VM_guest_metrics.get_record VM_metrics.get_record VM_metrics.get_uuid host.get_all_records host.get_uuid host.migrate_receive×2 host_metrics.get_all_records network.get_all_records network.get_uuid pool.get_all_records task.add_to_other_config task.create task.destroy task.set_progress task.set_status",
	"create volume":       "SR.get_by_uuid VDI.create VDI.get_record task.add_to_other_config task.create task.set_progress task.set_status",
	"delete volume":       "Async.VDI.destroy VDI.get_by_uuid VDI.get_record",
	"maintenance":         "Async.host.evacuate VM.get_record×2 host.disable host.get_by_uuid host.get_record pool.get_all_records task.add_to_other_config task.create task.destroy task.set_progress task.set_status",
}

// TestCalls counts the messages of every operation.
func TestCalls(t *testing.T) {
	for _, op := range opCases() {
		t.Run(op.name, func(t *testing.T) {
			w, arg := prepared(t, op)
			w.sim.ResetCalls()
			if err := op.do(settled(t), w, arg); err != nil {
				t.Fatal(err)
			}
			if got, want := messages(w.sim.Calls()), golden[op.name]; got != want {
				t.Errorf("it sends\n%q\nwant\n%q", got, want)
			}
		})
	}
}

func messages(calls map[string]int) string {
	delete(calls, "event.from")
	var out []string
	for _, m := range slices.Sorted(maps.Keys(calls)) {
		if calls[m] > 1 {
			m += fmt.Sprint("×", calls[m])
		}
		out = append(out, m)
	}
	return strings.Join(out, " ")
}

// TestCallsDontGrow lists and reads in pools of different size with the same
// number of messages.
func TestCallsDontGrow(t *testing.T) {
	var seen []map[string]string
	for _, n := range []int{10, 1000} {
		w := newWorld(t, faultPool)
		if _, err := w.sim.AddVMs(xapisim.Bulk{Count: n, Running: n / 20}); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, op := range opCases() {
			switch op.name {
			case "list brief", "list full", "info", "hosts", "datastores", "volumes", "networks", "devices", "dependencies", "create with token", "clone full", "check migration":
			default:
				continue
			}
			ctx := settled(t)
			arg, err := op.prepare(ctx, w)
			if err != nil {
				t.Fatal(err)
			}
			w.sim.ResetCalls()
			if err := op.do(ctx, w, arg); err != nil {
				t.Fatalf("%s: %v", op.name, err)
			}
			got[op.name] = messages(w.sim.Calls())
			if op.creates != "" { // the next one makes its own
				for _, id := range w.named(t, op.creates) {
					if err := wait(ctx, w.c.VM(hypervisor.VMID(id)).Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true})); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		seen = append(seen, got)
	}
	for op, few := range seen[0] {
		if many := seen[1][op]; many != few {
			t.Errorf("%s sends %q with 10 machines and %q with 1000", op, few, many)
		}
	}
}
