package xen

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestEvents does things to machines and compares what is reported of them.
func TestEvents(t *testing.T) {
	ctx, stop := context.WithCancel(settled(t))
	defer stop()
	w := newWorld(t, xapisim.Config{Hosts: 2})
	var snap *hypervisor.Snapshot
	to := ok[any](t)(otherHost(ctx, w)).(hypervisor.HostID)
	steps := []struct {
		do   func() error
		want []string // in this order; others may come in between
	}{
		{func() error { return wait(ctx, w.off.Start(ctx)) }, []string{"vm.state vm0002 running"}},
		{func() error { return wait(ctx, w.run.Pause(ctx)) }, []string{"vm.state vm0001 paused"}},
		{func() error { return wait(ctx, w.run.Resume(ctx)) }, []string{"vm.state vm0001 running"}},
		{func() error { return wait(ctx, w.run.Migrate(ctx, hypervisor.MigrateOptions{Host: to})) }, []string{"vm.migrated vm0001 running"}},
		{func() (err error) { snap, err = w.run.CreateSnapshot(ctx, "snap", nil).Wait(ctx); return err }, []string{"snapshot.created snap off"}},
		{func() error { return wait(ctx, snap.Delete(ctx, nil)) }, []string{"snapshot.deleted snap "}},
		{func() error { return wait(ctx, w.off.Reconfigure(ctx, hypervisor.Changes{Name: "renamed"})) }, []string{"vm.changed renamed running"}},
		{func() error {
			return wait(ctx, w.off.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}))
		}, []string{"vm.deleted renamed "}},
		{func() error { return wait(ctx, w.c.CreateVM(ctx, spec("new"))) }, []string{"vm.created new off"}},
		{func() error {
			if err := w.sim.SetField("VM", w.controlDomain(t), "name_label", "dom0"); err != nil {
				return err
			}
			return w.run.SetLabels(ctx, map[string]string{"told": "after dom0"})
		}, []string{"vm.changed vm0001 running"}},
		{func() error {
			return wait(ctx, w.c.Host(to).EnterMaintenance(ctx, &hypervisor.MaintenanceOptions{Evacuate: true}))
		}, []string{"vm.migrated vm0001 running"}},
	}
	var told []string
	at, step := 0, -1
	for e, err := range w.c.Watch(ctx, "not a token") { // answered with a Resync, from which on events count
		if err != nil {
			t.Fatal(err)
		}
		if step < 0 && e.Type != hypervisor.EventResync {
			continue
		}
		line := fmt.Sprint(e.Type, " ", e.Object.Name, " ", e.State)
		told = append(told, line)
		if e.Object.Name == "dom0" || e.Token == "" {
			t.Errorf("%+v", e)
		}
		if step >= 0 && at < len(steps[step].want) && line == steps[step].want[at] {
			at++
		}
		for step < 0 || at == len(steps[step].want) {
			if step++; step == len(steps) {
				return
			}
			at = 0
			if err := steps[step].do(); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
		}
	}
	t.Errorf("the watch ended at step %d, waiting for %q; told: %q", step, steps[max(step, 0)].want, slices.Compact(told))
}

func (w *world) controlDomain(t *testing.T) string {
	t.Helper()
	for _, r := range w.sim.Refs("VM") {
		if w.field(t, "VM", r, "is_control_domain") == true {
			return r
		}
	}
	t.Fatal("no control domain")
	return ""
}

// others makes and deletes so many machines that the pool forgets which ones
// it deleted before.
func (w *world) others(t *testing.T) {
	t.Helper()
	refs, err := w.sim.AddVMs(xapisim.Bulk{Count: 560})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range refs {
		w.rpc(settled(t), t, nil, "VM.destroy", r)
	}
}

// delete3 deletes three machines as another tool does, and returns what has to
// be told.
func (w *world) delete3(t *testing.T, vms []string) (want []string) {
	t.Helper()
	for _, r := range vms {
		want = append(want, "vm.deleted "+w.text(t, "VM", r, "uuid"))
		w.rpc(settled(t), t, nil, "VM.destroy", r)
	}
	slices.Sort(want)
	return want
}

