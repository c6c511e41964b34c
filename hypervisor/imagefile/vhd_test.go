package imagefile_test

import (
	"strings"
	"testing"

	. "github.com/anyvisor/anyvisor/hypervisor/imagefile"
)

func TestVHDWrite(t *testing.T) {
	for name, m := range disks() {
		for _, fixed := range []bool{false, true} {
			if m.size == 0 || fixed && m.size > 1<<30 {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				slack := int64(2 << 20)
				if fixed {
					slack = -1
				}
				o := &WriteOptions{Fixed: fixed}
				same(t, openFile(t, written(t, m, VHD, "vpc", o), VHD, nil), m, 512, slack)
				same(t, openFile(t, written(t, m, VHDX, "vhdx", o), VHDX, nil), m, 512, slack)
			})
		}
	}
}

func TestVHDRead(t *testing.T) {
	for name, m := range disks() {
		for _, o := range []string{"", "-o force_size=on", "-o subformat=fixed,force_size=on"} {
			if !few(name, o) {
				continue
			}
			t.Run(name+" "+o, func(t *testing.T) {
				t.Parallel()
				d := openFile(t, converted(t, m, "vpc", strings.Fields(o)...), VHD, nil)
				n := *m
				if o == "" { // the geometry is rounded up
					if n.size = d.Size(); n.size < m.size || n.size > m.size+m.size/50+1<<20 {
						t.Fatalf("size %d of %d", d.Size(), m.size)
					}
				}
				slack := int64(2 << 20)
				if strings.Contains(o, "fixed") {
					slack = -1
				}
				same(t, d, &n, 512, slack)
			})
		}
	}
}

func TestVHDXRead(t *testing.T) {
	for name, m := range disks() {
		for _, o := range []string{"", "-o block_size=1M", "-o block_size=256M,block_state_zero=off", "-o subformat=fixed"} {
			if !few(name, o) {
				continue
			}
			t.Run(name+" "+o, func(t *testing.T) {
				t.Parallel()
				slack := int64(32 << 20)
				if strings.Contains(o, "fixed") || strings.Contains(o, "256M") {
					slack = -1
				}
				same(t, openFile(t, converted(t, m, "vhdx", strings.Fields(o)...), VHDX, nil), m, 512, slack)
			})
		}
	}
}
