//go:build cgo

package libvirtx

import (
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// PowerState maps virDomainState. Blocked, shutting down and pm-suspended
// machines hold RAM and may continue by themselves: they are Running.
func PowerState(s libvirt.DomainState) hypervisor.PowerState {
	switch s {
	case libvirt.DOMAIN_RUNNING, libvirt.DOMAIN_BLOCKED, libvirt.DOMAIN_SHUTDOWN, libvirt.DOMAIN_PMSUSPENDED:
		return hypervisor.StateRunning
	case libvirt.DOMAIN_PAUSED:
		return hypervisor.StatePaused
	case libvirt.DOMAIN_SHUTOFF, libvirt.DOMAIN_CRASHED:
		return hypervisor.StateOff
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
	if p == hypervisor.StateOff {
		if saved, err := dom.HasManagedSaveImage(0); err == nil && saved {
			return hypervisor.StateSuspended, nil
		}
	}
	return p, nil
}

// Filter returns the UUIDs of the domains that match a filter.
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

// Boot starts a domain. For everything that libxl refuses, libvirt's Xen
// driver reports "failed to create new domain". Boot distinguishes a host
// without enough memory.
func Boot(c *libvirt.Connect, dom *libvirt.Domain, x *libvirtxml.Domain) error {
	err := dom.Create()
	if err == nil || !strings.Contains(err.Error(), "libxenlight failed to create new domain") {
		return err
	}
	free, ferr := FreeMemory(c)
	if need := uint64(CurrentKiB(x)) << 10; ferr == nil && free < need {
		return hypervisor.Errorf(hypervisor.ErrExhausted, hypervisor.VMID(x.UUID).Ref(), "the machine needs %d MiB of memory, its host has %d MiB free: %w", need>>20, free>>20, err)
	}
	return err
}
