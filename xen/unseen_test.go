package xen

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// xe sends messages to the pool as another tool does.
func (w *world) xe(t *testing.T, vm *hypervisor.VM, method string, args ...any) (ref string) {
	t.Helper()
	w.rpc(settled(t), t, &ref, "VM.get_by_uuid", string(vm.ID()))
	w.rpc(settled(t), t, nil, method, append([]any{ref}, args...)...)
	return ref
}

// blind makes a machine what older versions of this library left behind: one
// that was a template and has no metrics since.
func (w *world) blind(t *testing.T, vm *hypervisor.VM) string {
	t.Helper()
	w.xe(t, vm, "VM.set_is_a_template", true)
	return w.xe(t, vm, "VM.set_is_a_template", false)
}

// noMetrics are the references of a machine whose metrics are gone.
var noMetrics = map[string]string{"null": "OpaqueRef:NULL", "dangling": "OpaqueRef:5a1c0f3e-0000-4000-8000-00000000dead"}

// setMetrics lets a machine refer to other metrics.
func (w *world) setMetrics(t *testing.T, vm *hypervisor.VM, ref string) {
	t.Helper()
	if err := w.sim.SetField("VM", string(vm.ID()), "metrics", ref); err != nil {
		t.Fatal(err)
	}
}

// whole checks that a machine has what it had, and nothing of a repair.
func (w *world) whole(ctx context.Context, t *testing.T, vm *hypervisor.VM, was hypervisor.VMInfo) {
	t.Helper()
	is := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
	if is.Template || is.Name != was.Name || len(is.Disks) != len(was.Disks) || len(is.NICs) != len(was.NICs) || is.NICs[0].MAC != was.NICs[0].MAC ||
		fmt.Sprint(is.Labels) != fmt.Sprint(was.Labels) || is.Token != was.Token || is.Snapshots != was.Snapshots || is.CurrentSnapshot != was.CurrentSnapshot {
		t.Errorf("it was %+v\nit is %+v", was, is)
	}
	if m := w.text(t, "VM", string(vm.ID()), "metrics"); !slices.Contains(w.sim.Refs("VM_metrics"), m) {
		t.Errorf("its metrics are %s", m)
	}
	if got := ok[map[int64]string](t)(w.sim.ReadDisk(string(is.Disks[0].Volume))); got[0] != "disk 0" {
		t.Errorf("its first disk holds %v", got)
	}
	if b, _ := w.field(t, "VM", string(vm.ID()), "blocked_operations").(map[string]any); len(b) != 0 {
		t.Errorf("blocked operations: %v", b)
	}
	if loose := w.truth(t).loose; len(loose) != 0 {
		t.Errorf("images of nobody: %v", loose)
	}
}

// runsOnce checks that a machine runs, on one host, and that the pool sees it.
func (w *world) runsOnce(ctx context.Context, t *testing.T, vm *hypervisor.VM) {
	t.Helper()
	i := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
	if on := w.sim.Domains(string(vm.ID())); i.State != hypervisor.StateRunning || !slices.Equal(on, []string{string(i.Host)}) {
		t.Errorf("it is %s on %q, and truly runs on %q", i.State, i.Host, on)
	}
}

