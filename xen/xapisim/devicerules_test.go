package xapisim_test

import (
	"testing"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestDeviceRules asks for what may not be done to devices.
func TestDeviceRules(t *testing.T) {
	sim, c := start(t, xapisim.Config{GPUs: []xapisim.GPU{{Model: xapisim.TeslaM60}}, SRIOVNetwork: true})
	vm := c.newVM("ruled", nil)
	vdi, _ := c.addDisk(vm, "0", 4<<30)
	nic := c.addNIC(vm)
	rec := map[string]any{"device": "1", "network": c.network(), "VM": vm, "MAC": "02:00:00:00:00", "MTU": 1500, "other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{}}
	c.refused("MAC_INVALID", []string{"02:00:00:00:00"}, "VIF.create", rec)
	group := sim.Refs("GPU_group")[0]
	kind := list(c.must("VGPU_type.get_all"))[0]
	for _, k := range list(c.must("VGPU_type.get_all")) {
		if c.ref("VGPU_type.get_model_name", k) == "GRID M60-2Q" {
			kind = k
		}
	}
	gpu := c.ref("VGPU.create", vm, group, "0", map[string]any{}, kind)
	c.must("VM.start", vm, false, false)
	c.refused("OPERATION_NOT_ALLOWED", []string{"vGPU currently attached to a running VM"}, "VGPU.destroy", gpu)
	c.refused("OPERATION_NOT_ALLOWED", []string{"VIF currently attached to a running VM"}, "VIF.destroy", nic)
	c.must("VM.hard_shutdown", vm)
	c.must("VGPU.destroy", gpu)
	c.must("VIF.destroy", nic)

	c.refused("SR_BACKEND_FAILURE_79", nil, "VDI.resize", vdi, 1<<30)
	c.must("VDI.resize", vdi, 5<<30)
	if err := sim.SetField("VDI", vdi, "cbt_enabled", true); err != nil {
		t.Fatal(err)
	}
	c.refused("VDI_CBT_ENABLED", []string{vdi}, "VDI.set_on_boot", vdi, "reset")

	// A PCI device has one user.
	for _, name := range []string{"first", "second"} {
		o := c.newVM(name, map[string]any{"other_config": map[string]any{"pci": "0/0000:03:00.0"}})
		if name == "first" {
			c.must("VM.start", o, false, false)
		} else {
			c.refused("INTERNAL_ERROR", []string{"xenopsd internal error: PCI device in use: 0000:03:00.0"}, "VM.start", o, false, false)
		}
	}

	net := c.ref("network.create", map[string]any{"name_label": "vfs", "name_description": "", "MTU": 1500, "other_config": map[string]any{}, "bridge": "", "managed": true, "tags": []any{}})
	for _, p := range list(c.must("PIF.get_all")) {
		if c.ref("PIF.get_device", p) == "eth0" {
			c.refused("PIF_IS_NOT_SRIOV_CAPABLE", []string{p}, "network_sriov.create", p, net)
			continue
		}
		c.must("network_sriov.create", p, net)
		c.refused("NETWORK_SRIOV_ALREADY_ENABLED", []string{p}, "network_sriov.create", p, net)
	}
}
