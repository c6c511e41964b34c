package imagefile_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"testing"

	. "github.com/anyvisor/anyvisor/hypervisor/imagefile"
)

// walked opens p and reads what it says it has, up to some MiB. Whatever the
// bytes are, there is an *Error or a disk that keeps its promises.
func walked(t *testing.T, p []byte, format Format) {
	const most = 16 << 20
	d, err := Open(bytes.NewReader(p), int64(len(p)), format, &OpenOptions{MaxSize: most, Extent: func(string) (io.ReaderAt, int64, error) {
		return bytes.NewReader(p), int64(len(p)), nil
	}})
	if err != nil {
		typed(t, err)
		return
	}
	defer d.Close()
	if d.Size() < 0 || d.Size() > most {
		t.Fatalf("size %d", d.Size())
	}
	buf := make([]byte, 128<<10)
	read := 0
	var at int64
	for x, err := range d.Extents() {
		if err != nil {
			typed(t, err)
			return
		}
		if x.Offset != at || x.Length <= 0 || x.Length > d.Size()-at {
			t.Fatalf("extent %+v after %d of %d", x, at, d.Size())
		}
		at += x.Length
		if read++; read > 20 {
			continue
		}
		n, err := d.ReadAt(buf[:min(int64(len(buf)), x.Length)], x.Offset)
		if err != nil && err != io.EOF {
			typed(t, err)
			return
		}
		if x.Zero && !bytes.Equal(buf[:n], make([]byte, n)) {
			t.Fatalf("zero extent %+v has data", x)
		}
	}
	if at != d.Size() {
		t.Fatalf("extents end at %d of %d", at, d.Size())
	}
}

func typed(t *testing.T, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Kind == nil || e.Error() == "" {
		t.Fatalf("%T %v", err, err)
	}
}

// tiny is the disk of the seeds.
var tiny = &memory{size: 100 << 10, parts: []part{{0, bytes.Repeat([]byte("a"), 700)}, {50 << 10, noise(600, 3)}}}

func FuzzQCOW2(f *testing.F) {
	f.Add(imageOf(f, tiny, QCOW2, &WriteOptions{ClusterSize: 512}))
	f.Fuzz(func(t *testing.T, p []byte) { walked(t, p, QCOW2) })
}

func FuzzVMDK(f *testing.F) {
	// A monolithicSparse image of 17 sectors: header, descriptor, directory,
	// table, one grain.
	p := make([]byte, 24*512)
	le := binary.LittleEndian
	copy(p, "KDMV\x01\x00\x00\x00\x05")
	for off, v := range map[int]uint64{12: 17, 20: 8, 28: 1, 36: 1, 44: 512, 56: 2, 64: 16} {
		le.PutUint64(p[off:], v)
	}
	copy(p[73:], "\n \r\n")
	copy(p[512:], "parentCID=ffffffff\ncreateType=\"monolithicSparse\"\nRW 17 SPARSE \"a\"\n")
	p[2*512], p[3*512], p[3*512+4] = 3, 16, 1
	copy(p[16*512:], noise(4096, 5))
	if err := readAll(bytes.NewReader(p), int64(len(p)), VMDK, nil); err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	f.Add([]byte("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \"a\" 0\nRW 2 ZERO\nRW 1 SPARSE \"b\"\n"))
	f.Fuzz(func(t *testing.T, p []byte) { walked(t, p, VMDK) })
}

// FuzzVMDKStream: a streamOptimized image as a stream. The header and the
// descriptor are right if head is short.
func FuzzVMDKStream(f *testing.F) {
	whole := imageOf(f, tiny, VMDK, nil)
	f.Add(whole[:77], whole[128*512:])
	f.Fuzz(func(t *testing.T, head, rest []byte) {
		p := append(bytes.Clone(whole[:128*512]), rest...)
		copy(p[:128*512], head)
		walked(t, p, VMDK)
		s, err := OpenStream(bytes.NewReader(p), VMDK, &OpenOptions{MaxSize: 256 << 20})
		if err != nil {
			typed(t, err)
			return
		}
		var at int64
		for c, err := range s.Chunks() {
			if err != nil {
				typed(t, err)
				return
			}
			if c.Offset < at || len(c.Data) == 0 || c.Offset+int64(len(c.Data)) > s.Size() {
				t.Fatalf("%d bytes at %d after %d of %d", len(c.Data), c.Offset, at, s.Size())
			}
			at = c.Offset + int64(len(c.Data))
		}
	})
}

