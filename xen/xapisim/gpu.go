package xapisim

import (
	"cmp"
	"slices"
	"strings"
)

// GPUs follow xen-api's ocaml/xapi/xapi_vgpu.ml, xapi_pgpu_helpers.ml, vgpuops.ml and xapi_pci_helpers.ml.

var gpuHandlers = map[string]handler{
	"VGPU.create": createVGPU,
	"VGPU.destroy": func(c *call) (any, error) {
		v, err := c.get("VGPU", c.str(0))
		if err != nil {
			return nil, err
		}
		if vm := c.look("VM", v.str("VM")); vm != nil && vm.str("power_state") == "Running" {
			return nil, fail("OPERATION_NOT_ALLOWED", "vGPU currently attached to a running VM")
		}
		vm := c.look("VM", v.str("VM"))
		c.remove(v)
		if vm != nil {
			c.refresh(vm)
		}
		return nil, nil
	},
	"PCI.disable_dom0_access":     func(c *call) (any, error) { return c.dom0Access("PCI", true) },
	"PCI.enable_dom0_access":      func(c *call) (any, error) { return c.dom0Access("PCI", false) },
	"PCI.get_dom0_access_status":  func(c *call) (any, error) { _, err := c.get("PCI", c.str(0)); return c.accessOf(c.str(0)), err },
	"PGPU.disable_dom0_access":    func(c *call) (any, error) { return c.dom0Access("PGPU", true) },
	"PGPU.enable_dom0_access":     func(c *call) (any, error) { return c.dom0Access("PGPU", false) },
	"PGPU.get_remaining_capacity": func(c *call) (any, error) { return c.capacityOf("PGPU") },
	"PGPU.set_GPU_group": func(c *call) (any, error) {
		p, err := c.get("PGPU", c.str(0))
		if err != nil {
			return nil, err
		}
		g, err := c.get("GPU_group", c.str(1))
		if err != nil {
			return nil, err
		}
		if vs := p.refs("resident_VGPUs"); len(vs) > 0 {
			return nil, fail("PGPU_IN_USE_BY_VM", c.look("VGPU", vs[0]).str("VM"))
		}
		pci := c.look("PCI", p.str("PCI"))
		kind := pci.str("vendor_id") + "/" + pci.str("device_id")
		if have := g.refs("GPU_types"); len(have) > 0 && !slices.Contains(have, kind) {
			return nil, fail("PGPU_NOT_COMPATIBLE_WITH_GPU_GROUP", kind, strings.Join(have, ", "))
		}
		old := c.look("GPU_group", p.str("GPU_group"))
		c.set(p, "GPU_group", g.ref)
		c.set(g, "GPU_types", []any{kind})
		c.updateGroup(g)
		c.updateGroup(old)
		return nil, nil
	},
	"PGPU.set_enabled_VGPU_types": func(c *call) (any, error) { return c.enableTypes(c.strs(1)...) },
	"PGPU.add_enabled_VGPU_types": func(c *call) (any, error) { return c.enableTypes(append(c.enabledTypes(), c.str(1))...) },
	"PGPU.remove_enabled_VGPU_types": func(c *call) (any, error) {
		return c.enableTypes(slices.DeleteFunc(c.enabledTypes(), func(t string) bool { return t == c.str(1) })...)
	},
	"GPU_group.create": func(c *call) (any, error) {
		f := map[string]any{"name_label": c.str(0), "name_description": c.str(1), "allocation_algorithm": "depth_first"}
		if m := c.dict(2); m != nil {
			f["other_config"] = m
		}
		return c.newObject("GPU_group", f).ref, nil
	},
	"GPU_group.destroy": func(c *call) (any, error) {
		g, err := c.get("GPU_group", c.str(0))
		if err != nil {
			return nil, err
		}
		if v := g.refs("VGPUs"); len(v) > 0 {
			return nil, fail("GPU_GROUP_CONTAINS_VGPU", v...)
		}
		if p := g.refs("PGPUs"); len(p) > 0 {
			return nil, fail("GPU_GROUP_CONTAINS_PGPU", p...)
		}
		c.remove(g)
		return nil, nil
	},
	"GPU_group.get_remaining_capacity": func(c *call) (any, error) { return c.capacityOf("GPU_group") },
	"network_sriov.create":             createSRIOV,
	"network_sriov.destroy": func(c *call) (any, error) {
		n, err := c.get("network_sriov", c.str(0))
		if err != nil {
			return nil, err
		}
		pif := c.look("PIF", n.str("logical_PIF"))
		c.remove(n)
		if pif != nil {
			c.remove(pif)
		}
		return nil, nil
	},
	"network_sriov.get_remaining_capacity": func(c *call) (any, error) {
		n, err := c.get("network_sriov", c.str(0))
		if err != nil {
			return nil, err
		}
		return c.sriovLeft(n), nil
	},
}