// TestTemplateAndBack makes a machine a template and a machine again, and
// starts it: the pool sees it run, so that nobody can start it twice.
func TestTemplateAndBack(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	vm := w.origin(ctx, t)
	ok[*hypervisor.Snapshot](t)(vm.CreateSnapshot(ctx, "mine", nil).Wait(ctx))
	was := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
	for range 2 {
		tmpl := ok[*hypervisor.Template](t)(vm.MarkTemplate(ctx).Wait(ctx))
		back := ok[*hypervisor.VM](t)(tmpl.MarkVM(ctx, hypervisor.Placement{}).Wait(ctx))
		if back.ID() != vm.ID() {
			t.Errorf("it was %s and is %s", vm.ID(), back.ID())
		}
		w.whole(ctx, t, back, was)
	}
	if err := wait(ctx, vm.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	w.runsOnce(ctx, t, vm)
	for _, err := range []error{wait(ctx, vm.PowerOff(ctx)), wait(ctx, vm.Start(ctx))} {
		if err != nil {
			t.Error(err)
		}
	}
	w.runsOnce(ctx, t, vm)
}

// TestBlindMachine lets each verb meet a machine without metrics.
func TestBlindMachine(t *testing.T) {
	for name, do := range map[string]func(context.Context, *testing.T, *world, *hypervisor.VM){
		"start": func(ctx context.Context, t *testing.T, w *world, vm *hypervisor.VM) {
			was := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
			if err := wait(ctx, vm.Start(ctx)); err != nil {
				t.Fatal(err)
			}
			w.whole(ctx, t, vm, was)
			w.runsOnce(ctx, t, vm)
		},
		"mark machine": func(ctx context.Context, t *testing.T, w *world, vm *hypervisor.VM) {
			was := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
			ok[*hypervisor.VM](t)(w.c.Template(hypervisor.TemplateID(vm.ID())).MarkVM(ctx, hypervisor.Placement{}).Wait(ctx))
			w.whole(ctx, t, vm, was)
		},
		"mark template": func(ctx context.Context, t *testing.T, w *world, vm *hypervisor.VM) {
			was := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
			tmpl := ok[*hypervisor.Template](t)(vm.MarkTemplate(ctx).Wait(ctx))
			if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); !i.Template {
				t.Error("it is no template")
			}
			ok[*hypervisor.VM](t)(tmpl.MarkVM(ctx, hypervisor.Placement{}).Wait(ctx))
			w.whole(ctx, t, vm, was)
		},
		"clone": func(ctx context.Context, t *testing.T, w *world, vm *hypervisor.VM) {
			was := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
			made := ok[*hypervisor.VM](t)(vm.Clone(ctx, "copy", nil).Wait(ctx))
			w.whole(ctx, t, vm, was)
			if err := wait(ctx, made.Start(ctx)); err != nil {
				t.Fatal(err)
			}
			w.runsOnce(ctx, t, made)
		},
		"delete": func(ctx context.Context, t *testing.T, w *world, vm *hypervisor.VM) {
			if err := wait(ctx, vm.Delete(ctx, hypervisor.DeleteDisks, nil)); err != nil {
				t.Fatal(err)
			}
			if got := w.truth(t); got.vms != w.before.vms || len(got.loose) != 0 {
				t.Errorf("there is %+v", got)
			}
		},
		"migrate": func(ctx context.Context, t *testing.T, w *world, vm *hypervisor.VM) {
			for _, h := range w.hosts(ctx) {
				if err := wait(ctx, vm.Migrate(ctx, hypervisor.MigrateOptions{Host: h.ID})); hypervisor.KindOf(err) != hypervisor.ErrInvalidState {
					t.Errorf("to %s: %v", h.Name, err)
				}
			}
		},
	} {
		for kind, ref := range noMetrics {
			t.Run(name+" "+kind, func(t *testing.T) {
				ctx := settled(t)
				w := newWorld(t, xapisim.Config{Hosts: 2})
				vm := w.origin(ctx, t)
				w.blind(t, vm)
				w.setMetrics(t, vm, ref)
				do(ctx, t, w, vm)
			})
		}
	}
}

