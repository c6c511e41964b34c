package hypervisortest

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// taskResults: tasks, migrations, events and the answers to Supports.
func taskResults() []row {
	return slices.Concat(
		resultsOf(nil, (*env).taskStates, map[string]func(hypervisor.TaskState) bool{
			"Fraction":  func(s hypervisor.TaskState) bool { return s.Fraction == 1 },
			"BytesDone": func(s hypervisor.TaskState) bool { return s.BytesDone > 0 && s.BytesDone <= s.BytesTotal },
			"Err":       func(s hypervisor.TaskState) bool { return errors.Is(s.Err, hypervisor.ErrCanceled) },
			"Started":   func(s hypervisor.TaskState) bool { return time.Since(s.Started).Abs() < 10*time.Minute },
		}),
		resultsOf(nil, reports, nil),
		resultsOf(nil, (*env).migrations, nil),
		resultsOf(nil, (*env).heard, nil),
		resultsOf(nil, func(e *env, field string) []hypervisor.Support {
			out, denied := e.supported(hypervisor.Ref{})
			if !denied { // a running machine has its limits
				out, _ = e.supported(e.running().Ref())
			}
			return out
		}, nil),
	)
}

// supported returns the answers for a scope, and whether one is No.
func (e *env) supported(scope hypervisor.Ref) (out []hypervisor.Support, denied bool) {
	e.Helper()
	for _, k := range capability.All() {
		s, err := e.c.Supports(e.ctx, k, scope)
		e.ok(err, "Supports(%s)", k)
		out, denied = append(out, s), denied || s.Level == hypervisor.LevelNo
	}
	return out, denied
}

// taskStates returns the states that a task goes through. Its operation and
// object are read by its ID, as another process would.
func (e *env) taskStates(field string) []hypervisor.TaskState {
	e.Helper()
	follow := func(id hypervisor.TaskID) (out []hypervisor.TaskState) {
		e.Helper()
		t, err := e.c.Task(e.ctx, id)
		e.ok(err, "Task(%s)", id)
		for s, err := range t.Progress(e.ctx) {
			e.ok(err, "Progress")
			out = append(out, s)
		}
		return out
	}
	watch := func(seq func(func(hypervisor.TaskState, error) bool)) (out []hypervisor.TaskState) {
		for s, err := range seq {
			e.ok(err, "Progress")
			out = append(out, s)
		}
		return out
	}
	long := func() (*hypervisor.VM, bool) {
		ok := e.Slow != nil && e.has(capability.CloneFull)
		if !ok {
			e.unshown("no task takes long here")
			return nil, false
		}
		vm := e.create("src")
		e.Slow(400 * time.Millisecond)
		return vm, true
	}
	switch field {
	case "Op", "Object", "Started", "Result":
		if !e.has(capability.TaskResume) {
			e.unshown("tasks are not found again")
			return nil
		}
		vm, ok := long()
		if !ok {
			return nil
		}
		t := vm.Clone(e.ctx, e.name("c"), nil)
		e.ok(t.Err(), "Clone")
		out := follow(t.ID())
		c, err := t.Wait(e.ctx)
		e.ok(err, "Clone")
		e.keep(c.ID())
		return out
	case "Err":
		vm, ok := long()
		if !ok || !e.has(capability.TaskCancel) {
			e.unshown("no task is cancelled here")
			return nil
		}
		t := vm.Clone(e.ctx, e.name("c"), nil)
		e.ok(t.Err(), "Clone")
		e.ok(t.Cancel(e.ctx), "Cancel")
		out := watch(t.Progress(e.ctx))
		if c, err := t.Wait(e.ctx); err == nil {
			e.keep(c.ID())
		}
		return out
	case "Migration", "ExpectedDowntime":
		if !e.has(capability.MigrateLive) {
			e.unshown("no machine migrates")
			return nil
		}
		vm, to := e.traveller(true)
		// Slow enough to be read under way, where the platform can.
		t := vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: to, BandwidthBytes: 16 * hypervisor.MiB})
		if errors.Is(t.Err(), hypervisor.ErrUnsupported) {
			t = vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: to})
		}
		return watch(t.Progress(e.ctx))
	case "Notes":
		if !e.has(capability.DevicePCI) {
			e.unshown("nothing else is set for anything")
			return nil
		}
		vm := e.create("vm", e.deviceSpec)
		return watch(vm.AttachDevice(e.ctx, e.Device).Progress(e.ctx))
	case "Leftover":
		return e.tooBig()
	}
	vm := e.create("src")
	if !e.has(capability.CloneFull) {
		return watch(vm.Start(e.ctx).Progress(e.ctx))
	}
	t := vm.Clone(e.ctx, e.name("c"), nil)
	out := watch(t.Progress(e.ctx))
	c, err := t.Wait(e.ctx)
	e.ok(err, "Clone")
	e.keep(c.ID())
	return out
}

