//go:build cgo

package fleet

import (
	"context"
	"slices"
	"strings"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// unplugLimit is the time that a guest may take to release a device.
const unplugLimit = 30 * time.Second

// Attach adds a device to the definition, and live where the machine runs.
func Attach(dom *libvirt.Domain, id hypervisor.VMID, doc string) error {
	s, err := Changeable(dom, id)
	if err != nil {
		return err
	}
	flags := libvirt.DOMAIN_DEVICE_MODIFY_CONFIG
	if s != hypervisor.StateOff {
		flags |= libvirt.DOMAIN_DEVICE_MODIFY_LIVE
	}
	return dom.AttachDeviceFlags(doc, flags)
}

// Detach removes a device and waits until the guest has released it, which is
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
	if s != hypervisor.StateOff {
		end := time.Now().Add(unplugLimit)
		for {
			err := dom.DetachDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_LIVE)
			if err == nil || libvirtx.NotFound(err) {
				break
			}
			// A Xen guest that has not accepted a new device yet can't
			// release it.
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
				return hypervisor.Errorf(hypervisor.ErrTimeout, id.Ref(), "the guest did not release the device within %v: it may not support hot unplug; it still has the device", unplugLimit)
			}
		}
	}
	if !there(x) {
		return nil
	}
	return dom.DetachDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG)
}

// Changeable checks that a machine's hardware may change.
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
		return s, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such machine")
	case IsTemplate(x, mark):
		return s, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "this is a template: turn it into a machine first")
	case s == hypervisor.StateSuspended:
		return s, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is suspended, its saved RAM expects its present hardware: resume it or power it off first")
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
		if err == nil {
			if own := libvirtx.Writable(x); len(own) > 0 {
				if p, ok := libvirtx.PoolOf(pools, libvirtx.DiskPath(own[0])); ok {
					at.Pool = p
				}
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
	return f.Run(ctx, "attach-disk", id, DiskWork, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
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
			made, err = at.makeDisks(ctx, c, x, string(id), plan, j)
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
			j.Left(h.Tidy(sure, made)...)
			return hypervisor.Ref{}, err
		}
		return hypervisor.DiskID(dev).Ref(), nil
	})
}

// DetachDisk implements hypervisor.DiskAttacher.
func (f *Fleet) DetachDisk(ctx context.Context, id hypervisor.VMID, disk hypervisor.DiskID, p hypervisor.DiskPolicy) (hypervisor.DriverTask, error) {
	return f.Run(ctx, "detach-disk", id, DiskWork, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		h, b, err := f.BooksOf(ctx, id)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		remove := Paths{}
		var elsewhere, readOnly []string
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
			switch {
			case p != hypervisor.DeleteDisks || image == "" || k.Device == "cdrom":
			case k.ReadOnly != nil:
				readOnly = []string{image}
			default:
				remove[image] = true
				if o := b.Others(image, string(id)); len(o) > 0 {
					return "", BusyWith(disk.Ref(), o, "its image is a disk of")
				}
				if deps := b.Dependants(remove); len(deps) > 0 {
					return "", BusyWith(disk.Ref(), deps, "its image is the base of")
				}
				for _, u := range b.Users(image) {
					if u.Snapshot != "" {
						return "", hypervisor.Errorf(hypervisor.ErrBusy, disk.Ref(), "snapshot %q needs its image: delete the snapshot first, or keep the image", u.Snapshot)
					}
				}
			}
			if p == hypervisor.DeleteDisks && slices.Contains(libvirtx.Elsewhere(x), string(disk)) {
				elsewhere = []string{string(disk)}
			}
			k.BackingStore = nil
			return k.Marshal()
		})
		if err != nil {
			return hypervisor.Ref{}, err
		}
		sure := context.WithoutCancel(ctx)
		err = h.AgainOn(sure, id, 4, func(dom *libvirt.Domain) error {
			return Detach(dom, id, doc, func(x *libvirtxml.Domain) bool {
				_, err := libvirtx.FindDisk(x, disk)
				return err == nil
			})
		})
		if err != nil {
			return hypervisor.Ref{}, err
		}
		b.noteKept(j, remove, readOnly, elsewhere)
		left, err := b.Discard(sure, remove)
		j.Left(left...)
		return hypervisor.Ref{}, err
	})
}
