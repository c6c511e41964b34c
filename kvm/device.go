//go:build cgo

package kvm

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// passthrough reports whether a machine has a host's device.
func passthrough(x *libvirtxml.Domain) bool { return len(attached("", x)) > 0 }

// pciPrefix is the beginning of the ID of a PCI device's attachment. Its
// address on the host follows.
const pciPrefix = "pci:"

// attachmentOf returns the ID of a host device in a definition. It is empty
// for devices of another kind, such as USB devices.
func attachmentOf(k *libvirtxml.DomainHostdev) hypervisor.AttachmentID {
	if a := pciSource(k); a != "" {
		return hypervisor.AttachmentID(pciPrefix + a)
	}
	if uuid := libvirtx.MDevOf(k); uuid != "" {
		return hypervisor.AttachmentID(mdevPrefix + uuid)
	}
	return ""
}

// attached lists the host devices in a definition.
func attached(host hypervisor.HostID, x *libvirtxml.Domain) []hypervisor.AttachedDevice {
	var out []hypervisor.AttachedDevice
	for _, k := range hostdevs(x) {
		id := attachmentOf(k)
		if id == "" {
			continue
		}
		v := hypervisor.AttachedDevice{ID: id, Address: pciSource(k)}
		if v.Address != "" {
			v.Device = libvirtx.DeviceID(host, v.Address)
		}
		out = append(out, v)
	}
	return out
}

// hostdevs lists the host devices in a definition, including those that it
// has as adapters.
func hostdevs(x *libvirtxml.Domain) []*libvirtxml.DomainHostdev {
	var out []*libvirtxml.DomainHostdev
	for i := range x.Devices.Hostdevs {
		out = append(out, &x.Devices.Hostdevs[i])
	}
	for i := range x.Devices.Interfaces {
		if n := &x.Devices.Interfaces[i]; n.Source != nil && n.Source.Hostdev != nil && n.Source.Hostdev.PCI != nil {
			out = append(out, &libvirtxml.DomainHostdev{SubsysPCI: &libvirtxml.DomainHostdevSubsysPCI{Source: n.Source.Hostdev.PCI}})
		}
	}
	return out
}