func createVGPU(c *call) (any, error) { // VM, GPU_group, device, other_config, type
	vm, err := c.get("VM", c.str(0))
	if err != nil {
		return nil, err
	}
	// The power state comes first, and nobody looks for the group (a xapi 24.11).
	if s := vm.str("power_state"); s != "Halted" && !vm.is("is_a_snapshot") {
		return nil, fail("VM_BAD_POWER_STATE", vm.ref, "halted", strings.ToLower(s))
	}
	if c.restricted("gpu") {
		return nil, fail("FEATURE_RESTRICTED")
	}
	kind := c.str(4)
	if kind == "" || kind == nullRef {
		kind = c.vgpuType("", "passthrough", "passthrough", gpuProfile{multiPerVM: true}).ref
	}
	if c.look("VGPU_type", kind) == nil {
		return nil, fail("INVALID_VALUE", "type", kind)
	}
	used := map[int64]bool{}
	for _, r := range vm.refs("VGPUs") {
		v := c.look("VGPU", r)
		if !slices.Contains(c.look("VGPU_type", v.str("type")).refs("compatible_types_in_vm"), kind) {
			return nil, fail("VGPU_TYPE_NOT_COMPATIBLE", kind)
		}
		used[atoi(v.str("device"))] = true
	}
	device := c.str(2)
	if device == "" {
		device = "0"
	}
	n := atoi(device)
	switch {
	case n == 0:
		for used[n] && n <= 20 {
			n++
		}
		if n > 20 {
			return nil, fail("VM_PCI_BUS_FULL", vm.ref)
		}
	case used[n]:
		return nil, fail("DEVICE_ALREADY_EXISTS", device)
	case n < 0 || n > 20:
		return nil, fail("INVALID_DEVICE", device)
	}
	f := map[string]any{"VM": vm.ref, "GPU_group": c.str(1), "device": itoa(n), "type": kind}
	if m := c.dict(3); m != nil {
		f["other_config"] = m
	}
	v := c.newObject("VGPU", f)
	c.refresh(vm)
	return v.ref, nil
}

// remaining returns how many more of a type fit on a GPU, or why none does (get_remaining_capacity_internal).
func (s *Sim) remaining(p *object, kind string, planned map[string]string) (int64, error) {
	if !slices.Contains(p.refs("supported_VGPU_types"), kind) {
		return 0, fail("VGPU_TYPE_NOT_SUPPORTED", append([]string{kind}, p.refs("supported_VGPU_types")...)...)
	}
	if !slices.Contains(p.refs("enabled_VGPU_types"), kind) {
		return 0, fail("VGPU_TYPE_NOT_ENABLED", append([]string{kind}, p.refs("enabled_VGPU_types")...)...)
	}
	var on []string // types that are or will be here
	for _, v := range s.all("VGPU") {
		if v.str("resident_on") == p.ref || v.str("scheduled_to_be_resident_on") == p.ref {
			on = append(on, v.str("type"))
		}
	}
	for v, where := range planned {
		if where == p.ref {
			on = append(on, s.look("VGPU", v).str("type"))
		}
	}
	for _, t := range on {
		if t != kind { // types don't mix on a GPU
			return 0, fail("VGPU_TYPE_NOT_COMPATIBLE_WITH_RUNNING_TYPE", p.ref, kind, t)
		}
	}
	most, _ := p.dict("supported_VGPU_max_capacities")[kind].(int64)
	if s.look("VGPU_type", kind).str("implementation") == "passthrough" {
		if s.gpu.users[p.str("PCI")] != "" || (p.is("is_system_display_device") && s.accessOf(p.str("PCI")) != "disabled") {
			most = 0
		}
	}
	if most -= int64(len(on)); most <= 0 {
		return 0, fail("PGPU_INSUFFICIENT_CAPACITY_FOR_VGPU", p.ref, kind)
	}
	return most, nil
}

func (c *call) capacityOf(class string) (any, error) {
	o, err := c.get(class, c.str(0))
	if err != nil {
		return nil, err
	}
	if _, err := c.get("VGPU_type", c.str(1)); err != nil {
		return nil, err
	}
	gpus := []string{o.ref}
	if class == "GPU_group" {
		gpus = o.refs("PGPUs")
	}
	sum := int64(0)
	for _, r := range gpus {
		n, _ := c.remaining(c.look("PGPU", r), c.str(1), nil)
		sum += n
	}
	return sum, nil
}

