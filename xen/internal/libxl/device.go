//go:build cgo

package libxl

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// stubDriver is the driver that holds a device of the control domain for
// machines.
const stubDriver = "pciback"

// hostdevAddress returns the address of a passed-through PCI function.
func hostdevAddress(k *libvirtxml.DomainHostdev) (string, bool) {
	if k.SubsysPCI == nil || k.SubsysPCI.Source == nil || k.SubsysPCI.Source.Address == nil {
		return "", false
	}
	a, v := k.SubsysPCI.Source.Address, func(p *uint) uint {
		if p == nil {
			return 0
		}
		return *p
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", v(a.Domain), v(a.Bus), v(a.Slot), v(a.Function)), true
}

// attached lists the host devices in a definition. An attachment's ID is the
// address.
func attached(host hypervisor.HostID, x *libvirtxml.Domain) []hypervisor.AttachedDevice {
	var out []hypervisor.AttachedDevice
	for i := range x.Devices.Hostdevs {
		if a, ok := hostdevAddress(&x.Devices.Hostdevs[i]); ok {
			out = append(out, hypervisor.AttachedDevice{ID: hypervisor.AttachmentID(a), Device: libvirtx.DeviceID(host, a), Address: a})
		}
	}
	return out
}

// passthrough reports whether a machine has a host's device.
func passthrough(x *libvirtxml.Domain) bool { return len(x.Devices.Hostdevs) > 0 }

// Devices implements hypervisor.DeviceAssigner. It sends one request for each
// PCI function and each domain: libvirt has no request for all.
func (d *driver) Devices(ctx context.Context, f hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error) {
	parts := make([][]hypervisor.DeviceInfo, len(d.Members))
	errs := make([]error, len(d.Members))
	var wg sync.WaitGroup
	for i, h := range d.Members {
		wg.Go(func() {
			if _, errs[i] = h.Identify(ctx); errs[i] == nil && (f.Host == "" || f.Host == h.ID()) {
				parts[i], errs[i] = libvirtx.Do(ctx, h.Conn, 2, func(c *libvirt.Connect) ([]hypervisor.DeviceInfo, error) { return devices(h, c) })
			}
		})
	}
	wg.Wait()
	var out []hypervisor.DeviceInfo
	for i, err := range errs {
		if err != nil && (len(d.Members) == 1 || libvirtx.KindOf(err) != hypervisor.ErrUnavailable) {
			return nil, err
		}
		for _, dev := range parts[i] {
			if f.Match(dev) {
				out = append(out, dev)
			}
		}
	}
	return out, nil
}

// devices reads one host's PCI functions and their users. Under Xen the
// control domain sees no IOMMU groups.
func devices(h *fleet.Host, c *libvirt.Connect) ([]hypervisor.DeviceInfo, error) {
	used, err := usedDevices(c)
	if err != nil {
		return nil, err
	}
	all, err := libvirtx.PCIDevices(c)
	if err != nil {
		return nil, err
	}
	var out []hypervisor.DeviceInfo
	for _, p := range all {
		dev := hypervisor.DeviceInfo{ID: libvirtx.DeviceID(h.ID(), p.Address), Host: h.ID(), Kind: hypervisor.DeviceKindPCI, Class: hypervisor.ClassOfPCI(p.Class), ClassCode: p.Class,
			Vendor: p.Vendor, Product: p.Product, VendorName: p.VendorName, ProductName: p.ProductName, Address: p.Address, NUMANode: p.NUMANode,
			IOMMUGroup: p.Group, MaxVFs: p.MaxVFs, VFs: p.VFs, Driver: p.Driver, UsedBy: used[p.Address]}
		if p.Physical != "" {
			dev.Kind, dev.Parent = hypervisor.DeviceKindVF, libvirtx.DeviceID(h.ID(), p.Physical)
		}
		switch {
		case p.Bridge:
			dev.Reason, dev.Detail = hypervisor.ReasonHostUsesDevice, "a bridge or chipset function belongs to the host"
		case len(dev.UsedBy) > 0:
			dev.Reason, dev.Detail = hypervisor.ReasonDeviceInUse, "in use by "+dev.UsedBy[0].String()
		case p.HostUses != "":
			dev.Reason, dev.Detail = hypervisor.ReasonHostUsesDevice, "the control domain uses it as "+p.HostUses
		case p.Driver != stubDriver:
			dev.Reason, dev.Detail = hypervisor.ReasonDevicePrepare, "the control domain has it (driver "+strconv.Quote(p.Driver)+"): release it with PrepareDevice"
		default:
			dev.Assignable = true
		}
		out = append(out, dev)
	}
	return out, nil
}

// usedDevices returns which machines' definitions have which addresses.
func usedDevices(c *libvirt.Connect) (map[string][]hypervisor.Ref, error) {
	all, err := c.ListAllDomains(0)
	if err != nil {
		return nil, err
	}
	defer func() {
		for i := range all {
			_ = all[i].Free() // a local reference
		}
	}()
	out := map[string][]hypervisor.Ref{}
	var mu sync.Mutex
	err = libvirtx.Each(len(all), func(i int) error {
		x, _, err := libvirtx.Parse(&all[i], 0)
		if libvirtx.NotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for n := range x.Devices.Hostdevs {
			if a, ok := hostdevAddress(&x.Devices.Hostdevs[n]); ok {
				out[a] = append(out[a], hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: x.UUID, Name: x.Name})
			}
		}
		return nil
	})
	return out, err
}

