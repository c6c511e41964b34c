//go:build cgo

package kvm

import (
	"fmt"
	"path"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// spareSlots is the number of devices that can be added to a running machine:
// on q35 each needs a root port of its own, which can't be added later.
const spareSlots = 8

// dimmSlots is how many times memory can be added.
const dimmSlots = 16

func ptr[T any](v T) *T { return &v }

// newDomain makes the definition of a new machine, without its disks and
// adapters.
func (d *driver) newDomain(f *libvirtx.Facts, s hypervisor.VMSpec, uuid string, mark libvirtx.Mark) (*libvirtxml.Domain, error) {
	kind := d.domainType(f)
	x := &libvirtxml.Domain{Type: kind, Name: s.Name, UUID: uuid, Description: s.Description,
		OS:       &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Type: "hvm", Arch: f.Arch, Machine: "q35"}},
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		Clock:    &libvirtxml.DomainClock{Offset: "utc"},
		Devices:  &libvirtxml.DomainDeviceList{},
	}
	if s.Machine != "" {
		x.OS.Type.Machine = s.Machine
	}
	if strings.Contains(s.GuestOS, "windows") {
		x.Clock.Offset = "localtime"
	}
	if s.Boot != nil {
		x.OS.Kernel, x.OS.Initrd, x.OS.Cmdline = s.Boot.Kernel, s.Boot.Initrd, s.Boot.CommandLine
	}
	switch {
	case s.Firmware == hypervisor.FirmwareUEFI || s.SecureBoot:
		x.OS.Firmware = "efi"
		secure := "no"
		if s.SecureBoot {
			secure = "yes"
			x.Features.SMM = &libvirtxml.DomainFeatureSMM{State: "on"}
		}
		x.OS.FirmwareInfo = &libvirtxml.DomainOSFirmwareInfo{Features: []libvirtxml.DomainOSFirmwareFeature{{Name: "secure-boot", Enabled: secure}}}
	}
	cpus := max(s.CPUs, 1)
	x.VCPU = &libvirtxml.DomainVCPU{Placement: "static", Current: uint(cpus), Value: uint(max(s.MaxCPUs, cpus))}
	// The name and features of a host CPU can be checked before a migration.
	// Emulated ones have one fixed model.
	x.CPU = &libvirtxml.DomainCPU{Mode: "host-model"}
	if kind == "qemu" {
		x.CPU = &libvirtxml.DomainCPU{Mode: "custom", Match: "exact", Model: &libvirtxml.DomainCPUModel{Value: "qemu64"}}
	}
	base, now := s.MemoryBytes>>10, s.MemoryBytes>>10
	if s.DynamicMemory != nil {
		base, mark.MinKiB = s.DynamicMemory.MaxBytes>>10, uint64(s.DynamicMemory.MinBytes>>10)
	}
	libvirtx.SetMemory(x, uint64(base), uint64(now))
	if limit := s.MaxMemoryBytes >> 10; limit > base {
		x.MaximumMemory = &libvirtxml.DomainMaxMemory{Value: uint(limit), Unit: "KiB", Slots: dimmSlots}
		x.CPU.Numa = &libvirtxml.DomainNuma{Cell: []libvirtxml.DomainCell{{ID: ptr(uint(0)),
			CPUs: fmt.Sprintf("0-%d", x.VCPU.Value-1), Memory: uint(base), Unit: "KiB"}}}
	}
	d.addBasics(x, uuid, len(s.Disks)+len(s.NICs))
	mark.GuestOS = s.GuestOS
	return x, libvirtx.MarkDefinition(x, mark)
}

// secureBoot reports whether the firmware starts only signed code: as
// requested, or as recorded by libvirt when it chose the firmware.
func secureBoot(o *libvirtxml.DomainOS) bool {
	if o.FirmwareInfo != nil {
		for _, f := range o.FirmwareInfo.Features {
			if f.Name == "secure-boot" {
				return f.Enabled == "yes"
			}
		}
	}
	return o.Loader != nil && o.Loader.Secure == "yes"
}

// addBasics adds what every machine has: slots, console, agent channel,
// balloon and entropy.
func (d *driver) addBasics(x *libvirtxml.Domain, uuid string, devices int) {
	dev := x.Devices
	if m := x.OS.Type.Machine; m == "q35" || strings.Contains(m, "q35") {
		// libvirt adds the root itself only if no ports are listed.
		dev.Controllers = append(dev.Controllers, libvirtxml.DomainController{Type: "pci", Index: ptr(uint(0)), Model: "pcie-root"})
		for range spareSlots + devices + 4 { // serial controller, balloon, entropy, USB
			dev.Controllers = append(dev.Controllers, libvirtxml.DomainController{Type: "pci", Model: "pcie-root-port"})
		}
	}
	serial := libvirtxml.DomainSerial{Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}}
	if dir := d.cfg.SerialLogDir; dir != "" {
		serial.Log = &libvirtxml.DomainChardevLog{File: path.Join(dir, uuid+".serial"), Append: "on"}
	}
	dev.Serials = []libvirtxml.DomainSerial{serial}
	dev.Channels = []libvirtxml.DomainChannel{{Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{}},
		Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: agentChannel}}}}
	dev.MemBalloon = &libvirtxml.DomainMemBalloon{Model: "virtio", AutoDeflate: "on", Stats: &libvirtxml.DomainMemBalloonStats{Period: 5}}
	dev.RNGs = []libvirtxml.DomainRNG{{Model: "virtio", Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}}}}
}

// busPrefix is the beginning of target names on a bus.
var busPrefix = map[string]string{"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd"}

// addDisk adds a disk to a definition under a free target name.
func addDisk(x *libvirtxml.Domain, d hypervisor.DiskSpec, image, format string) (*libvirtxml.DomainDisk, error) {
	bus := d.Bus
	if bus == "" {
		if bus = "virtio"; d.CDROM {
			bus = "sata"
		}
	}
	prefix, ok := busPrefix[bus]
	if !ok {
		return nil, hypervisor.Unsupported(hypervisor.Ref{Kind: hypervisor.ObjectDisk}, capability.DiskAttach, hypervisor.ReasonPlatform,
			fmt.Sprintf("no disk bus %q: use virtio, scsi, sata, ide or usb", bus))
	}
	dev := libvirtx.FreeTarget(x, prefix)
	k := libvirtxml.DomainDisk{Device: "disk", Target: &libvirtxml.DomainDiskTarget{Dev: dev, Bus: bus},
		Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Discard: "unmap"}}
	if d.CDROM {
		k.Device, k.Driver.Discard = "cdrom", ""
	}
	if d.ReadOnly || d.CDROM {
		k.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	}
	libvirtx.SetDiskPath(&k, image, format)
	if bus == "scsi" && !hasSCSI(x) {
		x.Devices.Controllers = append(x.Devices.Controllers, libvirtxml.DomainController{Type: "scsi", Model: "virtio-scsi"})
	}
	x.Devices.Disks = append(x.Devices.Disks, k)
	return &x.Devices.Disks[len(x.Devices.Disks)-1], nil
}

func hasSCSI(x *libvirtxml.Domain) bool {
	for _, c := range x.Devices.Controllers {
		if c.Type == "scsi" {
			return true
		}
	}
	return false
}
