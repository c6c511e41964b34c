//go:build cgo

package kvm

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// largeBAR is the size from which the firmware's usual 64-bit window may be
// too small: q35 has 32 GiB of it.
const largeBAR = 16 * hypervisor.GiB

// ovmfWindow is OVMF's own setting for its window, in MiB (edk2,
// OvmfPkg/Library/PlatformInitLib). libvirt reserves the name in <sysinfo>,
// so it is passed as an argument of QEMU.
const ovmfWindow = "name=opt/ovmf/X-PciMmio64Mb,string="

// barsOf sums the memory regions of the devices that a machine has and will
// get.
func barsOf(x *libvirtxml.Domain, gets, all []hypervisor.DeviceInfo) (sum int64) {
	has := map[string]bool{}
	for _, d := range gets {
		has[d.Address] = true
	}
	for _, k := range hostdevs(x) {
		has[pciSource(k)] = true
	}
	for _, d := range all {
		if has[d.Address] {
			sum += d.BARBytes
		}
	}
	return sum
}

// window enlarges the 64-bit PCI window for devices with large memory regions
// to the next power of two above twice their size, and returns a note. It
// returns "" where the window is large enough.
func window(x *libvirtxml.Domain, bars int64) string {
	if bars < largeBAR {
		return ""
	}
	size := int64(1) << bits.Len64(uint64(2*bars-1))
	changed := false
	for i := range x.Devices.Controllers {
		k := &x.Devices.Controllers[i]
		if k.Type != "pci" || k.Model != "pcie-root" && k.Model != "pci-root" {
			continue
		}
		if k.PCI == nil {
			k.PCI = &libvirtxml.DomainControllerPCI{}
		}
		if k.PCI.Hole64 != nil && libvirtx.ToKiB(uint64(k.PCI.Hole64.Size), k.PCI.Hole64.Unit)<<10 >= size {
			break
		}
		k.PCI.Hole64, changed = &libvirtxml.DomainControllerPCIHole64{Size: uint64(size >> 10), Unit: "KiB"}, true
		break
	}
	if isUEFI(x) && firmwareWindow(x, size) {
		changed = true
	}
	if !changed {
		return ""
	}
	return fmt.Sprintf("the machine's 64-bit PCI window was set to %d GiB for the devices' %d GiB of memory regions", size>>30, bars>>30)
}

func isUEFI(x *libvirtxml.Domain) bool {
	return x.OS != nil && (x.OS.Firmware == "efi" || x.OS.Loader != nil && x.OS.Loader.Type == "pflash")
}

// firmwareWindow sets OVMF's window unless it is large enough already.
func firmwareWindow(x *libvirtxml.Domain, size int64) (changed bool) {
	if x.QEMUCommandline == nil {
		x.QEMUCommandline = &libvirtxml.DomainQEMUCommandline{}
	}
	args := &x.QEMUCommandline.Args
	want := libvirtxml.DomainQEMUCommandlineArg{Value: ovmfWindow + strconv.FormatInt(size>>20, 10)}
	for i, a := range *args {
		text, ok := strings.CutPrefix(a.Value, ovmfWindow)
		if !ok {
			continue
		}
		if mib, err := strconv.ParseInt(text, 10, 64); err == nil && mib<<20 >= size {
			return false
		}
		(*args)[i] = want
		return true
	}
	*args = append(*args, libvirtxml.DomainQEMUCommandlineArg{Value: "-fw_cfg"}, want)
	return true
}
