//go:build cgo

package libxl

import (
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// Kinds of machine, as in VMSpec.Machine and VMInfo.Machine.
const (
	pv  = "pv"
	pvh = "pvh"
	hvm = "hvm"
)

// kinds maps them to libvirt's os type and machine
// (libvirt.org/drvxen.html, "Example domain XML config").
var kinds = map[string]struct{ osType, machine string }{
	pv:  {"linux", "xenpv"},
	pvh: {"xenpvh", "xenpvh"},
	hvm: {"hvm", "xenfv"},
}

// kindOfMachine is the inverse. An os type "xen" is an old word for "linux".
func kindOfMachine(x *libvirtxml.Domain) string {
	if x.OS == nil || x.OS.Type == nil {
		return ""
	}
	switch x.OS.Type.Type {
	case "linux", "xen":
		return pv
	case "xenpvh":
		return pvh
	case "hvm":
		return hvm
	}
	return x.OS.Type.Machine
}

// machineKind chooses and checks the kind of a new machine.
func machineKind(on hypervisor.Ref, s hypervisor.VMSpec) (string, error) {
	kind := strings.TrimPrefix(s.Machine, "xen")
	switch {
	case kind == "" && s.Boot != nil:
		kind = pvh
	case kind == "" || kind == "fv":
		kind = hvm
	}
	switch {
	case kinds[kind].osType == "":
		return "", hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "Machine is %q: Xen has pv, pvh and hvm", s.Machine)
	case kind == pvh && s.Boot == nil:
		return "", hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "a PVH machine has no firmware: set Boot, or make it pv or hvm")
	case s.Firmware != hypervisor.FirmwareAny && kind != hvm:
		return "", hypervisor.Unsupported(on, capability.VMCreate, hypervisor.ReasonPlatform, "a "+kind+" machine has no firmware: leave Firmware empty")
	case s.Firmware == hypervisor.FirmwareUEFI || s.SecureBoot:
		return "", hypervisor.Unsupported(on, capability.VMCreate, hypervisor.ReasonNotImplemented, "UEFI machines are not made here: define them with virsh")
	}
	return kind, nil
}

// newDomain makes the definition of a new machine, without its disks and
// adapters.
func newDomain(f *libvirtx.Facts, s hypervisor.VMSpec, kind, uuid string, mark libvirtx.Mark) (*libvirtxml.Domain, error) {
	x := &libvirtxml.Domain{Type: "xen", Name: s.Name, UUID: uuid, Description: s.Description,
		OS:         &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Type: kinds[kind].osType, Machine: kinds[kind].machine, Arch: f.Arch}},
		Clock:      &libvirtxml.DomainClock{Offset: "utc"},
		OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "destroy",
		Devices: &libvirtxml.DomainDeviceList{Consoles: []libvirtxml.DomainConsole{{
			Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
			Target: &libvirtxml.DomainConsoleTarget{Type: "xen", Port: new(uint)}}}},
	}
	if s.Boot != nil {
		x.OS.Kernel, x.OS.Initrd, x.OS.Cmdline = s.Boot.Kernel, s.Boot.Initrd, s.Boot.CommandLine
	}
	switch kind {
	case pv:
		if s.Boot == nil {
			x.Bootloader = "pygrub"
		}
	case pvh:
		// Xen's default emulates the TSC after a migration between hosts of
		// different speed. Where Xen has to emulate it, RDTSCP ends some
		// guests.
		x.Clock.Timer = []libvirtxml.DomainTimer{{Name: "tsc", Present: "yes", Mode: "native"}}
	case hvm:
		x.Features = &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}, PAE: &libvirtxml.DomainFeature{}}
		x.OS.BootDevices = []libvirtxml.DomainBootDevice{{Dev: "hd"}, {Dev: "cdrom"}}
		x.Devices.Consoles[0].Target.Type = "serial"
		x.Devices.Serials = []libvirtxml.DomainSerial{{Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}}}
		if strings.Contains(s.GuestOS, "windows") {
			x.Clock.Offset = "localtime"
		}
	}
	n := max(s.CPUs, 1)
	x.VCPU = &libvirtxml.DomainVCPU{Placement: "static", Current: uint(n), Value: uint(max(s.MaxCPUs, n))}
	limit := max(s.MaxMemoryBytes, s.MemoryBytes)
	if s.DynamicMemory != nil {
		limit, mark.MinKiB = max(limit, s.DynamicMemory.MaxBytes), uint64(s.DynamicMemory.MinBytes>>10)
	}
	libvirtx.SetMemory(x, uint64(limit>>10), uint64(s.MemoryBytes>>10))
	mark.GuestOS = s.GuestOS
	return x, libvirtx.MarkDefinition(x, mark)
}

// busPrefix is the beginning of target names on a bus.
var busPrefix = map[string]string{"xen": "xvd", "scsi": "sd", "ide": "hd"}

// addDisk adds a disk to a definition under a free target name.
func addDisk(x *libvirtxml.Domain, d hypervisor.DiskSpec, image, format string) (*libvirtxml.DomainDisk, error) {
	bus := d.Bus
	if bus == "" {
		if bus = "xen"; d.CDROM && kindOfMachine(x) == hvm {
			bus = "ide"
		}
	}
	prefix, ok := busPrefix[bus]
	if !ok || bus != "xen" && kindOfMachine(x) != hvm {
		return nil, hypervisor.Unsupported(hypervisor.Ref{Kind: hypervisor.ObjectDisk}, capability.DiskAttach, hypervisor.ReasonPlatform,
			fmt.Sprintf("no disk bus %q in a %s machine: use xen, and ide or scsi in hvm machines", bus, kindOfMachine(x)))
	}
	dev := libvirtx.FreeTarget(x, prefix)
	k := libvirtxml.DomainDisk{Device: "disk", Target: &libvirtxml.DomainDiskTarget{Dev: dev, Bus: bus},
		Driver: &libvirtxml.DomainDiskDriver{Name: "qemu"}}
	if d.CDROM {
		k.Device = "cdrom"
	}
	if d.ReadOnly || d.CDROM {
		k.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	}
	libvirtx.SetDiskPath(&k, image, format)
	x.Devices.Disks = append(x.Devices.Disks, k)
	return &x.Devices.Disks[len(x.Devices.Disks)-1], nil
}
