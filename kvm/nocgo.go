//go:build !cgo

package kvm

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// open returns the error that explains why this program has no driver.
func open(context.Context, Config) (hypervisor.Driver, error) {
	return nil, hypervisor.Unsupported(hypervisor.Ref{Kind: hypervisor.ObjectClient}, capability.VMCreate, hypervisor.ReasonBuild,
		"this program was built without cgo, which libvirt's client library needs: build it with CGO_ENABLED=1 and libvirt's headers (Debian: libvirt-dev, pkg-config)")
}
