//go:build cgo

package kvm

import (
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// sysfs returns a host's files, nil if there is no way to them.
func (d *driver) sysfs(h *fleet.Host) Sysfs { return d.files[h] }

// domainType is what new machines are.
func (d *driver) domainType(f *libvirtx.Facts) string {
	if d.cfg.DomainType != "" {
		return d.cfg.DomainType
	}
	if f.KVM {
		return "kvm"
	}
	return "qemu"
}
