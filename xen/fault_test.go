package xen

import (
	"slices"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// faultPool merges images at once, so that numbers of calls are steady.
var faultPool = xapisim.Config{Hosts: 2, GPUs: []xapisim.GPU{{Model: xapisim.TeslaM60}}, GCPause: -1}

func prepared(t *testing.T, op opCase) (*world, any) { return preparedIn(t, op, faultPool) }

func preparedIn(t *testing.T, op opCase, pool xapisim.Config) (*world, any) {
	t.Helper()
	w := newWorld(t, pool)
	arg, err := op.prepare(settled(t), w)
	if err != nil {
		t.Fatalf("prepare: %v", err)
	}
	w.before = w.truth(t)
	return w, arg
}

// accounted checks that Leftover names what is there and was not before.
func (w *world) accounted(t *testing.T, e *hypervisor.Error, got truth) {
	t.Helper()
	left := map[hypervisor.ObjectKind]int{}
	ids := map[string]bool{}
	for _, r := range e.Leftover {
		left[r.Kind]++
		ids[r.ID] = true
	}
	if extra := got.vms - w.before.vms; extra > left[hypervisor.ObjectVM] {
		t.Errorf("%d machines are left behind, Leftover names %v (%v)", extra, e.Leftover, e)
	}
	for _, v := range got.loose {
		if !slices.Contains(w.before.loose, v) && !ids[v] {
			t.Errorf("image %s is left behind, Leftover names %v (%v)", v, e.Leftover, e)
		}
	}
	if got.vgpus > w.before.vgpus {
		t.Errorf("a vGPU is left behind (%v)", e)
	}
}