// TestForgottenDeletions deletes three machines among 560 others, more than a
// pool remembers. A watch that is busy meanwhile reports all three; one that
// resumes reports them or one Resync.
func TestForgottenDeletions(t *testing.T) {
	for name, pool := range map[string]xapisim.Config{"JSON": {}, "XML": oldPool} {
		t.Run(name, func(t *testing.T) { forgottenDeletions(t, pool) })
	}
}

func forgottenDeletions(t *testing.T, pool xapisim.Config) {
	ctx := settled(t)
	w := newWorld(t, pool)
	known, err := w.sim.AddVMs(xapisim.Bulk{Count: 6})
	if err != nil {
		t.Fatal(err)
	}
	label := func(n string) {
		if err := w.off.SetLabels(ctx, map[string]string{"n": n}); err != nil {
			t.Fatal(err)
		}
	}
	var want, got []string
	token := ""
	for e, err := range w.c.Watch(ctx, "not a token") { // answered with a Resync, from which on events count
		if err != nil {
			t.Fatal(err)
		}
		switch e.Type {
		case hypervisor.EventResync:
			if token != "" {
				t.Fatalf("%+v", e)
			}
			want = w.delete3(t, known[:3])
			w.others(t)
			label("1")
		case hypervisor.EventVMDeleted:
			got = append(got, "vm.deleted "+e.Object.ID)
		}
		if token = e.Token; len(got) == 3 {
			break
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("a watch that continues told %q, want %q", got, want)
	}

	want = w.delete3(t, known[3:])
	w.others(t)
	label("2")
	for name, c := range map[string]*hypervisor.Client{"this Client": w.c, "another Client": w.open(t)} {
		var got []string
		next := ""
		for e, err := range c.Watch(ctx, token) {
			if err != nil {
				t.Fatal(err)
			}
			if next = e.Token; e.Type == hypervisor.EventResync {
				got = append(got, "resync")
				break
			}
			if e.Type == hypervisor.EventVMDeleted {
				got = append(got, "vm.deleted "+e.Object.ID)
			}
			if e.Type == hypervisor.EventVMChanged || len(got) == 3 {
				break
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) && !slices.Equal(got, []string{"resync"}) {
			t.Errorf("a watch of %s that resumed told %q, want %q or one Resync", name, got, want)
		}
		label("3" + name)
		for e, err := range c.Watch(ctx, next) { // all is known again
			if err != nil || e.Type == hypervisor.EventResync || e.Type == hypervisor.EventVMDeleted {
				t.Errorf("%s, afterwards: %+v %v", name, e, err)
			}
			break
		}
	}
}

// TestResumedEverywhere resumes from the token of each event of one answer, by
// the same Client and by another one: what came after the event is reported again,
// or a Resync.
func TestResumedEverywhere(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{})
	refs, err := w.sim.AddVMs(xapisim.Bulk{Count: 4})
	if err != nil {
		t.Fatal(err)
	}
	var made []hypervisor.Event
	for e, err := range w.c.Watch(ctx, "not a token") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == hypervisor.EventResync { // three changes in one answer
			w.rpc(ctx, t, nil, "VM.set_name_label", refs[0], "renamed")
			w.rpc(ctx, t, nil, "VM.destroy", refs[1])
			w.rpc(ctx, t, nil, "VM.destroy", refs[2])
			continue
		}
		if made = append(made, e); len(made) == 3 {
			break
		}
	}
	w.rpc(ctx, t, nil, "VM.destroy", refs[3])
	for i, from := range made {
		for name, c := range map[string]*hypervisor.Client{"this Client": w.c, "another Client": w.open(t)} {
			want := map[string]bool{} // deletions after the event
			for _, e := range made[i+1:] {
				if e.Type == hypervisor.EventVMDeleted {
					want[e.Object.ID] = true
				}
			}
			resync := false
			for e, err := range c.Watch(ctx, from.Token) {
				if err != nil {
					t.Fatal(err)
				}
				delete(want, e.Object.ID)
				resync = resync || e.Type == hypervisor.EventResync
				if resync || e.Token != from.Token { // the last one
					break
				}
			}
			if len(want) > 0 && !resync || resync && c == w.c {
				t.Errorf("%s, after event %d: not told %v, Resync %v", name, i, want, resync)
			}
		}
	}
}