func pciSource(k *libvirtxml.DomainHostdev) string {
	if k.SubsysPCI == nil || k.SubsysPCI.Source == nil || k.SubsysPCI.Source.Address == nil {
		return ""
	}
	a := k.SubsysPCI.Source.Address
	v := func(p *uint) uint {
		if p == nil {
			return 0
		}
		return *p
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", v(a.Domain), v(a.Bus), v(a.Slot), v(a.Function))
}

// Devices implements hypervisor.DeviceAssigner.
func (d *driver) Devices(ctx context.Context, f hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error) {
	parts := make([][]hypervisor.DeviceInfo, len(d.Members))
	errs := make([]error, len(d.Members))
	var wg sync.WaitGroup
	for i, h := range d.Members {
		wg.Go(func() { parts[i], errs[i] = d.devices(ctx, h) })
	}
	wg.Wait()
	var out []hypervisor.DeviceInfo
	answered := false
	for i, p := range parts {
		if errs[i] != nil && libvirtx.KindOf(errs[i]) != hypervisor.ErrUnavailable {
			return nil, errs[i]
		}
		answered = answered || errs[i] == nil
		for _, dev := range p {
			if f.Match(dev) {
				out = append(out, dev)
			}
		}
	}
	if !answered {
		return nil, errs[0]
	}
	return out, nil
}

// devices reads the devices of one host.
func (d *driver) devices(ctx context.Context, h *fleet.Host) ([]hypervisor.DeviceInfo, error) {
	f, err := h.Identify(ctx)
	if err != nil {
		return nil, err
	}
	type found struct {
		devs  []libvirtx.PCIDevice
		users map[string][]hypervisor.Ref
	}
	got, err := libvirtx.Do(ctx, h.Conn, 3, func(c *libvirt.Connect) (found, error) {
		devs, err := libvirtx.PCIDevices(c)
		if err != nil {
			return found{}, err
		}
		users, err := deviceUsers(c)
		return found{devs, users}, err
	})
	if err != nil {
		return nil, err
	}
	hypervisor.CountCalls(ctx, len(got.devs))
	by := map[string]libvirtx.PCIDevice{}
	for _, p := range got.devs {
		by[p.Address] = p
	}
	var out []hypervisor.DeviceInfo
	for _, p := range got.devs {
		i := hypervisor.DeviceInfo{ID: libvirtx.DeviceID(h.ID(), p.Address), Host: h.ID(), Kind: hypervisor.DeviceKindPCI, Class: hypervisor.ClassOfPCI(p.Class),
			ClassCode: p.Class, Vendor: p.Vendor, Product: p.Product, VendorName: p.VendorName, ProductName: p.ProductName, Address: p.Address,
			NUMANode: p.NUMANode, IOMMUGroup: p.Group, MaxVFs: p.MaxVFs, VFs: p.VFs, Driver: p.Driver, UsedBy: got.users[p.Address]}
		for _, a := range p.Peers {
			i.GroupPeers = append(i.GroupPeers, libvirtx.DeviceID(h.ID(), a))
		}
		shareFacts(&i, p, got.users)
		if p.Physical != "" {
			i.Kind, i.Parent = hypervisor.DeviceKindVF, libvirtx.DeviceID(h.ID(), p.Physical)
		}
		i.Reason, i.Detail = d.obstacle(f, p, by, got.users)
		i.Assignable = i.Reason == ""
		d.sysfsFacts(ctx, h, &i)
		out = append(out, i)
	}
	return out, nil
}

// obstacle returns the reason why a device can't be given to a machine now.
func (d *driver) obstacle(f *libvirtx.Facts, p libvirtx.PCIDevice, by map[string]libvirtx.PCIDevice, users map[string][]hypervisor.Ref) (hypervisor.ReasonCode, string) {
	if s := d.onHostFacts(capability.DevicePCI, f); s.Level == hypervisor.LevelNo {
		return s.Reason, s.Detail
	}
	switch {
	case p.Bridge:
		return hypervisor.ReasonHostUsesDevice, "a bridge or chipset function belongs to the host"
	case p.Group < 0:
		return hypervisor.ReasonNoIOMMUGroup, "the device is in no IOMMU group: the IOMMU does not cover it"
	case len(users[p.Address]) > 0:
		return hypervisor.ReasonDeviceInUse, "in use by " + users[p.Address][0].String()
	case p.HostUses != "":
		return hypervisor.ReasonHostUsesDevice, "the host uses it as " + p.HostUses
	case p.VFs > 0:
		return hypervisor.ReasonHostUsesDevice, fmt.Sprintf("the device has %d virtual functions: assign those, or set VFs to 0", p.VFs)
	case len(p.Shares) > 0:
		return hypervisor.ReasonHostUsesDevice, fmt.Sprintf("the device is split into %d vGPUs: assign another by its profile, or detach those", len(p.Shares))
	}
	for _, a := range p.Peers {
		peer := by[a]
		switch {
		case peer.Bridge && peer.Class>>8 == 0x0604: // PCI-to-PCI bridges don't count for VFIO
		case libvirtx.Slot(a) != libvirtx.Slot(p.Address) || peer.Bridge:
			if peer.Driver != "" && peer.Driver != "vfio-pci" && peer.Driver != "pci-stub" {
				return hypervisor.ReasonGroupShared, fmt.Sprintf("IOMMU group %d has %s too, which host driver %s holds: release it with PrepareDevice, or move the card to another slot", p.Group, a, peer.Driver)
			}
		case len(users[a]) > 0:
			return hypervisor.ReasonGroupShared, fmt.Sprintf("IOMMU group %d has %s too, in use by %s", p.Group, a, users[a][0])
		case peer.HostUses != "":
			return hypervisor.ReasonGroupShared, fmt.Sprintf("IOMMU group %d has %s too, which the host uses as %s", p.Group, a, peer.HostUses)
		}
	}
	return "", ""
}

// deviceUsers reads which machines have which devices, by PCI address or by a
// mediated device's UUID.
func deviceUsers(c *libvirt.Connect) (map[string][]hypervisor.Ref, error) {
	all, err := c.ListAllDomains(0)
	if err != nil {
		return nil, err
	}
	out := map[string][]hypervisor.Ref{}
	for i := range all {
		x, mark, err := libvirtx.Parse(&all[i], 0)
		_ = all[i].Free() // a local reference
		if libvirtx.NotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: x.UUID, Name: x.Name}
		if fleet.IsTemplate(x, mark) {
			r.Kind = hypervisor.ObjectTemplate
		}
		for _, k := range hostdevs(x) {
			if a := pciSource(k) + libvirtx.MDevOf(k); a != "" {
				out[a] = append(out[a], r)
			}
		}
	}
	return out, nil
}

