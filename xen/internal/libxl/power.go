//go:build cgo

package libxl

import (
	"fmt"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

func suspend(dom *libvirt.Domain, id hypervisor.VMID, s hypervisor.PowerState) error {
	if s == hypervisor.StatePaused {
		return hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s: the guest takes part in saving its RAM: resume it first", s)
	}
	return dom.ManagedSave(0)
}

// reset is composed: libvirt's Xen driver has no such call.
func reset(c *libvirt.Connect, dom *libvirt.Domain, x *libvirtxml.Domain) error {
	if persistent, err := dom.IsPersistent(); err != nil || !persistent {
		return hypervisor.Unsupported(hypervisor.VMID(x.UUID).Ref(), capability.PowerReset, hypervisor.ReasonConfig, "the domain is transient: destroyed, it would be gone")
	}
	if err := dom.Destroy(); err != nil {
		return err
	}
	if err := libvirtx.Boot(c, dom, x); err != nil {
		return fmt.Errorf("the machine was powered off and could not be started again: %w", err)
	}
	return nil
}

func reboot(dom *libvirt.Domain, _ *libvirtxml.Domain) error {
	return dom.Reboot(libvirt.DOMAIN_REBOOT_DEFAULT)
}

// shutdown asks the guest through Xen's own channel, or presses the ACPI
// button if the guest does not listen there.
func shutdown(dom *libvirt.Domain, _ *libvirtxml.Domain) error {
	return dom.ShutdownFlags(libvirt.DOMAIN_SHUTDOWN_DEFAULT)
}
