//go:build cgo

package libxl

import (
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// bridges lists the bridges that libvirt's own networks did not make. libvirt
// (9.0, built with udev) fails to describe a bridge while an adapter of a
// machine is on it, because it mistakes "vif1.0" for a VLAN's name. The
// running machines' definitions then show that it is a bridge.
func bridges(c *libvirt.Connect, host hypervisor.HostID) ([]hypervisor.NetworkInfo, error) {
	all, err := c.ListAllInterfaces(libvirt.CONNECT_LIST_INTERFACES_ACTIVE)
	if err != nil {
		return nil, nil // a libvirt without interface driver
	}
	defer func() {
		for i := range all {
			_ = all[i].Free() // a local reference
		}
	}()
	var out []hypervisor.NetworkInfo
	var used map[string]bool
	for i := range all {
		name, err := all[i].GetName() // local
		if err != nil {
			return nil, err
		}
		doc, err := all[i].GetXMLDesc(0)
		var x libvirtxml.Interface
		bridge := err == nil && x.Unmarshal(doc) == nil && x.Bridge != nil
		if err != nil {
			if used == nil {
				if used, err = usedBridges(c); err != nil {
					return nil, err
				}
			}
			bridge = used[name]
		}
		if bridge && !strings.HasPrefix(name, "virbr") {
			out = append(out, hypervisor.NetworkInfo{ID: hypervisor.NetworkID(fleet.HostBridge + name), Name: name, Type: "bridge", Hosts: []hypervisor.HostID{host}})
		}
	}
	return out, nil
}

// usedBridges names the bridges that running machines are on.
func usedBridges(c *libvirt.Connect) (map[string]bool, error) {
	all, err := c.ListAllDomains(libvirt.CONNECT_LIST_DOMAINS_ACTIVE)
	if err != nil {
		return nil, err
	}
	defer func() {
		for i := range all {
			_ = all[i].Free() // a local reference
		}
	}()
	out := map[string]bool{}
	for i := range all {
		x, _, err := libvirtx.Parse(&all[i], 0)
		if libvirtx.NotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for n := range x.Devices.Interfaces {
			if s := x.Devices.Interfaces[n].Source; s != nil && s.Bridge != nil {
				out[s.Bridge.Bridge] = true
			}
		}
	}
	return out, nil
}
