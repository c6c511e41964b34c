package xen

import (
	"errors"
	"slices"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

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
		found = found || n.Name == "vfs" && n.SRIOV == hypervisor.FactPresent && len(n.Hosts) == 2
	}
	if !found {
		t.Error("Networks doesn't report the SR-IOV network")
	}
	nic := ok[hypervisor.NICInfo](t)(w.off.AttachNIC(ctx, hypervisor.NICSpec{Network: hypervisor.NetworkID(w.text(t, "network", net, "uuid"))}).Wait(ctx))
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
	if len(rep.Blockers) != 1 || rep.Blockers[0].Reason != hypervisor.ReasonVMPassthrough || rep.Blockers[0].Object != nic.ID.Ref() {
		t.Errorf("running: %+v", rep)
	}
	if err := wait(ctx, w.off.Migrate(ctx, hypervisor.MigrateOptions{Host: to[at].ID})); hypervisor.KindOf(err) != hypervisor.ErrIncompatible {
		t.Errorf("Migrate: %v", err)
	}
	// Virtual functions are given and taken only while the machine is off.
	spec := hypervisor.NICSpec{Network: hypervisor.NetworkID(w.text(t, "network", net, "uuid"))}
	for what, err := range map[string]error{"AttachNIC": wait(ctx, w.off.AttachNIC(ctx, spec)), "DetachNIC": wait(ctx, w.off.DetachNIC(ctx, nic.ID))} {
		var u *hypervisor.UnsupportedError
		if !errors.As(err, &u) || u.Capability != capability.NICHotplug || u.Support.Reason != hypervisor.ReasonPlatform {
			t.Errorf("%s while it runs: %v", what, err)
		}
	}
	if n := len(ok[hypervisor.VMInfo](t)(w.off.Info(ctx)).NICs); n != 2 {
		t.Errorf("%d adapters", n)
	}
	if err := wait(ctx, w.off.PowerOff(ctx)); err != nil {
		t.Fatal(err)
	}
	if err := wait(ctx, w.off.DetachNIC(ctx, nic.ID)); err != nil {
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
		if n < 8 && err != nil || n == 8 && hypervisor.KindOf(err) != hypervisor.ErrExhausted {
			t.Errorf("machine %d: %v", n+1, err)
		}
	}
}
