//go:build cgo

package kvm

import (
	"context"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// largeBAR is from where on the firmware's usual 64-bit window may be too
// small: q35 has 32 GiB of it.
const largeBAR = 16 * hypervisor.GiB

// vfsLimit is how long udev and libvirt may take to show virtual functions.
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
	if s := d.onHostFacts(r.Capability(), f); s.Level == hypervisor.No && r.ID == "" {
		return nil, hypervisor.Unsupported(id.Ref(), r.Capability(), s.Reason, s.Detail)
	}
	v, all, err := d.choose(ctx, h, id, r)
	if err != nil {
		return nil, err
	}
	return d.Run(ctx, "attach-device", id, fleet.ShortWork, func(ctx context.Context, _ func(hypervisor.TaskState)) hypervisor.TaskState {
		sure := context.WithoutCancel(ctx)
		if r.Profile != "" {
			uuid, err := d.attachShare(sure, h, id, v, r.Profile)
			return hypervisor.TaskState{Result: hypervisor.Ref{Kind: hypervisor.KindOfDevice, ID: "mdev:" + uuid}, Err: err}
		}
		out := hypervisor.TaskState{Result: hypervisor.Ref{Kind: hypervisor.KindOfDevice, ID: "pci:" + v.Address}, Notes: []string{"all of the machine's memory is locked on the host while it runs"}}
		_, err := fleet.OnHost(sure, h, id, 6, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			s, err := fleet.Changeable(dom, id)
			if err != nil {
				return struct{}{}, err
			}
			x, _, err := libvirtx.Inactive(dom)
			if err != nil {
				return struct{}{}, err
			}
			if note := window(x, v.BARBytes); note != "" && s == hypervisor.Off {
				if err := libvirtx.Define(c, x); err != nil {
					return struct{}{}, err
				}
				out.Notes = append(out.Notes, note)
			}
			for n, dev := range whole(v, all) {
				k, err := hostdev(dev.Address)
				if err != nil {
					return struct{}{}, err
				}
				doc, err := k.Marshal()
				if err != nil {
					return struct{}{}, err
				}
				if err := fleet.Attach(dom, id, doc); err != nil {
					return struct{}{}, err
				}
				if n > 0 {
					out.Notes = append(out.Notes, fmt.Sprintf("device %s of the same card and IOMMU group goes along", dev.Address))
				}
			}
			return struct{}{}, nil
		})
		out.Err = err
		return out
	})
}

// window enlarges the 64-bit PCI window for devices with large memory regions,
// to the next power of two above twice their size.
func window(x *libvirtxml.Domain, bars int64) string {
	if bars < largeBAR {
		return ""
	}
	size := int64(1) << bits.Len64(uint64(2*bars-1))
	for i := range x.Devices.Controllers {
		k := &x.Devices.Controllers[i]
		if k.Type != "pci" || k.Model != "pcie-root" && k.Model != "pci-root" {
			continue
		}
		if k.PCI == nil {
			k.PCI = &libvirtxml.DomainControllerPCI{}
		}
		if k.PCI.Hole64 != nil && libvirtx.ToKiB(uint64(k.PCI.Hole64.Size), k.PCI.Hole64.Unit)<<10 >= size {
			return ""
		}
		k.PCI.Hole64 = &libvirtxml.DomainControllerPCIHole64{Size: uint64(size >> 10), Unit: "KiB"}
		return fmt.Sprintf("the machine's 64-bit PCI window was set to %d GiB for the device's %d GiB of memory regions", size>>30, bars>>30)
	}
	return ""
}

// attachShare makes a mediated device of a type and gives it to the machine.
func (d *driver) attachShare(ctx context.Context, h *fleet.Host, id hypervisor.VMID, v hypervisor.DeviceInfo, profile string) (string, error) {
	_, parent, _ := strings.Cut(string(v.ID), "/")
	return fleet.OnHost(ctx, h, id, 5, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (string, error) {
		uuid := libvirtx.NewUUID()
		doc, err := (&libvirtxml.NodeDevice{Parent: parent, Capability: libvirtxml.NodeDeviceCapability{
			MDev: &libvirtxml.NodeDeviceMDevCapability{Type: &libvirtxml.NodeDeviceMDevCapabilityType{ID: profile}, UUID: uuid}}}).Marshal()
		if err != nil {
			return "", err
		}
		dev, err := c.DeviceCreateXML(doc, 0)
		if err != nil {
			return "", err
		}
		defer dev.Free()
		k := &libvirtxml.DomainHostdev{SubsysMDev: &libvirtxml.DomainHostdevSubsysMDev{Model: "vfio-pci",
			Source: &libvirtxml.DomainHostdevSubsysMDevSource{Address: &libvirtxml.DomainAddressMDev{UUID: uuid}}}}
		if doc, err = k.Marshal(); err == nil {
			err = fleet.Attach(dom, id, doc)
		}
		if err != nil {
			_ = dev.Destroy() // what this call made
		}
		return uuid, err
	})
}

