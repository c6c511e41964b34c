//go:build cgo

package libxl

import (
	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// readFacts is libvirtx.ReadFacts with the differences of Xen.
func readFacts(c *libvirt.Connect) (*libvirtx.Facts, error) {
	f, err := libvirtx.ReadFacts(c)
	if err != nil {
		return nil, err
	}
	// Xen offers hvm guests only on a CPU with VT-x or AMD-V, whatever flags
	// the control domain sees.
	f.CPU.Virtualization = hypervisor.FactOf(f.Arch != "")
	if f.Arch == "" {
		f.Arch = "x86_64"
	}
	// libvirt asks the control domain's kernel, which Xen shows no IOMMU. No
	// libvirt call reports that of Xen itself. The same applies to nested
	// paging.
	f.IOMMU, f.CPU.NestedPaging, f.CPU.APICVirtualization = hypervisor.FactUnknown, hypervisor.FactUnknown, hypervisor.FactUnknown
	f.ControlDomains = 1
	return f, nil
}
