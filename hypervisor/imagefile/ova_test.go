package imagefile_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/anyvisor/anyvisor/hypervisor/imagefile"
)

func TestOVA(t *testing.T) {
	all := disks()
	odd, holes := all["odd"], all["holes"]
	var b bytes.Buffer
	var last int64
	spec := OVASpec{Name: "web & <1>", CPUs: 2, MemoryBytes: 1<<30 + 1, Disks: []Source{odd, holes}, Networks: []string{"VM Network", "VM Network"}, EFI: true,
		Progress: func(done, size int64) {
			if done < last || done > size {
				t.Errorf("progress %d of %d after %d", done, size, last)
			}
			last = done
		}}
	if err := WriteOVA(t.Context(), &b, spec); err != nil {
		t.Fatal(err)
	}
	if want := 2 * (odd.size + holes.size); last != want {
		t.Errorf("progress ends at %d of %d", last, want)
	}
	p := b.Bytes()
	if f, err := Detect(bytes.NewReader(p), int64(len(p))); f != OVA || err != nil {
		t.Errorf("detected as %v, %v", f, err)
	}
	a, err := OpenOVA(bytes.NewReader(p), int64(len(p)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := a.Verify(t.Context()); !ok || err != nil {
		t.Errorf("manifest: %v, %v", ok, err)
	}
	if len(a.Disks()) != 2 {
		t.Fatalf("%+v", a.Disks())
	}
	for i, m := range []*memory{odd, holes} {
		d, err := a.OpenDisk(i)
		if err != nil {
			t.Fatal(err)
		}
		same(t, d, m, 512, 64<<10)
		if got := a.Disks()[i].Capacity; got != d.Size() {
			t.Errorf("disk %d has capacity %d", i, got)
		}
	}
	if _, err := Open(bytes.NewReader(p), int64(len(p)), OVA, nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("two disks opened as one: %v", err)
	}
	if _, err := OpenOVA(bytes.NewReader(p), int64(len(p)), &OpenOptions{MaxSize: 8 << 20}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a disk above the limit: %v", err)
	}

	// internal/interop/govc tests what a vSphere client makes of the descriptor.
	if n := strings.Count(string(a.Descriptor()), "<Item>"); n != 7 {
		t.Errorf("%d parts of the hardware in %s", n, a.Descriptor())
	}
	dir := t.TempDir()
	tr := tar.NewReader(bytes.NewReader(p))
	var names []string
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		content, err := io.ReadAll(tr)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, h.Name), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(names, " "); got != "web____1_.ovf web____1_.mf web____1_-disk1.vmdk web____1_-disk2.vmdk" {
		t.Errorf("files %s", got)
	}
	save(t, filepath.Join(dir, "raw"), holes)
	qemuImg(t, dir, "compare", "-f", "vmdk", "-F", "raw", names[3], "raw")

	for i := 600; i < len(p); i += len(p) / 37 {
		if _, err := OpenOVA(bytes.NewReader(p[:i]), int64(i), nil); err == nil {
			t.Errorf("an archive of %d bytes instead of %d was accepted", i, len(p))
		}
	}
	q := bytes.Clone(p)
	q[len(q)-100_000] ^= 1
	if a, err = OpenOVA(bytes.NewReader(q), int64(len(q)), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Verify(t.Context()); !errors.Is(err, ErrChecksum) {
		t.Errorf("a changed disk: %v", err)
	}
}

// TestOVAOne: an archive with one disk is opened as that disk.
func TestOVAOne(t *testing.T) {
	var b bytes.Buffer
	m := disks()["full"]
	if err := WriteOVA(t.Context(), &b, OVASpec{Disks: []Source{m}}); err != nil {
		t.Fatal(err)
	}
	d, err := Open(bytes.NewReader(b.Bytes()), int64(b.Len()), OVA, nil)
	if err != nil {
		t.Fatal(err)
	}
	same(t, d, m, 512, 64<<10)
}

// TestOVAForeign: descriptors of others.
func TestOVAForeign(t *testing.T) {
	disk := imageOf(t, &memory{size: 1 << 20}, VMDK, nil)
	for _, c := range []struct {
		file, disk string
		kind       error
	}{
		{`ovf:href="d.vmdk"`, `ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^20"`, nil},
		{`ovf:href="d.vmdk"`, `ovf:capacity="1" ovf:capacityAllocationUnits="MegaBytes"`, nil},
		{`ovf:href="d.vmdk"`, `ovf:capacity="1" ovf:capacityAllocationUnits="byte * 3^20"`, ErrCorrupt},
		{`ovf:href="d.vmdk"`, `ovf:capacity="x"`, ErrCorrupt},
		{`ovf:href="other.vmdk"`, `ovf:capacity="1"`, ErrTruncated},
		{`ovf:href="http://example.com/d.vmdk"`, `ovf:capacity="1"`, ErrTruncated},
		{`ovf:href="d.vmdk" ovf:compression="gzip"`, `ovf:capacity="1"`, ErrUnsupported},
		{`ovf:href="d.vmdk" ovf:chunkSize="5"`, `ovf:capacity="1"`, ErrUnsupported},
		{`ovf:href="d.vmdk"`, `ovf:capacity="1" ovf:parentRef="p"`, ErrExternal},
		{`ovf:href="d.vmdk"`, `ovf:capacity="4611686018427387904"`, ErrTooLarge},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		text := `<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References><File ovf:id="f" ` + c.file +
			`/></References><DiskSection><Disk ovf:diskId="d" ovf:fileRef="f" ` + c.disk + `/></DiskSection></Envelope>`
		for name, p := range map[string][]byte{"a.ovf": []byte(text), "d.vmdk": disk} {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(p))}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		a, err := OpenOVA(bytes.NewReader(b.Bytes()), int64(b.Len()), nil)
		if !errors.Is(err, c.kind) {
			t.Errorf("%s %s: %v, want %v", c.file, c.disk, err, c.kind)
		}
		if err == nil {
			if ok, err := a.Verify(t.Context()); ok || err != nil {
				t.Errorf("no manifest: %v, %v", ok, err)
			}
			if d, err := a.OpenDisk(0); err != nil || d.Size() != 1<<20 {
				t.Errorf("%v", err)
			}
		}
	}
}
