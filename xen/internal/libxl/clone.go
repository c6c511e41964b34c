//go:build cgo

package libxl

import (
	"context"
	"slices"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// Clone implements hypervisor.Cloner.
func (d *driver) Clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	switch {
	case r.Mode == hypervisor.CloneModeInstant:
		return nil, refuse(src.Ref(), capability.CloneInstant)
	case r.From != "":
		return nil, refuse(src.Ref(), capability.CloneFromSnapshot)
	case r.Customize != nil:
		return nil, refuse(src.Ref(), capability.CloneCustomize)
	}
	return d.CloneAs(ctx, src, r, planClone)
}

// planClone refuses a source that is not off, gives it overlays for a linked
// clone, and takes from the clone what only one machine can have.
func planClone(k *fleet.Cloning, _ *libvirt.Domain) error {
	if k.State != hypervisor.StateOff {
		return refuse(k.Source.Ref(), capability.CloneRunning)
	}
	if k.Request.Mode == hypervisor.CloneModeLinked && !fleet.IsTemplate(k.Domain, k.Mark) {
		k.Freeze = func(ctx context.Context, c *libvirt.Connect, m *fleet.Making) (func() error, error) {
			return nil, freeze(ctx, c, k, m)
		}
	}
	for _, a := range attached("", k.Domain) {
		k.Notes = append(k.Notes, "the clone does not have its source's device "+string(a.ID)+", which can be in one machine only")
	}
	k.Notes = append(k.Notes, libvirtx.MakeSingle(k.Domain)...)
	return nil
}

// freeze gives the source, which is off, overlays, so that its present images
// stay unchanged.
func freeze(ctx context.Context, c *libvirt.Connect, k *fleet.Cloning, m *fleet.Making) error {
	// Whoever cleans up uses this to find what was made for the source.
	if err := m.Note(context.WithoutCancel(ctx), func(n *libvirtx.Mark) { n.Source = string(k.Source) }); err != nil {
		return err
	}
	dom, err := c.LookupDomainByUUIDString(string(k.Source))
	if err != nil {
		return err
	}
	defer dom.Free()
	x, mark, err := libvirtx.Inactive(dom)
	if err != nil {
		return err
	}
	if err := fleet.Ready(dom, mark, k.Source, "cloned"); err != nil {
		return err // started meanwhile
	}
	for _, disk := range libvirtx.Writable(x) {
		base := libvirtx.DiskPath(disk)
		if !libvirtx.OwnedBy(base, string(k.Source)) && !slices.Contains(mark.Images, base) {
			mark.Images = append(mark.Images, base)
		}
		v, err := fleet.Overlay(c, k.Site.Pools, string(k.Source), disk.Target.Dev, base, libvirtx.Pool{})
		if err != nil {
			return err
		}
		libvirtx.SetDiskPath(disk, v.Path, v.Format)
	}
	if err := libvirtx.MarkDefinition(x, mark); err != nil {
		return err
	}
	return k.Site.Host.Define(context.WithoutCancel(ctx), x)
}
