package xen

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func (w *world) enableHA(ctx context.Context, t *testing.T, failures int) {
	t.Helper()
	w.rpc(ctx, t, nil, "pool.enable_ha", []string{}, map[string]string{})
	w.rpc(ctx, t, nil, "pool.set_ha_host_failures_to_tolerate", w.sim.Refs("pool")[0], failures)
}

// TestRestartPriorities lets a host fail: its machines start again elsewhere
// as their priorities say.
func TestRestartPriorities(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	hosts := w.hosts(ctx)
	from := hosts[slices.IndexFunc(hosts, func(h hypervisor.HostInfo) bool { return h.Name == "host2" })].ID
	if got := ok[[]hypervisor.HAInfo](t)(hypervisor.Collect(w.c.HA(ctx))); len(got) != 1 || got[0].Enabled || got[0].Pool != hosts[0].Pool || got[0].DefaultPriority != "" {
		t.Errorf("before: %+v", got)
	}
	vms := map[hypervisor.RestartPriority]*hypervisor.VM{}
	for p, want := range map[hypervisor.RestartPriority]struct {
		priority string
		order    int64
	}{hypervisor.RestartHigh: {"restart", 0}, hypervisor.RestartMedium: {"restart", 1}, hypervisor.RestartLow: {"restart", 2},
		hypervisor.RestartBestEffort: {"best-effort", 2}, hypervisor.RestartNever: {"", 2}} {
		vm := ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, hypervisor.VMSpec{Name: string(p), MemoryBytes: hypervisor.GiB, Placement: hypervisor.Placement{Host: from}, Start: true}).Wait(ctx))
		for _, q := range []hypervisor.RestartPriority{hypervisor.RestartLow, p} {
			if err := wait(ctx, vm.SetRestartPriority(ctx, q)); err != nil {
				t.Fatal(err)
			}
		}
		if got, n := w.text(t, "VM", string(vm.ID()), "ha_restart_priority"), w.field(t, "VM", string(vm.ID()), "order"); got != want.priority || n != want.order {
			t.Errorf("%s: ha_restart_priority is %q, order %v", p, got, n)
		}
		if a := ok[hypervisor.Availability](t)(vm.Availability(ctx)); a != (hypervisor.Availability{Priority: p}) {
			t.Errorf("%s, HA off: %+v", p, a)
		}
		vms[p] = vm
	}
	w.enableHA(ctx, t, 1)
	if got := ok[[]hypervisor.HAInfo](t)(hypervisor.Collect(w.c.HA(ctx))); !got[0].Enabled || got[0].FailuresToTolerate != 1 {
		t.Errorf("after: %+v", got)
	}
	ram := map[hypervisor.RestartPriority]string{}
	for p, vm := range vms {
		if a := ok[hypervisor.Availability](t)(vm.Availability(ctx)); a.Priority != p || a.Protected != (p != hypervisor.RestartNever) {
			t.Errorf("%s, HA on: %+v", p, a)
		}
		ram[p] = w.sim.Memory(string(vm.ID()))
	}
	if err := w.sim.KillHost("host2"); err != nil {
		t.Fatal(err)
	}
	for p, vm := range vms {
		i := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
		back := i.State == hypervisor.StateRunning && i.Host != from && w.sim.Memory(string(vm.ID())) != ram[p]
		if back != (p != hypervisor.RestartNever) {
			t.Errorf("%s: after the failure it is %s on %s", p, i.State, i.Host)
		}
	}
	if err := w.sim.SetField("VM", string(vms[hypervisor.RestartHigh].ID()), "ha_always_run", false); err != nil {
		t.Fatal(err)
	}
	if a := ok[hypervisor.Availability](t)(vms[hypervisor.RestartHigh].Availability(ctx)); a.Protected {
		t.Errorf("HA looks away: %+v", a)
	}
	// What other programs wrote.
	for order, want := range map[int64]hypervisor.RestartPriority{-1: hypervisor.RestartLow, 7: hypervisor.RestartLow, 1: hypervisor.RestartMedium} {
		if err := w.sim.SetField("VM", string(vms[hypervisor.RestartHigh].ID()), "order", order); err != nil {
			t.Fatal(err)
		}
		if a := ok[hypervisor.Availability](t)(vms[hypervisor.RestartHigh].Availability(ctx)); a.Priority != want {
			t.Errorf("order %d is %s", order, a.Priority)
		}
		// The present priority again leaves it as it is.
		if err := wait(ctx, vms[hypervisor.RestartHigh].SetRestartPriority(ctx, want)); err != nil || w.field(t, "VM", string(vms[hypervisor.RestartHigh].ID()), "order") != order {
			t.Errorf("order %d became %v: %v", order, w.field(t, "VM", string(vms[hypervisor.RestartHigh].ID()), "order"), err)
		}
	}
}

