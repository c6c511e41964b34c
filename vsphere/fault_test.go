package vsphere

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// trial is one operation under faults. It gets a machine of its own, off.
type trial struct {
	name  string
	reads bool // only reads: a broken connection is no failure
	f     func(ctx context.Context, c *hypervisor.Client, vm *hypervisor.VM) error
	setup func(ctx context.Context, c *hypervisor.Client, vm *hypervisor.VM) error // before anything breaks
	calls []string                                                                 // those that are broken; nil for all
}

func trials() []trial {
	return []trial{
		{name: "list", reads: true, f: func(ctx context.Context, c *hypervisor.Client, _ *hypervisor.VM) error {
			_, err := hypervisor.Collect(c.VMs(ctx, nil))
			return err
		}},
		{name: "pages", reads: true, f: func(ctx context.Context, c *hypervisor.Client, _ *hypervisor.VM) error {
			all, err := hypervisor.Collect(c.VMs(ctx, &hypervisor.ListOptions{PageSize: 2}))
			seen := map[hypervisor.VMID]bool{}
			for _, v := range all {
				if seen[v.ID] {
					return fmt.Errorf("%s is listed twice", v.ID)
				}
				seen[v.ID] = true
			}
			if err == nil && len(all) < 3 {
				return fmt.Errorf("%d machines are listed", len(all))
			}
			return err
		}},
		{name: "info", reads: true, f: func(ctx context.Context, _ *hypervisor.Client, vm *hypervisor.VM) error {
			_, err := vm.Info(ctx)
			return err
		}},
		{name: "find", reads: true, f: func(ctx context.Context, c *hypervisor.Client, _ *hypervisor.VM) error {
			_, err := c.FindVM(ctx, "DC0_C0_RP0_VM0")
			return err
		}},
		{name: "hosts", reads: true, f: func(ctx context.Context, c *hypervisor.Client, _ *hypervisor.VM) error {
			_, err := hypervisor.Collect(c.Hosts(ctx))
			return err
		}},
		{name: "devices", reads: true, f: func(ctx context.Context, c *hypervisor.Client, _ *hypervisor.VM) error {
			_, err := hypervisor.Collect(c.Devices(ctx, nil))
			return err
		}},
		{name: "volumes", reads: true, f: func(ctx context.Context, c *hypervisor.Client, _ *hypervisor.VM) error {
			_, err := hypervisor.Collect(c.Volumes(ctx, ""))
			return err
		}},
		{name: "start", f: oneTask(func(ctx context.Context, vm *hypervisor.VM) *hypervisor.Task[hypervisor.None] { return vm.Start(ctx) })},
		{name: "rename", f: oneTask(func(ctx context.Context, vm *hypervisor.VM) *hypervisor.Task[hypervisor.None] {
			return vm.Rename(ctx, "renamed "+string(vm.ID()))
		})},
		{name: "snapshot", f: func(ctx context.Context, _ *hypervisor.Client, vm *hypervisor.VM) error {
			_, err := vm.CreateSnapshot(ctx, "s", nil).Wait(ctx)
			return err
		}},
		{name: "create", f: func(ctx context.Context, c *hypervisor.Client, vm *hypervisor.VM) error {
			s := spec("created " + string(vm.ID()))
			s.Start = true
			_, err := c.CreateVM(ctx, s).Wait(ctx)
			return err
		}},
		{name: "clone", f: func(ctx context.Context, _ *hypervisor.Client, vm *hypervisor.VM) error {
			_, err := vm.Clone(ctx, "clone "+string(vm.ID()), nil).Wait(ctx)
			return err
		}},
		{name: "linked", f: func(ctx context.Context, _ *hypervisor.Client, vm *hypervisor.VM) error {
			_, err := vm.Clone(ctx, "linked "+string(vm.ID()), &hypervisor.CloneOptions{Mode: hypervisor.Linked, Token: "tok-" + string(vm.ID())}).Wait(ctx)
			return err
		}},
		{name: "template", f: func(ctx context.Context, _ *hypervisor.Client, vm *hypervisor.VM) error {
			_, err := vm.MarkTemplate(ctx).Wait(ctx)
			return err
		}},
		{name: "migrate", f: func(ctx context.Context, c *hypervisor.Client, vm *hypervisor.VM) error {
			i, err := vm.Info(ctx)
			if err != nil {
				return err
			}
			for h, err := range c.Hosts(ctx) {
				if err != nil {
					return err
				}
				if h.ID != i.Host {
					_, err = vm.Migrate(ctx, hypervisor.MigrateOptions{Host: h.ID}).Wait(ctx)
					return err
				}
			}
			return errors.New("no other host")
		}},
		{name: "delete", f: oneTask(func(ctx context.Context, vm *hypervisor.VM) *hypervisor.Task[hypervisor.None] {
			return vm.Delete(ctx, hypervisor.KeepDisks, nil)
		})},
	}
}

