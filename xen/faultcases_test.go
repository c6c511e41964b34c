package xen

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// migrating starts the running machine's live migration and holds it at a step.
func (w *world) migrating(ctx context.Context, t *testing.T, method string, step int) (*hypervisor.Task[hypervisor.MigrateResult], *xapisim.Hold, hypervisor.MigrateOptions) {
	t.Helper()
	h := w.sim.Hold(method, step)
	o := hypervisor.MigrateOptions{}
	arg := otherHost
	if method == "VM.migrate_send" {
		arg = localStore
	}
	to, err := arg(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	switch to := to.(type) {
	case hypervisor.HostID:
		o.Host = to
	case hypervisor.DatastoreID:
		o.Storage = to
	}
	task := w.run.Migrate(ctx, o)
	if task.Err() != nil {
		t.Fatal(task.Err())
	}
	<-h.Reached()
	return task, h, o
}

// TestLostEvents loses events while a task is waited for, and while Watch
// continues.
func TestLostEvents(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, faultPool)
	task, h, o := w.migrating(ctx, t, "VM.pool_migrate", 1)
	w.sim.ForgetDeletions()
	h.Release()
	if _, err := task.Wait(ctx); err != nil {
		t.Fatalf("a task whose events were lost: %v", err)
	}
	if i, err := w.run.Info(ctx); err != nil || i.Host != o.Host {
		t.Errorf("the machine is on %s, want %s (%v)", i.Host, o.Host, err)
	}

	watch, stop := context.WithCancel(ctx)
	defer stop()
	events := make(chan hypervisor.Event)
	ended := make(chan error, 1)
	go func() {
		defer close(events)
		for e, err := range w.c.Watch(watch, "") {
			if err != nil {
				ended <- err
				return
			}
			events <- e
		}
	}()
	next := func(want hypervisor.EventType, cause func()) hypervisor.Event {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond) // until the watch has begun
		defer tick.Stop()
		for {
			cause()
			for again := false; !again; {
				select {
				case e, ok := <-events:
					if !ok {
						t.Fatalf("the watch ended: %v", <-ended)
					}
					if e.Type == want {
						return e
					}
				case <-tick.C:
					again = true
				case <-ctx.Done():
					t.Fatalf("no event %s", want)
				}
			}
		}
	}
	n := 0
	label := func() {
		n++
		if err := w.off.SetLabels(ctx, map[string]string{"n": fmt.Sprint(n)}); err != nil {
			t.Error(err)
		}
	}
	next(hypervisor.EventVMChanged, label)
	w.sim.ExpireSessions()
	next(hypervisor.EventVMChanged, label)
	if err := w.sim.Failover(); err != nil {
		t.Error(err)
	}
	if e := next(hypervisor.EventResync, func() {}); e.Token == "" {
		t.Error("the Resync has no token")
	}
	next(hypervisor.EventVMChanged, label)
	w.sim.Fault(xapisim.Fault{Method: "event.from", Drop: true})
	next(hypervisor.EventVMChanged, label)
	stop()
	for range events { // until the goroutine has ended
	}
}

// TestMasterChange changes the pool's master, and once the host at work goes
// down too, in the middle of migrations: the outcome told is the true one.
func TestMasterChange(t *testing.T) {
	for _, c := range []struct {
		method string
		step   int
		abort  bool
	}{{"VM.pool_migrate", 1, false}, {"VM.pool_migrate", 2, false}, {"VM.pool_migrate", 1, true}, {"VM.migrate_send", 1, false}, {"VM.migrate_send", 2, true}} {
		t.Run(fmt.Sprint(c.method, c.step, c.abort), func(t *testing.T) {
			ctx := settled(t)
			w := newWorld(t, faultPool)
			before, err := w.run.Info(ctx)
			if err != nil {
				t.Fatal(err)
			}
			ram := w.sim.Memory(string(w.run.ID()))
			task, h, o := w.migrating(ctx, t, c.method, c.step)
			if c.abort {
				w.sim.AbortWork()
			}
			if err := w.sim.Failover(); err != nil {
				t.Fatal(err)
			}
			h.Release()
			_, err = task.Wait(ctx)
			i, ierr := w.run.Info(ctx)
			if ierr != nil {
				t.Fatal(ierr)
			}
			moved := o.Host != "" && i.Host == o.Host || o.Storage != "" && i.Disks[0].Datastore == o.Storage
			switch {
			case moved != (err == nil):
				t.Errorf("moved: %v, the error is %v", moved, err)
			case c.abort == moved:
				t.Errorf("moved: %v, work aborted: %v", moved, c.abort)
			case err != nil && hypervisor.KindOf(err) != hypervisor.ErrUnavailable:
				t.Errorf("the error is %v (%v), want Unavailable", err, hypervisor.KindOf(err))
			}
			if i.State != before.State || w.sim.Memory(string(w.run.ID())) != ram {
				t.Errorf("the machine is %s, its RAM was kept: %v", i.State, w.sim.Memory(string(w.run.ID())) == ram)
			}
			if got := w.truth(t); len(got.loose) > 0 {
				t.Errorf("images left behind: %v", got.loose)
			}
		})
	}
}