// placeGPUs finds a GPU on the host for each vGPU of the VM that has none yet.
func (s *Sim) placeGPUs(vm, h *object) (map[string]string, error) {
	planned := map[string]string{}
	for _, r := range vm.refs("VGPUs") {
		v := s.look("VGPU", r)
		if on := s.look("PGPU", v.str("scheduled_to_be_resident_on")); on != nil && on.str("host") == h.ref {
			continue
		}
		t := s.look("VGPU_type", v.str("type"))
		group := s.look("GPU_group", v.str("GPU_group"))
		type fit struct {
			pgpu *object
			left int64
		}
		var fits []fit
		for _, g := range group.refs("PGPUs") {
			if p := s.look("PGPU", g); p.str("host") == h.ref {
				if n, err := s.remaining(p, t.ref, planned); err == nil {
					fits = append(fits, fit{p, n})
				}
			}
		}
		if len(fits) == 0 {
			if t.str("implementation") == "passthrough" {
				return nil, fail("VM_REQUIRES_GPU", vm.ref, group.ref)
			}
			return nil, fail("VM_REQUIRES_VGPU", vm.ref, group.ref, t.ref)
		}
		slices.SortStableFunc(fits, func(a, b fit) int {
			if group.str("allocation_algorithm") == "breadth_first" {
				return cmp.Compare(b.left, a.left)
			}
			return cmp.Compare(a.left, b.left)
		})
		planned[r] = fits[0].pgpu.ref
	}
	return planned, nil
}

// canHaveGPUs checks the IOMMU that passed-through devices need, and room for each vGPU.
func (s *Sim) canHaveGPUs(vm, h *object) error {
	for _, r := range vm.refs("VGPUs") {
		kind := s.look("VGPU_type", s.look("VGPU", r).str("type")).str("implementation")
		if kind != "nvidia" && kind != "gvt_g" && h.entry("chipset_info", "iommu") != "true" {
			return fail("VM_REQUIRES_IOMMU", h.ref)
		}
	}
	if vm.str("resident_on") == h.ref {
		return nil
	}
	_, err := s.placeGPUs(vm, h)
	return err
}

// reserveGPUs schedules the vGPUs on the host's GPUs (create_vgpus).
func (s *Sim) reserveGPUs(vm, h *object) error {
	if len(vm.refs("VGPUs")) == 0 {
		return nil
	}
	if vm.str("domain_type") == "pv" {
		return fail("FEATURE_REQUIRES_HVM", "vGPU- and GPU-passthrough needs HVM")
	}
	for _, r := range vm.refs("VGPUs") {
		if s.look("VGPU_type", s.look("VGPU", r).str("type")).str("implementation") != "passthrough" {
			if err := s.licensed("vgpu"); err != nil {
				return err
			}
		}
	}
	planned, err := s.placeGPUs(vm, h)
	if err != nil {
		return err
	}
	for v, p := range planned {
		s.set(s.look("VGPU", v), "scheduled_to_be_resident_on", p)
	}
	return nil
}

// bindGPUs gives a starting VM its vGPUs and the devices of other_config:pci.
func (s *Sim) bindGPUs(vm, h *object) {
	attached := vm.refs("attached_PCIs")
	take := func(pci string) {
		s.gpu.users[pci] = vm.ref
		if !slices.Contains(attached, pci) {
			attached = append(attached, pci)
		}
	}
	for _, r := range vm.refs("VGPUs") {
		v := s.look("VGPU", r)
		p := s.look("PGPU", v.str("scheduled_to_be_resident_on"))
		if p == nil {
			continue
		}
		s.set(v, "resident_on", p.ref)
		s.set(v, "scheduled_to_be_resident_on", nullRef)
		s.set(v, "currently_attached", true)
		s.set(v, "compatibility_metadata", p.val("compatibility_metadata"))
		switch s.look("VGPU_type", v.str("type")).str("implementation") {
		case "passthrough":
			s.set(v, "PCI", p.str("PCI"))
			take(p.str("PCI"))
		case "nvidia_sriov", "mxgpu":
			for _, vf := range s.gpu.vfs[p.str("PCI")] {
				if s.gpu.users[vf] == "" {
					s.set(v, "PCI", vf)
					take(vf)
					break
				}
			}
		}
	}
	for _, o := range s.wantedPCIs(vm, h) {
		if o != nil {
			take(o.ref)
		}
	}
	if len(attached) != len(vm.refs("attached_PCIs")) {
		s.set(vm, "attached_PCIs", anys(attached))
	}
}

func (s *Sim) unbindGPUs(vm *object) {
	for _, r := range vm.refs("VGPUs") {
		v := s.look("VGPU", r)
		s.set(v, "resident_on", nullRef)
		s.set(v, "PCI", nullRef)
		s.set(v, "currently_attached", false)
	}
	if pcis := vm.refs("attached_PCIs"); len(pcis) > 0 {
		for _, p := range pcis {
			delete(s.gpu.users, p)
		}
		s.set(vm, "attached_PCIs", emptySet)
	}
}

// movableVGPU reports whether a vGPU is NVIDIA's, on a GPU that has compatibility metadata.
func (s *Sim) movableVGPU(ref string) bool {
	v := s.look("VGPU", ref)
	kind := s.look("VGPU_type", v.str("type")).str("implementation")
	p := s.look("PGPU", v.str("resident_on"))
	return strings.HasPrefix(kind, "nvidia") && p != nil && p.entry("compatibility_metadata", "nvidia") != ""
}