// AttachDevice implements hypervisor.DeviceAssigner, for machines that are off.
func (d *driver) AttachDevice(ctx context.Context, id hypervisor.VMID, r hypervisor.DeviceRequest) (hypervisor.DriverTask, error) {
	if r.Profile != "" {
		return nil, refuse(id.Ref(), capability.DeviceVGPU)
	}
	return d.Run(ctx, "attach-device", id, fleet.ShortWork, func(ctx context.Context, _ *job.Job) (hypervisor.Ref, error) {
		a, err := fleet.OnDomain(context.WithoutCancel(ctx), d.Fleet, id, 6, func(h *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (string, error) {
			s, err := fleet.Changeable(dom, id)
			if err != nil {
				return "", err
			}
			all, err := devices(h, c)
			if err != nil {
				return "", err
			}
			if r.VirtualFunction && !slices.ContainsFunc(all, func(d hypervisor.DeviceInfo) bool { return d.Kind == hypervisor.DeviceKindVF }) {
				return "", hypervisor.Unsupported(id.Ref(), capability.DeviceVF, hypervisor.ReasonNoDevice, "the machine's host has no virtual function")
			}
			dev, err := choose(all, r, id)
			if err != nil {
				return "", err
			}
			x, _, err := libvirtx.Inactive(dom)
			switch {
			case err != nil:
				return "", err
			case kindOfMachine(x) == pvh:
				return "", hypervisor.Unsupported(id.Ref(), r.Capability(), pvhNoDevice.Reason, pvhNoDevice.Detail)
			case s != hypervisor.StateOff:
				return "", refuse(id.Ref(), capability.DeviceHotplug)
			}
			k, err := hostdev(dev.Address)
			if err != nil {
				return "", err
			}
			doc, err := k.Marshal()
			if err != nil {
				return "", err
			}
			return dev.Address, dom.AttachDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG)
		})
		return hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: a}, err
	})
}

// choose returns the first assignable device that matches a request, or the
// reason why there is none.
func choose(all []hypervisor.DeviceInfo, r hypervisor.DeviceRequest, id hypervisor.VMID) (hypervisor.DeviceInfo, error) {
	f := hypervisor.DeviceFilter{ID: r.ID, Vendor: r.Vendor, Product: r.Product, Class: r.Class}
	if r.VirtualFunction {
		f.Kind = hypervisor.DeviceKindVF
	}
	var why *hypervisor.DeviceInfo
	for i, dev := range all {
		switch {
		case !f.Match(dev):
		case dev.Assignable:
			return dev, nil
		default:
			why = &all[i]
		}
	}
	switch {
	case why == nil && r.ID != "":
		return hypervisor.DeviceInfo{}, hypervisor.Errorf(hypervisor.ErrNotFound, r.ID.Ref(), "the machine's host has no such device")
	case why == nil:
		return hypervisor.DeviceInfo{}, hypervisor.Errorf(hypervisor.ErrExhausted, id.Ref(), "the machine's host has no device that matches")
	case why.Reason == hypervisor.ReasonDeviceInUse:
		return hypervisor.DeviceInfo{}, hypervisor.Errorf(hypervisor.ErrBusy, why.ID.Ref(), "%s", why.Detail)
	}
	return hypervisor.DeviceInfo{}, hypervisor.Unsupported(why.ID.Ref(), r.Capability(), why.Reason, why.Detail)
}

