//go:build cgo

package libxl

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// stubDriver holds a device of the control domain that is for machines.
const stubDriver = "pciback"

// A device's ID is its host's ID and its address; an attachment's the address.
func deviceID(h hypervisor.HostID, address string) hypervisor.DeviceID {
	return hypervisor.DeviceID(string(h) + "/" + address)
}

func pciAddress(domain, bus, slot, function *uint) string {
	v := func(p *uint) uint {
		if p == nil {
			return 0
		}
		return *p
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", v(domain), v(bus), v(slot), v(function))
}

// hostdevAddress is the address of a passed-through PCI function.
func hostdevAddress(k *libvirtxml.DomainHostdev) (string, bool) {
	if k.SubsysPCI == nil || k.SubsysPCI.Source == nil || k.SubsysPCI.Source.Address == nil {
		return "", false
	}
	a := k.SubsysPCI.Source.Address
	return pciAddress(a.Domain, a.Bus, a.Slot, a.Function), true
}

// attached lists the host devices in a definition.
func attached(host hypervisor.HostID, x *libvirtxml.Domain) []hypervisor.AttachedDevice {
	var out []hypervisor.AttachedDevice
	for i := range x.Devices.Hostdevs {
		if a, ok := hostdevAddress(&x.Devices.Hostdevs[i]); ok {
			out = append(out, hypervisor.AttachedDevice{ID: hypervisor.AttachmentID(a), Device: deviceID(host, a), Address: a})
		}
	}
	return out
}

// passthrough reports whether a machine has a host's device.
func passthrough(x *libvirtxml.Domain) bool { return len(x.Devices.Hostdevs) > 0 }

// Devices implements hypervisor.DeviceAssigner. It asks once for each PCI
// function and each domain: libvirt has no request for all.
func (d *driver) Devices(ctx context.Context, f hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error) {
	parts := make([][]hypervisor.DeviceInfo, len(d.hosts))
	errs := make([]error, len(d.hosts))
	var wg sync.WaitGroup
	for i, h := range d.hosts {
		wg.Go(func() {
			if _, errs[i] = h.identify(ctx); errs[i] == nil && (f.Host == "" || f.Host == h.ID()) {
				parts[i], errs[i] = libvirtx.Do(ctx, h.conn, 2, h.devices)
			}
		})
	}
	wg.Wait()
	var out []hypervisor.DeviceInfo
	for i, err := range errs {
		if err != nil && (len(d.hosts) == 1 || d.kindOf(err) != hypervisor.KindUnavailable) {
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

// devices reads one host's PCI functions and who has them.
func (h *host) devices(c *libvirt.Connect) ([]hypervisor.DeviceInfo, error) {
	used, err := usedDevices(c)
	if err != nil {
		return nil, err
	}
	all, err := c.ListAllNodeDevices(libvirt.CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV)
	if err != nil {
		return nil, err
	}
	defer func() {
		for i := range all {
			_ = all[i].Free() // a local reference
		}
	}()
	found := make([]hypervisor.DeviceInfo, len(all))
	err = libvirtx.Each(len(all), func(i int) error {
		doc, err := all[i].GetXMLDesc(0)
		if libvirtx.NotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		var x libvirtxml.NodeDevice
		if err := x.Unmarshal(doc); err != nil {
			return err
		}
		if x.Capability.PCI != nil {
			found[i] = h.device(&x, used)
		}
		return nil
	})
	var out []hypervisor.DeviceInfo
	for _, dev := range found {
		if dev.ID != "" {
			out = append(out, dev)
		}
	}
	return out, err
}

// usedDevices tells which machines' definitions have which addresses.
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
		x, _, err := parse(&all[i], 0)
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
				out[a] = append(out[a], hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: x.UUID, Name: x.Name})
			}
		}
		return nil
	})
	return out, err
}