// DetachDevice implements hypervisor.DeviceAssigner.
func (d *driver) DetachDevice(ctx context.Context, id hypervisor.VMID, a hypervisor.AttachmentID) (hypervisor.DriverTask, error) {
	return d.Simple(ctx, "detach-device", id, fleet.ShortWork, func(ctx context.Context) error {
		_, err := fleet.OnDomain(context.WithoutCancel(ctx), d.Fleet, id, 5, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			x, _, err := libvirtx.Parse(dom, 0)
			if err != nil {
				return struct{}{}, err
			}
			has := func(x *libvirtxml.Domain, want hypervisor.AttachmentID) bool {
				for _, v := range attached("", x) {
					if v.ID == want {
						return true
					}
				}
				return false
			}
			if !has(x, a) {
				return struct{}{}, hypervisor.Errorf(hypervisor.KindNotFound, hypervisor.Ref{Kind: hypervisor.KindOfDevice, ID: string(a)}, "the machine has no such device")
			}
			card := libvirtx.Slot(strings.TrimPrefix(string(a), "pci:"))
			for i := range x.Devices.Hostdevs {
				k := &x.Devices.Hostdevs[i]
				one := &libvirtxml.Domain{Devices: &libvirtxml.DomainDeviceList{Hostdevs: []libvirtxml.DomainHostdev{*k}}}
				this := attached("", one)
				if len(this) == 0 || this[0].ID != a && (this[0].Address == "" || libvirtx.Slot(this[0].Address) != card) {
					continue // functions of one card go together
				}
				doc, err := k.Marshal()
				if err != nil {
					return struct{}{}, err
				}
				if err := fleet.Detach(dom, id, doc, func(x *libvirtxml.Domain) bool { return has(x, this[0].ID) }); err != nil {
					return struct{}{}, err
				}
			}
			if uuid, ok := strings.CutPrefix(string(a), "mdev:"); ok {
				dev, err := c.LookupDeviceByName("mdev_" + strings.ReplaceAll(uuid, "-", "_"))
				if libvirtx.NotFound(err) {
					return struct{}{}, nil
				}
				if err != nil {
					return struct{}{}, err
				}
				defer dev.Free()
				return struct{}{}, dev.Destroy()
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
		return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such device")
	}
	all, err := d.devices(ctx, h)
	if err != nil {
		return nil, err
	}
	var dev hypervisor.DeviceInfo
	for _, v := range all {
		if v.ID == id {
			dev = v
		}
	}
	switch {
	case dev.ID == "":
		return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no such device")
	case len(dev.UsedBy) > 0:
		return nil, fleet.BusyWith(id.Ref(), dev.UsedBy, "the device is in use by")
	}
	if p.VFs != nil {
		if *p.VFs > dev.MaxVFs {
			return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, id.Ref(), "%d virtual functions: the device can have %d", *p.VFs, dev.MaxVFs)
		}
		if d.sysfs(h) == nil {
			return nil, hypervisor.Unsupported(id.Ref(), hypervisor.DevicePrepare, hypervisor.ReasonPlatform,
				"libvirt can't set the number of virtual functions, and this program has no way to the host's files: give Config.Sysfs")
		}
	}
	tid := hypervisor.TaskID("kvm:prepare-device:" + libvirtx.Nonce())
	return d.Tasks.Go(ctx, tid, func(ctx context.Context, _ func(hypervisor.TaskState)) hypervisor.TaskState {
		sure := context.WithoutCancel(ctx)
		if p.VFs != nil && *p.VFs != dev.VFs {
			if err := d.setVFs(sure, h, dev, *p.VFs); err != nil {
				return hypervisor.TaskState{Err: err}
			}
		}
		if p.Passthrough == nil {
			return hypervisor.TaskState{}
		}
		var notes []string
		if !*p.Passthrough {
			notes = []string{"libvirt binds a device to vfio-pci by itself when a machine with it starts: it stays assignable"}
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
		return hypervisor.TaskState{Err: err, Notes: notes}
	})
}

// setVFs writes sriov_numvfs (linux/Documentation/PCI/pci-iov-howto.rst): from
// one number to another the way is through 0.
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
		if err != nil && libvirtx.KindOf(err) != hypervisor.KindUnavailable {
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
	return hypervisor.Errorf(hypervisor.KindTimeout, dev.ID.Ref(), "libvirt does not show %d virtual functions: does udev run on the host?", n)
}