// TestUnseenMachine: a machine that runs where the pool can't see it is left
// alone by every verb, template or not, and its state is unknown.
func TestUnseenMachine(t *testing.T) {
	for _, as := range []struct {
		template bool
		metrics  string
	}{{false, "null"}, {false, "dangling"}, {true, "null"}} {
		t.Run(fmt.Sprint("template ", as.template, " ", as.metrics), func(t *testing.T) {
			template := as.template
			ctx := settled(t)
			w := newWorld(t, xapisim.Config{Hosts: 2})
			vm := w.off
			disk := ok[hypervisor.DiskInfo](t)(diskOf(ctx, vm))
			snap := ok[*hypervisor.Snapshot](t)(vm.CreateSnapshot(ctx, "s", nil).Wait(ctx))
			w.blind(t, vm)
			w.xe(t, vm, "VM.start", false, false)
			w.setMetrics(t, vm, noMetrics[as.metrics])
			if template {
				if err := w.sim.SetField("VM", string(vm.ID()), "is_a_template", true); err != nil {
					t.Fatal(err)
				}
			}
			if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); i.State != hypervisor.StateUnknown || i.Host == "" {
				t.Errorf("it is %s on %q", i.State, i.Host)
			}
			for v, err := range w.c.VMs(ctx, nil) {
				if err != nil || v.ID == vm.ID() && v.State != hypervisor.StateUnknown {
					t.Errorf("it is listed in full as %s (%v)", v.State, err)
				}
			}
			for v, err := range w.c.VMs(ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}) {
				if err != nil || v.ID == vm.ID() && v.State != hypervisor.StateUnknown {
					t.Errorf("it is listed as %s (%v)", v.State, err)
				}
			}
			tmpl := w.c.Template(hypervisor.TemplateID(vm.ID()))
			for name, err := range map[string]error{
				"Start": wait(ctx, vm.Start(ctx)), "PowerOff": wait(ctx, vm.PowerOff(ctx)), "Clone": wait(ctx, vm.Clone(ctx, "c", nil)),
				"Delete":  wait(ctx, vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true})),
				"Migrate": wait(ctx, vm.Migrate(ctx, hypervisor.MigrateOptions{Host: w.hosts(ctx)[0].ID})),
				"Revert":  wait(ctx, snap.Revert(ctx, nil)), "DeleteSnapshot": wait(ctx, snap.Delete(ctx, nil)),
				"CreateSnapshot": wait(ctx, vm.CreateSnapshot(ctx, "t", nil)), "MarkTemplate": wait(ctx, vm.MarkTemplate(ctx)),
				"MarkVM": wait(ctx, tmpl.MarkVM(ctx, hypervisor.Placement{})), "Deploy": wait(ctx, tmpl.Deploy(ctx, "d", nil)),
				"DetachDisk":  wait(ctx, vm.DetachDisk(ctx, disk.ID, hypervisor.DeleteDisks)),
				"GrowDisk":    wait(ctx, vm.GrowDisk(ctx, disk.ID, 20*hypervisor.GiB)),
				"Reconfigure": wait(ctx, vm.Reconfigure(ctx, hypervisor.Changes{CPUs: 4})),
				"Priority":    wait(ctx, vm.SetRestartPriority(ctx, hypervisor.RestartHigh)),
			} {
				if hypervisor.KindOf(err) != hypervisor.ErrInvalidState || !strings.Contains(err.Error(), "toolstack") {
					t.Errorf("%s: %v", name, err)
				}
			}
			if on := w.sim.Domains(string(vm.ID())); len(on) != 1 {
				t.Errorf("it runs on %v", on)
			}
			if d := ok[hypervisor.DiskInfo](t)(diskOf(ctx, vm)); d.Volume != disk.Volume || d.SizeBytes != disk.SizeBytes {
				t.Errorf("its disk is %+v", d)
			}
		})
	}
}

