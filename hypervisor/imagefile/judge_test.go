package imagefile_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	. "github.com/anyvisor/anyvisor/hypervisor/imagefile"
	"github.com/anyvisor/anyvisor/internal/lab"
)

// qemuImg runs qemu-img, the judge of every format, in dir.
func qemuImg(t testing.TB, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		lab.Skip(t, fmt.Errorf("%w: qemu-img is missing", lab.ErrUnavailable))
	}
	out, err := lab.CommandIn(t.Context(), dir, "qemu-img", args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// memory is a disk with some data in a large void.
type memory struct {
	size  int64
	parts []part // in order, apart from each other
}

type part struct {
	off  int64
	data []byte
}

func (m *memory) Size() int64 { return m.size }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if off >= m.size {
		return 0, io.EOF
	}
	var err error
	if int64(len(p)) > m.size-off {
		p, err = p[:m.size-off], io.EOF
	}
	clear(p)
	for _, x := range m.parts {
		if begin, end := max(x.off, off), min(x.off+int64(len(x.data)), off+int64(len(p))); begin < end {
			copy(p[begin-off:], x.data[begin-x.off:end-x.off])
		}
	}
	return len(p), err
}

func (m *memory) Extents() iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		var at int64
		for _, x := range m.parts {
			if x.off > at && !yield(Extent{Offset: at, Length: x.off - at, Zero: true}, nil) {
				return
			}
			if !yield(Extent{Offset: x.off, Length: int64(len(x.data))}, nil) {
				return
			}
			at = x.off + int64(len(x.data))
		}
		if at < m.size {
			yield(Extent{Offset: at, Length: m.size - at, Zero: true}, nil)
		}
	}
}

// noise returns n bytes without zeros, the same in each run, half of which
// compress well.
func noise(n int, seed uint64) []byte {
	var key [32]byte
	key[0] = byte(seed)
	p := make([]byte, n)
	rand.NewChaCha8(key).Read(p)
	for i := range p {
		p[i] |= 1
		if i/4096%2 == 1 {
			p[i] = byte(seed) | 1
		}
	}
	return p
}

// disks are what each format is tried with. Nobody changes them.
var disks = sync.OnceValue(func() map[string]*memory {
	return map[string]*memory{
		"empty":   {size: 3 << 20},
		"nothing": {size: 0},
		"full":    {size: 5<<20 + 512, parts: []part{{0, noise(5<<20+512, 3)}}},
		"odd": {size: 7<<20 + 12345, parts: []part{
			{100, noise(1000, 5)}, {1<<20 - 7, noise(70001, 7)}, {3<<20 + 511, noise(2, 8)}, {7<<20 + 12300, noise(45, 9)}}},
		"holes": {size: 64 << 20, parts: []part{
			{0, noise(512, 1)}, {1 << 20, noise(64<<10, 2)}, {2<<20 + 64<<10, noise(1<<20, 3)}, {33 << 20, noise(3<<20, 4)}, {64<<20 - 512, noise(512, 5)}}},
		"sparse100G": {size: 100 << 30, parts: []part{
			{0, noise(4096, 1)}, {10<<30 + 65536, noise(1<<20, 2)}, {50 << 30, noise(100<<10, 3)}, {100<<30 - 65536, noise(65536, 4)}}},
	}
})

// few are the disks that each option of qemu-img is tried with. The others,
// which say little about options, are tried without any.
func few(name, options string) bool {
	if testing.Short() {
		return name == "odd"
	}
	return options == "" && name != "nothing" || name == "odd" || name == "holes"
}

// save writes m sparse as a raw file.
func save(t testing.TB, path string, m *memory) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(m.size); err != nil {
		t.Fatal(err)
	}
	for _, x := range m.parts {
		if _, err := f.WriteAt(x.data, x.off); err != nil {
			t.Fatal(err)
		}
	}
}

