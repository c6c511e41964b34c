package imagefile_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/anyvisor/anyvisor/hypervisor/imagefile"
)

// imageOf returns an image of m.
func imageOf(t testing.TB, m *memory, format Format, o *WriteOptions) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(t.Context(), &b, m, format, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readAll opens an image and reads all of its data.
func readAll(r io.ReaderAt, size int64, format Format, o *OpenOptions) error {
	d, err := Open(r, size, format, o)
	if err != nil {
		return err
	}
	defer d.Close()
	buf := make([]byte, 64<<10)
	for x, err := range d.Extents() {
		if err != nil {
			return err
		}
		if x.Zero {
			continue
		}
		for off := x.Offset; off < x.Offset+x.Length; off += int64(len(buf)) {
			if _, err := d.ReadAt(buf[:min(int64(len(buf)), x.Offset+x.Length-off)], off); err != nil && err != io.EOF {
				return err
			}
		}
	}
	return nil
}

func TestRefused(t *testing.T) {
	small := &memory{size: 8 << 20, parts: []part{{0, noise(200<<10, 1)}, {4 << 20, noise(64<<10, 2)}}}
	be, le := binary.BigEndian, binary.LittleEndian
	q := func(p []byte, at int64) int64 { return int64(be.Uint64(p[at:]) & 0x00fffffffffffe00) }
	sumVHD := func(p []byte, at, n, field int) {
		be.PutUint32(p[at+field:], 0)
		var sum uint32
		for _, b := range p[at : at+n] {
			sum += uint32(b)
		}
		be.PutUint32(p[at+field:], ^sum)
	}
	for _, c := range []struct {
		name   string
		format Format
		change func(p []byte) []byte
		kind   error
		says   string
	}{
		{"magic", QCOW2, func(p []byte) []byte { p[0]++; return p }, ErrCorrupt, "give the format"},
		{"empty", QCOW2, func(p []byte) []byte { return nil }, ErrTruncated, "header"},
		{"version", QCOW2, func(p []byte) []byte { p[7] = 4; return p }, ErrUnsupported, "version 4"},
		{"backing file", QCOW2, func(p []byte) []byte { p[15] = 104; return p }, ErrExternal, "backing file"},
		{"cluster bits", QCOW2, func(p []byte) []byte { be.PutUint32(p[20:], 1<<31); return p }, ErrCorrupt, "2^2147483648"},
		{"absurd size", QCOW2, func(p []byte) []byte { be.PutUint64(p[24:], 1<<63+5); return p }, ErrTooLarge, "MaxSize"},
		{"size beyond the tables", QCOW2, func(p []byte) []byte { be.PutUint64(p[24:], 1<<45); return p }, ErrCorrupt, "L1 table"},
		{"AES", QCOW2, func(p []byte) []byte { p[35] = 1; return p }, ErrEncrypted, "AES"},
		{"LUKS", QCOW2, func(p []byte) []byte { p[35] = 2; return p }, ErrEncrypted, "LUKS"},
		{"data file", QCOW2, func(p []byte) []byte { p[79] |= 4; return p }, ErrExternal, "data file"},
		{"unknown feature", QCOW2, func(p []byte) []byte { p[73] |= 1; return p }, ErrUnsupported, "0x1000000000000"},
		{"marked corrupt", QCOW2, func(p []byte) []byte { p[79] |= 2; return p }, ErrCorrupt, "check -r"},
		{"L1 table absurd", QCOW2, func(p []byte) []byte { be.PutUint32(p[36:], 1<<32-1); return p }, ErrTooLarge, "L1"},
		{"L1 table outside", QCOW2, func(p []byte) []byte { be.PutUint64(p[40:], 1<<40); return p }, ErrTruncated, "L1"},
		{"L2 table outside", QCOW2, func(p []byte) []byte { be.PutUint64(p[q(p, 40):], 1<<40); return p }, ErrTruncated, "L2"},
		{"L2 table is the L1 table", QCOW2, func(p []byte) []byte { be.PutUint64(p[q(p, 40):], be.Uint64(p[40:])); return p }, ErrCorrupt, "overlaps"},
		{"cluster twice", QCOW2, func(p []byte) []byte {
			l2 := q(p, q(p, 40))
			copy(p[l2+8:l2+16], p[l2:])
			return p
		}, ErrCorrupt, "two parts"},
		{"cluster is a table", QCOW2, func(p []byte) []byte {
			l2 := q(p, q(p, 40))
			be.PutUint64(p[l2:], uint64(l2))
			return p
		}, ErrCorrupt, "two parts"},
		{"truncated data", QCOW2, func(p []byte) []byte { return p[:len(p)-65536] }, ErrTruncated, "cluster"},

		{"truncated", VMDK, func(p []byte) []byte { return p[:len(p)-512] }, ErrTruncated, "footer"},
		{"text mode", VMDK, func(p []byte) []byte { p[75] = '\n'; return p }, ErrCorrupt, "binary mode"},
		{"grain size", VMDK, func(p []byte) []byte { p[20] = 3; return p }, ErrCorrupt, "power of two"},
		{"capacity", VMDK, func(p []byte) []byte { p[19] = 0x7f; return p }, ErrTooLarge, "MaxSize"},
		{"parent", VMDK, func(p []byte) []byte {
			return bytes.Replace(p, []byte("parentCID=ffffffff"), []byte("parentCID=12345678"), 1)
		}, ErrExternal, "parent"},
		{"encrypted", VMDK, func(p []byte) []byte {
			return bytes.Replace(p, []byte("# The Disk Data Base"), []byte("encryption.keySafe=1"), 1)
		}, ErrEncrypted, "key"},
		{"grain", VMDK, func(p []byte) []byte { p[65536+100] ^= 0x55; return p }, ErrCorrupt, "unpacked"},
		{"grain elsewhere", VMDK, func(p []byte) []byte { p[65536] = 128; return p }, ErrCorrupt, "says that it is"},
		{"directory", VMDK, func(p []byte) []byte { le.PutUint64(p[len(p)-1024+56:], 1<<40); return p }, ErrTruncated, "directory"},

		{"truncated", VHD, func(p []byte) []byte { return p[:len(p)-1024] }, ErrTruncated, "footer"},
		{"checksum", VHD, func(p []byte) []byte { p[len(p)-500]++; return p }, ErrCorrupt, "checksum"},
		{"differencing", VHD, func(p []byte) []byte { p[len(p)-512+63] = 4; sumVHD(p, len(p)-512, 512, 64); return p }, ErrExternal, "parent"},
		{"block twice", VHD, func(p []byte) []byte { copy(p[1536+4:], p[1536:1540]); return p }, ErrCorrupt, "two parts"},
		{"block outside", VHD, func(p []byte) []byte { be.PutUint32(p[1536:], 1<<31); return p }, ErrTruncated, "block"},
		{"block size", VHD, func(p []byte) []byte { be.PutUint32(p[512+32:], 5); sumVHD(p, 512, 1024, 36); return p }, ErrCorrupt, "power of two"},

		{"header", VHDX, func(p []byte) []byte { p[64<<10+100]++; p[128<<10+100]++; return p }, ErrCorrupt, "headers"},
		{"log", VHDX, func(p []byte) []byte {
			h := p[128<<10 : 132<<10]
			h[48] = 1
			le.PutUint32(h[4:], crcOf(h))
			return p
		}, ErrUnsupported, "log"},
		{"parent", VHDX, func(p []byte) []byte { p[2<<20+64<<10+4] = 2; return p }, ErrExternal, "differencing"},
		{"block twice", VHDX, func(p []byte) []byte { copy(p[3<<20+8:], p[3<<20:3<<20+8]); return p }, ErrCorrupt, "two parts"},
		{"block outside", VHDX, func(p []byte) []byte { p[3<<20+6] = 1; return p }, ErrTruncated, "block"},
		{"block is a table", VHDX, func(p []byte) []byte { le.PutUint64(p[3<<20:], 2<<20|6); return p }, ErrCorrupt, "overlaps"},
		{"state", VHDX, func(p []byte) []byte { p[3<<20] = 7; return p }, ErrCorrupt, "state 7"},
		{"size", VHDX, func(p []byte) []byte { p[2<<20+64<<10+8+5] = 0xff; return p }, ErrTooLarge, "MaxSize"},
	} {
		t.Run(fmt.Sprint(c.format, " ", c.name), func(t *testing.T) {
			p := c.change(bytes.Clone(imageOf(t, small, c.format, nil)))
			err := readAll(bytes.NewReader(p), int64(len(p)), c.format, &OpenOptions{Name: "some.img"})
			var e *Error
			if !errors.Is(err, c.kind) || !errors.As(err, &e) || e.Name != "some.img" || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v, want %v with %q", err, c.kind, c.says)
			}
			if c.kind == ErrUnsupported && !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%v isn't errors.ErrUnsupported", err)
			}
		})
	}
	for _, f := range []Format{Raw, QCOW2, VMDK, VHD, VHDX} {
		p := imageOf(t, small, f, nil)
		if _, err := Open(bytes.NewReader(p), int64(len(p)), f, &OpenOptions{MaxSize: 8<<20 - 1}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v: a disk above the limit: %v", f, err)
		}
		// A length that isn't the file's.
		if err := readAll(bytes.NewReader(p[:len(p)/2]), int64(len(p)), f, nil); !errors.Is(err, ErrTruncated) {
			t.Errorf("%v: a file of half its length: %v", f, err)
		}
		if got, err := Detect(bytes.NewReader(p), int64(len(p))); got != f || err != nil {
			t.Errorf("%v is detected as %v, %v", f, got, err)
		}
		if got, err := ParseFormat(f.String()); got != f || err != nil {
			t.Errorf("%v is parsed as %v, %v", f, got, err)
		}
		if f != Raw && f != VMDK {
			if _, err := OpenStream(bytes.NewReader(p), f, nil); !errors.Is(err, ErrSeek) {
				t.Errorf("%v as a stream: %v", f, err)
			}
		}
	}
}

