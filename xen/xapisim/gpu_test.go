package xapisim_test

import (
	"testing"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// vgpuType finds a profile by its model name.
func (c *client) vgpuType(model string) string {
	c.t.Helper()
	for ref, r := range c.must("VGPU_type.get_all_records").(map[string]any) {
		if r.(map[string]any)["model_name"] == model {
			return ref
		}
	}
	c.t.Fatalf("no type %s", model)
	return ""
}

func (c *client) withGPU(name, group, kind string) string {
	c.t.Helper()
	vm := c.newVM(name, nil)
	c.must("VGPU.create", vm, group, "0", map[string]any{}, kind)
	return vm
}

func TestVGPU(t *testing.T) {
	_, c := start(t, xapisim.Config{Hosts: 2, GPUs: []xapisim.GPU{{Model: xapisim.TeslaM60}}})
	h := c.hosts()
	group := list(c.must("GPU_group.get_all"))[0]
	q8, q4 := c.vgpuType("GRID M60-8Q"), c.vgpuType("GRID M60-4Q")
	if n := c.must("GPU_group.get_remaining_capacity", group, q4); n != 8.0 { // two hosts, two GPUs each, two on each
		t.Errorf("capacity %v", n)
	}
	a := c.withGPU("a", group, q4)
	c.refused("VGPU_TYPE_NOT_COMPATIBLE", []string{q4}, "VGPU.create", a, group, "0", map[string]any{}, q4)
	c.must("VM.start_on", a, h[0], false, false)
	c.refused("VM_HAS_VGPU", []string{a}, "VM.pool_migrate", a, h[1], map[string]any{})
	c.refused("VM_HAS_VGPU", []string{a}, "VM.suspend", a)
	c.must("VM.snapshot", a, "fine")
	v := list(c.must("VM.get_VGPUs", a))[0]
	pgpu := c.ref("VGPU.get_resident_on", v)
	if got := list(c.must("PGPU.get_resident_VGPUs", pgpu)); len(got) != 1 || got[0] != v {
		t.Errorf("%v", got)
	}
	if n := c.must("PGPU.get_remaining_capacity", pgpu, q8); n != 0.0 {
		t.Errorf("types mixed: %v", n)
	}
	c.refused("PGPU_IN_USE_BY_VM", []string{a}, "PGPU.remove_enabled_VGPU_types", pgpu, q4)
}

func TestVGPUPlacement(t *testing.T) {
	_, c := start(t, xapisim.Config{Hosts: 1, GPUs: []xapisim.GPU{{Model: xapisim.TeslaM60, Migratable: true}}})
	group := list(c.must("GPU_group.get_all"))[0]
	q4, q8, pass := c.vgpuType("GRID M60-4Q"), c.vgpuType("GRID M60-8Q"), c.vgpuType("passthrough")
	on := func(vm string) string { return c.ref("VGPU.get_resident_on", list(c.must("VM.get_VGPUs", vm))[0]) }
	a, b := c.withGPU("a", group, q4), c.withGPU("b", group, q4)
	c.must("VM.start", a, false, false)
	c.must("VM.start", b, false, false)
	if on(a) != on(b) {
		t.Error("depth first puts both on one GPU")
	}
	c.must("VM.hard_shutdown", b)
	c.must("GPU_group.set_allocation_algorithm", group, "breadth_first")
	c.must("VM.start", b, false, false)
	if on(a) == on(b) {
		t.Error("breadth first spreads")
	}
	c.must("VM.suspend", a) // the driver supports it
	c.must("VM.resume", a, false, false)
	big := c.withGPU("big", group, q8)
	h := c.hosts()[0]
	c.refused("VM_REQUIRES_VGPU", []string{big, group, q8}, "VM.assert_can_boot_here", big, h)
	c.refused("NO_HOSTS_AVAILABLE", []string{}, "VM.start", big, false, false)
	c.must("VM.hard_shutdown", a)
	whole := c.withGPU("whole", group, pass)
	c.must("VM.start", whole, false, false)
	if pcis := list(c.must("VM.get_attached_PCIs", whole)); len(pcis) != 1 {
		t.Errorf("%v", pcis)
	}
	c.refused("VM_HAS_PCI_ATTACHED", []string{whole}, "VM.suspend", whole)
	c.refused("VM_REQUIRES_GPU", []string{c.withGPU("x", group, pass), group}, "VM.assert_can_boot_here", list(c.must("VM.get_by_name_label", "x"))[0], h)
}

func TestGPUConditions(t *testing.T) {
	_, c := start(t, xapisim.Config{NoIOMMU: true, Restrictions: []string{"vgpu"}, GPUs: []xapisim.GPU{{Model: xapisim.H100}, {Model: xapisim.IntegratedGPU}}})
	h := c.hosts()[0]
	var group string
	for ref, r := range c.must("GPU_group.get_all_records").(map[string]any) {
		if len(r.(map[string]any)["supported_VGPU_types"].([]any)) > 1 {
			group = ref
		}
	}
	vm := c.withGPU("h100", group, c.vgpuType("NVIDIA H100-20C"))
	c.refused("VM_REQUIRES_IOMMU", []string{h}, "VM.assert_can_boot_here", vm, h)
	for ref, r := range c.must("PCI.get_all_records").(map[string]any) {
		rec := r.(map[string]any)
		switch rec["class_name"] {
		case "SATA controller":
			c.refused("BOOT_DEVICE_PASSTHROUGH_DISALLOWED", nil, "PCI.disable_dom0_access", ref)
		case "VGA compatible controller":
			if got := c.ref("PCI.disable_dom0_access", ref); got != "disable_on_reboot" {
				t.Error(got)
			}
			c.must("host.disable", h)
			c.must("host.reboot", h)
			if got := c.ref("PCI.get_dom0_access_status", ref); got != "disabled" {
				t.Error(got)
			}
		}
	}
	_, c = start(t, xapisim.Config{Restrictions: []string{"vgpu"}, GPUs: []xapisim.GPU{{Model: xapisim.H100}}})
	group = list(c.must("GPU_group.get_all"))[0]
	c.refused("LICENCE_RESTRICTION", []string{"VGPU"}, "VM.start", c.withGPU("v", group, c.vgpuType("NVIDIA H100-20C")), false, false)
	_, c = start(t, xapisim.Config{Restrictions: []string{"gpu"}, GPUs: []xapisim.GPU{{Model: xapisim.H100}}})
	group = list(c.must("GPU_group.get_all"))[0]
	c.refused("FEATURE_RESTRICTED", []string{}, "VGPU.create", c.newVM("v", nil), group, "0", map[string]any{}, c.vgpuType("passthrough"))
}

func TestSRIOV(t *testing.T) {
	_, c := start(t, xapisim.Config{SRIOVNetwork: true, GPUs: []xapisim.GPU{{Model: xapisim.H100, Migratable: true}}})
	group := list(c.must("GPU_group.get_all"))[0]
	vm := c.withGPU("gpu", group, c.vgpuType("NVIDIA H100-40C"))
	c.must("VM.start", vm, false, false)
	if got := list(c.must("VM.get_attached_PCIs", vm)); len(got) != 1 {
		t.Fatalf("%v", got)
	}
	c.must("VM.suspend", vm) // a virtual function of an NVIDIA card is no obstacle
	var pif string
	for ref, r := range c.must("PIF.get_all_records").(map[string]any) {
		if r.(map[string]any)["device"] == "eth9" {
			pif = ref
		}
	}
	net := c.ref("network.create", map[string]any{"name_label": "vfs", "name_description": "", "MTU": 1500, "other_config": map[string]any{}, "bridge": "", "managed": true, "tags": []any{}})
	n := c.ref("network_sriov.create", pif, net)
	if got := c.must("network_sriov.get_remaining_capacity", n); got != 8.0 {
		t.Error(got)
	}
	for i := range 9 {
		m := c.newVM("n", nil)
		c.must("VIF.create", map[string]any{"device": "0", "network": net, "VM": m, "MAC": "", "MTU": 1500, "other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{}})
		if i < 8 {
			c.must("VM.start", m, false, false)
		} else {
			c.refused("NETWORK_SRIOV_INSUFFICIENT_CAPACITY", []string{net}, "VM.start_on", m, c.hosts()[0], false, false)
		}
	}
}

func TestPCIPassthrough(t *testing.T) {
	_, c := start(t, xapisim.Config{Networks: 2})
	vm := c.newVM("pci", map[string]any{"other_config": map[string]any{"pci": "0/0000:03:00.1"}})
	c.must("VM.start", vm, false, false)
	pcis := list(c.must("VM.get_attached_PCIs", vm))
	if len(pcis) != 1 || c.ref("PCI.get_pci_id", pcis[0]) != "0000:03:00.1" {
		t.Fatalf("%v", pcis)
	}
	for _, m := range []string{"VM.suspend", "VM.checkpoint"} {
		args := []any{vm}
		if m == "VM.checkpoint" {
			args = append(args, "c")
		}
		c.refused("VM_HAS_PCI_ATTACHED", []string{vm}, m, args...)
	}
	c.must("VM.snapshot", vm, "allowed")
	c.must("VM.hard_shutdown", vm)
	if got := list(c.must("VM.get_attached_PCIs", vm)); len(got) != 0 {
		t.Errorf("%v", got)
	}
}
