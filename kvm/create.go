//go:build cgo

package kvm

import (
	"context"
	"slices"

	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// CreateVM implements hypervisor.Lifecycle.
func (d *driver) CreateVM(ctx context.Context, s hypervisor.VMSpec) (hypervisor.DriverTask, error) {
	return d.Create(ctx, s, func(at fleet.Site, uuid string, mark libvirtx.Mark) (*libvirtxml.Domain, error) {
		return d.newDomain(at.Facts, s, uuid, mark)
	})
}

// fits refuses a machine that QEMU on the host could never run.
func fits(f *libvirtx.Facts, on hypervisor.Ref, s hypervisor.VMSpec) error {
	if s.MaxMemoryBytes > 1<<46 || s.DynamicMemory != nil && s.DynamicMemory.MaxBytes > 1<<46 {
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "more than 64 TiB of memory is beyond what x86 addresses hold")
	}
	if (s.Firmware == hypervisor.FirmwareUEFI || s.SecureBoot) && !slices.Contains(f.Firmware, "efi") {
		return hypervisor.Unsupported(on, capability.VMCreate, hypervisor.ReasonConfig, "host "+f.Name+" has no UEFI firmware: install OVMF (Debian: ovmf)")
	}
	return nil
}
