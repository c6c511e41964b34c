package xapisim

import "slices"

// accessOf tells whether dom0 has a device (determine_dom0_access_status).
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

// applyDom0Access is what a reboot of the host does to it.
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

// enableTypes sets the types that a GPU may have; one that is in use can't go.
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

// sriovVFs is how many virtual functions an SR-IOV network port has.
const sriovVFs = 8

// buildSRIOV gives a host a port with virtual functions.
func (s *Sim) buildSRIOV(h *object) {
	pci := s.newPCI(h, "0000:05:00.0", "0200", "Ethernet controller", "8086", "Intel Corporation", "1572", "Ethernet Controller X710 for 10GbE SFP+", "")
	const label = "SR-IOV capable network"
	var net *object
	for _, n := range s.all("network") {
		if n.str("name_label") == label {
			net = n
		}
	}
	if net == nil {
		net = s.newObject("network", map[string]any{"name_label": label, "bridge": "xenbr9", "MTU": int64(1500), "managed": true})
	}
	pm := s.newObject("PIF_metrics", map[string]any{"carrier": true, "vendor_name": "Intel Corporation", "device_name": "X710", "speed": int64(10000), "duplex": true})
	s.newObject("PIF", map[string]any{
		"device": "eth9", "network": net.ref, "host": h.ref, "MAC": randomMAC(), "MTU": int64(1500), "VLAN": int64(-1), "metrics": pm.ref, "physical": true,
		"currently_attached": true, "managed": true, "capabilities": []any{"sriov"}, "PCI": pci.ref,
	})
}

func createSRIOV(c *call) (any, error) {
	pif, err := c.get("PIF", c.str(0))
	if err != nil {
		return nil, err
	}
	n, err := c.get("network", c.str(1))
	if err != nil {
		return nil, err
	}
	if err := c.licensed("network_sriov"); err != nil {
		return nil, err
	}
	if !slices.Contains(pif.refs("capabilities"), "sriov") {
		return nil, fail("PIF_IS_NOT_SRIOV_CAPABLE", pif.ref)
	}
	if len(pif.refs("sriov_physical_PIF_of")) > 0 {
		return nil, fail("NETWORK_SRIOV_ALREADY_ENABLED", pif.ref)
	}
	for _, r := range n.refs("PIFs") {
		o := c.look("PIF", r)
		if o.str("host") == pif.str("host") {
			return nil, fail("NETWORK_ALREADY_CONNECTED", pif.str("host"), r)
		}
		if len(o.refs("sriov_logical_PIF_of")) == 0 {
			return nil, fail("NETWORK_IS_NOT_SRIOV_COMPATIBLE", n.ref)
		}
	}
	logical := c.newObject("PIF", map[string]any{
		"device": pif.str("device"), "network": n.ref, "host": pif.str("host"), "MAC": pif.str("MAC"), "MTU": int64(1500), "VLAN": int64(-1),
		"currently_attached": true, "managed": true, "PCI": pif.str("PCI"),
	})
	return c.newObject("network_sriov", map[string]any{
		"physical_PIF": pif.ref, "logical_PIF": logical.ref, "configuration_mode": "sysfs",
	}).ref, nil
}

// sriovLeft counts the virtual functions that no running machine on the host has.
func (s *Sim) sriovLeft(n *object) int64 {
	pif := s.look("PIF", n.str("logical_PIF"))
	left := int64(sriovVFs)
	for _, r := range s.look("network", pif.str("network")).refs("VIFs") {
		vif := s.look("VIF", r)
		if vm := s.look("VM", vif.str("VM")); vif.is("currently_attached") && vm.str("resident_on") == pif.str("host") {
			left--
		}
	}
	return left
}

// checkSRIOV refuses a host whose virtual functions on a network of the VM are used up.
func (s *Sim) checkSRIOV(vm, h *object) error {
	for _, r := range vm.refs("VIFs") {
		net := s.look("network", s.look("VIF", r).str("network"))
		for _, p := range net.refs("PIFs") {
			pif := s.look("PIF", p)
			if of := pif.refs("sriov_logical_PIF_of"); pif.str("host") == h.ref && len(of) > 0 && s.sriovLeft(s.look("network_sriov", of[0])) <= 0 {
				return fail("NETWORK_SRIOV_INSUFFICIENT_CAPACITY", net.ref)
			}
		}
	}
	return nil
}
