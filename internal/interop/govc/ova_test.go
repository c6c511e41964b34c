package govc

import (
	"bytes"
	"encoding/json"
	"iter"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmware/govmomi/ovf"

	_ "github.com/vmware/govmomi/cli/importx"

	"github.com/anyvisor/anyvisor/hypervisor/imagefile"
)

// void is a disk of zeros.
type void int64

func (v void) Size() int64                           { return int64(v) }
func (v void) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }
func (v void) Extents() iter.Seq2[imagefile.Extent, error] {
	return func(yield func(imagefile.Extent, error) bool) {
		yield(imagefile.Extent{Length: int64(v), Zero: true}, nil)
	}
}

// TestOVA: govc and govmomi read the archives that package imagefile writes.
func TestOVA(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.ova")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	spec := imagefile.OVASpec{Name: "web & <1>", CPUs: 2, MemoryBytes: 2 << 30, Disks: []imagefile.Source{void(1 << 30), void(5 << 20)}, Networks: []string{"VM Network"}, EFI: true}
	if err := imagefile.WriteOVA(t.Context(), f, spec); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	sim, _ := start(t)
	out := []byte(govc(t, sim)("import.spec", path))
	var said struct{ NetworkMapping []struct{ Name string } }
	if err := json.Unmarshal(out, &said); err != nil || len(said.NetworkMapping) != 1 || said.NetworkMapping[0].Name != "VM Network" {
		t.Errorf("govc import.spec says %s, %v", out, err)
	}

	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s, err := r.Stat()
	if err != nil {
		t.Fatal(err)
	}
	a, err := imagefile.OpenOVA(r, s.Size(), nil)
	if err != nil {
		t.Fatal(err)
	}
	env, err := ovf.Unmarshal(bytes.NewReader(a.Descriptor()))
	if err != nil {
		t.Fatal(err)
	}
	vs := env.VirtualSystem
	if *vs.Name != spec.Name || len(env.Disk.Disks) != 2 || len(env.References) != 2 || len(env.Network.Networks) != 1 || len(vs.VirtualHardware[0].Item) != 6 || len(vs.VirtualHardware[0].Config) != 1 {
		t.Errorf("govmomi reads %s", a.Descriptor())
	}
}
