//go:build cgo

package libvirtx

import (
	"errors"
	"strings"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// MDev is a mediated device: a share of a PCI device, such as a vGPU
// (libvirt.org/drvnodedev.html, "Mediated devices").
type MDev struct {
	UUID   string
	Type   string // ID of its type at the parent
	Parent string // the PCI device's address
}

// mdev reads a mediated device from a node device. It returns false for other
// devices.
func mdev(x *libvirtxml.NodeDevice) (MDev, bool) {
	m := x.Capability.MDev
	if m == nil || m.Type == nil {
		return MDev{}, false
	}
	// The parent is "pci_0000_03_00_0".
	f := strings.Split(strings.TrimPrefix(x.Parent, "pci_"), "_")
	if len(f) != 4 {
		return MDev{}, false // of another bus than PCI
	}
	return MDev{UUID: m.UUID, Type: m.Type.ID, Parent: f[0] + ":" + f[1] + ":" + f[2] + "." + f[3]}, true
}

// eachMDev calls f with every mediated device, including those that are
// defined but not present.
func eachMDev(c *libvirt.Connect, f func(MDev, *libvirt.NodeDevice) error) error {
	all, err := c.ListAllNodeDevices(libvirt.CONNECT_LIST_NODE_DEVICES_CAP_MDEV | libvirt.CONNECT_LIST_NODE_DEVICES_ACTIVE | libvirt.CONNECT_LIST_NODE_DEVICES_INACTIVE)
	if err != nil {
		return err
	}
	defer func() {
		for i := range all {
			_ = all[i].Free() // a local reference
		}
	}()
	for i := range all {
		doc, err := all[i].GetXMLDesc(0)
		if NotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		var x libvirtxml.NodeDevice
		if err := x.Unmarshal(doc); err != nil {
			return err
		}
		if m, ok := mdev(&x); ok {
			if err := f(m, &all[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// MDevs lists the mediated devices of PCI devices by UUID. It takes one
// request, and one for each device.
func MDevs(c *libvirt.Connect) (map[string]MDev, error) {
	out := map[string]MDev{}
	err := eachMDev(c, func(m MDev, _ *libvirt.NodeDevice) error {
		out[m.UUID] = m
		return nil
	})
	return out, err
}

// CreateMDev makes a mediated device that exists again after a restart of its
// host.
func CreateMDev(c *libvirt.Connect, m MDev) error {
	_, parent, _ := strings.Cut(string(DeviceID("", m.Parent)), "/")
	doc, err := (&libvirtxml.NodeDevice{Parent: parent, Capability: libvirtxml.NodeDeviceCapability{
		MDev: &libvirtxml.NodeDeviceMDevCapability{Type: &libvirtxml.NodeDeviceMDevCapabilityType{ID: m.Type}, UUID: m.UUID}}}).Marshal()
	if err != nil {
		return err
	}
	dev, err := c.DeviceDefineXML(doc, 0)
	if err != nil {
		return err
	}
	defer dev.Free()
	if err = dev.Create(0); err == nil {
		err = dev.SetAutostart(true)
	}
	// The device exists. libvirt learns of it from udev, and can't remove it
	// before that.
	if err == nil && !settle(dev.IsActive) {
		err = hypervisor.Errorf(hypervisor.ErrTimeout, DeviceID("", m.Parent).Ref(), "libvirt does not show the vGPU that it made: does udev run on the host?")
	}
	if err != nil {
		err = errors.Join(err, RemoveMDev(c, m.UUID))
	}
	return err
}

// settle waits some seconds until done reports true.
func settle(done func() (bool, error)) bool {
	for range 100 {
		if ok, err := done(); err != nil || ok {
			return ok
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

// RemoveMDev removes a mediated device and its definition. It is not an error
// if the device does not exist.
func RemoveMDev(c *libvirt.Connect, uuid string) error {
	return eachMDev(c, func(m MDev, dev *libvirt.NodeDevice) error {
		if m.UUID != uuid {
			return nil
		}
		var err error
		settle(func() (bool, error) { // QEMU releases it a little after its guest did
			err = dev.Destroy()
			return Kind(err) != hypervisor.ErrBusy, nil
		})
		if err != nil && Kind(err) != hypervisor.ErrInvalidState && !NotFound(err) {
			return err
		}
		if err := dev.Undefine(0); err != nil && Kind(err) != hypervisor.ErrInvalidState && !NotFound(err) {
			return err
		}
		settle(func() (bool, error) {
			_, err := dev.IsActive()
			return NotFound(err), nil
		})
		return nil
	})
}

// MDevOf returns the UUID of the mediated device behind a definition's host
// device. It is empty for devices of another kind.
func MDevOf(k *libvirtxml.DomainHostdev) string {
	if k.SubsysMDev == nil || k.SubsysMDev.Source == nil || k.SubsysMDev.Source.Address == nil {
		return ""
	}
	return k.SubsysMDev.Source.Address.UUID
}

// RemoveMDevs removes the mediated devices that a machine had, and names
// those that remain.
func RemoveMDevs(c *libvirt.Connect, x *libvirtxml.Domain) (left []hypervisor.Ref, err error) {
	for i := range x.Devices.Hostdevs {
		uuid := MDevOf(&x.Devices.Hostdevs[i])
		if uuid == "" {
			continue
		}
		if e := RemoveMDev(c, uuid); e != nil {
			left, err = append(left, hypervisor.Ref{Kind: hypervisor.ObjectDevice, ID: uuid}), errors.Join(err, e)
		}
	}
	return left, err
}
