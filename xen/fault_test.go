package xen

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

var faultPool = xapisim.Config{Hosts: 2, GPUs: []xapisim.GPU{{Model: xapisim.TeslaM60}}}

// TestFaultAtEveryCall does every operation with one thing going wrong at one
// call, for each of its calls: the session is expired, the connection breaks
// before the call, or after it. The outcome must be the whole work, or an error
// that says Unavailable with everything that is left behind named; and a
// repeated call with the same token makes exactly one machine.
func TestFaultAtEveryCall(t *testing.T) {
	for _, op := range opCases() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			w, arg := prepared(t, op)
			w.sim.ResetCalls()
			if err := op.do(settled(t), w, arg); err != nil {
				t.Fatalf("without faults: %v", err)
			}
			want := w.truth(t)
			calls := w.sim.Calls()
			for _, method := range slices.Sorted(maps.Keys(calls)) {
				n := calls[method]
				if testing.Short() {
					n = min(n, 1)
				}
				for skip := range min(n, 2) {
					for label, f := range map[string]xapisim.Fault{
						"expired": {Err: &xapisim.Failure{Code: "SESSION_INVALID", Params: []string{"OpaqueRef:x"}}}, "dropped": {Drop: true}, "dropped after": {DropAfter: true},
					} {
						f.Method, f.Skip = method, skip
						t.Run(fmt.Sprintf("%s %s %d", label, method, skip+1), func(t *testing.T) { faulty(t, op, f, want) })
					}
				}
			}
		})
	}
}

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

func faulty(t *testing.T, op opCase, f xapisim.Fault, want truth) {
	w, arg := prepared(t, op)
	strikes := w.sim.Fault(f)
	err := op.do(settled(t), w, arg)
	if strikes() == 0 && err == nil {
		return // waiting takes as many calls as it takes
	}
	got := w.truth(t)
	var e *hypervisor.Error
	switch {
	case err == nil:
		if got.vms != want.vms || got.snapshots != want.snapshots || got.vbds != want.vbds || got.vifs != want.vifs || len(got.loose) != len(want.loose) {
			t.Errorf("it succeeded, but there is %+v, want %+v", got, want)
		}
	case f.Err != nil:
		t.Errorf("an expired session was not renewed: %v", err)
	case !errors.As(err, &e) || e.Kind != hypervisor.KindUnavailable:
		t.Errorf("the error is %v (%v), want Unavailable", err, hypervisor.KindOf(err))
	default:
		w.accounted(t, e, got)
	}
	if op.creates == "" {
		return
	}
	if err := op.do(settled(t), w, arg); err != nil {
		t.Errorf("again with the same token: %v", err)
	}
	if m := w.named(t, op.creates); len(m) != 1 {
		t.Errorf("there are %d machines, want 1", len(m))
	}
	if got := w.truth(t); got.vms != want.vms || got.vbds != want.vbds || got.vifs != want.vifs || len(got.loose) != len(want.loose) || got.snapshots != want.snapshots {
		t.Errorf("after the second call there is %+v, want %+v", got, want)
	}
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
	if extra := got.vms - w.before.vms; extra > left[hypervisor.KindOfVM] {
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