// TestUnseenStates: a machine without metrics that is not off may run or not,
// since the pool would not see it resumed or stopped. Nothing acts on it.
func TestUnseenStates(t *testing.T) {
	for _, state := range []hypervisor.PowerState{hypervisor.StateSuspended, hypervisor.StateRunning, hypervisor.StatePaused} {
		for kind, ref := range noMetrics {
			t.Run(string(state)+" "+kind, func(t *testing.T) {
				w, ctx := newWorld(t, xapisim.Config{Hosts: 2}), settled(t)
				vm := w.run
				switch state {
				case hypervisor.StateSuspended:
					ok[hypervisor.None](t)(vm.Suspend(ctx).Wait(ctx))
				case hypervisor.StatePaused:
					ok[hypervisor.None](t)(vm.Pause(ctx).Wait(ctx))
				}
				w.setMetrics(t, vm, ref)
				before := w.truth(t)
				for verb, err := range map[string]error{
					"Resume":         wait(ctx, vm.Resume(ctx)),
					"PowerOff":       wait(ctx, vm.PowerOff(ctx)),
					"Delete":         wait(ctx, vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true})),
					"Clone":          wait(ctx, vm.Clone(ctx, "copy", nil)),
					"Migrate":        wait(ctx, vm.Migrate(ctx, hypervisor.MigrateOptions{Host: w.hosts(ctx)[1].ID})),
					"CreateSnapshot": wait(ctx, vm.CreateSnapshot(ctx, "s", nil)),
					"MarkTemplate":   wait(ctx, vm.MarkTemplate(ctx)),
				} {
					if hypervisor.KindOf(err) != hypervisor.ErrInvalidState || !strings.Contains(err.Error(), "xe-toolstack-restart") {
						t.Errorf("%s: %v", verb, err)
					}
				}
				if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); i.State != hypervisor.StateUnknown {
					t.Errorf("it is %s", i.State)
				}
				if got := w.truth(t); fmt.Sprint(got) != fmt.Sprint(before) {
					t.Errorf("there is %+v, was %+v", got, before)
				}
			})
		}
	}
}

// TestRepairResumed ends the first Client in the middle of MarkVM, at every
// step and in two ways. Nobody can start the machine then but this library,
// which continues the repair.
func TestRepairResumed(t *testing.T) {
	for _, at := range []struct {
		method string
		step   int
	}{{"VM.snapshot", 1}, {"VM.snapshot", 2}, {"VM.revert", 1}, {"VM.revert", 2}} {
		for label, end := range map[string]func(*world, *testing.T, *hypervisor.Client){
			// both may name the snapshot as left behind
			"closed": func(_ *world, _ *testing.T, c *hypervisor.Client) { _ = c.Close() },
			"killed": func(w *world, _ *testing.T, c *hypervisor.Client) {
				defer w.sim.Fault(xapisim.Fault{Method: "*", Drop: true, Count: -1})()
				_ = c.Close()
			},
		} {
			t.Run(fmt.Sprint(at.method, at.step, label), func(t *testing.T) {
				ctx := settled(t)
				w := newWorld(t, xapisim.Config{Hosts: 2})
				vm := w.origin(ctx, t)
				ok[*hypervisor.Snapshot](t)(vm.CreateSnapshot(ctx, "mine", nil).Wait(ctx))
				was := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
				tmpl := ok[*hypervisor.Template](t)(vm.MarkTemplate(ctx).Wait(ctx))
				h := w.sim.Hold(at.method, at.step)
				task := tmpl.MarkVM(ctx, hypervisor.Placement{})
				if err := task.Err(); err != nil {
					t.Fatal(err)
				}
				<-h.Reached()
				first := w.c
				w.c = w.open(t)
				if err := w.tryStart(ctx, t, string(vm.ID())); err == nil {
					t.Error("another tool could start it")
				}
				end(w, t, first)
				h.Release()
				vm = w.c.VM(vm.ID())
				if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); i.Template { // given up before anything was lost
					ok[*hypervisor.VM](t)(w.c.Template(hypervisor.TemplateID(vm.ID())).MarkVM(ctx, hypervisor.Placement{}).Wait(ctx))
				}
				if err := wait(ctx, vm.Start(ctx)); err != nil {
					t.Fatal(err)
				}
				w.whole(ctx, t, vm, was)
				w.runsOnce(ctx, t, vm)
			})
		}
	}
}

