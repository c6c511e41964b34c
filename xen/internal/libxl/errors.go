//go:build cgo

package libxl

import (
	"errors"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Texts of libvirt's Xen driver that decide where its code, mostly "internal
// error", says too little.
var texts = []struct {
	text string
	kind hypervisor.Kind
}{
	{"no FLR, PM reset or bus reset available", hypervisor.KindUnsupported},
	{"because libxenlight will suspend it", hypervisor.KindInvalidState},
	{"requested vcpus is greater than max allowable", hypervisor.KindInvalidArgument},
}

// ErrorKind implements hypervisor.Driver.
func (d *driver) ErrorKind(err error) hypervisor.Kind {
	var e libvirt.Error
	if errors.As(err, &e) {
		for _, t := range texts {
			if strings.Contains(e.Message, t.text) {
				return t.kind
			}
		}
	}
	return libvirtx.Kind(err)
}

// boot starts a domain. libvirt says of all that libxl refuses that it "failed
// to create new domain"; a host without the memory for it is told apart.
func boot(c *libvirt.Connect, dom *libvirt.Domain, x *libvirtxml.Domain) error {
	err := dom.Create()
	if err == nil || !strings.Contains(err.Error(), "libxenlight failed to create new domain") {
		return err
	}
	free, ferr := libvirtx.FreeMemory(c)
	if need := uint64(libvirtx.CurrentKiB(x)) << 10; ferr == nil && free < need {
		return hypervisor.Errorf(hypervisor.KindExhausted, hypervisor.VMID(x.UUID).Ref(), "the machine needs %d MiB of memory, its host has %d MiB free: %w", need>>20, free>>20, err)
	}
	return err
}
