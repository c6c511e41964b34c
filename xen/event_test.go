package xen

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestEvents does things to machines and compares what is told of them.
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
		if step < 0 && e.Type != hypervisor.Resync {
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