// sysfsFacts adds facts that libvirt does not report, where the host's files
// can be read.
func (d *driver) sysfsFacts(ctx context.Context, h *fleet.Host, i *hypervisor.DeviceInfo) {
	fs := d.sysfs(h)
	if fs == nil {
		return
	}
	dir := "/sys/bus/pci/devices/" + i.Address + "/"
	if b, err := fs.ReadFile(ctx, dir+"resource"); err == nil {
		i.BARBytes = barBytes(string(b))
	}
	if i.Assignable && i.Kind != hypervisor.DeviceKindVF {
		if b, err := fs.ReadFile(ctx, dir+"reset_method"); err == nil && strings.TrimSpace(string(b)) == "" {
			i.Detail = "the device has no reset method: after one machine has used it the host may need a restart"
		}
	}
}

// barBytes sums the memory regions in a sysfs resource file. Its lines have
// the first and last address and flags
// (linux/Documentation/PCI/sysfs-pci.rst); bit 9 of the flags means memory
// (include/linux/ioport.h, IORESOURCE_MEM).
func barBytes(text string) int64 {
	var sum int64
	for n, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) != 3 || n >= 6 {
			continue
		}
		first, err1 := strconv.ParseUint(f[0], 0, 64)
		last, err2 := strconv.ParseUint(f[1], 0, 64)
		flags, err3 := strconv.ParseUint(f[2], 0, 64)
		if err1 == nil && err2 == nil && err3 == nil && flags&0x200 != 0 && last > first {
			sum += int64(last - first + 1)
		}
	}
	return sum
}

// choose finds the device for a request on the machine's host.
func (d *driver) choose(ctx context.Context, h *fleet.Host, id hypervisor.VMID, r hypervisor.DeviceRequest) (hypervisor.DeviceInfo, []hypervisor.DeviceInfo, error) {
	all, err := d.devices(ctx, h)
	if err != nil {
		return hypervisor.DeviceInfo{}, nil, err
	}
	if r.ID != "" {
		i := slices.IndexFunc(all, func(d hypervisor.DeviceInfo) bool { return d.ID == r.ID })
		if i < 0 {
			if hid, _, ok := strings.Cut(string(r.ID), "/"); ok && hypervisor.HostID(hid) != h.ID() {
				if _, err := d.Host(hypervisor.HostID(hid)); err == nil {
					return hypervisor.DeviceInfo{}, nil, hypervisor.Errorf(hypervisor.ErrIncompatible, r.ID.Ref(), "the device is on host %s, the machine on %s: migrate the machine first", hid, h.ID())
				}
			}
			return hypervisor.DeviceInfo{}, nil, hypervisor.Errorf(hypervisor.ErrNotFound, r.ID.Ref(), "no such device")
		}
		switch v := all[i]; {
		case r.Profile != "":
			return v, all, offers(v, r.Profile)
		case v.Assignable:
			return v, all, nil
		case v.Reason == hypervisor.ReasonDeviceInUse:
			return v, all, fleet.BusyWith(r.ID.Ref(), v.UsedBy, "the device is in use by")
		default:
			return v, all, hypervisor.Unsupported(r.ID.Ref(), r.Capability(), v.Reason, v.Detail)
		}
	}
	matched := 0
	for _, v := range all {
		ok := hypervisor.DeviceFilter{Class: r.Class, Vendor: r.Vendor, Product: r.Product, Profile: r.Profile}.Match(v)
		if r.VirtualFunction {
			ok = ok && v.Kind == hypervisor.DeviceKindVF
		} else if r.Profile == "" {
			ok = ok && v.Kind != hypervisor.DeviceKindVF
		}
		if !ok {
			continue
		}
		matched++
		if r.Profile != "" && offers(v, r.Profile) == nil || r.Profile == "" && v.Assignable {
			return v, all, nil
		}
	}
	return hypervisor.DeviceInfo{}, nil, hypervisor.Errorf(hypervisor.ErrExhausted, id.Ref(), "host %s has %d devices of this kind, none of them free", h.ID(), matched)
}

// whole returns the devices that are assigned together with one: the
// functions of the same card that share its IOMMU group.
func whole(v hypervisor.DeviceInfo, all []hypervisor.DeviceInfo) []hypervisor.DeviceInfo {
	out := []hypervisor.DeviceInfo{v}
	for _, p := range all {
		if slices.Contains(v.GroupPeers, p.ID) && libvirtx.Slot(p.Address) == libvirtx.Slot(v.Address) && p.ClassCode>>16 != 0x06 {
			out = append(out, p)
		}
	}
	return out
}
