package xen

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// world is a simulated pool with a few machines and a Client on it.
type world struct {
	sim *xapisim.Sim
	c   *hypervisor.Client
	off *hypervisor.VM // a disk of 10 GiB and an adapter
	run *hypervisor.VM // the same, running
	// before counts what there was before the operation.
	before truth
}

// truth is what the pool has, told by the simulator itself.
type truth struct {
	vms, snapshots, vbds, vifs, vgpus int
	loose                             []string // images that belong to nothing, by uuid
}

func newWorld(t testing.TB, cfg xapisim.Config) *world {
	t.Helper()
	sim, err := xapisim.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	w := &world{sim: sim}
	refs, err := sim.AddVMs(xapisim.Bulk{Count: 2, Running: 1})
	if err != nil {
		t.Fatal(err)
	}
	w.c = w.open(t)
	w.run, w.off = w.vm(t, refs[0]), w.vm(t, refs[1])
	w.before = w.truth(t)
	return w
}

func (w *world) open(t testing.TB) *hypervisor.Client {
	t.Helper()
	c, err := Open(t.Context(), config(w.sim), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

func (w *world) vm(t testing.TB, ref string) *hypervisor.VM {
	return w.c.VM(hypervisor.VMID(w.text(t, "VM", ref, "uuid")))
}

func (w *world) field(t testing.TB, class, id, name string) any {
	t.Helper()
	v, err := w.sim.Field(class, id, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (w *world) text(t testing.TB, class, id, name string) string {
	t.Helper()
	s, _ := w.field(t, class, id, name).(string)
	return s
}

// named lists the machines of a name, by uuid.
func (w *world) named(t testing.TB, name string) []string {
	t.Helper()
	var out []string
	for _, r := range w.sim.Refs("VM") {
		if w.text(t, "VM", r, "name_label") == name && w.field(t, "VM", r, "is_a_snapshot") == false {
			out = append(out, w.text(t, "VM", r, "uuid"))
		}
	}
	return out
}

func (w *world) truth(t testing.TB) truth {
	t.Helper()
	tr := truth{vbds: w.sim.Count("VBD"), vifs: w.sim.Count("VIF"), vgpus: w.sim.Count("VGPU")}
	used := map[string]bool{}
	for _, r := range w.sim.Refs("VM") {
		if w.field(t, "VM", r, "is_a_snapshot") == true {
			tr.snapshots++
		} else {
			tr.vms++
		}
		used[w.text(t, "VM", r, "suspend_VDI")] = true
	}
	for _, r := range w.sim.Refs("VDI") {
		hidden := w.field(t, "VDI", r, "managed") == false || w.field(t, "VDI", r, "sharable") == true
		if vbds, _ := w.field(t, "VDI", r, "VBDs").([]any); len(vbds) == 0 && !used[r] && !hidden {
			tr.loose = append(tr.loose, w.text(t, "VDI", r, "uuid"))
		}
	}
	slices.Sort(tr.loose)
	return tr
}

func (w *world) hosts(ctx context.Context) []hypervisor.HostInfo {
	var out []hypervisor.HostInfo
	for h, err := range w.c.Hosts(ctx) {
		if err == nil {
			out = append(out, h)
		}
	}
	return out
}

func (w *world) rpc(ctx context.Context, t *testing.T, result any, method string, args ...any) {
	t.Helper()
	rpc, err := hypervisor.As[*Session](t.Context(), w.c, w.c)
	if err != nil {
		t.Fatal(err)
	}
	if err := rpc.Call(ctx, result, method, args...); err != nil {
		t.Fatal(err)
	}
}

// reasonOf is the reason of an Unsupported error, empty for others.
func reasonOf(err error) hypervisor.ReasonCode {
	var u *hypervisor.UnsupportedError
	errors.As(err, &u)
	if u == nil {
		return ""
	}
	return u.Support.Reason
}

func ok[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wait[T any](ctx context.Context, t *hypervisor.Task[T]) error { _, err := t.Wait(ctx); return err }

func drain[T any](seq func(func(T, error) bool)) error {
	for _, err := range seq {
		if err != nil {
			return err
		}
	}
	return nil
}

// settled bounds every operation of a test, so that a hang fails.
func settled(t testing.TB) context.Context {
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(stop)
	return ctx
}