// TestRefusedQEMU: what qemu-img itself makes.
func TestRefusedQEMU(t *testing.T) {
	dir := t.TempDir()
	qemuImg(t, dir, "create", "-f", "qcow2", "base.qcow2", "1M")
	qemuImg(t, dir, "create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "child.qcow2")
	qemuImg(t, dir, "create", "-f", "qcow2", "-o", "data_file=data.raw", "outside.qcow2", "1M")
	qemuImg(t, dir, "create", "-f", "qcow2", "--object", "secret,id=s,data=secret", "-o", "encrypt.format=aes,encrypt.key-secret=s", "aes.qcow2", "1M")
	qemuImg(t, dir, "create", "-f", "vmdk", "base.vmdk", "1M")
	qemuImg(t, dir, "create", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "child.vmdk")
	qemuImg(t, dir, "create", "-f", "vmdk", "-o", "subformat=monolithicFlat", "flat.vmdk", "1M")
	for _, c := range []struct {
		name   string
		format Format
		kind   error
	}{
		{"child.qcow2", QCOW2, ErrExternal}, {"outside.qcow2", QCOW2, ErrExternal}, {"aes.qcow2", QCOW2, ErrEncrypted},
		{"child.vmdk", VMDK, ErrExternal}, {"flat.vmdk", VMDK, ErrExternal},
	} {
		if _, err := tryFile(t, filepath.Join(dir, c.name), c.format, nil); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", c.name, err, c.kind)
		}
	}
}

