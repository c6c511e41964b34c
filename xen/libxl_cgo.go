//go:build cgo

package xen

import (
	"context"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/libxl"
)

// NewLibxl makes a Client from connections to libvirt's libxl driver that the
// caller still owns: they are not closed, and not dialled again when they
// break. Options.Credentials are therefore refused.
func NewLibxl(ctx context.Context, conns []*libvirt.Connect, o *hypervisor.Options) (*hypervisor.Client, error) {
	return libxl.New(ctx, conns, o)
}