// TestForgottenSnapshot: the deletion of a snapshot that the pool forgot is
// told by its name, and what a watch has told is not told again.
func TestForgottenSnapshot(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{})
	w.snapshots(ctx, t, "gone", "stays")
	var told []string
	for e, err := range w.c.Watch(ctx, "not a token") {
		if err != nil {
			t.Fatal(err)
		}
		told = append(told, fmt.Sprint(e.Type, " ", e.Object.Name))
		switch len(told) {
		case 1: // Resync
			var snap string
			w.rpc(ctx, t, &snap, "VM.get_by_uuid", string(ok[[]hypervisor.SnapshotInfo](t)(w.off.Snapshots(ctx))[0].ID))
			w.rpc(ctx, t, nil, "VM.destroy", snap)
			w.sim.ForgetDeletions()
		case 3:
			if err := w.run.SetLabels(ctx, map[string]string{"a": "b"}); err != nil {
				t.Fatal(err)
			}
		}
		if len(told) == 4 {
			break
		}
	}
	if want := []string{"resync ", "vm.changed vm0002", "snapshot.deleted gone", "vm.changed vm0001"}; !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
}

// TestStrangeTokens resumes from tokens that are not, or no longer, from this
// pool: each is answered with one Resync, after which events come.
func TestStrangeTokens(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{})
	for n, token := range []string{"x", ";", ";;1,2", "00000000000000000001,00000000000000000000", "00000000000000000001,00000000000000000000;-5,-5",
		"00000000000000000001,00000000000000000000;99999999999999999999,1", "00000000000000000001,00000000000000000000;9", "\x00;\xff", "99999999999999999999,0;1,1"} {
		resyncs := 0
		for e, err := range w.c.Watch(ctx, token) {
			if err != nil {
				t.Fatalf("%q: %v", token, err)
			}
			if e.Type == hypervisor.EventVMChanged {
				break
			}
			if e.Type == hypervisor.EventResync {
				resyncs++
				if err := w.off.SetLabels(ctx, map[string]string{"t": fmt.Sprint(n)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if resyncs != 1 {
			t.Errorf("%q: %d Resyncs", token, resyncs)
		}
	}
}

// TestWatchAtAnotherMaster: the master changes while nobody asks for events,
// and what happened before is not reported by the new one. A watch that continues and
// one that resumes yield a Resync.
func TestWatchAtAnotherMaster(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, faultPool)
	label := func(n string) {
		if err := w.off.SetLabels(ctx, map[string]string{"n": n}); err != nil {
			t.Fatal(err)
		}
	}
	change := func() {
		label("before")
		if err := w.sim.Failover(); err != nil {
			t.Fatal(err)
		}
		label("after") // renews the session
	}
	var told []hypervisor.EventType
	token := ""
	for e, err := range w.c.Watch(ctx, "not a token") {
		if err != nil {
			t.Fatal(err)
		}
		if token = e.Token; len(told) == 0 {
			change()
		}
		if told = append(told, e.Type); len(told) > 1 && e.Type == hypervisor.EventResync {
			break
		}
		if len(told) > 9 {
			t.Fatalf("told %q", told)
		}
	}
	change()
	for name, c := range map[string]*hypervisor.Client{"this Client": w.c, "another Client": w.open(t)} {
		for e, err := range c.Watch(ctx, token) {
			if err != nil || e.Type != hypervisor.EventResync {
				t.Errorf("%s: %+v %v", name, e, err)
			}
			break
		}
	}
}