// tooBig makes a machine that no host has the memory to start. The machine
// stays and is named.
func (e *env) tooBig() []hypervisor.TaskState {
	e.Helper()
	var most int64
	for h, err := range e.c.Hosts(e.ctx) {
		e.ok(err, "Hosts")
		most = max(most, h.MemoryBytes)
	}
	s := e.Spec(e.name("big"))
	s.MemoryBytes, s.Start = (most/hypervisor.GiB+1)*hypervisor.GiB, true
	t := e.c.CreateVM(e.ctx, s)
	if t.Err() != nil {
		e.unshown("a machine that is too big is refused: %v", t.Err())
		return nil
	}
	var out []hypervisor.TaskState
	for st, err := range t.Progress(e.ctx) {
		e.ok(err, "Progress")
		out = append(out, st)
		for _, r := range st.Leftover {
			e.keep(hypervisor.VMID(r.ID))
		}
	}
	vm, err := e.c.FindVM(e.ctx, s.Name)
	if err == nil {
		e.keep(vm.ID())
	}
	if err != nil || out[len(out)-1].Err == nil {
		e.unshown("a machine that is too big is not made, or runs")
	}
	return out
}

// reports returns the reports of CheckMigrate for moves that are possible,
// that are blocked, and that cause a warning.
func reports(e *env, field string) []hypervisor.MigrateReport {
	e.Helper()
	if !e.has(capability.MigrateLive) && !e.has(capability.MigrateCold) {
		e.unshown("no machine moves between hosts")
		return nil
	}
	vm, to := e.traveller(e.has(capability.MigrateLive))
	opts := []hypervisor.MigrateOptions{{Host: to}, {Host: e.info(vm).Host}}
	if e.has(capability.MigratePostCopy) {
		opts = append(opts, hypervisor.MigrateOptions{Host: to, PostCopy: true})
	}
	var out []hypervisor.MigrateReport
	for _, o := range opts {
		if o.Host == "" {
			continue
		}
		r, err := vm.CheckMigrate(e.ctx, o)
		e.ok(err, "CheckMigrate")
		out = append(out, r)
	}
	return out
}

func (e *env) migrations(field string) []hypervisor.MigrateResult {
	e.Helper()
	if field == "Kept" || !e.has(capability.MigrateLive) {
		if !e.has(capability.MigrateStorage) {
			e.unshown("no disk moves")
			return nil
		}
		vm := e.create("vm")
		old := e.info(vm).Disks[0].Volume
		r, err := vm.Migrate(e.ctx, hypervisor.MigrateOptions{Storage: e.otherStore(vm), KeepSource: field == "Kept"}).Wait(e.ctx)
		if !e.can(err) {
			e.unshown("no image is kept")
			return nil
		}
		if field == "Kept" {
			e.volumes = append(e.volumes, old)
		}
		return []hypervisor.MigrateResult{r}
	}
	vm, to := e.traveller(true)
	if e.Slow != nil {
		e.Slow(50 * time.Millisecond)
	}
	r, err := vm.Migrate(e.ctx, hypervisor.MigrateOptions{Host: to}).Wait(e.ctx)
	e.ok(err, "Migrate")
	return []hypervisor.MigrateResult{r}
}

// heard returns the events of a machine that is made, started and stopped. The
// rows of an area share them, since guests take their time.
func (e *env) heard(string) []hypervisor.Event {
	e.Helper()
	if e.site.heard == nil {
		e.site.heard = e.listen()
	}
	var out []hypervisor.Event
	for _, ev := range e.site.heard {
		out = append(out, made(e, ev))
	}
	return out
}

func (e *env) listen() []hypervisor.Event {
	e.Helper()
	ctx, stop := context.WithTimeout(e.ctx, cmp.Or(e.EventWait, 20*time.Second))
	defer stop()
	ch := make(chan hypervisor.Event, 100)
	go func() {
		defer close(ch)
		for ev, err := range e.c.Watch(ctx, "") {
			if err != nil {
				return
			}
			select {
			case ch <- ev:
			case <-ctx.Done():
				return
			}
		}
	}()
	vm := e.create("vm")
	var out []hypervisor.Event
	for { // until the watch, which may begin late, has reported a state
		e.start(vm)
		for more := true; more; {
			select {
			case ev, ok := <-ch:
				if !ok {
					return out
				}
				out = append(out, ev)
				if ev.Type == hypervisor.EventVMState || ev.State != "" {
					stop()
				}
			case <-time.After(time.Second / 4):
				more = false
			}
		}
		e.off(vm)
	}
}
