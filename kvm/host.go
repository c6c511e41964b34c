//go:build cgo

package kvm

import (
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// sysfs returns a host's files, or nil if they can't be reached.
func (d *driver) sysfs(h *fleet.Host) Sysfs { return d.files[h] }

// domainType returns the domain type of new machines.
func (d *driver) domainType(f *libvirtx.Facts) string {
	if d.cfg.DomainType != "" {
		return d.cfg.DomainType
	}
	if f.KVM {
		return "kvm"
	}
	return "qemu"
}
