//go:build cgo

package libvirtx

import (
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
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

// TestWhole: each kind of disk is copied and frozen with the others, or stands
// in the way by its name.
func TestWhole(t *testing.T) {
	for disk, whole := range map[string]bool{
		`<disk type='file' device='disk'><source file='/a'/><target dev='vdb'/></disk>`:                                                                                                      true,
		`<disk type='block' device='disk'><source dev='/dev/a'/><target dev='vdb'/></disk>`:                                                                                                  true,
		`<disk type='file' device='cdrom'><target dev='vdb'/><readonly/></disk>`:                                                                                                             true,
		`<disk type='network' device='cdrom'><source protocol='http' name='a.iso'/><target dev='vdb'/><readonly/></disk>`:                                                                    true,
		`<disk type='file' device='floppy'><source file='/a'/><target dev='vdb'/></disk>`:                                                                                                    true,
		`<disk type='network' device='disk'><source protocol='rbd' name='p/a'/><target dev='vdb'/></disk>`:                                                                                   false,
		`<disk type='network' device='disk'><source protocol='nbd' name='a'><host name='h'/></source><target dev='vdb'/></disk>`:                                                             false,
		`<disk type='volume' device='disk'><source pool='gone' volume='a'/><target dev='vdb'/></disk>`:                                                                                       false,
		`<disk type='nvme' device='disk'><source type='pci' managed='yes' namespace='1'><address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source><target dev='vdb'/></disk>`: false,
		`<disk type='vhostuser' device='disk'><source type='unix' path='/a'/><target dev='vdb'/></disk>`:                                                                                     false,
		`<disk type='dir' device='disk'><source dir='/a'/><target dev='vdb'/></disk>`:                                                                                                        false,
		`<disk type='block' device='lun'><source dev='/dev/a'/><target dev='vdb'/></disk>`:                                                                                                   false,
		`<disk type='file' device='disk'><source file='/a'/><target dev='vdb'/><shareable/></disk>`:                                                                                          false,
		`<disk type='file' device='disk'><source file='/a'/><target dev='vdb'/><transient/></disk>`:                                                                                          false,
	} {
		x, _, err := ParseXML("<domain><devices>" + disk + "</devices></domain>")
		if err != nil {
			t.Fatal(err)
		}
		err = Whole(x, hypervisor.VMID("m").Ref(), capability.CloneFull)
		switch {
		case whole && err != nil:
			t.Errorf("%s: %v", disk, err)
		case !whole && (hypervisor.KindOf(err) != hypervisor.ErrUnsupported || !strings.Contains(err.Error(), "vdb")):
			t.Errorf("%s: %v, want ErrUnsupported with the name of the disk", disk, err)
		}
	}
}
