//go:build cgo

package libvirtx

import (
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// DiskPath returns the path of a disk's image on its host. It is empty for
// other kinds of disks.
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

// Writable lists the disks that hold the machine's data, without CD-ROMs and
// read-only disks.
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

// Whole refuses a machine with a disk that can't be frozen or copied with the
// others. The result without the disk would be half a machine, and naming the
// same storage twice would give it two writers.
func Whole(x *libvirtxml.Domain, on hypervisor.Ref, verb capability.Name) error {
	for i := range x.Devices.Disks {
		k := &x.Devices.Disks[i]
		if k.Device == "cdrom" || k.Device == "floppy" || k.Target == nil {
			continue
		}
		why := ""
		switch {
		case k.Device == "lun":
			why = "is a SCSI device that is passed through"
		case k.Shareable != nil:
			why = "is shared with other machines"
		case k.Transient != nil:
			why = "is transient"
		case DiskPath(k) == "" && k.Source != nil && k.ReadOnly == nil:
			why = "is neither a file nor a block device"
		}
		if why != "" {
			return hypervisor.Unsupported(on, verb, hypervisor.ReasonConfig,
				fmt.Sprintf("disk %s %s, and can't be frozen or copied with the others: detach it first", k.Target.Dev, why))
		}
	}
	return nil
}

// Elsewhere names the disks whose storage is neither a file nor a block
// device of the host, such as those on a network. Nothing here removes such
// storage.
func Elsewhere(x *libvirtxml.Domain) []string {
	var out []string
	for i := range x.Devices.Disks {
		k := &x.Devices.Disks[i]
		if k.Target != nil && k.Source != nil && DiskPath(k) == "" {
			out = append(out, k.Target.Dev)
		}
	}
	return out
}

// ReadOnly lists the images of disks that a machine may only read, without
// CD-ROMs. Other machines may have them too, so that nothing here removes
// them.
func ReadOnly(x *libvirtxml.Domain) []string {
	var out []string
	for i := range x.Devices.Disks {
		if k := &x.Devices.Disks[i]; k.Device != "cdrom" && k.ReadOnly != nil && DiskPath(k) != "" {
			out = append(out, DiskPath(k))
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
	return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "the machine has no such disk")
}

// ImageName returns the name for a new image of a machine.
func ImageName(uuid, disk, format string) string {
	return fmt.Sprintf("%s.%s.%s.%s", uuid, disk, Nonce(), format)
}

// FreeTarget returns the first target name with this prefix that no disk has.
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

// letters counts a, b, … z, aa, ab, … like disk names do.
func letters(n int) string {
	s := ""
	for n++; n > 0; n = (n - 1) / 26 {
		s = string(rune('a'+(n-1)%26)) + s
	}
	return s
}
