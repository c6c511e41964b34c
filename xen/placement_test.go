package xen

import (
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestWorkloadBalancing asks the pool's own scheduler where it has one.
func TestWorkloadBalancing(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 3})
	s := ok[hypervisor.Support](t)(w.c.Supports(ctx, capability.PlacementNative, hypervisor.Ref{}))
	if s.Level != hypervisor.LevelNo || s.Reason != hypervisor.ReasonConfig {
		t.Errorf("without a server: %+v", s)
	}
	recs := ok[[]hypervisor.Recommendation](t)(w.c.Place(ctx, hypervisor.PlaceRequest{VM: w.run.ID()}))
	if recs[0].Native {
		t.Error("the portable planner says that it is native")
	}
	connectWLB(ctx, t, w.sim, w.c)
	recs = ok[[]hypervisor.Recommendation](t)(w.c.Place(ctx, hypervisor.PlaceRequest{VM: w.off.ID()}))
	if len(recs) != 3 || !recs[0].Native || recs[0].Score < recs[2].Score || recs[0].Score > 1 || recs[0].Host == "" {
		t.Errorf("%+v", recs)
	}
	if err := w.sim.KillHost("host2"); err != nil {
		t.Fatal(err)
	}
	if n := len(ok[[]hypervisor.Recommendation](t)(w.c.Place(ctx, hypervisor.PlaceRequest{VM: w.off.ID()}))); n != 2 {
		t.Errorf("%d hosts with one down", n)
	}
	if recs = ok[[]hypervisor.Recommendation](t)(w.c.Place(ctx, hypervisor.PlaceRequest{CPUs: 1, MemoryBytes: hypervisor.GiB})); len(recs) != 2 || recs[0].Native {
		t.Errorf("a machine that doesn't exist: %+v", recs)
	}
	// The load of one host is more than the others'.
	i := ok[hypervisor.VMInfo](t)(w.run.Info(ctx))
	for range 3 {
		vm := ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, hypervisor.VMSpec{Name: "load", MemoryBytes: 4 * hypervisor.GiB, Placement: hypervisor.Placement{Host: i.Host}, Start: true}).Wait(ctx))
		_ = vm
	}
	moves := ok[[]hypervisor.Move](t)(w.c.PlanBalance(ctx, nil))
	if len(moves) != 1 || moves[0].From != i.Host || moves[0].To == i.Host || !moves[0].Native {
		t.Fatalf("%+v", moves)
	}
	if err := wait(ctx, w.c.VM(moves[0].VM).Migrate(ctx, hypervisor.MigrateOptions{Host: moves[0].To})); err != nil {
		t.Error(err)
	}
}
