//go:build cgo

package libxl

import (
	"context"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// unplugLimit is how long a guest may take to let go of a device.
const unplugLimit = 30 * time.Second

// attach adds a device to the definition, and live where the machine runs.
func attach(dom *libvirt.Domain, id hypervisor.VMID, doc string) error {
	s, err := changeable(dom, id)
	if err != nil {
		return err
	}
	flags := libvirt.DOMAIN_DEVICE_MODIFY_CONFIG
	if s != hypervisor.Off {
		flags |= libvirt.DOMAIN_DEVICE_MODIFY_LIVE
	}
	return dom.AttachDeviceFlags(doc, flags)
}

// detach removes a device and waits until the guest has let go of it, which is
// when it is no longer in the live definition.
func detach(dom *libvirt.Domain, id hypervisor.VMID, doc string, there func(*libvirtxml.Domain) bool) error {
	s, err := changeable(dom, id)
	if err != nil {
		return err
	}
	x, _, err := libvirtx.Inactive(dom)
	if err != nil {
		return err
	}
	if s != hypervisor.Off {
		if err := dom.DetachDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil && !libvirtx.NotFound(err) {
			return err
		}
		for end := time.Now().Add(unplugLimit); ; time.Sleep(50 * time.Millisecond) {
			live, _, err := libvirtx.Parse(dom, 0)
			if err != nil {
				return err
			}
			if !there(live) {
				break
			}
			if time.Now().After(end) {
				return hypervisor.Errorf(hypervisor.KindTimeout, id.Ref(), "the guest did not let go of the device within %v: it may not support hot unplug; it still has the device", unplugLimit)
			}
		}
	}
	if !there(x) {
		return nil
	}
	return dom.DetachDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG)
}

// changeable demands a machine whose hardware may change.
func changeable(dom *libvirt.Domain, id hypervisor.VMID) (hypervisor.PowerState, error) {
	s, err := libvirtx.State(dom)
	if err != nil {
		return s, err
	}
	x, mark, err := libvirtx.Parse(dom, 0)
	switch {
	case err != nil:
		return s, err
	case mark.Role != "":
		return s, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such machine")
	case isTemplate(x, mark):
		return s, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "this is a template: turn it into a machine first")
	case s == hypervisor.Suspended:
		return s, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "the machine is suspended, its saved RAM expects its present hardware: resume it or power it off first")
	}
	return s, nil
}

// AttachDisk implements hypervisor.DiskAttacher.
func (d *driver) AttachDisk(ctx context.Context, id hypervisor.VMID, s hypervisor.DiskSpec) (hypervisor.DriverTask, error) {
	h, err := d.locate(ctx, id)
	if err != nil {
		return nil, err
	}
	at, err := onHost(ctx, h, id, 3, func(_ *host, c *libvirt.Connect, dom *libvirt.Domain) (site, error) {
		pools, err := libvirtx.Pools(c)
		if err != nil {
			return site{}, err
		}
		at := site{h: h, f: h.known(), pools: pools}
		at.pool, _ = choosePool(pools, "")
		x, _, err := libvirtx.Parse(dom, 0)
		if err == nil && len(x.Devices.Disks) > 0 { // the machine's datastore
			if p, ok := libvirtx.PoolOf(pools, libvirtx.DiskPath(&x.Devices.Disks[0])); ok {
				at.pool = p
			}
		}
		return at, err
	})
	if err != nil {
		return nil, err
	}
	if at.f, err = h.identify(ctx); err != nil {
		return nil, err
	}
	plan, err := d.planDisks(ctx, at, id.Ref(), []hypervisor.DiskSpec{s})
	if err != nil {
		return nil, err
	}
	return d.run(ctx, "attach-disk", id, shortWork, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		sure := context.WithoutCancel(ctx)
		var made []libvirtx.Volume
		dev, err := onHost(sure, h, id, 6, func(_ *host, c *libvirt.Connect, dom *libvirt.Domain) (string, error) {
			if _, err := changeable(dom, id); err != nil {
				return "", err
			}
			x, _, err := libvirtx.Parse(dom, 0)
			if err != nil {
				return "", err
			}
			if made, err = at.makeDisks(ctx, c, x, string(id), plan, report); err != nil {
				return "", err
			}
			k := &x.Devices.Disks[len(x.Devices.Disks)-1]
			doc, err := k.Marshal()
			if err != nil {
				return "", err
			}
			return k.Target.Dev, attach(dom, id, doc)
		})
		if err != nil {
			left, _ := at.undo(sure, made) // the first error counts
			return hypervisor.TaskState{Err: err, Leftover: left}
		}
		return hypervisor.TaskState{Result: hypervisor.DiskID(dev).Ref()}
	})
}

// DetachDisk implements hypervisor.DiskAttacher.
func (d *driver) DetachDisk(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskID, p hypervisor.DiskPolicy) (hypervisor.DriverTask, error) {
	return d.simple(ctx, "detach-disk", id, shortWork, func(ctx context.Context) error {
		h, err := d.locate(ctx, id)
		if err != nil {
			return err
		}
		b, err := d.books(ctx, h)
		if err != nil {
			return err
		}
		_, err = onHost(context.WithoutCancel(ctx), h, id, 6, func(_ *host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			x, _, err := libvirtx.Parse(dom, 0)
			if err != nil {
				return struct{}{}, err
			}
			k, err := libvirtx.FindDisk(x, disk)
			if err != nil {
				return struct{}{}, err
			}
			image := libvirtx.DiskPath(k)
			remove := set{}
			if p == hypervisor.DeleteDisks && image != "" && k.Device != "cdrom" {
				remove[image] = true
				if o := b.others(image, string(id)); len(o) > 0 {
					return struct{}{}, busyWith(disk.Ref(), o, "its image is a disk of")
				}
				if deps := b.dependants(remove); len(deps) > 0 {
					return struct{}{}, busyWith(disk.Ref(), deps, "its image is the base of")
				}
			}
			k.BackingStore = nil
			doc, err := k.Marshal()
			if err != nil {
				return struct{}{}, err
			}
			err = detach(dom, id, doc, func(x *libvirtxml.Domain) bool {
				_, err := libvirtx.FindDisk(x, disk)
				return err == nil
			})
			if err != nil {
				return struct{}{}, err
			}
			_, err = b.remove(c, remove)
			return struct{}{}, err
		})
		return err
	})
}

// GrowDisk implements hypervisor.DiskAttacher, for machines that are off:
// libvirt's Xen driver has no BlockResize.
func (d *driver) GrowDisk(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskID, size int64) (hypervisor.DriverTask, error) {
	return d.simple(ctx, "grow-disk", id, shortWork, func(ctx context.Context) error {
		_, err := onDomain(context.WithoutCancel(ctx), d, id, 6, func(_ *host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			s, err := changeable(dom, id)
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
				return struct{}{}, hypervisor.Errorf(hypervisor.KindInvalidArgument, disk.Ref(), "the disk has %d bytes: %d would shrink it", v.Capacity, size)
			case s != hypervisor.Off:
				return struct{}{}, refuse(id.Ref(), hypervisor.DiskGrowLive)
			}
			return struct{}{}, libvirtx.Resize(c, v.Pool, v.Name, size)
		})
		return err
	})
}