// FuzzVHD: a dynamic image, whose checksums are made right, and a file as it is.
func FuzzVHD(f *testing.F) {
	p := imageOf(f, &memory{size: 4 << 20}, VHD, nil)
	f.Add(p[512:1536+512], p[len(p)-512:])
	f.Fuzz(func(t *testing.T, begin, foot []byte) {
		walked(t, append(bytes.Clone(begin), foot...), VHD)
		p := make([]byte, 2048+5000)
		copy(p[512:], begin)
		last := p[len(p)-512:]
		copy(last, foot)
		for _, x := range []struct {
			p   []byte
			sum int
		}{{p[512:1536], 36}, {last, 64}} {
			binary.BigEndian.PutUint32(x.p[x.sum:], 0)
			var sum uint32
			for _, b := range x.p {
				sum += uint32(b)
			}
			binary.BigEndian.PutUint32(x.p[x.sum:], ^sum)
		}
		walked(t, p, VHD)
	})
}

// FuzzVHDX: the parts of an image at their places, with right checksums.
func FuzzVHDX(f *testing.F) {
	p := imageOf(f, &memory{size: 8 << 20, parts: []part{{5 << 20, []byte("x")}}}, VHDX, nil)
	f.Add(p[64<<10:64<<10+80], p[192<<10:192<<10+80], p[2<<20:2<<20+32+5*32], p[2<<20+64<<10:2<<20+64<<10+64], p[3<<20:3<<20+64], uint32(6<<20))
	f.Fuzz(func(t *testing.T, head, regions, meta, items, bat []byte, size uint32) {
		p := make([]byte, min(max(size, 4<<20), 8<<20))
		copy(p, "vhdxfile")
		h, r := p[64<<10:68<<10], p[192<<10:256<<10]
		copy(h, head)
		copy(r, regions)
		copy(p[2<<20:2<<20+64<<10], meta)
		copy(p[2<<20+64<<10:3<<20], items)
		copy(p[3<<20:4<<20], bat)
		binary.LittleEndian.PutUint32(h[4:], crcOf(h))
		binary.LittleEndian.PutUint32(r[4:], crcOf(r))
		walked(t, p, VHDX)
		walked(t, head, VHDX)
	})
}

// FuzzOVA: an archive as it is, and one with any descriptor and manifest.
func FuzzOVA(f *testing.F) {
	var b bytes.Buffer
	if err := WriteOVA(f.Context(), &b, OVASpec{Disks: []Source{&memory{size: 1 << 20}}}); err != nil {
		f.Fatal(err)
	}
	a, err := OpenOVA(bytes.NewReader(b.Bytes()), int64(b.Len()), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes()[:2048], a.Descriptor(), []byte("SHA256(machine-disk1.vmdk)= 00\nSHA1(x)= 11\n"))
	disk := imageOf(f, &memory{size: 1 << 20}, VMDK, nil)
	f.Fuzz(func(t *testing.T, archive, ovf, sums []byte) {
		walked(t, archive, OVA)
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, x := range []struct {
			name string
			p    []byte
		}{{"machine.ovf", ovf}, {"machine.mf", sums}, {"machine-disk1.vmdk", disk}} {
			w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: x.name, Size: int64(len(x.p))})
			w.Write(x.p)
		}
		w.Close()
		a, err := OpenOVA(bytes.NewReader(b.Bytes()), int64(b.Len()), nil)
		if err != nil {
			typed(t, err)
			return
		}
		if _, err := a.Verify(t.Context()); err != nil {
			typed(t, err)
		}
		for i := range a.Disks() {
			if d, err := a.OpenDisk(i); err != nil {
				typed(t, err)
			} else {
				d.Close()
			}
		}
	})
}

func FuzzDecompress(f *testing.F) {
	for c := Gzip; c <= Zstd; c++ {
		f.Add(uint8(c), pack(f, c, []byte("content of the file, content of the file")))
	}
	f.Fuzz(func(t *testing.T, c uint8, p []byte) {
		got, err := unpack(bytes.NewReader(p), Compression(c%4), 1<<20)
		if len(got) > 1<<20 {
			t.Fatalf("%d bytes", len(got))
		}
		if err != nil {
			typed(t, err)
		}
	})
}

func FuzzDetect(f *testing.F) {
	f.Add([]byte("vhdxfile"))
	f.Fuzz(func(t *testing.T, p []byte) {
		format, err := Detect(bytes.NewReader(p), int64(len(p)))
		if err != nil {
			t.Fatal(err)
		}
		walked(t, p, format)
	})
}

// crcOf returns the checksum of a VHDX's structure.
func crcOf(p []byte) uint32 {
	q := bytes.Clone(p)
	clear(q[4:8])
	return crc32.Checksum(q, crc32.MakeTable(crc32.Castagnoli))
}
