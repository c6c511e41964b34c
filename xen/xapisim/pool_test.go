package xapisim_test

import (
	"testing"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func TestOldServer(t *testing.T) {
	_, c := start(t, xapisim.Config{Lacks: []string{"VM.snapshot.ignore_vdis"}, APIMinor: 15})
	vm := c.newVM("o", nil)
	c.refused("MESSAGE_PARAMETER_COUNT_MISMATCH", []string{"VM.snapshot", "2", "3"}, "VM.snapshot", vm, "s", []string{})
	c.must("VM.snapshot", vm, "s")
	if got := c.must("host.get_API_version_minor", c.hosts()[0]); got != 15.0 {
		t.Error(got)
	}
}

func TestDevicesHotPlug(t *testing.T) {
	_, c := start(t, xapisim.Config{})
	vm := c.newVM("hot", nil)
	_, vbd := c.addDisk(vm, "0", 1<<30)
	nic := c.addNIC(vm)
	c.refused("VM_BAD_POWER_STATE", []string{vm, "running", "halted"}, "VBD.plug", vbd)
	c.refused("DEVICE_ALREADY_EXISTS", []string{"0"}, "VIF.create", map[string]any{"device": "0", "network": c.network(), "VM": vm, "MAC": "", "MTU": 1500, "other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{}})
	c.must("VM.start", vm, false, false)
	vdi2, vbd2 := c.addDisk(vm, "1", 1<<30)
	c.must("VBD.plug", vbd2)
	c.refused("DEVICE_ALREADY_ATTACHED", []string{vbd2}, "VBD.plug", vbd2)
	if got := c.ref("VBD.get_device", vbd2); got != "xvdb" {
		t.Error(got)
	}
	c.refused("VDI_IN_USE", []string{vdi2, "destroy"}, "VDI.destroy", vdi2)
	c.refused("VDI_IN_USE", []string{vdi2, "resize"}, "VDI.resize", vdi2, 2<<30)
	c.refused("MESSAGE_REMOVED", []string{}, "VDI.resize_online", vdi2, 2<<30)
	c.must("VBD.unplug", vbd2)
	c.must("VBD.destroy", vbd2)
	c.must("VDI.destroy", vdi2)
	c.must("VIF.unplug", nic)
	c.must("VIF.plug", nic)
	other := c.newVM("other", nil)
	c.must("VBD.create", map[string]any{"VM": other, "VDI": c.diskOf(vm), "userdevice": "0", "bootable": true, "mode": "RW", "type": "Disk", "empty": false, "other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{}})
	c.refused("VDI_IN_USE", nil, "VM.start", other, false, false)
	c.must("VM.set_VCPUs_number_live", vm, 2)
	c.refused("VM_BAD_POWER_STATE", []string{vm, "halted", "running"}, "VM.set_VCPUs_max", vm, 4)
}

func TestCD(t *testing.T) {
	_, c := start(t, xapisim.Config{})
	vm := c.newVM("cd", nil)
	rec := map[string]any{"VM": vm, "VDI": "OpaqueRef:NULL", "userdevice": "3", "bootable": false, "mode": "RW", "type": "CD", "empty": true, "other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{}}
	c.refused("VBD_CDS_MUST_BE_READONLY", []string{}, "VBD.create", rec)
	rec["mode"] = "RO"
	cd := c.ref("VBD.create", rec)
	c.refused("VBD_IS_EMPTY", []string{cd}, "VBD.eject", cd)
	iso := list(c.must("VDI.get_by_name_label", "debian-12.iso"))[0]
	c.must("VBD.insert", cd, iso)
	c.refused("VBD_NOT_EMPTY", []string{cd}, "VBD.insert", cd, iso)
	c.must("VBD.eject", cd)
	c.refused("SR_OPERATION_NOT_SUPPORTED", nil, "VDI.snapshot", iso)
}

func TestWorkloadBalancing(t *testing.T) {
	sim, c := start(t, xapisim.Config{Hosts: 2})
	vm, pool := c.newVM("w", nil), sim.Refs("pool")[0]
	c.refused("WLB_NOT_INITIALIZED", []string{}, "pool.retrieve_wlb_recommendations")
	c.refused("WLB_NOT_INITIALIZED", []string{}, "pool.deconfigure_wlb")
	c.refused("WLB_URL_INVALID", []string{"nowhere"}, "pool.initialize_wlb", "nowhere", "u", "p", sim.User(), sim.Password())
	c.refused("WLB_XENSERVER_AUTHENTICATION_FAILED", []string{}, "pool.initialize_wlb", "wlb:8012", "u", "p", sim.User(), "wrong")
	c.must("pool.initialize_wlb", "wlb:8012", "u", "p", sim.User(), sim.Password())
	c.refused("WLB_DISABLED", []string{}, "VM.retrieve_wlb_recommendations", vm)
	c.must("pool.set_wlb_enabled", pool, true)
	if got := c.must("VM.retrieve_wlb_recommendations", vm).(map[string]any); len(got) != 2 {
		t.Errorf("%v", got)
	}
	c.must("pool.deconfigure_wlb")
	c.refused("WLB_NOT_INITIALIZED", []string{}, "VM.retrieve_wlb_recommendations", vm)
	_, free := start(t, xapisim.Config{Restrictions: []string{"wlb"}})
	free.refused("LICENCE_RESTRICTION", []string{"WLB"}, "pool.retrieve_wlb_recommendations")
}
