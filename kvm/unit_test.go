//go:build cgo

package kvm

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

func TestWindow(t *testing.T) {
	// An H100 has 128 GiB of memory regions, and a machine of today little room.
	x := &libvirtxml.Domain{Devices: &libvirtxml.DomainDeviceList{Controllers: []libvirtxml.DomainController{
		{Type: "pci", Model: "pcie-root-port"}, {Type: "pci", Model: "pcie-root"}}}}
	if note := window(x, hypervisor.GiB); note != "" {
		t.Errorf("a small device changes the window: %s", note)
	}
	note := window(x, 128*hypervisor.GiB+32*hypervisor.MiB)
	hole := x.Devices.Controllers[1].PCI
	if note == "" || hole == nil || hole.Hole64 == nil || libvirtx.ToKiB(uint64(hole.Hole64.Size), hole.Hole64.Unit)<<10 != 512*hypervisor.GiB {
		t.Errorf("window for 128 GiB: %q, %+v; want 512 GiB, a power of two above twice the size", note, hole)
	}
	if note := window(x, 64*hypervisor.GiB); note != "" {
		t.Errorf("a window that is large enough is changed: %s", note)
	}
	doc, err := x.Marshal()
	if err != nil || !strings.Contains(doc, "<pcihole64 unit=\"KiB\">536870912</pcihole64>") {
		t.Errorf("the definition lacks the window: %s (%v)", doc, err)
	}
}

func TestWindowOfUEFI(t *testing.T) {
	x := &libvirtxml.Domain{OS: &libvirtxml.DomainOS{Firmware: "efi"}, Devices: &libvirtxml.DomainDeviceList{Controllers: []libvirtxml.DomainController{{Type: "pci", Model: "pcie-root"}}}}
	for _, c := range []struct {
		bars int64
		want string // of OVMF, in MiB
		note bool
	}{{24 * hypervisor.GiB, "65536", true}, {24 * hypervisor.GiB, "65536", false}, {128 * hypervisor.GiB, "262144", true}, {40 * hypervisor.GiB, "262144", false}} {
		note := window(x, c.bars)
		if a := x.QEMUCommandline.Args; (note != "") != c.note || len(a) != 2 || a[0].Value != "-fw_cfg" || a[1].Value != ovmfWindow+c.want {
			t.Errorf("window for %d GiB: %q, %+v; want %s MiB", c.bars>>30, note, a, c.want)
		}
	}
	doc, err := x.Marshal()
	if err != nil || !strings.Contains(doc, "X-PciMmio64Mb,string=262144") || !strings.Contains(doc, "http://libvirt.org/schemas/domain/qemu/1.0") {
		t.Errorf("the definition lacks OVMF's window: %s (%v)", doc, err)
	}
	// Two cards of 24 GiB need more than one.
	all := []hypervisor.DeviceInfo{{Address: "0000:01:00.0", BARBytes: 24 * hypervisor.GiB}, {Address: "0000:02:00.0", BARBytes: 24 * hypervisor.GiB}, {Address: "0000:03:00.0", BARBytes: hypervisor.GiB}}
	k, err := hostdev("0000:02:00.0")
	if err != nil {
		t.Fatal(err)
	}
	x.Devices.Hostdevs = append(x.Devices.Hostdevs, *k)
	if n := barsOf(x, all[:1], all); n != 48*hypervisor.GiB {
		t.Errorf("the regions of a card that comes to another are %d GiB, want 48", n>>30)
	}
}

func TestBARs(t *testing.T) {
	const resource = `0x00000000fd000000 0x00000000fdffffff 0x0000000000042208
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000febd4000 0x00000000febd4fff 0x0000000000040200
0x000000000000c000 0x000000000000c01f 0x0000000000040101
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000febc0000 0x00000000febcffff 0x0000000000046200
`
	if n := barBytes(resource); n != 16*hypervisor.MiB+4*hypervisor.KiB {
		t.Errorf("barBytes = %d, want 16 MiB and 4 KiB: no port ranges, no ROM", n)
	}
}