// openFile opens an image file for the time of the test.
func openFile(t testing.TB, path string, format Format, o *OpenOptions) *Disk {
	t.Helper()
	d, err := tryFile(t, path, format, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func tryFile(t testing.TB, path string, format Format, o *OpenOptions) (*Disk, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	s, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(f, s.Size(), format, o)
	if err == nil {
		t.Cleanup(func() { d.Close() })
	}
	return d, err
}

// same checks that d has m's content, rounded up to align bytes, that its
// zero extents are zeros in m, and that its data extents go at most slack bytes
// beyond m's at either end. A negative slack allows any.
func same(t testing.TB, d Source, m *memory, align, slack int64) {
	t.Helper()
	if want := (m.size + align - 1) / align * align; d.Size() != want {
		t.Fatalf("size %d, want %d", d.Size(), want)
	}
	var at, data int64
	last := -1
	for x, err := range d.Extents() {
		if err != nil {
			t.Fatal(err)
		}
		if x.Offset != at || x.Length <= 0 {
			t.Fatalf("extent %+v follows byte %d", x, at)
		}
		z := 0
		if x.Zero {
			z = 1
		}
		if z == last {
			t.Fatalf("two extents with Zero %v at %d", x.Zero, at)
		}
		last, at = z, at+x.Length
		if !x.Zero {
			data += x.Length
			continue
		}
		for _, p := range m.parts {
			if p.off < at && p.off+int64(len(p.data)) > x.Offset {
				t.Fatalf("extent %+v has data at %d", x, p.off)
			}
		}
	}
	if at != d.Size() {
		t.Fatalf("extents end at %d of %d", at, d.Size())
	}
	most := int64(0)
	for _, p := range m.parts {
		most += int64(len(p.data)) + 2*slack
	}
	if slack >= 0 && data > most {
		t.Fatalf("%d bytes of data, want at most %d", data, most)
	}
	for _, p := range m.parts {
		// Some bytes more on both sides, in steps that fit nothing.
		begin, end := max(0, p.off-1000), min(d.Size(), p.off+int64(len(p.data))+1000)
		got, want := make([]byte, end-begin), make([]byte, end-begin)
		m.ReadAt(want, begin)
		for i := 0; i < len(got); i += 77777 {
			step := got[i:min(i+77777, len(got))]
			if n, err := d.ReadAt(step, begin+int64(i)); n != len(step) || err != nil && err != io.EOF {
				t.Fatalf("read %d at %d: %d, %v", len(step), begin+int64(i), n, err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("content differs around %d", p.off)
		}
	}
	if n, err := d.ReadAt(make([]byte, 1), d.Size()); n != 0 || err != io.EOF {
		t.Fatalf("read at the end: %d, %v", n, err)
	}
}

// written writes m and has qemu-img check and compare the image. It returns
// the image's path.
func written(t *testing.T, m *memory, format Format, name string, o *WriteOptions) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(context.Background(), struct{ io.Writer }{f}, m, format, o); err != nil {
		t.Fatal(err)
	}
	f.Close()
	// qemu-img check takes long for a large VMDK.
	if format == QCOW2 || format == VHDX || format == VMDK && m.size < 1<<30 {
		qemuImg(t, dir, "check", "-f", name, path)
	}
	if (format == VHDX || format == VMDK) && m.size > 1<<30 {
		// qemu-img compare takes long for the void of these.
		for _, x := range m.parts {
			n := (len(x.data) + 65535) / 65536
			qemuImg(t, dir, "dd", "-f", name, "-O", "raw", "bs=64k", fmt.Sprint("skip=", x.off/65536), fmt.Sprint("count=", int(x.off/65536)+n), "if="+path, "of=part")
			got, err := os.ReadFile(filepath.Join(dir, "part"))
			want := make([]byte, n*65536)
			m.ReadAt(want, x.off/65536*65536)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("qemu-img reads other %d bytes at %d: %v", len(got), x.off, err)
			}
		}
	} else if m.size > 0 {
		save(t, filepath.Join(dir, "raw"), m)
		qemuImg(t, dir, "compare", "-f", name, "-F", "raw", path, "raw")
	}
	return path
}

// converted returns the path of the image into which qemu-img turns m.
func converted(t *testing.T, m *memory, name string, options ...string) string {
	t.Helper()
	dir := t.TempDir()
	save(t, filepath.Join(dir, "raw"), m)
	args := append([]string{"convert", "-f", "raw", "-O", name}, options...)
	qemuImg(t, dir, append(args, "raw", "image."+name)...)
	return filepath.Join(dir, "image."+name)
}
