//go:build cgo

package fleet

import (
	"context"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// SetLabels implements hypervisor.Labeler.
func (f *Fleet) SetLabels(ctx context.Context, id hypervisor.VMID, labels map[string]string) error {
	_, err := OnDomain(ctx, f, id, 4, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		_, m, err := libvirtx.Inactive(dom)
		if err != nil {
			return struct{}{}, err
		}
		m.SetLabels(labels)
		return struct{}{}, libvirtx.MarkDomain(dom, m)
	})
	return err
}
