//go:build cgo

package fleet

import (
	"context"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Copied is a disk's image and its copy.
type Copied struct {
	Dev      string
	From, To libvirtx.Volume
}

// CopyDisks makes the host copy the images of a machine that is off into a
// pool. The machine's definition changes when all copies exist. It returns
// the copies that it made, also when it fails.
func (h *Host) CopyDisks(ctx context.Context, j *job.Job, id hypervisor.VMID, pools []libvirtx.Pool, to libvirtx.Pool) (all []Copied, err error) {
	sure := context.WithoutCancel(ctx)
	next, err := OnHost(sure, h, id, 8, func(_ *Host, c *libvirt.Connect, dom *libvirt.Domain) (*libvirtxml.Domain, error) {
		x, mark, err := libvirtx.Inactive(dom)
		if err != nil {
			return nil, err
		}
		if err := Ready(dom, mark, id, "moved"); err != nil {
			return nil, err // started meanwhile
		}
		disks := libvirtx.Writable(x)
		for i, k := range disks {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			j.Phase("copying "+k.Target.Dev, float64(i)/float64(len(disks)))
			from, err := libvirtx.FindImage(c, pools, libvirtx.DiskPath(k))
			if err != nil {
				return nil, err
			}
			v, err := libvirtx.CreateVolume(c, pools, libvirtx.VolumeSpec{Pool: to.UUID, Name: libvirtx.ImageName(string(id), k.Target.Dev, from.Format),
				Capacity: from.Capacity, Format: from.Format, From: from.Path})
			if v.Name != "" {
				all = append(all, Copied{k.Target.Dev, from, v})
			}
			if err != nil {
				return nil, err
			}
			libvirtx.SetDiskPath(k, v.Path, v.Format)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		mark.Images = nil // bases that stay behind
		return x, libvirtx.MarkDefinition(x, mark)
	})
	if err == nil {
		err = h.Define(sure, next)
	}
	return all, err
}
