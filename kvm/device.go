//go:build cgo

package kvm

import (
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// passthrough reports whether a machine has a host's device.
func passthrough(x *libvirtxml.Domain) bool { return len(attached("", x)) > 0 }

// attached lists the host devices in a definition.
func attached(host hypervisor.HostID, x *libvirtxml.Domain) []hypervisor.AttachedDevice { return nil }
