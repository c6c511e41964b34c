//go:build cgo

package kvm

import (
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// suspend makes the machine run when it is resumed, even if it is paused now.
func suspend(dom *libvirt.Domain, _ hypervisor.VMID, _ hypervisor.PowerState) error {
	return dom.ManagedSave(libvirt.DOMAIN_SAVE_RUNNING)
}

func reset(_ *libvirt.Connect, dom *libvirt.Domain, _ *libvirtxml.Domain) error { return dom.Reset(0) }

// reboot asks the agent, or presses the ACPI button where there is no agent
// or it fails.
func reboot(dom *libvirt.Domain, x *libvirtxml.Domain) error {
	if agentConnected(x) && dom.Reboot(libvirt.DOMAIN_REBOOT_GUEST_AGENT) == nil {
		return nil
	}
	return dom.Reboot(libvirt.DOMAIN_REBOOT_ACPI_POWER_BTN)
}

// shutdown asks the agent, or presses the ACPI button where there is no agent
// or it fails.
func shutdown(dom *libvirt.Domain, x *libvirtxml.Domain) error {
	if agentConnected(x) && dom.ShutdownFlags(libvirt.DOMAIN_SHUTDOWN_GUEST_AGENT) == nil {
		return nil
	}
	return dom.ShutdownFlags(libvirt.DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
}
