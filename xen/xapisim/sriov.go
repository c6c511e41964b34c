package xapisim

import "slices"

// Networks of virtual functions follow xen-api's ocaml/xapi/xapi_network_sriov.ml.

// sriovVFs is the number of virtual functions of an SR-IOV network port.
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

// isSRIOV reports whether a network's VIFs get virtual functions.
func (s *Sim) isSRIOV(n *object) bool {
	return slices.ContainsFunc(n.refs("PIFs"), func(p string) bool { return len(s.look("PIF", p).refs("sriov_logical_PIF_of")) > 0 })
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