// device describes a PCI function (libvirt.org/formatnode.html).
func (h *host) device(x *libvirtxml.NodeDevice, used map[string][]hypervisor.Ref) hypervisor.DeviceInfo {
	p := x.Capability.PCI
	a := pciAddress(p.Domain, p.Bus, p.Slot, p.Function)
	class, _ := strconv.ParseUint(strings.TrimPrefix(p.Class, "0x"), 16, 32) // zero if libvirt doesn't tell
	dev := hypervisor.DeviceInfo{ID: deviceID(h.ID(), a), Host: h.ID(), Kind: hypervisor.PCIFunction, Class: hypervisor.ClassOfPCI(uint32(class)), ClassCode: uint32(class),
		Vendor: strings.TrimPrefix(p.Vendor.ID, "0x"), Product: strings.TrimPrefix(p.Product.ID, "0x"), VendorName: p.Vendor.Name, ProductName: p.Product.Name,
		Address: a, NUMANode: -1, IOMMUGroup: -1, UsedBy: used[a]}
	if x.Driver != nil {
		dev.Driver = x.Driver.Name
	}
	if p.NUMA != nil {
		dev.NUMANode = p.NUMA.Node
	}
	for _, sub := range p.Capabilities {
		if sub.PhysFunction != nil {
			dev.Kind = hypervisor.VirtualFunction
			pa := sub.PhysFunction.Address
			dev.Parent = deviceID(h.ID(), pciAddress(pa.Domain, pa.Bus, pa.Slot, pa.Function))
		}
		if sub.VirtFunctions != nil {
			dev.MaxVFs, dev.VFs = sub.VirtFunctions.MaxCount, len(sub.VirtFunctions.Address)
		}
	}
	switch {
	case class>>16 == 0x06:
		dev.Reason, dev.Detail = hypervisor.ReasonHostUsesDevice, "a bridge is a part of the host"
	case len(dev.UsedBy) > 0:
		dev.Reason, dev.Detail = hypervisor.ReasonDeviceInUse, "it belongs to "+dev.UsedBy[0].String()
	case dev.Driver != stubDriver:
		dev.Reason, dev.Detail = hypervisor.ReasonDevicePrepare, "the control domain has it (driver "+strconv.Quote(dev.Driver)+"): release it with PrepareDevice"
	default:
		dev.Assignable = true
	}
	return dev
}

// AttachDevice implements hypervisor.DeviceAssigner, for machines that are off.
func (d *driver) AttachDevice(ctx context.Context, id hypervisor.VMID, r hypervisor.DeviceRequest) (hypervisor.DriverTask, error) {
	if r.Profile != "" {
		return nil, refuse(id.Ref(), hypervisor.DeviceVGPU)
	}
	return d.run(ctx, "attach-device", id, shortWork, func(ctx context.Context, _ func(hypervisor.TaskState)) hypervisor.TaskState {
		a, err := onDomain(context.WithoutCancel(ctx), d, id, 6, func(h *host, c *libvirt.Connect, dom *libvirt.Domain) (string, error) {
			s, err := changeable(dom, id)
			if err != nil {
				return "", err
			}
			all, err := h.devices(c)
			if err != nil {
				return "", err
			}
			dev, err := choose(all, r, id)
			if err != nil {
				return "", err
			}
			x, _, err := inactive(dom)
			switch {
			case err != nil:
				return "", err
			case kindOfMachine(x) == pvh:
				return "", hypervisor.Unsupported(id.Ref(), r.Capability(), pvhNoDevice.Reason, pvhNoDevice.Detail)
			case s != hypervisor.Off:
				return "", refuse(id.Ref(), hypervisor.DeviceHotplug)
			}
			doc, err := hostdev(dev.Address).Marshal()
			if err != nil {
				return "", err
			}
			return dev.Address, dom.AttachDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG)
		})
		return hypervisor.TaskState{Result: hypervisor.Ref{Kind: hypervisor.KindOfDevice, ID: a}, Err: err}
	})
}

// choose takes the first assignable device that a request matches, or says
// why there is none.
func choose(all []hypervisor.DeviceInfo, r hypervisor.DeviceRequest, id hypervisor.VMID) (hypervisor.DeviceInfo, error) {
	f := hypervisor.DeviceFilter{ID: r.ID, Vendor: r.Vendor, Product: r.Product, Class: r.Class}
	if r.VirtualFunction {
		f.Kind = hypervisor.VirtualFunction
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
		return hypervisor.DeviceInfo{}, hypervisor.Errorf(hypervisor.KindNotFound, r.ID.Ref(), "the machine's host has no such device")
	case why == nil:
		return hypervisor.DeviceInfo{}, hypervisor.Errorf(hypervisor.KindExhausted, id.Ref(), "the machine's host has no device that matches")
	case why.Reason == hypervisor.ReasonDeviceInUse:
		return hypervisor.DeviceInfo{}, hypervisor.Errorf(hypervisor.KindBusy, why.ID.Ref(), "%s", why.Detail)
	}
	return hypervisor.DeviceInfo{}, hypervisor.Unsupported(why.ID.Ref(), r.Capability(), why.Reason, why.Detail)
}

