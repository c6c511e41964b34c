package xen

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func (w *world) rpc(ctx context.Context, t *testing.T, result any, method string, args ...any) {
	t.Helper()
	rpc, ok := hypervisor.As[*RPC](w.c)
	if !ok {
		t.Fatal("the Client has no *RPC")
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

// TestWorkloadBalancing asks the pool's own scheduler where it has one.
func TestWorkloadBalancing(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 3})
	s := ok[hypervisor.Support](t)(w.c.Supports(ctx, hypervisor.PlacementNative, hypervisor.Ref{}))
	if s.Level != hypervisor.No || s.Reason != hypervisor.ReasonConfig {
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

// TestVirtualFunctions attaches an adapter to a network of virtual functions:
// the machine runs, and can't be moved while it does.
func TestVirtualFunctions(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2, SRIOVNetwork: true})
	network := map[string]any{"name_label": "vfs", "name_description": "", "MTU": 1500, "other_config": map[string]any{}, "bridge": "", "managed": true, "tags": []any{}}
	var net string
	w.rpc(ctx, t, &net, "network.create", network)
	for _, p := range w.sim.Refs("PIF") {
		if w.text(t, "PIF", p, "device") == "eth9" {
			w.rpc(ctx, t, nil, "network_sriov.create", p, net)
		}
	}
	found := false
	for n, err := range w.c.Networks(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		found = found || n.Name == "vfs" && n.SRIOV == hypervisor.Present && len(n.Hosts) == 2
	}
	if !found {
		t.Error("Networks doesn't tell the SR-IOV network")
	}
	nic := ok[hypervisor.NICID](t)(w.off.AttachNIC(ctx, hypervisor.NICSpec{Network: hypervisor.NetworkID(w.text(t, "network", net, "uuid"))}).Wait(ctx))
	to := w.hosts(ctx)
	if rep := ok[hypervisor.MigrateReport](t)(w.off.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: to[0].ID})); !rep.OK() {
		t.Errorf("off: %+v", rep)
	}
	if err := wait(ctx, w.off.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	i := ok[hypervisor.VMInfo](t)(w.off.Info(ctx))
	at := slices.IndexFunc(to, func(h hypervisor.HostInfo) bool { return h.ID != i.Host })
	rep := ok[hypervisor.MigrateReport](t)(w.off.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: to[at].ID}))
	if len(rep.Blockers) != 1 || rep.Blockers[0].Reason != hypervisor.ReasonVMPassthrough || rep.Blockers[0].Object != nic.Ref() {
		t.Errorf("running: %+v", rep)
	}
	if err := wait(ctx, w.off.Migrate(ctx, hypervisor.MigrateOptions{Host: to[at].ID})); hypervisor.KindOf(err) != hypervisor.KindIncompatible {
		t.Errorf("Migrate: %v", err)
	}
	// Virtual functions are given and taken only while the machine is off.
	spec := hypervisor.NICSpec{Network: hypervisor.NetworkID(w.text(t, "network", net, "uuid"))}
	for what, err := range map[string]error{"AttachNIC": wait(ctx, w.off.AttachNIC(ctx, spec)), "DetachNIC": wait(ctx, w.off.DetachNIC(ctx, nic))} {
		var u *hypervisor.UnsupportedError
		if !errors.As(err, &u) || u.Capability != hypervisor.NICHotplug || u.Support.Reason != hypervisor.ReasonPlatform {
			t.Errorf("%s while it runs: %v", what, err)
		}
	}
	if n := len(ok[hypervisor.VMInfo](t)(w.off.Info(ctx)).NICs); n != 2 {
		t.Errorf("%d adapters", n)
	}
	if err := wait(ctx, w.off.PowerOff(ctx)); err != nil {
		t.Fatal(err)
	}
	if err := wait(ctx, w.off.DetachNIC(ctx, nic)); err != nil {
		t.Fatal(err)
	}
	if err := wait(ctx, w.off.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	i = ok[hypervisor.VMInfo](t)(w.off.Info(ctx))
	at = slices.IndexFunc(to, func(h hypervisor.HostInfo) bool { return h.ID != i.Host })
	if err := wait(ctx, w.off.Migrate(ctx, hypervisor.MigrateOptions{Host: to[at].ID})); err != nil {
		t.Errorf("without the adapter: %v", err)
	}
	// A port has eight functions; on the host with none left no more machines start.
	for n := range 9 {
		s := hypervisor.VMSpec{Name: "vf", MemoryBytes: hypervisor.GiB / 2, NICs: []hypervisor.NICSpec{spec}, Placement: hypervisor.Placement{Host: to[0].ID}, Start: true}
		_, err := w.c.CreateVM(ctx, s).Wait(ctx)
		if n < 8 && err != nil || n == 8 && hypervisor.KindOf(err) != hypervisor.KindExhausted {
			t.Errorf("machine %d: %v", n+1, err)
		}
	}
}

// TestMovableVGPU moves a machine with a vGPU of an SR-IOV card whose driver
// can carry its state, and not one whose driver can't.
func TestMovableVGPU(t *testing.T) {
	for _, can := range []bool{true, false} {
		ctx := settled(t)
		w := newWorld(t, xapisim.Config{Hosts: 2, GPUs: []xapisim.GPU{{Model: xapisim.H100, Migratable: can}}})
		if err := wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Profile: "NVIDIA H100-20C"})); err != nil {
			t.Fatal(err)
		}
		if err := wait(ctx, w.off.Start(ctx)); err != nil {
			t.Fatal(err)
		}
		i := ok[hypervisor.VMInfo](t)(w.off.Info(ctx))
		hosts := w.hosts(ctx)
		to := hosts[slices.IndexFunc(hosts, func(h hypervisor.HostInfo) bool { return h.ID != i.Host })].ID
		s := ok[hypervisor.Support](t)(w.off.Supports(ctx, hypervisor.MigrateLive))
		err := wait(ctx, w.off.Migrate(ctx, hypervisor.MigrateOptions{Host: to}))
		if can && (err != nil || s.Level != hypervisor.Yes) || !can && (!blockedBy(err, hypervisor.ReasonVMPassthrough) || s.Reason != hypervisor.ReasonVMPassthrough) {
			t.Errorf("the driver can: %v; Supports: %+v; Migrate: %v", can, s, err)
		}
	}
}

