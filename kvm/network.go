//go:build cgo

package kvm

import (
	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// userNetwork is the one network besides libvirt's: QEMU's own NAT, which
// needs no set-up. Bridges are not listed, because libvirt knows them only
// where it was built with netcf or udev.
func userNetwork(_ *libvirt.Connect, host hypervisor.HostID) ([]hypervisor.NetworkInfo, error) {
	return []hypervisor.NetworkInfo{{ID: fleet.UserNetwork, Name: "user", Type: "user", Hosts: []hypervisor.HostID{host}}}, nil
}
