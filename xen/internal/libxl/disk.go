//go:build cgo

package libxl

import (
	"context"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// GrowDisk implements hypervisor.DiskAttacher, for machines that are off:
// libvirt's Xen driver has no BlockResize.
func (d *driver) GrowDisk(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskID, size int64) (hypervisor.DriverTask, error) {
	return d.Simple(ctx, "grow-disk", id, fleet.DiskWork, func(ctx context.Context) error {
		_, err := fleet.OnDomain(context.WithoutCancel(ctx), d.Fleet, id, 6, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			s, err := fleet.Changeable(dom, id)
			if err != nil {
				return struct{}{}, err
			}
			x, _, err := libvirtx.Parse(dom, 0)
			if err != nil {
				return struct{}{}, err
			}
			k, err := libvirtx.FindDisk(x, disk)
			if err != nil {
				return struct{}{}, err
			}
			pools, err := libvirtx.Pools(c)
			if err != nil {
				return struct{}{}, err
			}
			v, err := libvirtx.FindImage(c, pools, libvirtx.DiskPath(k))
			switch {
			case err != nil:
				return struct{}{}, err
			case v.Capacity == size:
				return struct{}{}, nil
			case v.Capacity > size:
				return struct{}{}, hypervisor.Errorf(hypervisor.ErrInvalidArgument, disk.Ref(), "the disk has %d bytes: %d would shrink it", v.Capacity, size)
			case s != hypervisor.StateOff:
				return struct{}{}, refuse(id.Ref(), capability.DiskGrowLive)
			}
			return struct{}{}, libvirtx.Resize(c, v.Pool, v.Name, size)
		})
		return err
	})
}