// TestProvision deploys a default template on a datastore: it gets the disks
// that the template lists, there.
func TestProvision(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	local := ok[any](t)(localStore(ctx, w)).(hypervisor.DatastoreID)
	tmpl := ok[*hypervisor.Template](t)(w.c.FindTemplate(ctx, "Debian Bookworm 12"))
	for _, place := range []hypervisor.DatastoreID{"", local} {
		vm := ok[*hypervisor.VM](t)(tmpl.Deploy(ctx, "deployed", &hypervisor.CloneOptions{Placement: hypervisor.Placement{Datastore: place}, CPUs: 2}).Wait(ctx))
		i := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
		if len(i.Disks) != 1 || i.Disks[0].SizeBytes != 10*hypervisor.GiB || place != "" && i.Disks[0].Datastore != place || i.Template || i.CPUs != 2 {
			t.Errorf("on %q: %+v", place, i)
		}
		if err := wait(ctx, vm.Start(ctx)); err != nil {
			t.Error(err)
		}
	}
	other := ok[*hypervisor.Template](t)(w.c.FindTemplate(ctx, "Other install media"))
	vm := ok[*hypervisor.VM](t)(other.Deploy(ctx, "bare", nil).Wait(ctx))
	if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); len(i.Disks) != 0 || i.Template {
		t.Errorf("%+v", i)
	}
	if err := wait(ctx, tmpl.Delete(ctx, hypervisor.DeleteDisks)); hypervisor.KindOf(err) != hypervisor.KindInvalidState {
		t.Errorf("a default template was deleted: %v", err)
	}
}

// TestSnapshotsMove moves a running machine's storage with its snapshots.
func TestSnapshotsMove(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	snap := ok[*hypervisor.Snapshot](t)(w.run.CreateSnapshot(ctx, "before", nil).Wait(ctx))
	local := ok[any](t)(localStore(ctx, w)).(hypervisor.DatastoreID)
	if err := wait(ctx, w.run.Migrate(ctx, hypervisor.MigrateOptions{Storage: local})); err != nil {
		t.Fatal(err)
	}
	if d := ok[hypervisor.DiskInfo](t)(diskOf(ctx, w.run)); d.Datastore != local {
		t.Errorf("the disk is on %s", d.Datastore)
	}
	if err := wait(ctx, snap.Revert(ctx, nil)); err != nil {
		t.Errorf("reverting to the snapshot that came along: %v", err)
	}
	if d := ok[hypervisor.DiskInfo](t)(diskOf(ctx, w.run)); d.Datastore != local {
		t.Errorf("after the revert the disk is on %s", d.Datastore)
	}
}

// TestMoveToOtherPool moves a running machine with a snapshot with RAM to
// another pool, and one that is off with a vGPU.
func TestMoveToOtherPool(t *testing.T) {
	ctx := settled(t)
	cfg := xapisim.Config{Hosts: 1, GPUs: []xapisim.GPU{{Model: xapisim.TeslaM60}}}
	w, to := newWorld(t, cfg), newWorld(t, cfg)
	ram := w.sim.Memory(string(w.run.ID()))
	ok[*hypervisor.Snapshot](t)(w.run.CreateSnapshot(ctx, "ram", &hypervisor.SnapshotOptions{Memory: true}).Wait(ctx))
	ok[*hypervisor.Snapshot](t)(w.run.CreateSnapshot(ctx, "disks", nil).Wait(ctx))
	if err := wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Profile: "GRID M60-2Q"})); err != nil {
		t.Fatal(err)
	}
	host := to.hosts(ctx)[0].ID
	store := ok[any](t)(localStore(ctx, to)).(hypervisor.DatastoreID)
	for _, vm := range []*hypervisor.VM{w.run, w.off} {
		if err := wait(ctx, vm.Migrate(ctx, hypervisor.MigrateOptions{To: to.c, Host: host, Storage: store})); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.truth(t); got.snapshots != 0 || len(got.loose) != 0 || got.vbds != 0 {
		t.Errorf("left at the source: %+v", got)
	}
	moved := to.c.VM(w.run.ID())
	snaps := ok[[]hypervisor.SnapshotInfo](t)(moved.Snapshots(ctx))
	if len(snaps) != 2 || snaps[0].Name != "ram" || !snaps[0].Memory || snaps[1].Parent != snaps[0].ID || !snaps[1].Current {
		t.Fatalf("%+v", snaps)
	}
	if err := wait(ctx, moved.Snapshot(snaps[0].ID).Revert(ctx, nil)); err != nil {
		t.Fatal(err)
	}
	if i := ok[hypervisor.VMInfo](t)(moved.Info(ctx)); i.State != hypervisor.Running || to.sim.Memory(string(w.run.ID())) != ram {
		t.Errorf("after the revert: %+v", i)
	}
	if i := ok[hypervisor.VMInfo](t)(to.c.VM(w.off.ID()).Info(ctx)); len(i.Devices) != 1 || i.Devices[0].Profile == "" {
		t.Errorf("%+v", i.Devices)
	}
}
