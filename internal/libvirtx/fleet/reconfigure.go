//go:build cgo

package fleet

import (
	"context"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Change reconfigures a machine. change is called with the machine's state,
// if its hardware may change and its host could run it afterwards.
func (f *Fleet) Change(ctx context.Context, id hypervisor.VMID, ch hypervisor.Changes,
	change func(h *Host, c *libvirt.Connect, dom *libvirt.Domain, facts *libvirtx.Facts, s hypervisor.PowerState) error) (hypervisor.DriverTask, error) {
	if ch.Name != "" {
		if err := libvirtx.CheckName("new name", ch.Name, id.Ref()); err != nil {
			return nil, err
		}
	}
	want := hypervisor.VMSpec{CPUs: ch.CPUs, MaxCPUs: ch.MaxCPUs, MemoryBytes: ch.MemoryBytes, MaxMemoryBytes: ch.MaxMemoryBytes}
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
		// The values are absolute, so that changes made twice are the same as once.
		return h.Again(ctx, func(bool) error {
			_, err := OnHost(context.WithoutCancel(ctx), h, id, 6, func(_ *Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
				s, err := Changeable(dom, id)
				if err != nil {
					return struct{}{}, err
				}
				if err := f.fits(facts, id.Ref(), want); err != nil {
					return struct{}{}, err
				}
				return struct{}{}, change(h, c, dom, facts, s)
			})
			return err
		})
	})
}

// ApplyMemory writes the changes of the memory's range and size into a
// definition. resize sets a size within the range.
func ApplyMemory(x *libvirtxml.Domain, m *libvirtx.Mark, ch hypervisor.Changes, on hypervisor.Ref, resize func(x *libvirtxml.Domain, kib int64)) error {
	now := libvirtx.CurrentKiB(x)
	if ch.MemoryBytes > 0 {
		now = ch.MemoryBytes >> 10
	}
	switch r := ch.DynamicMemory; {
	case r != nil && *r == (hypervisor.MemoryRange{}):
		m.MinKiB = 0
		libvirtx.SetMemory(x, uint64(now), uint64(now))
	case r != nil:
		if now<<10 < r.MinBytes || now<<10 > r.MaxBytes {
			return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "the machine's memory of %d bytes is outside DynamicMemory %d to %d", now<<10, r.MinBytes, r.MaxBytes)
		}
		m.MinKiB = uint64(r.MinBytes >> 10)
		libvirtx.SetMemory(x, uint64(r.MaxBytes>>10), uint64(now))
	case ch.MemoryBytes > 0:
		if m.MinKiB > 0 && (now < int64(m.MinKiB) || now > libvirtx.MemoryKiB(x)) {
			return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "MemoryBytes %d is outside the machine's range of %d to %d KiB: change DynamicMemory too", ch.MemoryBytes, m.MinKiB, libvirtx.MemoryKiB(x))
		}
		resize(x, now)
	}
	return nil
}
