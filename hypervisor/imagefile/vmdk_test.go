package imagefile_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/anyvisor/anyvisor/hypervisor/imagefile"
)

// beside opens the extents that a descriptor names in its folder.
func beside(path string) *OpenOptions {
	return &OpenOptions{Extent: func(name string) (io.ReaderAt, int64, error) {
		f, err := os.Open(filepath.Join(filepath.Dir(path), name))
		if err != nil {
			return nil, 0, err
		}
		s, err := f.Stat()
		return f, s.Size(), err
	}}
}

func TestVMDKWrite(t *testing.T) {
	for name, m := range disks() {
		if m.size == 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := written(t, m, VMDK, "vmdk", nil)
			same(t, openFile(t, path, VMDK, nil), m, 512, 64<<10)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			sameStream(t, f, VMDK, m, 512)
		})
	}
}

// sameStream checks that r is an image of m.
func sameStream(t *testing.T, r io.Reader, format Format, m *memory, align int64) {
	t.Helper()
	s, err := OpenStream(r, format, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := &memory{}
	for c, err := range s.Chunks() {
		if err != nil {
			t.Fatal(err)
		}
		if n := len(got.parts); n > 0 && got.parts[n-1].off+int64(len(got.parts[n-1].data)) == c.Offset {
			got.parts[n-1].data = append(got.parts[n-1].data, c.Data...)
		} else {
			got.parts = append(got.parts, part{c.Offset, bytes.Clone(c.Data)})
		}
	}
	got.size = s.Size()
	same(t, got, m, align, 64<<10)
	for _, err := range s.Chunks() {
		if err == nil {
			t.Fatal("a stream can be read twice")
		}
	}
}

func TestStreamRaw(t *testing.T) {
	for name, m := range disks() {
		if m.size < 16<<20 {
			t.Run(name, func(t *testing.T) {
				var b bytes.Buffer
				if err := Write(t.Context(), &b, m, Raw, nil); err != nil {
					t.Fatal(err)
				}
				sameStream(t, &b, Raw, m, 1)
			})
		}
	}
}

func TestVMDKRead(t *testing.T) {
	for name, m := range disks() {
		for _, o := range []string{"", "-o subformat=streamOptimized", "-o subformat=monolithicFlat", "-o subformat=twoGbMaxExtentSparse", "-o subformat=twoGbMaxExtentFlat", "-o zeroed_grain=on", "-o compat6=on"} {
			if !few(name, o) && !(name == "sparse100G" && strings.HasSuffix(o, "streamOptimized")) {
				continue
			}
			t.Run(name+" "+o, func(t *testing.T) {
				t.Parallel()
				path := converted(t, m, "vmdk", strings.Fields(o)...)
				same(t, openFile(t, path, VMDK, beside(path)), m, 512, 64<<10)
			})
		}
	}
}