// TestDescriptorNames: a descriptor can't name a file of another folder.
func TestDescriptorNames(t *testing.T) {
	for _, name := range []string{"../secret", "/etc/shadow", `..\x`, "..", "", "C:x"} {
		text := "# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \"" + name + "\" 0\n"
		_, err := Open(strings.NewReader(text), int64(len(text)), VMDK, &OpenOptions{Extent: func(string) (io.ReaderAt, int64, error) {
			t.Errorf("%q was opened", name)
			return nil, 0, io.EOF
		}})
		if !errors.Is(err, ErrExternal) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestGuestsHeader: a guest that writes a qcow2 header to its raw disk gets no
// further than a raw disk.
func TestGuestsHeader(t *testing.T) {
	inner := imageOf(t, &memory{size: 1 << 20}, QCOW2, nil)
	d, err := Open(bytes.NewReader(inner), int64(len(inner)), Raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(inner))
	if _, err := d.ReadAt(got, 0); err != nil && err != io.EOF || !bytes.Equal(got, inner) {
		t.Fatalf("a raw disk isn't its file: %v", err)
	}
}

// TestSource: sources that contradict themselves.
func TestSource(t *testing.T) {
	for _, f := range []Format{Raw, QCOW2, VMDK, VHD, VHDX} {
		for name, s := range map[string]Source{
			"gap":      liar{size: 1 << 20, extents: []Extent{{0, 4096, false}, {8192, 1<<20 - 8192, true}}},
			"short":    liar{size: 1 << 20, extents: []Extent{{0, 4096, false}}},
			"long":     liar{size: 1 << 20, extents: []Extent{{0, 2 << 20, true}}},
			"negative": liar{size: 1 << 20, extents: []Extent{{0, -1, true}}},
			"no data":  liar{size: 1 << 20, extents: []Extent{{0, 1 << 20, false}}},
		} {
			if err := Write(t.Context(), io.Discard, s, f, nil); !errors.Is(err, ErrSource) {
				t.Errorf("%v, %s: %v", f, name, err)
			}
		}
	}
	if err := Write(t.Context(), io.Discard, &memory{size: 2041 << 30}, VHD, nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a VHD of 2041 GiB: %v", err)
	}
	for _, c := range []struct {
		f Format
		o WriteOptions
	}{{Raw, WriteOptions{Fixed: true}}, {VHD, WriteOptions{ClusterSize: 4096}}, {QCOW2, WriteOptions{ClusterSize: 1000}}, {OVA, WriteOptions{}}, {99, WriteOptions{}}, {Raw, WriteOptions{Holes: true}}} {
		if err := Write(t.Context(), io.Discard, &memory{size: 1 << 20}, c.f, &c.o); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%v with %+v: %v", c.f, c.o, err)
		}
	}
}
