package hyperv

import (
	"slices"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestVolumeIDs: IDs that would reach files which are no images, or an image by
// another name, wherever a VolumeID is taken.
func TestVolumeIDs(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c := openSite(t, s)
	vm := create(t, c, small("owner"))
	info, err := vm.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	real := info.Disks[0].Volume
	at := string(s.config.Hosts[0]) + "|"
	host := s.sim.Host(0)
	for _, p := range []string{`C:\Windows\System32\config\SAM`, `C:\Users\a\Documents\payroll.xlsx`, `C:\keep\letter.docx.vhdx`, `D:\keep\disk.vhdx`, `C:\Windows\explorer.exe`} {
		host.AddFile(p, 4096)
	}
	before := host.Files()
	bad := []string{
		at + `C:\Windows\System32\config\SAM`, at + `C:\Users\a\Documents\payroll.xlsx`, at + `C:\Windows\explorer.exe`,
		at + `C:\keep\letter.docx.vhdx`, // no image, whatever its name says
		at + `D:\keep\disk.vhdx`,        // no drive that the host lists
		`C:\ClusterStorage\none\disk.vhdx`,
		at + `C:\keep\..\Windows\explorer.exe`, at + `C:/keep/disk.vhdx`, at + `C:\keep\disk.vhdx::$DATA`, at + `C:\keep\disk.vhdx.`, at + `C:\keep\disk.vhdx `,
		at + `C:\keep.\disk.vhdx`, at + `C:\keep\\disk.vhdx`, at + `C:\keep\.\disk.vhdx`, at + `C:keep.vhdx`, at + `\\?\C:\keep\disk.vhdx`, `\\.\C:\keep\disk.vhdx`, `\\localhost\C$\keep\disk.vhdx`,
		at + `C:\keep\NUL.vhdx`, at + `C:\con\x.vhdx`, at + `C:\keep\COM¹.vhdx`, at + "C:\\keep\\\u202Exdhv.vhdx", at + "C:\\keep\\a\x00.vhdx", at + `C:\keep\LETTER~1.VHD`,
		at + `C:\keep\*.vhdx`, at + `C:\ClusterStorage\v\disk.vhdx`, at + `C:\.vhdx\`, `C:\keep\disk.vhdx`, at, "|",
		string(real) + "::$DATA", string(real) + ".", string(real)[:len(at)] + `C:\x\..\` + string(real)[len(at)+3:],
	}
	for _, id := range bad {
		v := hypervisor.VolumeID(id)
		disk := func(k hypervisor.DiskSpec) error {
			_, err := vm.AttachDisk(t.Context(), k).Wait(t.Context())
			return err
		}
		_, made := c.CreateVolume(t.Context(), hypervisor.VolumeSpec{Name: "copy", From: v}).Wait(t.Context())
		spec := small("image")
		spec.Disks = []hypervisor.DiskSpec{{Image: v}}
		_, built := c.CreateVM(t.Context(), spec).Wait(t.Context())
		_, gone := c.DeleteVolume(t.Context(), v).Wait(t.Context())
		for what, err := range map[string]error{"DeleteVolume": gone, "AttachDisk{Volume}": disk(hypervisor.DiskSpec{Volume: v}),
			"AttachDisk{Image}": disk(hypervisor.DiskSpec{Image: v}), "CreateVolume{From}": made, "CreateVM{Image}": built} {
			if k := hypervisor.KindOf(err); err == nil || k != hypervisor.ErrInvalidArgument && k != hypervisor.ErrNotFound && k != hypervisor.ErrIncompatible {
				t.Errorf("%s of %q: %v (%v)", what, id, err, k)
			}
		}
		if after := host.Files(); !slices.Equal(before, after) {
			t.Fatalf("%q: the files are %q, they were %q", id, after, before)
		}
	}
}

// node is a host of a cluster.
var node = &host{csvRoot: defaultCSVRoot}

// TestImageID: each other spelling of a path is refused by itself, before
// anybody looks whether there is such a file.
func TestImageID(t *testing.T) {
	for id, good := range map[string]bool{
		`h|C:\vm\disk.vhdx`: true, `h|C:\vm\a b.c.VHD`: true, `C:\ClusterStorage\Volume1\disk.avhdx`: true, `\\nas\share\disk.iso`: true,
		`h|C:\vm\console\disk.vhdx`: true, `h|C:\vm\com10.vhdx`: true, `h|C:\vm\longname~1.vhdx`: true,

		`h|C:\vm\disk.vhdx.`: false, `h|C:\vm\disk.vhdx `: false, `h|C:\vm.\disk.vhdx`: false, `h|C:\vm \disk.vhdx`: false, `h|C:\vm\..\disk.vhdx`: false,
		`h|C:\vm\.\disk.vhdx`: false, `h|C:\vm\\disk.vhdx`: false, `h|C:/vm/disk.vhdx`: false, `h|C:\vm\disk.vhdx::$DATA`: false, `h|C:\vm\a:b.vhdx`: false,
		`h|C:\vm\*.vhdx`: false, `h|C:\vm\NUL.vhdx`: false, `h|C:\con\disk.vhdx`: false, `h|C:\vm\COM¹.vhdx`: false, `h|C:\vm\lpt9.vhdx`: false,
		"h|C:\\vm\\\u202Exdhv.vhdx": false, "h|C:\\vm\\a\x00.vhdx": false, "h|C:\\vm\\a\xff.vhdx": false, `h|C:\vm\LETTER~1.VHD`: false,
		`h|C:\vm\disk.docx`: false, `h|C:\vm\disk`: false, `h|C:disk.vhdx`: false, `h|vm\disk.vhdx`: false, `C:\vm\disk.vhdx`: false,
		`h|C:\ClusterStorage\Volume1\disk.vhdx`: false, `\\nas\disk.vhdx`: false, `\\nas\c$\disk.vhdx`: false, `\\?\C:\vm\disk.vhdx`: false, "": false, "|": false,
	} {
		_, _, err := imageID(hypervisor.VolumeID(id), node.shared)
		if good != (err == nil) || err != nil && hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument {
			t.Errorf("%q: %v, want it taken: %v", id, err, good)
		}
	}
}

// TestForgedDefinition: a machine's notes, which others write, name a file that
// is none of this driver's.
func TestForgedDefinition(t *testing.T) {
	if n := parseNotes([]string{marker + `{"template":true,"definition":"C:\\Windows\\System32\\config\\SAM"}`}); n.Definition != "" || !n.Template {
		t.Errorf("%+v", n)
	}
	own := `C:\ProgramData\Microsoft\Windows\Hyper-V\anyvisor\0123456789abcdef\Virtual Machines\01234567-89AB-CDEF-0123-456789ABCDEF.vmcx`
	n := notes{Definition: own}
	if got := parseNotes(n.strings()); got.Definition != own {
		t.Errorf("%+v", got)
	}
}
