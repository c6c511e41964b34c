package xapisim

import (
	"slices"
	"strings"
)

// PCI devices and their users: dom0 or a VM.

// accessOf returns whether dom0 has a device (determine_dom0_access_status).
func (s *Sim) accessOf(pci string) string {
	switch now, next := s.gpu.hidden[pci], s.gpu.hide[pci]; {
	case now && next:
		return "disabled"
	case next:
		return "disable_on_reboot"
	case now:
		return "enable_on_reboot"
	}
	return "enabled"
}

// dom0Access hides a device from dom0 or gives it back, from the host's next boot on.
func (c *call) dom0Access(class string, hide bool) (any, error) {
	o, err := c.get(class, c.str(0))
	if err != nil {
		return nil, err
	}
	pci := o
	if class == "PGPU" {
		if hide && c.restricted("integrated_gpu_passthrough") {
			return nil, fail("FEATURE_RESTRICTED")
		}
		pci = c.look("PCI", o.str("PCI"))
	}
	if hide && class == "PCI" && c.gpu.onBoard[pci.str("host")] == pci.ref {
		return nil, fail("BOOT_DEVICE_PASSTHROUGH_DISALLOWED", "/dev/sda1")
	}
	c.gpu.hide[pci.ref] = hide
	c.showAccess(pci.ref)
	return c.accessOf(pci.ref), nil
}

// showAccess keeps PGPU.dom0_access up to date.
func (s *Sim) showAccess(pci string) {
	for _, p := range s.all("PGPU") {
		if p.str("PCI") == pci {
			s.set(p, "dom0_access", s.accessOf(pci))
		}
	}
}

// applyDom0Access applies the change at a reboot of the host.
func (s *Sim) applyDom0Access(h *object) {
	for _, r := range h.refs("PCIs") {
		s.gpu.hidden[r] = s.gpu.hide[r]
		s.showAccess(r)
	}
}

func (c *call) enabledTypes() []string {
	if p := c.look("PGPU", c.str(0)); p != nil {
		return p.refs("enabled_VGPU_types")
	}
	return nil
}

// enableTypes sets the types that a GPU may have. One that is in use can't be removed.
func (c *call) enableTypes(types ...string) (any, error) {
	p, err := c.get("PGPU", c.str(0))
	if err != nil {
		return nil, err
	}
	for _, t := range types {
		if !slices.Contains(p.refs("supported_VGPU_types"), t) {
			return nil, fail("VGPU_TYPE_NOT_SUPPORTED", append([]string{t}, p.refs("supported_VGPU_types")...)...)
		}
	}
	var users []string
	for _, r := range p.refs("resident_VGPUs") {
		if v := c.look("VGPU", r); !slices.Contains(types, v.str("type")) {
			users = append(users, v.str("VM"))
		}
	}
	if len(users) > 0 {
		return nil, fail("PGPU_IN_USE_BY_VM", users...)
	}
	for _, t := range c.all("VGPU_type") {
		on := slices.DeleteFunc(t.refs("enabled_on_PGPUs"), func(r string) bool { return r == p.ref })
		if slices.Contains(types, t.ref) {
			on = append(on, p.ref)
		}
		if !slices.Equal(on, t.refs("enabled_on_PGPUs")) {
			c.set(t, "enabled_on_PGPUs", anys(on))
		}
	}
	c.set(p, "enabled_VGPU_types", anys(types))
	if g := c.look("GPU_group", p.str("GPU_group")); g != nil {
		c.updateGroup(g)
	}
	return nil, nil
}

// updateGroup sums up what a group's GPUs support.
func (s *Sim) updateGroup(g *object) {
	if g == nil {
		return
	}
	for _, f := range []struct{ field, back string }{
		{"supported_VGPU_types", "supported_on_GPU_groups"}, {"enabled_VGPU_types", "enabled_on_GPU_groups"},
	} {
		var types []string
		for _, r := range g.refs("PGPUs") {
			for _, t := range s.look("PGPU", r).refs(f.field) {
				if !slices.Contains(types, t) {
					types = append(types, t)
				}
			}
		}
		s.set(g, f.field, anys(types))
		for _, t := range s.all("VGPU_type") {
			on := slices.DeleteFunc(t.refs(f.back), func(r string) bool { return r == g.ref })
			if slices.Contains(types, t.ref) {
				on = append(on, g.ref)
			}
			if !slices.Equal(on, t.refs(f.back)) {
				s.set(t, f.back, anys(on))
			}
		}
	}
}

// wantedPCIs reads other_config:pci, "0/0000:00:03.0,0/…"; a device that the host lacks is nil.
func (s *Sim) wantedPCIs(vm, h *object) []*object {
	var out []*object
	for part := range strings.SplitSeq(vm.entry("other_config", "pci"), ",") {
		_, at, ok := strings.Cut(part, "/")
		if !ok {
			continue
		}
		var found *object
		for _, r := range h.refs("PCIs") {
			if o := s.look("PCI", r); o.str("pci_id") == at {
				found = o
			}
		}
		out = append(out, found)
	}
	return out
}

// checkPCIs refuses a start with a device that is missing or taken; the code is what xenopsd's failures become (believed).
func (s *Sim) checkPCIs(vm, h *object) error {
	for _, o := range s.wantedPCIs(vm, h) {
		if o == nil {
			return fail("INTERNAL_ERROR", "xenopsd internal error: PCI device not found: "+vm.entry("other_config", "pci"))
		}
		if u := s.gpu.users[o.ref]; u != "" && u != vm.ref {
			return fail("INTERNAL_ERROR", "xenopsd internal error: PCI device in use: "+o.str("pci_id"))
		}
	}
	return nil
}

// sriovPCI reports whether a VM's device is the virtual function of an NVIDIA vGPU.
func (s *Sim) sriovPCI(vm *object, pci string) bool {
	return slices.ContainsFunc(vm.refs("VGPUs"), func(r string) bool {
		v := s.look("VGPU", r)
		return v.str("PCI") == pci && s.look("VGPU_type", v.str("type")).str("implementation") == "nvidia_sriov"
	})
}
