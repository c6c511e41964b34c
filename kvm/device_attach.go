//go:build cgo

package kvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// noteLocked is the note for a device that accesses the guest's memory.
const noteLocked = "all of the machine's memory is locked on the host while it runs"

// vfsLimit is the time that udev and libvirt may take to show virtual
// functions.
const vfsLimit = time.Minute

func hostdev(address string) (*libvirtxml.DomainHostdev, error) {
	domain, bus, slot, function, err := libvirtx.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	return &libvirtxml.DomainHostdev{Managed: "yes", SubsysPCI: &libvirtxml.DomainHostdevSubsysPCI{
		Source: &libvirtxml.DomainHostdevSubsysPCISource{Address: &libvirtxml.DomainAddressPCI{Domain: &domain, Bus: &bus, Slot: &slot, Function: &function}}}}, nil
}

// AttachDevice implements hypervisor.DeviceAssigner.
func (d *driver) AttachDevice(ctx context.Context, id hypervisor.VMID, r hypervisor.DeviceRequest) (hypervisor.DriverTask, error) {
	h, err := d.Locate(ctx, id)
	if err != nil {
		return nil, err
	}
	f, err := h.Identify(ctx)
	if err != nil {
		return nil, err
	}
	if s := d.onHostFacts(r.Capability(), f); s.Level == hypervisor.LevelNo && r.ID == "" {
		return nil, hypervisor.Unsupported(id.Ref(), r.Capability(), s.Reason, s.Detail)
	}
	v, all, err := d.choose(ctx, h, id, r)
	if err != nil {
		return nil, err
	}
	return d.Run(ctx, "attach-device", id, fleet.ShortWork, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		sure := context.WithoutCancel(ctx)
		if r.Profile != "" {
			return d.attachShare(sure, j, h, id, v, r.Profile)
		}
		j.Note(noteLocked)
		if v.Detail != "" {
			j.Note(v.Detail)
		}
		_, err := fleet.OnHost(sure, h, id, 6, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			s, err := fleet.Changeable(dom, id)
			if err != nil {
				return struct{}{}, err
			}
			x, _, err := libvirtx.Inactive(dom)
			if err != nil {
				return struct{}{}, err
			}
			cards := whole(v, all)
			if note := window(x, barsOf(x, cards, all)); note != "" && s != hypervisor.StateOff {
				return struct{}{}, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s and its 64-bit PCI window was made before it was to hold a device of %d GiB: power it off first", s, v.BARBytes>>30)
			} else if note != "" {
				if err := libvirtx.Define(c, x); err != nil {
					return struct{}{}, err
				}
				j.Note(note)
			}
			done, err := attachAll(dom, id, cards)
			if err != nil {
				for _, k := range done {
					if derr := detachOne(dom, id, k); derr != nil {
						j.Left(hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: pciPrefix + pciSource(k)})
						err = errors.Join(err, derr)
					}
				}
				return struct{}{}, err
			}
			for _, dev := range cards[1:] {
				j.Note(fmt.Sprintf("device %s is attached too, since it is of the same card and IOMMU group", dev.Address))
			}
			return struct{}{}, nil
		})
		return hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: pciPrefix + v.Address}, err
	})
}

// attachAll attaches devices one after the other and returns the elements of
// those that it attached, also when it fails.
func attachAll(dom *libvirt.Domain, id hypervisor.VMID, devices []hypervisor.DeviceInfo) (done []*libvirtxml.DomainHostdev, err error) {
	for _, dev := range devices {
		k, err := hostdev(dev.Address)
		if err != nil {
			return done, err
		}
		doc, err := k.Marshal()
		if err != nil {
			return done, err
		}
		if err := fleet.Attach(dom, id, doc); err != nil {
			return done, err
		}
		done = append(done, k)
	}
	return done, nil
}

// detachOne detaches a device and waits until the guest has released it.
func detachOne(dom *libvirt.Domain, id hypervisor.VMID, k *libvirtxml.DomainHostdev) error {
	doc, err := k.Marshal()
	if err != nil {
		return err
	}
	this := attachmentOf(k)
	return fleet.Detach(dom, id, doc, func(x *libvirtxml.Domain) bool { return has(x, this) })
}

// has reports whether a definition has an attachment.
func has(x *libvirtxml.Domain, want hypervisor.AttachmentID) bool {
	return slices.ContainsFunc(hostdevs(x), func(k *libvirtxml.DomainHostdev) bool { return attachmentOf(k) == want })
}

