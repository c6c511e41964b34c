//go:build cgo

package libvirtx

import (
	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// PowerState maps virDomainState. Blocked, shutting down and pm-suspended
// machines hold RAM and may run on by themselves: they are Running.
func PowerState(s libvirt.DomainState) hypervisor.PowerState {
	switch s {
	case libvirt.DOMAIN_RUNNING, libvirt.DOMAIN_BLOCKED, libvirt.DOMAIN_SHUTDOWN, libvirt.DOMAIN_PMSUSPENDED:
		return hypervisor.Running
	case libvirt.DOMAIN_PAUSED:
		return hypervisor.Paused
	case libvirt.DOMAIN_SHUTOFF, libvirt.DOMAIN_CRASHED:
		return hypervisor.Off
	}
	return hypervisor.StateUnknown
}

// State reads a machine's power state.
func State(dom *libvirt.Domain) (hypervisor.PowerState, error) {
	s, _, err := dom.GetState()
	if err != nil {
		return hypervisor.StateUnknown, err
	}
	p := PowerState(s)
	if p == hypervisor.Off {
		if saved, err := dom.HasManagedSaveImage(0); err == nil && saved {
			return hypervisor.Suspended, nil
		}
	}
	return p, nil
}

// Filter returns the UUIDs of the domains that a filter lets pass.
func Filter(c *libvirt.Connect, f libvirt.ConnectListAllDomainsFlags) (map[string]bool, error) {
	all, err := c.ListAllDomains(f)
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(all))
	for i := range all {
		id, err := all[i].GetUUIDString()
		if err != nil {
			return nil, err
		}
		out[id] = true
		_ = all[i].Free() // a local reference
	}
	return out, nil
}
