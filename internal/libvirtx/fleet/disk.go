//go:build cgo

package fleet

import (
	"context"
	"strings"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// unplugLimit is how long a guest may take to let go of a device.
const unplugLimit = 30 * time.Second

// Attach adds a device to the definition, and live where the machine runs.
func Attach(dom *libvirt.Domain, id hypervisor.VMID, doc string) error {
	s, err := Changeable(dom, id)
	if err != nil {
		return err
	}
	flags := libvirt.DOMAIN_DEVICE_MODIFY_CONFIG
	if s != hypervisor.Off {
		flags |= libvirt.DOMAIN_DEVICE_MODIFY_LIVE
	}
	return dom.AttachDeviceFlags(doc, flags)
}

// Detach removes a device and waits until the guest has let go of it, which is
// when it is no longer in the live definition.
func Detach(dom *libvirt.Domain, id hypervisor.VMID, doc string, there func(*libvirtxml.Domain) bool) error {
	s, err := Changeable(dom, id)
	if err != nil {
		return err
	}
	x, _, err := libvirtx.Inactive(dom)
	if err != nil {
		return err
	}
	if s != hypervisor.Off {
		end := time.Now().Add(unplugLimit)
		for {
			err := dom.DetachDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_LIVE)
			if err == nil || libvirtx.NotFound(err) {
				break
			}
			// A Xen guest that has not taken a new device yet can't let go of it.
			if !strings.Contains(err.Error(), "libxenlight failed to detach") || time.Now().After(end) {
				return err
			}
			time.Sleep(500 * time.Millisecond)
		}
		for ; ; time.Sleep(50 * time.Millisecond) {
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

// Changeable demands a machine whose hardware may change.
func Changeable(dom *libvirt.Domain, id hypervisor.VMID) (hypervisor.PowerState, error) {
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
	case IsTemplate(x, mark):
		return s, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "this is a template: turn it into a machine first")
	case s == hypervisor.Suspended:
		return s, hypervisor.Errorf(hypervisor.KindInvalidState, id.Ref(), "the machine is suspended, its saved RAM expects its present hardware: resume it or power it off first")
	}
	return s, nil
}

// AttachDisk implements hypervisor.DiskAttacher.
func (f *Fleet) AttachDisk(ctx context.Context, id hypervisor.VMID, s hypervisor.DiskSpec) (hypervisor.DriverTask, error) {
	h, err := f.Locate(ctx, id)
	if err != nil {
		return nil, err
	}
	at, err := OnHost(ctx, h, id, 3, func(_ *Host, c *libvirt.Connect, dom *libvirt.Domain) (Site, error) {
		pools, err := libvirtx.Pools(c)
		if err != nil {
			return Site{}, err
		}
		at := Site{Host: h, Pools: pools}
		at.Pool, _ = ChoosePool(pools, "")
		x, _, err := libvirtx.Parse(dom, 0)
		if err == nil && len(x.Devices.Disks) > 0 { // the machine's datastore
			if p, ok := libvirtx.PoolOf(pools, libvirtx.DiskPath(&x.Devices.Disks[0])); ok {
				at.Pool = p
			}
		}
		return at, err
	})
	if err != nil {
		return nil, err
	}
	if at.Facts, err = h.Identify(ctx); err != nil {
		return nil, err
	}
	plan, err := at.planDisks(ctx, id.Ref(), []hypervisor.DiskSpec{s})
	if err != nil {
		return nil, err
	}
	return f.Run(ctx, "attach-disk", id, ShortWork, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		sure := context.WithoutCancel(ctx)
		var made []libvirtx.Volume
		dev, err := OnHost(sure, h, id, 6, func(_ *Host, c *libvirt.Connect, dom *libvirt.Domain) (string, error) {
			if _, err := Changeable(dom, id); err != nil {
				return "", err
			}
			x, _, err := libvirtx.Parse(dom, 0)
			if err != nil {
				return "", err
			}
			made, err = at.makeDisks(ctx, c, x, string(id), plan, report)
			if err != nil {
				return "", err
			}
			k := &x.Devices.Disks[len(x.Devices.Disks)-1]
			doc, err := k.Marshal()
			if err != nil {
				return "", err
			}
			return k.Target.Dev, Attach(dom, id, doc)
		})
		if err != nil {
			return hypervisor.TaskState{Err: err, Leftover: h.Tidy(sure, made)}
		}
		return hypervisor.TaskState{Result: hypervisor.DiskID(dev).Ref()}
	})
}

// DetachDisk implements hypervisor.DiskAttacher.
func (f *Fleet) DetachDisk(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskID, p hypervisor.DiskPolicy) (hypervisor.DriverTask, error) {
	return f.Run(ctx, "detach-disk", id, ShortWork, func(ctx context.Context, _ func(hypervisor.TaskState)) hypervisor.TaskState {
		h, err := f.Locate(ctx, id)
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		b, err := f.Books(ctx, h)
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		remove := Paths{}
		doc, err := OnHost(ctx, h, id, 1, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (string, error) {
			x, _, err := libvirtx.Parse(dom, 0)
			if err != nil {
				return "", err
			}
			k, err := libvirtx.FindDisk(x, disk)
			if err != nil {
				return "", err
			}
			image := libvirtx.DiskPath(k)
			if p == hypervisor.DeleteDisks && image != "" && k.Device != "cdrom" {
				remove[image] = true
				if o := b.Others(image, string(id)); len(o) > 0 {
					return "", BusyWith(disk.Ref(), o, "its image is a disk of")
				}
				if deps := b.Dependants(remove); len(deps) > 0 {
					return "", BusyWith(disk.Ref(), deps, "its image is the base of")
				}
				for _, u := range b.Users(image) {
					if u.Snapshot != "" {
						return "", hypervisor.Errorf(hypervisor.KindBusy, disk.Ref(), "snapshot %q needs its image: delete the snapshot first, or keep the image", u.Snapshot)
					}
				}
			}
			k.BackingStore = nil
			return k.Marshal()
		})
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		sure := context.WithoutCancel(ctx)
		err = h.Again(sure, func(bool) error {
			_, err := OnHost(sure, h, id, 4, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
				return struct{}{}, Detach(dom, id, doc, func(x *libvirtxml.Domain) bool {
					_, err := libvirtx.FindDisk(x, disk)
					return err == nil
				})
			})
			return err
		})
		if err != nil {
			return hypervisor.TaskState{Err: err}
		}
		left, err := b.Discard(sure, remove)
		return hypervisor.TaskState{Err: err, Leftover: left}
	})
}
