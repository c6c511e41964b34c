package xen

import (
	"context"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// killed ends a Client as a process ends that is killed: no call of it gets
// out any more, not even those that would clean up.
func (w *world) killed(t *testing.T, c *hypervisor.Client) {
	t.Helper()
	back := w.sim.Fault(xapisim.Fault{Method: "*", Drop: true, Count: -1})
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	back()
}

// TestCloneResumed ends the first Client in the middle of a clone, at every
// step and in two ways; the same call from another one gives one machine.
func TestCloneResumed(t *testing.T) {
	for _, c := range []struct {
		name, method string
		steps        int
		running      bool
		mode         hypervisor.CloneMode
	}{
		{"full", "VM.copy", 3, false, hypervisor.CloneModeFull}, {"linked", "VM.clone", 2, false, hypervisor.CloneModeLinked},
		{"running, in the snapshot", "VM.snapshot", 2, true, hypervisor.CloneModeFull}, {"running, in the copy", "VM.copy", 3, true, hypervisor.CloneModeFull},
	} {
		for step := 1; step <= c.steps; step++ {
			for label, end := range map[string]func(*world, *testing.T, *hypervisor.Client){
				"closed": func(_ *world, t *testing.T, c *hypervisor.Client) {
					if err := c.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				}, "killed": (*world).killed,
			} {
				for _, early := range []bool{true, false} { // the copy continues before the second call, or while it waits
					t.Run(c.name+" "+label+map[bool]string{true: " and done", false: ""}[early], func(t *testing.T) {
						ctx := settled(t)
						w := newWorld(t, faultPool)
						src := w.off
						if c.running {
							src = w.run
						}
						o := &hypervisor.CloneOptions{Token: "job-7", Mode: c.mode, CPUs: 2, Labels: map[string]string{"k": "v"}}
						h := w.sim.Hold(c.method, step)
						first := src.Clone(ctx, "web-02", o)
						if err := first.Err(); err != nil {
							t.Fatal(err)
						}
						<-h.Reached()
						end(w, t, w.c)
						if early {
							h.Release()
							w.idle(t)
						}
						w.c = w.open(t)
						second := w.c.VM(src.ID()).Clone(ctx, "web-02", o)
						if !early {
							h.Release()
						}
						vm, err := second.Wait(ctx)
						if err != nil {
							t.Fatalf("the second call: %v", err)
						}
						w.one(ctx, t, vm, src)
					})
				}
			}
		}
	}
}

// idle waits until the pool works on nothing that its machines show.
func (w *world) idle(t *testing.T) {
	t.Helper()
	opened, err := open(t.Context(), config(w.sim), nil)
	if err != nil {
		t.Fatal(err)
	}
	d := opened.(*driver)
	defer d.Close()
	for _, m := range []string{"VM.snapshot", "VM.copy", "VM.clone"} {
		if err := d.settle(settled(t), "", m, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// one checks that the clone is whole and the only one, and that nothing else
// is left.
func (w *world) one(ctx context.Context, t *testing.T, vm, src *hypervisor.VM) {
	t.Helper()
	if m := w.named(t, "web-02"); len(m) != 1 || m[0] != string(vm.ID()) {
		t.Errorf("the machines are %v, the result is %s", m, vm.ID())
	}
	i, err := vm.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if i.Token != "job-7" || i.Labels["k"] != "v" || i.Template || i.State != hypervisor.StateOff || i.CPUs != 2 || len(i.Disks) != 1 {
		t.Errorf("the clone is %+v", i)
	}
	got := w.truth(t)
	if got.vms != w.before.vms+1 || got.vbds != w.before.vbds+1 || got.vifs != w.before.vifs+1 || got.snapshots != 0 || len(got.loose) != 0 {
		t.Errorf("there is %+v, before %+v", got, w.before)
	}
	for _, id := range []hypervisor.VMID{vm.ID(), src.ID()} {
		for k := range w.field(t, "VM", string(id), "other_config").(map[string]any) {
			if k == cloningKey+"job-7" {
				t.Errorf("machine %s still has %s", id, k)
			}
		}
	}
}

// TestCreateResumed kills a Client between the calls of a create; the same
// call from another one finishes the machine.
func TestCreateResumed(t *testing.T) {
	lease := makerLease
	makerLease = 0
	t.Cleanup(func() { makerLease = lease })
	for _, at := range []string{"VDI.create", "VBD.create", "VIF.create", "VM.add_to_other_config", "VM.remove_from_other_config", "Async.VM.start"} {
		for _, after := range []bool{false, true} {
			t.Run(at+map[bool]string{true: " done"}[after], func(t *testing.T) {
				ctx := settled(t)
				w := newWorld(t, faultPool)
				s := spec("web-02")
				s.Token, s.Start = "job-7", true
				// From that call on nothing gets through.
				back := []func() int{w.sim.Fault(xapisim.Fault{Method: at, Drop: !after, DropAfter: after, Count: -1})}
				for _, m := range []string{"*.destroy", "VDI.get_all_records", "VBD.get_all_records", "VIF.get_all_records"} {
					back = append(back, w.sim.Fault(xapisim.Fault{Method: m, Drop: true, Count: -1}))
				}
				_, err := w.c.CreateVM(ctx, s).Wait(ctx)
				if err != nil && hypervisor.KindOf(err) != hypervisor.ErrUnavailable {
					t.Fatalf("the first call: %v", err)
				}
				w.killed(t, w.c)
				for _, f := range back {
					f()
				}
				w.c = w.open(t)
				vm, err := w.c.CreateVM(ctx, s).Wait(ctx)
				if err != nil {
					t.Fatalf("the second call: %v", err)
				}
				if m := w.named(t, "web-02"); len(m) != 1 || m[0] != string(vm.ID()) {
					t.Errorf("the machines are %v, the result is %s", m, vm.ID())
				}
				if got := w.truth(t); got.vms != w.before.vms+1 || got.vbds != w.before.vbds+1 || got.vifs != w.before.vifs+1 || len(got.loose) != 0 {
					t.Errorf("there is %+v, before %+v", got, w.before)
				}
			})
		}
	}
}
