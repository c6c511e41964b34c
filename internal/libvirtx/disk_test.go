//go:build cgo

package libvirtx

import (
	"testing"

	"libvirt.org/go/libvirtxml"
)

func TestFreeTarget(t *testing.T) {
	for n, want := range map[int]string{0: "a", 25: "z", 26: "aa", 27: "ab", 701: "zz", 702: "aaa"} {
		if got := letters(n); got != want {
			t.Errorf("letters(%d) = %q, want %q", n, got, want)
		}
	}
	x := &libvirtxml.Domain{Devices: &libvirtxml.DomainDeviceList{Disks: []libvirtxml.DomainDisk{
		{}, {Target: &libvirtxml.DomainDiskTarget{Dev: "vda"}}, {Target: &libvirtxml.DomainDiskTarget{Dev: "vdc"}}}}}
	if got := FreeTarget(x, "vd"); got != "vdb" {
		t.Errorf("FreeTarget beside vda and vdc is %q, want vdb", got)
	}
}