// TestMasterChangeAnywhere changes the master in the middle of work that is
// shown by machines.
func TestMasterChangeAnywhere(t *testing.T) {
	for method, do := range map[string]func(context.Context, *world) error{
		"VM.start": func(ctx context.Context, w *world) error { return wait(ctx, w.off.Start(ctx)) },
		"VM.copy":  func(ctx context.Context, w *world) error { return wait(ctx, w.off.Clone(ctx, "web-02", nil)) },
		"VM.clone": func(ctx context.Context, w *world) error {
			return wait(ctx, w.off.Clone(ctx, "web-02", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked, Token: "job-7"}))
		},
		"VM.snapshot": func(ctx context.Context, w *world) error { _, err := snapshotOf(ctx, w); return err },
		"VM.checkpoint": func(ctx context.Context, w *world) error {
			return wait(ctx, w.run.CreateSnapshot(ctx, "ram", &hypervisor.SnapshotOptions{Memory: true}))
		},
		"VM.suspend": func(ctx context.Context, w *world) error { return wait(ctx, w.run.Suspend(ctx)) },
	} {
		t.Run(method, func(t *testing.T) {
			ctx := settled(t)
			w := newWorld(t, faultPool)
			h := w.sim.Hold(method, 1)
			result := make(chan error, 1)
			go func() { result <- do(ctx, w) }()
			<-h.Reached()
			if err := w.sim.Failover(); err != nil {
				t.Fatal(err)
			}
			h.Release()
			if err := <-result; err != nil {
				t.Errorf("the pool went on with it, the error is %v", err)
			}
			if got := w.truth(t); len(got.loose) > 0 {
				t.Errorf("images left behind: %v", got.loose)
			}
		})
	}
}

// TestFullSR fills the datastore under create, clone, snapshot and storage
// migration.
func TestFullSR(t *testing.T) {
	var some []opCase
	for _, op := range opCases() {
		switch op.name {
		case "create", "create with token", "clone full", "clone linked", "clone running", "clone from snapshot", "deploy", "snapshot", "checkpoint", "attach disk", "attach image", "migrate storage":
			some = append(some, op)
		}
	}
	for _, op := range some {
		t.Run(op.name, func(t *testing.T) {
			w, arg := prepared(t, op)
			ctx := settled(t)
			for _, sr := range w.sim.Refs("SR") {
				if err := w.sim.FillSR(sr, true); err != nil {
					t.Fatal(err)
				}
			}
			err := op.do(ctx, w, arg)
			var e *hypervisor.Error
			if !errors.As(err, &e) || e.Kind != hypervisor.ErrExhausted && !blockedBy(err, hypervisor.ReasonNoSpace) {
				t.Fatalf("the error is %v (%v), want Exhausted", err, hypervisor.KindOf(err))
			}
			got := w.truth(t)
			if got.vms != w.before.vms || got.snapshots != w.before.snapshots || got.vbds != w.before.vbds || got.vifs != w.before.vifs || len(got.loose) > 0 || len(e.Leftover) > 0 {
				t.Errorf("there is %+v, before %+v; Leftover names %v", got, w.before, e.Leftover)
			}
		})
	}
}

func blockedBy(err error, r hypervisor.ReasonCode) bool {
	var b *hypervisor.BlockedError
	return errors.As(err, &b) && slices.ContainsFunc(b.Blockers, func(b hypervisor.Blocker) bool { return b.Reason == r })
}