// hang is what a call may take at most: long enough for a slow machine, and
// far below the 30 seconds of a long poll.
const hang = 20 * time.Second

// TestFaults breaks every call of every operation once, in each way, and looks
// at what comes of it: the right class, no hang, nothing made and unnamed. A
// call that is only late must do.
func TestFaults(t *testing.T) {
	cfg := simConfig(vspheresim.VCenter)
	cfg.TaskDelay = 5 * time.Millisecond // so that long polls are among the calls
	broken := map[string]bool{}
	for i := range append(trials(), rareTrials(nil)...) {
		sim, c := once(t, cfg) // a short inventory is listed fast
		faults(t, sim, c, append(trials(), rareTrials(sim)...)[i], broken)
	}
	for m := range sent(t) {
		if _, except := unbroken[m]; broken[m] == except {
			t.Errorf("%s: broken %v, excepted %v", m, broken[m], except)
		}
	}
}

// breakage is one way in which a call goes wrong.
type breakage struct {
	name string
	do   func(method string)
	kind hypervisor.Kind // expected if it fails
	heal bool            // must succeed all the same
}

func breakages(sim *vspheresim.Sim) []breakage {
	return []breakage{
		{"late", func(m string) { sim.Delay(m, 20*time.Millisecond) }, 0, true},
		{"session refused", func(m string) { sim.Fault(m, &types.NotAuthenticated{}) }, 0, true},
		{"busy", func(m string) { sim.Fault(m, &types.TaskInProgress{Task: ref{Type: "Task", Value: "task-1"}}) }, hypervisor.KindBusy, false},
		{"no permission", func(m string) { sim.Fault(m, &types.NoPermission{}) }, hypervisor.KindPermission, false},
		{"cut before", func(m string) { sim.Cut(m, vspheresim.CutBefore) }, hypervisor.KindUnavailable, false},
		{"cut inside", func(m string) { sim.Cut(m, vspheresim.CutInside) }, hypervisor.KindUnavailable, false},
		{"cut after", func(m string) { sim.Cut(m, vspheresim.CutAfter) }, hypervisor.KindUnavailable, false},
	}
}

// faults breaks the calls of one operation, and notes which.
func faults(t *testing.T, sim *vspheresim.Sim, c *hypervisor.Client, op trial, broken map[string]bool) {
	n := 0
	fresh := func(t *testing.T) *hypervisor.VM {
		t.Helper()
		n++
		sim.SetTaskDelay("CreateVM_Task", vspheresim.Immediate)
		vm, err := c.CreateVM(t.Context(), spec(fmt.Sprintf("subject %d", n))).Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sim.SetTaskDelay("CreateVM_Task", 5*time.Millisecond)
		if op.setup != nil {
			if err := op.setup(t.Context(), c, vm); err != nil {
				t.Fatal(err)
			}
		}
		return vm
	}
	// What it calls when nothing is wrong.
	vm := fresh(t)
	sim.ResetCalls()
	if err := op.f(t.Context(), c, vm); err != nil {
		t.Fatalf("%s without faults: %v", op.name, err)
	}
	called := slices.Sorted(maps.Keys(sim.Calls()))
	for _, m := range op.calls {
		if !slices.Contains(called, m) {
			t.Fatalf("%s does not call %s: %v", op.name, m, called)
		}
	}
	if op.calls != nil {
		called = op.calls
	}
	for _, m := range called {
		broken[m] = true
		for _, w := range breakages(sim) {
			if (w.kind == hypervisor.KindBusy || w.kind == hypervisor.KindPermission) && slices.Contains(waits, m) {
				continue // nothing to be busy or forbidden
			}
			t.Run(op.name+"/"+m+"/"+w.name, func(t *testing.T) {
				vm := vm
				if !op.reads {
					vm = fresh(t)
				}
				ctx, stop := context.WithTimeout(t.Context(), hang)
				defer stop()
				w.do(m)
				err := op.f(ctx, c, vm)
				sim.ClearFaults()
				if ctx.Err() != nil {
					t.Fatalf("hangs: %v", err)
				}
				switch {
				case err == nil:
				case w.heal, op.reads && w.kind == hypervisor.KindUnavailable:
					t.Errorf("failed: %v (kind %s)", err, hypervisor.KindOf(err))
				case hypervisor.KindOf(err) != w.kind && !errors.Is(err, kindError(w.kind)):
					t.Errorf("%v is of kind %s, want %s", err, hypervisor.KindOf(err), w.kind)
				}
				if err != nil && !op.reads {
					orphans(t, c, vm.ID(), err)
				}
			})
		}
	}
}

