//go:build !cgo

package libxl

import (
	"context"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// open says why there is no driver in this program.
func open(context.Context, Config) (hypervisor.Driver, error) {
	return nil, hypervisor.Unsupported(hypervisor.Ref{Kind: hypervisor.KindOfClient}, hypervisor.VMCreate, hypervisor.ReasonBuild,
		"this program was built without cgo, which libvirt's client library needs: build it with CGO_ENABLED=1 and libvirt's headers (Debian: libvirt-dev, pkg-config)")
}