// hostdev is managed: libvirt resets the function before and after its use.
func hostdev(address string) (*libvirtxml.DomainHostdev, error) {
	domain, bus, slot, function, err := libvirtx.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	return &libvirtxml.DomainHostdev{Managed: "yes", SubsysPCI: &libvirtxml.DomainHostdevSubsysPCI{Source: &libvirtxml.DomainHostdevSubsysPCISource{
		Address: &libvirtxml.DomainAddressPCI{Domain: &domain, Bus: &bus, Slot: &slot, Function: &function}}}}, nil
}

// DetachDevice implements hypervisor.DeviceAssigner.
func (d *driver) DetachDevice(ctx context.Context, id hypervisor.VMID, a hypervisor.AttachmentID) (hypervisor.DriverTask, error) {
	return d.Simple(ctx, "detach-device", id, fleet.ShortWork, func(ctx context.Context) error {
		_, err := fleet.OnDomain(context.WithoutCancel(ctx), d.Fleet, id, 4, func(_ *fleet.Host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			s, err := fleet.Changeable(dom, id)
			if err != nil {
				return struct{}{}, err
			}
			x, _, err := libvirtx.Inactive(dom)
			if err != nil {
				return struct{}{}, err
			}
			for i := range x.Devices.Hostdevs {
				k := &x.Devices.Hostdevs[i]
				if at, ok := hostdevAddress(k); !ok || at != string(a) {
					continue
				}
				if s != hypervisor.StateOff {
					return struct{}{}, refuse(id.Ref(), capability.DeviceHotplug)
				}
				doc, err := k.Marshal()
				if err != nil {
					return struct{}{}, err
				}
				return struct{}{}, dom.DetachDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG)
			}
			return struct{}{}, hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: string(a)}, "the machine has no such device")
		})
		return err
	})
}

// PrepareDevice implements hypervisor.DevicePreparer.
func (d *driver) PrepareDevice(ctx context.Context, id hypervisor.DeviceID, p hypervisor.DevicePreparation) (hypervisor.DriverTask, error) {
	all, err := d.Devices(ctx, hypervisor.DeviceFilter{ID: id})
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no host of this Client has such a device")
	}
	dev := all[0]
	switch {
	case p.VFs != nil:
		return nil, hypervisor.Unsupported(id.Ref(), capability.DevicePrepare, hypervisor.ReasonPlatform, "libvirt can't set the number of virtual functions: write it to the device's sriov_numvfs in the control domain")
	case len(dev.UsedBy) > 0:
		return nil, hypervisor.Errorf(hypervisor.ErrBusy, id.Ref(), "%s", dev.Detail)
	case dev.Reason == hypervisor.ReasonHostUsesDevice:
		return nil, hypervisor.Unsupported(id.Ref(), capability.DevicePrepare, dev.Reason, dev.Detail)
	}
	h, err := d.Host(dev.Host)
	if err != nil {
		return nil, err
	}
	tid := hypervisor.TaskID("libxl:prepare-device:" + libvirtx.Nonce())
	return d.Go(ctx, tid, "prepare-device", id.Ref(), func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		_, err := libvirtx.Do(context.WithoutCancel(ctx), h.Conn, 3, func(c *libvirt.Connect) (struct{}, error) {
			fn, err := libvirtx.FindPCI(c, dev.Address)
			if err != nil {
				return struct{}{}, err
			}
			n, err := c.LookupDeviceByName(fn.Name)
			if err != nil {
				return struct{}{}, err
			}
			defer n.Free()
			switch held := fn.Driver == stubDriver; {
			case *p.Passthrough && !held:
				return struct{}{}, n.Detach()
			case !*p.Passthrough && held:
				if err := n.ReAttach(); err != nil {
					return struct{}{}, err
				}
				if fn, err = libvirtx.FindPCI(c, dev.Address); err == nil && fn.Driver == stubDriver {
					j.Note("no other driver of the control domain takes the device: " + stubDriver + " keeps it, and it can be assigned")
				}
				return struct{}{}, err
			}
			return struct{}{}, nil
		})
		return id.Ref(), err
	})
}
