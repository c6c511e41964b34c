//go:build cgo

package libvirtx

import (
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// Parse reads a domain's definition, and its mark.
func Parse(dom *libvirt.Domain, flags libvirt.DomainXMLFlags) (*libvirtxml.Domain, Mark, error) {
	doc, err := dom.GetXMLDesc(flags)
	if err != nil {
		return nil, Mark{}, err
	}
	return ParseXML(doc)
}

// ParseXML is Parse for a document that was read already.
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

// Inactive reads the definition that counts at the next start, with secrets.
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

// MemoryKiB is the definition's <memory>: all that the guest may get without
// hot-plug, and the hot-plugged.
func MemoryKiB(x *libvirtxml.Domain) int64 {
	if x.Memory == nil {
		return 0
	}
	return ToKiB(uint64(x.Memory.Value), x.Memory.Unit)
}

// CurrentKiB is the definition's <currentMemory>.
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