// TestUnprotectable asks HA for what it can't keep: nothing changes.
func TestUnprotectable(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2, MemoryPerHost: 8 * hypervisor.GiB})
	refused := func(vm *hypervisor.VM, why string) {
		t.Helper()
		err := wait(ctx, vm.SetRestartPriority(ctx, hypervisor.RestartLow))
		if hypervisor.KindOf(err) != hypervisor.ErrExhausted || !strings.Contains(err.Error(), why) {
			t.Errorf("%v, want Exhausted and %q", err, why)
		}
		if p, n := w.text(t, "VM", string(vm.ID()), "ha_restart_priority"), w.field(t, "VM", string(vm.ID()), "order"); p != "" || n != int64(0) {
			t.Errorf("refused, ha_restart_priority is %q, order %v", p, n)
		}
	}
	local := ok[any](t)(localStore(ctx, w)).(hypervisor.DatastoreID)
	started := func(s hypervisor.VMSpec) *hypervisor.VM {
		t.Helper()
		s.Start = true
		return ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, s).Wait(ctx))
	}
	tied := started(hypervisor.VMSpec{Name: "tied", MemoryBytes: hypervisor.GiB / 2, Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB, Datastore: local}}})
	var big []*hypervisor.VM // neither host has room for the other's
	for _, h := range w.hosts(ctx) {
		big = append(big, started(hypervisor.VMSpec{Name: "big", MemoryBytes: 5 * hypervisor.GiB / 2, Placement: hypervisor.Placement{Host: h.ID}}))
	}
	w.enableHA(ctx, t, 1)
	refused(tied, "HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED")
	for _, vm := range big {
		refused(vm, "too little memory")
	}
	// A priority whose second half fails is taken back.
	w.sim.Fault(xapisim.Fault{Method: "VM.set_order", Err: &xapisim.Failure{Code: "RBAC_PERMISSION_DENIED", Params: []string{"VM.set_order", ""}}})
	if err := wait(ctx, w.off.SetRestartPriority(ctx, hypervisor.RestartLow)); hypervisor.KindOf(err) != hypervisor.ErrPermission {
		t.Errorf("%v, want Permission", err)
	}
	if p := w.text(t, "VM", string(w.off.ID()), "ha_restart_priority"); p != "" {
		t.Errorf("ha_restart_priority is %q", p)
	}
}

// TestMaintenanceUnderHA evacuates a host while HA is on.
func TestMaintenanceUnderHA(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, faultPool)
	w.enableHA(ctx, t, 0)
	h := w.c.Host(ok[hypervisor.VMInfo](t)(w.run.Info(ctx)).Host)
	o := &hypervisor.MaintenanceOptions{Evacuate: true}
	err := wait(ctx, h.EnterMaintenance(ctx, o))
	if hypervisor.KindOf(err) != hypervisor.ErrInvalidState || !strings.Contains(err.Error(), string(w.run.ID())) {
		t.Errorf("with a machine that HA doesn't protect: %v", err)
	}
	if i := ok[hypervisor.HostInfo](t)(h.Info(ctx)); i.State != hypervisor.HostUp {
		t.Errorf("refused, the host is %s", i.State)
	}
	if err := wait(ctx, w.run.SetRestartPriority(ctx, hypervisor.RestartHigh)); err != nil {
		t.Fatal(err)
	}
	if err := wait(ctx, h.EnterMaintenance(ctx, o)); err != nil {
		t.Fatal(err)
	}
	if i := ok[hypervisor.VMInfo](t)(w.run.Info(ctx)); i.Host == h.ID() || i.State != hypervisor.StateRunning {
		t.Errorf("after the evacuation it is %s on %s", i.State, i.Host)
	}
}
