//go:build cgo

package xen

import (
	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/libxl"
)

// NewLibxl makes a Client of connections to libvirt's libxl driver that the
// caller goes on owning: they are not closed, and not dialled again when they
// break.
func NewLibxl(conns ...*libvirt.Connect) (*hypervisor.Client, error) { return libxl.New(conns...) }
