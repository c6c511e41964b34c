//go:build cgo

package libvirtx

import (
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Parse reads a domain's definition, and its mark.
func Parse(dom *libvirt.Domain, flags libvirt.DomainXMLFlags) (*libvirtxml.Domain, Mark, error) {
	doc, err := dom.GetXMLDesc(flags)
	if err != nil {
		return nil, Mark{}, err
	}
	x, mark, err := ParseXML(doc)
	if err != nil {
		return nil, Mark{}, err
	}
	return x, mark, resolveVolumes(dom, x)
}

// ParseXML is like Parse, for a document that was read already.
func ParseXML(doc string) (*libvirtxml.Domain, Mark, error) {
	x := new(libvirtxml.Domain)
	if err := x.Unmarshal(doc); err != nil {
		return nil, Mark{}, err
	}
	if x.Devices == nil {
		x.Devices = &libvirtxml.DomainDeviceList{}
	}
	if x.Metadata == nil {
		return x, Mark{}, nil
	}
	mark, err := ReadMark(x.Metadata.XML)
	return x, mark, err
}

// resolveVolumes replaces a pool and a volume by the path, where a disk names
// them. If the pool or volume does not exist, the disk stays unchanged.
func resolveVolumes(dom *libvirt.Domain, x *libvirtxml.Domain) error {
	for i := range x.Devices.Disks {
		k := &x.Devices.Disks[i]
		if k.Source == nil || k.Source.Volume == nil {
			continue
		}
		c, err := dom.DomainGetConnect() // local
		if err != nil {
			return err
		}
		path, err := volumePath(c, k.Source.Volume.Pool, k.Source.Volume.Volume)
		if _, cerr := c.Close(); err == nil { // a local reference
			err = cerr
		}
		switch {
		case err == nil && strings.HasPrefix(path, "/dev/"):
			k.Source = &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: path}}
		case err == nil && strings.HasPrefix(path, "/"):
			k.Source = &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}}
		case err != nil && !NotFound(err) && !Is(err, libvirt.ERR_OPERATION_INVALID): // such as a pool that is not active
			return err
		}
	}
	return nil
}

func volumePath(c *libvirt.Connect, pool, volume string) (string, error) {
	p, err := c.LookupStoragePoolByName(pool)
	if err != nil {
		return "", err
	}
	defer p.Free()
	v, err := p.LookupStorageVolByName(volume)
	if err != nil {
		return "", err
	}
	defer v.Free()
	return v.GetPath()
}

// DIMMKiB returns the memory of a definition that modules hold. <memory>
// includes it.
func DIMMKiB(x *libvirtxml.Domain) int64 {
	sum := int64(0)
	for _, m := range x.Devices.Memorydevs {
		if m.Target != nil && m.Target.Size != nil {
			sum += ToKiB(uint64(m.Target.Size.Value), m.Target.Size.Unit)
		}
	}
	return sum
}

// SetOnlyCell sets the memory of a definition's NUMA cell, if there is just
// one, to what the modules leave of it: libvirt computes <memory> from the
// sum.
func SetOnlyCell(x *libvirtxml.Domain, kib int64) {
	if x.CPU != nil && x.CPU.Numa != nil && len(x.CPU.Numa.Cell) == 1 {
		x.CPU.Numa.Cell[0].Memory, x.CPU.Numa.Cell[0].Unit = uint(max(kib-DIMMKiB(x), 0)), "KiB"
	}
}

// Inactive reads the definition for the next start, with secrets.
func Inactive(dom *libvirt.Domain) (*libvirtxml.Domain, Mark, error) {
	return Parse(dom, libvirt.DOMAIN_XML_INACTIVE|libvirt.DOMAIN_XML_SECURE)
}

// Define stores a definition.
func Define(c *libvirt.Connect, x *libvirtxml.Domain) error {
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

// MarkDefinition writes the mark into a definition.
func MarkDefinition(x *libvirtxml.Domain, m Mark) error {
	inner := ""
	if x.Metadata != nil {
		inner = x.Metadata.XML
	}
	text, err := PutMark(inner, m)
	x.Metadata = &libvirtxml.DomainMetadata{XML: text}
	return err
}

// MarkDomain replaces the mark of a stored domain, and live where it runs.
func MarkDomain(dom *libvirt.Domain, m Mark) error {
	text, err := m.XML()
	if err != nil {
		return err
	}
	impact := libvirt.DOMAIN_AFFECT_CONFIG
	if persistent, err := dom.IsPersistent(); err == nil && !persistent {
		impact = 0
	}
	if on, err := dom.IsActive(); err != nil {
		return err
	} else if on {
		impact |= libvirt.DOMAIN_AFFECT_LIVE
	}
	return dom.SetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, text, Prefix, Namespace, impact)
}

// ToKiB converts libvirt's sizes with unit (libvirt.org/formatdomain.html,
// "Memory Allocation").
func ToKiB(v uint64, unit string) int64 {
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

// MemoryKiB returns the definition's <memory>: everything that the guest may
// get without hot-plug, and the hot-plugged memory.
func MemoryKiB(x *libvirtxml.Domain) int64 {
	if x.Memory == nil {
		return 0
	}
	return ToKiB(uint64(x.Memory.Value), x.Memory.Unit)
}

// CurrentKiB returns the definition's <currentMemory>.
func CurrentKiB(x *libvirtxml.Domain) int64 {
	if x.CurrentMemory == nil {
		return MemoryKiB(x)
	}
	return ToKiB(uint64(x.CurrentMemory.Value), x.CurrentMemory.Unit)
}

// SetMemory sets <memory> and <currentMemory>.
func SetMemory(x *libvirtxml.Domain, maxKiB, nowKiB uint64) {
	x.Memory = &libvirtxml.DomainMemory{Value: uint(maxKiB), Unit: "KiB"}
	x.CurrentMemory = &libvirtxml.DomainCurrentMemory{Value: uint(nowKiB), Unit: "KiB"}
}

// DirectBoot returns the kernel that a definition starts, or nil if there is
// none.
func DirectBoot(o *libvirtxml.DomainOS) *hypervisor.DirectBoot {
	if o.Kernel == "" {
		return nil
	}
	return &hypervisor.DirectBoot{Kernel: o.Kernel, Initrd: o.Initrd, CommandLine: o.Cmdline}
}