func kindError(k hypervisor.Kind) error { return (&hypervisor.Error{Kind: k}).Unwrap()[0] }

func machines(t *testing.T, c *hypervisor.Client) map[hypervisor.VMID]bool {
	t.Helper()
	out := map[hypervisor.VMID]bool{}
	for v, err := range c.VMs(t.Context(), &hypervisor.ListOptions{Detail: hypervisor.Brief}) {
		if err != nil {
			t.Fatal(err)
		}
		out[v.ID] = true
	}
	return out
}

// orphans demands that every machine which a failed call left is named: those
// that trials make have the name of their subject in theirs. A task that is
// still at work (the error says so) may make one yet.
func orphans(t *testing.T, c *hypervisor.Client, subject hypervisor.VMID, err error) {
	t.Helper()
	var d *hypervisor.DetachedError
	if errors.As(err, &d) && d.Task != "" {
		return // the task names what it makes
	}
	for v, lerr := range c.VMs(t.Context(), &hypervisor.ListOptions{Detail: hypervisor.Brief}) {
		if lerr != nil {
			t.Fatal(lerr)
		}
		if v.ID != subject && strings.HasSuffix(v.Name, " "+string(subject)) && !strings.Contains(err.Error(), string(v.ID)) {
			t.Errorf("machine %s (%s) was left and is not named by %v", v.ID, v.Name, err)
		}
	}
}

// TestSessionEnds ends all sessions before and in the middle of operations:
// each goes on, with one new login.
func TestSessionEnds(t *testing.T) {
	cfg := simConfig(vspheresim.VCenter)
	cfg.TaskDelay = 100 * time.Millisecond
	sim, c := once(t, cfg)
	for _, op := range trials() {
		t.Run(op.name, func(t *testing.T) {
			vm, err := c.CreateVM(t.Context(), spec("session "+op.name)).Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			sim.DropSessions()
			sim.ResetCalls()
			ctx, stop := context.WithTimeout(t.Context(), hang)
			defer stop()
			done := make(chan error, 1)
			go func() { done <- op.f(ctx, c, vm) }()
			if !op.reads {
				time.Sleep(60 * time.Millisecond) // into the task
				sim.DropSessions()
			}
			if err := <-done; err != nil {
				t.Errorf("%v (kind %s)", err, hypervisor.KindOf(err))
			}
			if n := sim.Calls()["Login"]; n < 1 || n > 2 {
				t.Errorf("%d logins for a session that ended at most twice", n)
			}
		})
	}
}

// TestContextEnds ends the context while the server is slow to answer.
func TestContextEnds(t *testing.T) {
	sim, c := once(t, simConfig(vspheresim.VCenter))
	for _, op := range trials() {
		t.Run(op.name, func(t *testing.T) {
			vm, err := c.CreateVM(t.Context(), spec("context "+op.name)).Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			sim.Delay("*", time.Hour)
			defer sim.Delay("*", 0)
			ctx, stop := context.WithTimeout(t.Context(), 30*time.Millisecond)
			defer stop()
			done := make(chan error, 1)
			go func() { done <- op.f(ctx, c, vm) }()
			select {
			case err := <-done:
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v, want the context's error", err)
				}
			case <-time.After(hang):
				t.Fatal("goes on after its context ended")
			}
		})
	}
}
