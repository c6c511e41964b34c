//go:build cgo

package libvirtx

import (
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// DiskPath is where a disk's image is on its host, empty for other kinds.
func DiskPath(k *libvirtxml.DomainDisk) string {
	switch {
	case k.Source == nil:
	case k.Source.File != nil:
		return k.Source.File.File
	case k.Source.Block != nil:
		return k.Source.Block.Dev
	}
	return ""
}

// SetDiskPath puts a disk on an image file.
func SetDiskPath(k *libvirtxml.DomainDisk, path, format string) {
	k.Source = &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}}
	k.BackingStore = nil
	if k.Driver == nil {
		k.Driver = &libvirtxml.DomainDiskDriver{Name: "qemu"}
	}
	k.Driver.Type = format
}

// Writable lists the disks that hold the machine's data: no CD-ROMs, nothing
// read-only.
func Writable(x *libvirtxml.Domain) []*libvirtxml.DomainDisk {
	var out []*libvirtxml.DomainDisk
	for i := range x.Devices.Disks {
		k := &x.Devices.Disks[i]
		if (k.Device == "" || k.Device == "disk") && k.ReadOnly == nil && k.Target != nil && DiskPath(k) != "" {
			out = append(out, k)
		}
	}
	return out
}

// FindDisk returns a disk by its target.
func FindDisk(x *libvirtxml.Domain, id hypervisor.DiskID) (*libvirtxml.DomainDisk, error) {
	for i := range x.Devices.Disks {
		if k := &x.Devices.Disks[i]; k.Target != nil && k.Target.Dev == string(id) {
			return k, nil
		}
	}
	return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "the machine has no such disk")
}

// ImageName is the name of a new image of a machine.
func ImageName(uuid, disk, format string) string {
	return fmt.Sprintf("%s.%s.%s.%s", uuid, disk, Nonce(), format)
}

// FreeTarget is the first target name with this prefix that no disk has.
func FreeTarget(x *libvirtxml.Domain, prefix string) string {
	taken := map[string]bool{}
	for _, k := range x.Devices.Disks {
		if k.Target != nil {
			taken[k.Target.Dev] = true
		}
	}
	dev := ""
	for n := 0; dev == "" || taken[dev]; n++ {
		dev = prefix + letters(n)
	}
	return dev
}

// letters counts a, b, … z, aa, ab, … as disk names do.
func letters(n int) string {
	s := ""
	for n++; n > 0; n = (n - 1) / 26 {
		s = string(rune('a'+(n-1)%26)) + s
	}
	return s
}
