package imagefile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/anyvisor/anyvisor/hypervisor/imagefile"
)

func TestRaw(t *testing.T) {
	for name, m := range disks() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			save(t, filepath.Join(dir, "raw"), m)
			same(t, openFile(t, filepath.Join(dir, "raw"), Raw, nil), m, 1, 64<<10)

			f, err := os.Create(filepath.Join(dir, "copy"))
			if err != nil {
				t.Fatal(err)
			}
			if err := Write(t.Context(), f, m, Raw, &WriteOptions{Holes: true}); err != nil {
				t.Fatal(err)
			}
			f.Close()
			same(t, openFile(t, filepath.Join(dir, "copy"), Raw, nil), m, 1, 64<<10)
			if m.size > 0 {
				if f, err = os.Create(filepath.Join(dir, "vhd")); err != nil {
					t.Fatal(err)
				}
				if err := Write(t.Context(), f, m, VHD, &WriteOptions{Holes: true, Fixed: true}); err != nil {
					t.Fatal(err)
				}
				f.Close()
				same(t, openFile(t, f.Name(), VHD, nil), m, 512, 64<<10)
			}
			if m.size < 1<<30 {
				same(t, Scan(openFile(t, written(t, m, Raw, "raw", nil), Raw, nil)), m, 1, 64<<10)
			}
		})
	}
}

func TestQCOW2Write(t *testing.T) {
	for name, m := range disks() {
		for _, c := range []int{0, 512, 4096, 2 << 20} {
			if c > 0 && name != "odd" && name != "holes" && !(name == "sparse100G" && c > 4096) {
				continue
			}
			t.Run(fmt.Sprint(name, c), func(t *testing.T) {
				t.Parallel()
				path := written(t, m, QCOW2, "qcow2", &WriteOptions{ClusterSize: c})
				same(t, openFile(t, path, QCOW2, nil), m, 512, max(int64(c), 64<<10))
			})
		}
	}
}

func TestQCOW2Read(t *testing.T) {
	for name, m := range disks() {
		for _, o := range []string{
			"", "-c", "-c -o compression_type=zstd", "-o compat=0.10", "-c -o compat=0.10,cluster_size=512", "-o cluster_size=2M", "-c -o cluster_size=2M,compression_type=zstd",
			"-o extended_l2=on,cluster_size=128k", "-c -o extended_l2=on", "-o preallocation=metadata", "-o preallocation=falloc", "-S 0", "-o lazy_refcounts=on,refcount_bits=1",
		} {
			if !few(name, o) && !(name == "sparse100G" && o == "-c") {
				continue
			}
			t.Run(name+" "+o, func(t *testing.T) {
				t.Parallel()
				slack := int64(2 << 20)
				if strings.Contains(o, "prealloc") || o == "-S 0" {
					slack = -1
				}
				same(t, openFile(t, converted(t, m, "qcow2", strings.Fields(o)...), QCOW2, nil), m, 512, slack)
			})
		}
	}
}
