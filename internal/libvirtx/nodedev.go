//go:build cgo

package libvirtx

import (
	"fmt"
	"strconv"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// PCIDevice is a PCI function of a host as reported by libvirt's node devices
// (libvirt.org/formatnode.html).
type PCIDevice struct {
	Name    string // of the node device: "pci_0000_01_00_0"
	Address string // "0000:01:00.0"
	Class   uint32 // 24 bits, 0 if unknown

	Vendor, Product         string // four hex digits
	VendorName, ProductName string
	Driver                  string
	NUMANode                int
	Group                   int      // IOMMU group, -1 if none
	Peers                   []string // addresses of the others in the group
	Physical                string   // address of a virtual function's physical device
	MaxVFs, VFs             int
	Types                   []libvirtxml.NodeDeviceMDevType
	Shares                  []MDev // the shares that it is split into now
	Bridge                  bool
	// HostUses is the host's use of the device: an interface that is up, a
	// block device.
	HostUses string
}

// PCIDevices reads the PCI functions of a host, and which of them the host
// itself uses. It takes one request, and one for each node device.
func PCIDevices(c *libvirt.Connect) ([]PCIDevice, error) {
	all, err := c.ListAllNodeDevices(0)
	if err != nil {
		return nil, err
	}
	defer func() {
		for i := range all {
			_ = all[i].Free() // a local reference
		}
	}()
	docs := make([]libvirtxml.NodeDevice, len(all))
	err = Each(len(all), func(i int) error {
		doc, err := all[i].GetXMLDesc(0)
		if NotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		// A device that this library can't read can't be passed through
		// either.
		if docs[i].Unmarshal(doc) != nil {
			docs[i] = libvirtxml.NodeDevice{}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []PCIDevice
	at := map[string]int{}
	parent := map[string]string{}
	for _, x := range docs {
		parent[x.Name] = x.Parent
		if x.Capability.PCI == nil {
			continue
		}
		at[x.Name] = len(out)
		out = append(out, pciDevice(&x))
	}
	for _, x := range docs {
		if m, ok := mdev(&x); ok {
			if i, ok := at[x.Parent]; ok {
				out[i].Shares = append(out[i].Shares, m)
			}
		}
		use := ""
		switch c := x.Capability; {
		case c.Net != nil && c.Net.Link != nil && c.Net.Link.State == "up":
			use = "network interface " + c.Net.Interface + ", which is up"
		case c.Storage != nil && c.Storage.Block != "":
			use = "block device " + c.Storage.Block
		}
		for p := x.Parent; use != "" && p != ""; p = parent[p] {
			if i, ok := at[p]; ok {
				out[i].HostUses = use
				break
			}
		}
	}
	return out, nil
}

// FindPCI reads one PCI function by its address.
func FindPCI(c *libvirt.Connect, address string) (PCIDevice, error) {
	_, name, _ := strings.Cut(string(DeviceID("", address)), "/")
	n, err := c.LookupDeviceByName(name)
	if err != nil {
		return PCIDevice{}, err
	}
	defer n.Free()
	doc, err := n.GetXMLDesc(0)
	if err != nil {
		return PCIDevice{}, err
	}
	var x libvirtxml.NodeDevice
	if err := x.Unmarshal(doc); err != nil {
		return PCIDevice{}, err
	}
	if x.Capability.PCI == nil {
		return PCIDevice{}, hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: address}, "no PCI device")
	}
	return pciDevice(&x), nil
}

func pciDevice(x *libvirtxml.NodeDevice) PCIDevice {
	p := x.Capability.PCI
	d := PCIDevice{Name: x.Name, NUMANode: -1, Group: -1, Vendor: hex4(p.Vendor.ID), Product: hex4(p.Product.ID),
		VendorName: strings.TrimSpace(p.Vendor.Name), ProductName: strings.TrimSpace(p.Product.Name)}
	d.Address = address(p.Domain, p.Bus, p.Slot, p.Function)
	if n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(p.Class), "0x"), 16, 24); err == nil {
		d.Class = uint32(n)
	}
	d.Bridge = d.Class>>16 == 0x06
	if x.Driver != nil {
		d.Driver = x.Driver.Name
	}
	if p.NUMA != nil {
		d.NUMANode = p.NUMA.Node
	}
	if g := p.IOMMUGroup; g != nil {
		d.Group = g.Number
		for _, a := range g.Address {
			if s := address(a.Domain, a.Bus, a.Slot, a.Function); s != d.Address {
				d.Peers = append(d.Peers, s)
			}
		}
	}
	for _, c := range p.Capabilities {
		switch {
		case c.PhysFunction != nil:
			a := c.PhysFunction.Address
			d.Physical = address(a.Domain, a.Bus, a.Slot, a.Function)
		case c.VirtFunctions != nil:
			d.VFs = len(c.VirtFunctions.Address)
			d.MaxVFs = max(c.VirtFunctions.MaxCount, d.VFs)
		case c.MDevTypes != nil:
			d.Types = c.MDevTypes.Types
		}
	}
	return d
}

func hex4(s string) string { return strings.ToLower(strings.TrimPrefix(s, "0x")) }

func address(domain, bus, slot, function *uint) string {
	v := func(p *uint) uint {
		if p == nil {
			return 0
		}
		return *p
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", v(domain), v(bus), v(slot), v(function))
}

// Slot returns an address without its function.
func Slot(address string) string {
	s, _, _ := strings.Cut(address, ".")
	return s
}

// ParseAddress splits an address into its parts.
func ParseAddress(a string) (domain, bus, slot, function uint, err error) {
	_, err = fmt.Sscanf(a, "%x:%x:%x.%x", &domain, &bus, &slot, &function)
	return
}

// DeviceID is a device's ID: the name of its host and of its node device.
func DeviceID(host hypervisor.HostID, address string) hypervisor.DeviceID {
	return hypervisor.DeviceID(string(host) + "/pci_" + strings.NewReplacer(":", "_", ".", "_").Replace(address))
}