// tryStart starts a machine as another tool does.
func (w *world) tryStart(ctx context.Context, t *testing.T, uuid string) error {
	t.Helper()
	rpc := ok[*Session](t)(hypervisor.As[*Session](ctx, w.c, w.c))
	var ref string
	if err := rpc.Call(ctx, &ref, "VM.get_by_uuid", uuid); err != nil {
		t.Fatal(err)
	}
	return rpc.Call(ctx, nil, "VM.start", ref, false, false)
}

// TestRepairFails lets the repair fail: the machine is as before, or its disks
// are in the snapshot that the next repair continues from.
func TestRepairFails(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	vm := w.origin(ctx, t)
	was := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
	tmpl := ok[*hypervisor.Template](t)(vm.MarkTemplate(ctx).Wait(ctx))
	sr := w.text(t, "pool", w.sim.Refs("pool")[0], "default_SR")
	for _, method := range []string{"VM.snapshot", "VM.revert"} { // a revert without room has destroyed the disks
		h := w.sim.Hold(method, 1)
		task := tmpl.MarkVM(ctx, hypervisor.Placement{})
		<-h.Reached()
		err := w.sim.FillSR(sr, true)
		h.Release()
		if err == nil {
			err = wait(ctx, task)
		}
		if err := w.sim.FillSR(sr, false); err != nil {
			t.Fatal(err)
		}
		if hypervisor.KindOf(err) != hypervisor.ErrExhausted {
			t.Errorf("%s failed: %v", method, err)
		}
		if err := w.tryStart(ctx, t, string(vm.ID())); err == nil {
			t.Errorf("%s failed, and another tool could start the machine", method)
		}
	}
	if err := wait(ctx, vm.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	w.whole(ctx, t, vm, was)
	w.runsOnce(ctx, t, vm)
}

// TestTrueStates makes a machine a template and a machine again, starts it,
// powers it off and deletes it at a xapi 24.11. After each step the state that
// is told, the pool's and the true one are the same.
func TestTrueStates(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2, Build: "24.11.0"})
	vm := w.origin(ctx, t)
	id := string(vm.ID())
	var tmpl *hypervisor.Template
	for _, step := range []struct {
		name string
		do   func() error
		want hypervisor.PowerState
	}{
		{"MarkTemplate", func() (err error) { tmpl, err = vm.MarkTemplate(ctx).Wait(ctx); return err }, hypervisor.StateOff},
		{"MarkVM", func() error { return wait(ctx, tmpl.MarkVM(ctx, hypervisor.Placement{})) }, hypervisor.StateOff},
		{"Start", func() error { return wait(ctx, vm.Start(ctx)) }, hypervisor.StateRunning},
		{"PowerOff", func() error { return wait(ctx, vm.PowerOff(ctx)) }, hypervisor.StateOff},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		i := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
		pool, runs := state(w.text(t, "VM", id, "power_state")), w.sim.Domains(id)
		if i.State != step.want || pool != step.want || (len(runs) == 1) != (step.want == hypervisor.StateRunning) || len(runs) > 1 || i.Template != (step.name == "MarkTemplate") {
			t.Errorf("after %s it is reported as %s (template %v), the pool says %s, and it runs on %q", step.name, i.State, i.Template, pool, runs)
		}
	}
	if err := wait(ctx, vm.Delete(ctx, hypervisor.DeleteDisks, nil)); err != nil {
		t.Fatal(err)
	}
	_, err := vm.Info(ctx)
	if got := w.truth(t); hypervisor.KindOf(err) != hypervisor.ErrNotFound || got.vms != w.before.vms || len(w.sim.Domains(id)) > 0 || len(got.loose) > 0 {
		t.Errorf("after Delete: %v, it runs on %q, there is %+v", err, w.sim.Domains(id), got)
	}
}