// DetachDevice implements hypervisor.DeviceAssigner.
func (d *driver) DetachDevice(ctx context.Context, id hypervisor.VMID, a hypervisor.AttachmentID) (hypervisor.DriverTask, error) {
	return d.Simple(ctx, "detach-device", id, fleet.ShortWork, func(ctx context.Context) error {
		_, err := fleet.OnDomain(context.WithoutCancel(ctx), d.Fleet, id, 5, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			x, _, err := libvirtx.Parse(dom, 0)
			if err != nil {
				return struct{}{}, err
			}
			if !has(x, a) {
				return struct{}{}, hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: string(a)}, "the machine has no such device")
			}
			together := []hypervisor.AttachmentID{a}
			if address, ok := strings.CutPrefix(string(a), pciPrefix); ok {
				// Functions of one card and group are attached and detached
				// together. One that no longer exists on the host is detached
				// alone.
				if p, err := libvirtx.FindPCI(c, address); err == nil {
					for _, peer := range p.Peers {
						if libvirtx.Slot(peer) == libvirtx.Slot(address) {
							together = append(together, hypervisor.AttachmentID(pciPrefix+peer))
						}
					}
				}
			}
			for i := range x.Devices.Hostdevs {
				k := &x.Devices.Hostdevs[i]
				if !slices.Contains(together, attachmentOf(k)) {
					continue
				}
				if err := detachOne(dom, id, k); err != nil {
					return struct{}{}, err
				}
			}
			for i := range x.Devices.Interfaces { // an adapter is detached as an adapter
				n := &x.Devices.Interfaces[i]
				if of := hostdevs(&libvirtxml.Domain{Devices: &libvirtxml.DomainDeviceList{Interfaces: []libvirtxml.DomainInterface{*n}}}); len(of) == 0 || attachmentOf(of[0]) != a {
					continue
				}
				doc, err := n.Marshal()
				if err != nil {
					return struct{}{}, err
				}
				if err := fleet.Detach(dom, id, doc, func(x *libvirtxml.Domain) bool { return has(x, a) }); err != nil {
					return struct{}{}, err
				}
			}
			if uuid, ok := strings.CutPrefix(string(a), mdevPrefix); ok {
				return struct{}{}, libvirtx.RemoveMDev(c, uuid)
			}
			return struct{}{}, nil
		})
		return err
	})
}

// PrepareDevice implements hypervisor.DevicePreparer.
func (d *driver) PrepareDevice(ctx context.Context, id hypervisor.DeviceID, p hypervisor.DevicePreparation) (hypervisor.DriverTask, error) {
	hid, name, _ := strings.Cut(string(id), "/")
	h, err := d.Host(hypervisor.HostID(hid))
	if err != nil {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such device")
	}
	all, err := d.devices(ctx, h)
	if err != nil {
		return nil, err
	}
	var dev hypervisor.DeviceInfo
	var users []hypervisor.Ref // users of its virtual functions
	for _, v := range all {
		if v.ID == id {
			dev = v
		}
		if v.Parent == id {
			users = append(users, v.UsedBy...)
		}
	}
	switch {
	case dev.ID == "":
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such device")
	case p.VFs != nil && *p.VFs != dev.VFs && len(users) > 0:
		return nil, fleet.BusyWith(id.Ref(), users, "a virtual function of the device is in use by")
	case len(dev.UsedBy) > 0:
		return nil, fleet.BusyWith(id.Ref(), dev.UsedBy, "the device is in use by")
	}
	s, err := d.Supports(ctx, capability.DevicePrepare, h.ID().Ref())
	if err != nil {
		return nil, err
	}
	if s.Level == hypervisor.LevelNo {
		return nil, hypervisor.Unsupported(id.Ref(), capability.DevicePrepare, s.Reason, s.Detail)
	}
	if p.VFs != nil {
		if *p.VFs > dev.MaxVFs {
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "%d virtual functions: the device can have %d", *p.VFs, dev.MaxVFs)
		}
		if d.sysfs(h) == nil {
			return nil, hypervisor.Unsupported(id.Ref(), capability.DevicePrepare, hypervisor.ReasonPlatform,
				"libvirt can't set the number of virtual functions, and this program has no way to the host's files: give Config.Sysfs")
		}
	}
	tid := hypervisor.TaskID("kvm:prepare-device:" + libvirtx.Nonce())
	return d.Go(ctx, tid, "prepare-device", id.Ref(), func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		sure := context.WithoutCancel(ctx)
		if p.VFs != nil && *p.VFs != dev.VFs {
			if err := d.setVFs(sure, h, dev, *p.VFs); err != nil {
				return hypervisor.Ref{}, err
			}
		}
		if p.Passthrough == nil {
			return hypervisor.Ref{}, nil
		}
		if !*p.Passthrough {
			j.Note("libvirt binds a device to vfio-pci by itself when a machine with it starts: it stays assignable")
		}
		_, err := libvirtx.Do(sure, h.Conn, 2, func(c *libvirt.Connect) (struct{}, error) {
			n, err := c.LookupDeviceByName(name)
			if err != nil {
				return struct{}{}, err
			}
			defer n.Free()
			if *p.Passthrough {
				return struct{}{}, n.DetachFlags("vfio", 0)
			}
			return struct{}{}, n.ReAttach()
		})
		return hypervisor.Ref{}, err
	})
}

// setVFs writes sriov_numvfs (linux/Documentation/PCI/pci-iov-howto.rst). A
// change from one number to another must pass through 0.
func (d *driver) setVFs(ctx context.Context, h *fleet.Host, dev hypervisor.DeviceInfo, n int) error {
	file := "/sys/bus/pci/devices/" + dev.Address + "/sriov_numvfs"
	if dev.VFs > 0 && n > 0 {
		if err := d.sysfs(h).WriteFile(ctx, file, []byte("0")); err != nil {
			return err
		}
	}
	if err := d.sysfs(h).WriteFile(ctx, file, []byte(strconv.Itoa(n))); err != nil {
		return err
	}
	// libvirt learns of them from udev, a little later.
	for end := time.Now().Add(vfsLimit); time.Now().Before(end); {
		all, err := d.devices(ctx, h)
		if err != nil && libvirtx.KindOf(err) != hypervisor.ErrUnavailable {
			return err
		}
		shown := 0
		for _, v := range all {
			if v.Parent == dev.ID {
				shown++
			}
		}
		if err == nil && shown == n {
			return nil
		}
		if err := fleet.Pause(ctx, fleet.PollEvery/2); err != nil {
			return err
		}
	}
	return hypervisor.Errorf(hypervisor.ErrTimeout, dev.ID.Ref(), "libvirt does not show %d virtual functions: does udev run on the host?", n)
}