func TestObstacles(t *testing.T) {
	d := &driver{}
	f := &libvirtx.Facts{Product: "QEMU", IOMMU: hypervisor.FactPresent, VFIO: true}
	gpu := libvirtx.PCIDevice{Address: "0000:01:00.0", Class: 0x030000, Group: 1, Peers: []string{"0000:01:00.1", "0000:00:01.0"}}
	by := map[string]libvirtx.PCIDevice{
		gpu.Address:    gpu,
		"0000:01:00.1": {Address: "0000:01:00.1", Class: 0x040300, Driver: "snd_hda_intel"},
		"0000:00:01.0": {Address: "0000:00:01.0", Class: 0x060400, Bridge: true, Driver: "pcieport"},
	}
	reason := func(p libvirtx.PCIDevice, f *libvirtx.Facts, users map[string][]hypervisor.Ref) hypervisor.ReasonCode {
		r, detail := d.obstacle(f, p, by, users)
		if (r == "") != (detail == "") {
			t.Errorf("reason %q with detail %q", r, detail)
		}
		return r
	}
	vm := []hypervisor.Ref{{Kind: hypervisor.ObjectVM, ID: "x"}}
	if r := reason(gpu, f, nil); r != "" {
		t.Errorf("a GPU with its sound function behind a bridge: %s, want assignable", r)
	}
	for want, got := range map[hypervisor.ReasonCode]hypervisor.ReasonCode{
		hypervisor.ReasonHostIOMMUOff:   reason(gpu, &libvirtx.Facts{Product: "QEMU", IOMMU: hypervisor.FactAbsent}, nil),
		hypervisor.ReasonNoIOMMUGroup:   reason(libvirtx.PCIDevice{Address: "0000:02:00.0", Group: -1}, f, nil),
		hypervisor.ReasonDeviceInUse:    reason(gpu, f, map[string][]hypervisor.Ref{gpu.Address: vm}),
		hypervisor.ReasonGroupShared:    reason(gpu, f, map[string][]hypervisor.Ref{"0000:01:00.1": vm}),
		hypervisor.ReasonHostUsesDevice: reason(libvirtx.PCIDevice{Address: "0000:03:00.0", Group: 3, HostUses: "block device /dev/sda"}, f, nil),
	} {
		if got != want {
			t.Errorf("obstacle %q, want %q", got, want)
		}
	}
	all := []hypervisor.DeviceInfo{{ID: "a", Address: "0000:01:00.1"}, {ID: "b", Address: "0000:00:01.0", ClassCode: 0x060400}, {ID: "c", Address: "0000:01:00.2"}}
	w := whole(hypervisor.DeviceInfo{ID: "g", Address: "0000:01:00.0", GroupPeers: []hypervisor.DeviceID{"a", "b"}}, all)
	if len(w) != 2 || w[1].ID != "a" {
		t.Errorf("what goes together is %+v, want the card's functions of the group", w)
	}
}

func TestSetCPUs(t *testing.T) {
	for _, c := range []struct{ now, max, want, limit, gotNow, gotMax uint }{
		{1, 1, 2, 0, 2, 2}, // no room before, none after
		{1, 4, 2, 0, 2, 4},
		{2, 4, 8, 0, 8, 8},
		{2, 2, 1, 0, 1, 1},
		{2, 2, 0, 8, 2, 8},
	} {
		x := &libvirtxml.Domain{VCPU: &libvirtxml.DomainVCPU{Current: c.now, Value: c.max}}
		setCPUs(x, int(c.want), int(c.limit))
		if x.VCPU.Current != c.gotNow || x.VCPU.Value != c.gotMax {
			t.Errorf("setCPUs(%d of %d to %d of %d) = %d of %d, want %d of %d", c.now, c.max, c.want, c.limit, x.VCPU.Current, x.VCPU.Value, c.gotNow, c.gotMax)
		}
	}
}

// files is a host's files.
type files map[string]string

func (f files) ReadFile(_ context.Context, path string) ([]byte, error) {
	if text, ok := f[path]; ok {
		return []byte(text), nil
	}
	return nil, os.ErrNotExist
}

func (f files) WriteFile(_ context.Context, path string, data []byte) error {
	f[path] = string(data)
	return nil
}

func TestReset(t *testing.T) {
	const a = "/sys/bus/pci/devices/0000:01:00.0/"
	for what, c := range map[string]struct {
		files files
		warns bool
	}{
		"a kernel that doesn't report":  {files{}, false},
		"a device that can be reset":    {files{a + "reset_method": "flr bus\n"}, false},
		"a device that can't":           {files{a + "reset_method": "\n"}, true},
		"one that can't, with its BARs": {files{a + "reset_method": "", a + "resource": "0x1000 0x1fff 0x200\n"}, true},
	} {
		h := &fleet.Host{}
		d := &driver{files: map[*fleet.Host]Sysfs{h: c.files}}
		i := hypervisor.DeviceInfo{Address: "0000:01:00.0", Kind: hypervisor.DeviceKindPCI, Assignable: true}
		d.sysfsFacts(t.Context(), h, &i)
		if (i.Detail != "") != c.warns || !i.Assignable || i.Reason != "" {
			t.Errorf("%s: %+v, want a warning: %v", what, i, c.warns)
		}
	}
}

func TestShareFacts(t *testing.T) {
	p := libvirtx.PCIDevice{Types: []libvirtxml.NodeDeviceMDevType{{ID: "t1", Name: "half", AvailableInstances: 1}, {ID: "t2", Name: "whole"}},
		Shares: []libvirtx.MDev{{UUID: "a", Type: "t1"}, {UUID: "b", Type: "t1"}}}
	vm := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: "vm"}
	i := hypervisor.DeviceInfo{ID: "d"}
	shareFacts(&i, p, map[string][]hypervisor.Ref{"a": {vm}, "b": {vm}})
	want := []hypervisor.VGPUProfile{{ID: "t1", Name: "half", Max: 3, Available: 1}, {ID: "t2", Name: "whole"}}
	if i.Kind != hypervisor.DeviceKindVGPU || !slices.Equal(i.Profiles, want) || len(i.UsedBy) != 1 {
		t.Errorf("a device with two of three shares in one machine is %+v, want profiles %+v", i, want)
	}
	for profile, kind := range map[string]hypervisor.Kind{"t1": 0, "half": 0, "t2": hypervisor.ErrExhausted, "t3": hypervisor.ErrNotFound} {
		if err := offers(i, profile); hypervisor.KindOf(err) != kind {
			t.Errorf("offers(%s): %v, want kind %s", profile, err, kind)
		}
	}
}