// cancelCases are the operations that can be held at a step, with what
// cancelling at each step leads to: 'c' cancelled at once, 'r' cancelled when
// the message has come to its end, 'd' done all the same.
var cancelCases = []struct{ op, method, steps string }{
	{"clone full", "VM.copy", "ccc"}, {"clone linked", "VM.clone", "cc"}, {"clone running", "VM.snapshot", "cc"}, {"clone running", "VM.copy", "ccc"},
	{"deploy", "VM.provision", "cc"}, {"create", "VDI.create", "r"}, {"create with token", "VM.start", "c"}, {"attach image", "VDI.copy", "cc"},
	{"snapshot", "VM.snapshot", "cc"}, {"checkpoint", "VM.checkpoint", "c"}, {"revert", "VM.revert", "dd"}, {"revert", "VM.resume", "c"},
	{"start", "VM.start", "c"}, {"suspend", "VM.suspend", "c"}, {"shutdown", "VM.clean_shutdown", "c"}, {"migrate", "VM.pool_migrate", "cc"},
	{"migrate storage", "VM.migrate_send", "cc"}, {"maintenance", "host.evacuate", "c"},
}

// taskNow finds the task that stands for the work that a message is part of.
func (w *world) taskNow(ctx context.Context, t *testing.T, method string) hypervisor.TaskID {
	t.Helper()
	rpc, err := hypervisor.As[*Session](t.Context(), w.c, w.c)
	if err != nil {
		t.Fatal(err)
	}
	var all map[Ref]struct {
		Label  string `json:"name_label"`
		Status string `json:"status"`
	}
	if err := rpc.Call(ctx, &all, "task.get_all_records"); err != nil {
		t.Fatal(err)
	}
	id := hypervisor.TaskID("")
	for ref, r := range all {
		if r.Status == "pending" && (strings.HasPrefix(r.Label, "anyvisor: ") || id == "" && r.Label == "Async."+method) {
			id = hypervisor.TaskID(ref)
		}
	}
	return id
}

// view is how the machines and hosts are.
func (w *world) view(ctx context.Context, t *testing.T) string {
	t.Helper()
	var s strings.Builder
	for _, vm := range []*hypervisor.VM{w.run, w.off} {
		i := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
		d := i.Disks[0] // its hidden base may be another one
		fmt.Fprintln(&s, i.Name, i.State, i.Host, len(i.Disks), d.ID, d.Datastore, d.SizeBytes, i.Snapshots, i.CurrentSnapshot, w.sim.Memory(string(vm.ID())))
	}
	for _, h := range w.hosts(ctx) {
		fmt.Fprintln(&s, h.Name, h.State)
	}
	return s.String()
}

// TestCancelAtEveryStep cancels work at each of its steps in the pool.
func TestCancelAtEveryStep(t *testing.T) {
	ops := map[string]opCase{}
	for _, op := range opCases() {
		ops[op.name] = op
	}
	for _, c := range cancelCases {
		for i := range c.steps {
			t.Run(fmt.Sprintf("%s %s %d", c.op, c.method, i+1), func(t *testing.T) {
				w, arg := prepared(t, ops[c.op])
				ctx := settled(t)
				before := w.view(ctx, t)
				h := w.sim.Hold(c.method, i+1)
				result := make(chan error, 1)
				go func() { result <- ops[c.op].do(ctx, w, arg) }()
				<-h.Reached()
				task, err := w.c.Task(ctx, w.taskNow(ctx, t, c.method))
				if err != nil {
					t.Fatal(err)
				}
				cerr := task.Cancel(ctx)
				if c.steps[i] != 'c' {
					h.Release()
				}
				err = <-result
				if want := c.steps[i]; want != 'd' && (cerr != nil || hypervisor.KindOf(err) != hypervisor.ErrCanceled) {
					t.Fatalf("Cancel: %v; the end: %v (%v), want Canceled", cerr, err, hypervisor.KindOf(err))
				} else if want == 'd' && err != nil && hypervisor.KindOf(err) != hypervisor.ErrCanceled {
					t.Fatalf("Cancel: %v; the end: %v", cerr, err)
				}
				got := w.truth(t)
				var e *hypervisor.Error
				if errors.As(err, &e) {
					w.accounted(t, e, got)
				}
				if err != nil && got.snapshots > w.before.snapshots {
					t.Errorf("a snapshot is left behind: %v", err)
				}
				if after := w.view(ctx, t); err != nil && after != before && c.op != "revert" {
					t.Errorf("cancelled, but it is\n%s\nand was\n%s", after, before)
				}
			})
		}
	}
}
