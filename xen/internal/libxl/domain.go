//go:build cgo

package libxl

import (
	"fmt"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// dom0 is the UUID of the control domain, which is no machine.
const dom0 = "00000000-0000-0000-0000-000000000000"

// toKiB converts libvirt's sizes with unit (libvirt.org/formatdomain.html,
// "Memory Allocation").
func toKiB(v uint64, unit string) int64 {
	switch unit {
	case "b", "bytes":
		return int64(v >> 10)
	case "KB":
		return int64(v * 1000 >> 10)
	case "M", "MiB":
		return int64(v << 10)
	case "MB":
		return int64(v * 1000 * 1000 >> 10)
	case "G", "GiB":
		return int64(v << 20)
	case "GB":
		return int64(v * 1000 * 1000 * 1000 >> 10)
	case "T", "TiB":
		return int64(v << 30)
	}
	return int64(v)
}

// memoryKiB is the definition's <memory>: all that the guest may get without
// hot-plug, and the hot-plugged.
func memoryKiB(x *libvirtxml.Domain) int64 {
	if x.Memory == nil {
		return 0
	}
	return toKiB(uint64(x.Memory.Value), x.Memory.Unit)
}

func currentKiB(x *libvirtxml.Domain) int64 {
	if x.CurrentMemory == nil {
		return memoryKiB(x)
	}
	return toKiB(uint64(x.CurrentMemory.Value), x.CurrentMemory.Unit)
}

func setMemory(x *libvirtxml.Domain, maxKiB, nowKiB uint64) {
	x.Memory = &libvirtxml.DomainMemory{Value: uint(maxKiB), Unit: "KiB"}
	x.CurrentMemory = &libvirtxml.DomainCurrentMemory{Value: uint(nowKiB), Unit: "KiB"}
}

// diskPath is where a disk's image is on its host, empty for other kinds.
func diskPath(k *libvirtxml.DomainDisk) string {
	switch {
	case k.Source == nil:
	case k.Source.File != nil:
		return k.Source.File.File
	case k.Source.Block != nil:
		return k.Source.Block.Dev
	}
	return ""
}

func setDiskPath(k *libvirtxml.DomainDisk, path, format string) {
	k.Source = &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}}
	k.BackingStore = nil
	if k.Driver == nil {
		k.Driver = &libvirtxml.DomainDiskDriver{Name: "qemu"}
	}
	k.Driver.Type = format
}

// writable lists the disks that hold the machine's data: no CD-ROMs, nothing
// read-only.
func writable(x *libvirtxml.Domain) []*libvirtxml.DomainDisk {
	var out []*libvirtxml.DomainDisk
	for i := range x.Devices.Disks {
		k := &x.Devices.Disks[i]
		if (k.Device == "" || k.Device == "disk") && k.ReadOnly == nil && k.Target != nil && diskPath(k) != "" {
			out = append(out, k)
		}
	}
	return out
}

// findDisk returns a disk by its target.
func findDisk(x *libvirtxml.Domain, id hypervisor.DiskID) (*libvirtxml.DomainDisk, error) {
	for i := range x.Devices.Disks {
		if k := &x.Devices.Disks[i]; k.Target != nil && k.Target.Dev == string(id) {
			return k, nil
		}
	}
	return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "the machine has no such disk")
}

// putMark writes the mark into a definition.
func putMark(x *libvirtxml.Domain, m libvirtx.Mark) error {
	inner := ""
	if x.Metadata != nil {
		inner = x.Metadata.XML
	}
	text, err := libvirtx.PutMark(inner, m)
	x.Metadata = &libvirtxml.DomainMetadata{XML: text}
	return err
}

func parse(dom *libvirt.Domain, flags libvirt.DomainXMLFlags) (*libvirtxml.Domain, libvirtx.Mark, error) {
	doc, err := dom.GetXMLDesc(flags)
	if err != nil {
		return nil, libvirtx.Mark{}, err
	}
	x := new(libvirtxml.Domain)
	if err := x.Unmarshal(doc); err != nil {
		return nil, libvirtx.Mark{}, err
	}
	if x.Devices == nil {
		x.Devices = &libvirtxml.DomainDeviceList{}
	}
	if x.Metadata == nil {
		return x, libvirtx.Mark{}, nil
	}
	mark, err := libvirtx.ReadMark(x.Metadata.XML)
	return x, mark, err
}

// define stores a definition.
func define(c *libvirt.Connect, x *libvirtxml.Domain) error {
	doc, err := x.Marshal()
	if err != nil {
		return err
	}
	dom, err := c.DomainDefineXML(doc)
	if err != nil {
		return err
	}
	return dom.Free()
}

// inactive reads the definition that counts at the next start, with secrets.
func inactive(dom *libvirt.Domain) (*libvirtxml.Domain, libvirtx.Mark, error) {
	return parse(dom, libvirt.DOMAIN_XML_INACTIVE|libvirt.DOMAIN_XML_SECURE)
}

// state reads a machine's power state.
func state(dom *libvirt.Domain) (hypervisor.PowerState, error) {
	s, _, err := dom.GetState()
	if err != nil {
		return hypervisor.StateUnknown, err
	}
	p := powerState(s)
	if p == hypervisor.Off {
		if saved, err := dom.HasManagedSaveImage(0); err == nil && saved {
			return hypervisor.Suspended, nil
		}
	}
	return p, nil
}

// Names of libvirt are file names: no slash, and room for its suffixes.
const maxDomainName = 240

func checkName(what, name string, on hypervisor.Ref) error {
	switch {
	case strings.Contains(name, "/"):
		return hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "the %s %q has a slash: libvirt uses names as file names", what, name)
	case len(name) > maxDomainName:
		return hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "the %s has %d bytes: libvirt uses names as file names, at most %d bytes are possible", what, len(name), maxDomainName)
	case strings.HasPrefix(name, "."):
		return hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "the %s %q begins with a dot: libvirt uses names as file names", what, name)
	}
	return nil
}

// imageName is the name of a new image of a machine.
func imageName(uuid, disk, format string) string {
	return fmt.Sprintf("%s.%s.%s.%s", uuid, disk, libvirtx.Nonce(), format)
}