// hostdev is managed: libvirt resets the function before and after its use.
func hostdev(address string) *libvirtxml.DomainHostdev {
	var domain, bus, slot, function uint
	_, _ = fmt.Sscanf(address, "%x:%x:%x.%x", &domain, &bus, &slot, &function) // made by pciAddress
	return &libvirtxml.DomainHostdev{Managed: "yes", SubsysPCI: &libvirtxml.DomainHostdevSubsysPCI{Source: &libvirtxml.DomainHostdevSubsysPCISource{
		Address: &libvirtxml.DomainAddressPCI{Domain: &domain, Bus: &bus, Slot: &slot, Function: &function}}}}
}

// DetachDevice implements hypervisor.DeviceAssigner.
func (d *driver) DetachDevice(ctx context.Context, id hypervisor.VMID, a hypervisor.AttachmentID) (hypervisor.DriverTask, error) {
	return d.simple(ctx, "detach-device", id, shortWork, func(ctx context.Context) error {
		_, err := onDomain(context.WithoutCancel(ctx), d, id, 4, func(_ *host, _ *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
			s, err := changeable(dom, id)
			if err != nil {
				return struct{}{}, err
			}
			x, _, err := inactive(dom)
			if err != nil {
				return struct{}{}, err
			}
			for i := range x.Devices.Hostdevs {
				k := &x.Devices.Hostdevs[i]
				if at, ok := hostdevAddress(k); !ok || at != string(a) {
					continue
				}
				if s != hypervisor.Off {
					return struct{}{}, refuse(id.Ref(), hypervisor.DeviceHotplug)
				}
				doc, err := k.Marshal()
				if err != nil {
					return struct{}{}, err
				}
				return struct{}{}, dom.DetachDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG)
			}
			return struct{}{}, hypervisor.Errorf(hypervisor.KindNotFound, hypervisor.Ref{Kind: hypervisor.KindOfDevice, ID: string(a)}, "the machine has no such device")
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
		return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no host of this Client has such a device")
	}
	dev := all[0]
	switch {
	case p.VFs != nil:
		return nil, hypervisor.Unsupported(id.Ref(), hypervisor.DevicePrepare, hypervisor.ReasonPlatform, "libvirt can't set the number of virtual functions: write it to the device's sriov_numvfs in the control domain")
	case len(dev.UsedBy) > 0:
		return nil, hypervisor.Errorf(hypervisor.KindBusy, id.Ref(), "%s", dev.Detail)
	case dev.Reason == hypervisor.ReasonHostUsesDevice:
		return nil, hypervisor.Unsupported(id.Ref(), hypervisor.DevicePrepare, dev.Reason, dev.Detail)
	}
	h, err := d.host(dev.Host)
	if err != nil {
		return nil, err
	}
	tid := hypervisor.TaskID("libxl:prepare-device:" + libvirtx.Nonce())
	return d.tasks.Go(ctx, tid, func(ctx context.Context, _ func(hypervisor.TaskState)) hypervisor.TaskState {
		_, err := libvirtx.Do(context.WithoutCancel(ctx), h.conn, 2, func(c *libvirt.Connect) (struct{}, error) {
			name := "pci_" + strings.NewReplacer(":", "_", ".", "_").Replace(dev.Address)
			n, err := c.LookupDeviceByName(name)
			if err != nil {
				return struct{}{}, err
			}
			defer n.Free()
			switch held := dev.Driver == stubDriver; {
			case *p.Passthrough && !held:
				return struct{}{}, n.DetachFlags("", 0)
			case !*p.Passthrough && held:
				return struct{}{}, n.ReAttach()
			}
			return struct{}{}, nil
		})
		return hypervisor.TaskState{Result: id.Ref(), Err: err}
	})
}
