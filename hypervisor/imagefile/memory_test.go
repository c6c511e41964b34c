package imagefile_test

import (
	"bytes"
	"io"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	. "github.com/anyvisor/anyvisor/hypervisor/imagefile"
)

// pattern is a disk of data that isn't kept anywhere.
type pattern int64

func (n pattern) Size() int64 { return int64(n) }

func (n pattern) ReadAt(p []byte, off int64) (int, error) {
	p[0] = byte(off>>16) | 1
	return len(p), nil
}

func (n pattern) Extents() iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) { yield(Extent{Length: int64(n)}, nil) }
}

// TestMemoryFlat: writing allocates no more for a large disk than for a small one.
func TestMemoryFlat(t *testing.T) {
	for _, f := range []Format{Raw, QCOW2, VMDK, VHD, VHDX} {
		allocated := func(size int64) int64 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if err := Write(t.Context(), io.Discard, pattern(size), f, nil); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			return int64(after.TotalAlloc - before.TotalAlloc)
		}
		small, large := allocated(1<<20), allocated(96<<20)
		if large > small+512<<10 {
			t.Errorf("%v: 1 MiB needs %d bytes, and 96 MiB need %d", f, small, large)
		}
	}
}

func TestFlatDescriptor(t *testing.T) {
	dir := t.TempDir()
	m := disks()["holes"]
	save(t, filepath.Join(dir, "disk-flat.vmdk"), m)
	text, err := FlatDescriptor(m.size, "disk-flat.vmdk")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "disk.vmdk"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	qemuImg(t, dir, "compare", "-f", "vmdk", "-F", "raw", "disk.vmdk", "disk-flat.vmdk")
	same(t, openFile(t, filepath.Join(dir, "disk.vmdk"), VMDK, beside(filepath.Join(dir, "disk.vmdk"))), m, 512, 64<<10)
	for _, name := range []string{"", "a/b", "a\"b", "a\nb"} {
		if _, err := FlatDescriptor(512, name); err == nil {
			t.Errorf("an extent named %q", name)
		}
	}
	if _, err := FlatDescriptor(511, "a"); err == nil {
		t.Error("a disk of 511 bytes")
	}
}

// TestConcurrent: readers of one disk don't disturb each other.
func TestConcurrent(t *testing.T) {
	m := disks()["holes"]
	for _, f := range []Format{QCOW2, VMDK, VHD, VHDX} {
		p := imageOf(t, m, f, nil)
		d, err := Open(bytes.NewReader(p), int64(len(p)), f, nil)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan bool)
		for i := range 4 {
			go func() {
				defer func() { done <- true }()
				got, want := make([]byte, 100_000), make([]byte, 100_000)
				for off := int64(i) * 1000; off < m.size-100_000; off += 1 << 20 {
					m.ReadAt(want, off)
					if _, err := d.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%v at %d: %v", f, off, err)
						return
					}
				}
			}()
		}
		for range 4 {
			<-done
		}
	}
}
