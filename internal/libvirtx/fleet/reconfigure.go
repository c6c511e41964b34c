//go:build cgo

package fleet

import (
	"context"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Change reconfigures a machine. change is called for one whose hardware may
// change and whose host could run it afterwards, with its state.
func (f *Fleet) Change(ctx context.Context, id hypervisor.VMID, ch hypervisor.Changes,
	change func(c *libvirt.Connect, dom *libvirt.Domain, facts *libvirtx.Facts, s hypervisor.PowerState) error) (hypervisor.DriverTask, error) {
	if ch.Name != "" {
		if err := libvirtx.CheckName("new name", ch.Name, id.Ref()); err != nil {
			return nil, err
		}
	}
	want := hypervisor.VMSpec{CPUs: ch.CPUs, MaxCPUs: ch.MaxCPUs, MemoryBytes: ch.MemoryBytes, MaxMemoryBytes: ch.MaxMemory}
	if r := ch.DynamicMemory; r != nil && *r != (hypervisor.MemoryRange{}) {
		want.DynamicMemory = r
	}
	return f.Simple(ctx, "reconfigure", id, ShortWork, func(ctx context.Context) error {
		h, err := f.Locate(ctx, id)
		if err != nil {
			return err
		}
		facts, err := h.Identify(ctx)
		if err != nil {
			return err
		}
		_, err = OnHost(context.WithoutCancel(ctx), h, id, 6, func(_ *Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			s, err := Changeable(dom, id)
			if err != nil {
				return struct{}{}, err
			}
			if err := f.fits(facts, id.Ref(), want); err != nil {
				return struct{}{}, err
			}
			return struct{}{}, change(c, dom, facts, s)
		})
		return err
	})
}
