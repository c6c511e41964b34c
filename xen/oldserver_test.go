package xen

import (
	"context"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// oldPool speaks XML-RPC alone and lacks the parameters that later versions
// brought.
var oldPool = xapisim.Config{Hosts: 2, GPUs: faultPool.GPUs, NoJSONRPC: true, APIMinor: 5, ProductVersion: "6.5.0", Lacks: []string{
	"VM.snapshot.ignore_vdis", "VM.migrate_send.vgpu_map", "VM.migrate_send.vdi_format_map", "VM.assert_can_migrate.vgpu_map",
	"host.evacuate.network", "host.evacuate.evacuate_batch_size", "host.disable.auto_enable",
}}

// TestOldServer does every operation at a server that is too old for
// JSON-RPC, with the same messages, and watches its events.
func TestOldServer(t *testing.T) {
	for _, op := range opCases() {
		t.Run(op.name, func(t *testing.T) {
			w, arg := preparedIn(t, op, oldPool)
			w.sim.ResetCalls()
			if err := op.do(settled(t), w, arg); err != nil {
				t.Fatal(err)
			}
			if got, want := messages(w.sim.Calls()), golden[op.name]; got != want {
				t.Errorf("it sends\n%q\nwant\n%q", got, want)
			}
		})
	}
	t.Run("same view", func(t *testing.T) {
		ctx := settled(t)
		w := newWorld(t, oldPool)
		i := ok[hypervisor.VMInfo](t)(w.run.Info(ctx))
		if i.CPUs != 2 || i.MemoryBytes != hypervisor.GiB || i.State != hypervisor.Running || len(i.Disks) != 1 || i.Disks[0].SizeBytes != 10*hypervisor.GiB ||
			len(i.NICs) != 1 || len(i.Addresses) != 1 {
			t.Errorf("%+v", i)
		}
		for _, h := range w.hosts(ctx) {
			if h.MemoryBytes != 64*hypervisor.GiB || h.State != hypervisor.HostUp || h.IOMMU != hypervisor.Present {
				t.Errorf("%+v", h)
			}
		}
	})
	t.Run("by a member", func(t *testing.T) {
		ctx := settled(t)
		w := newWorld(t, oldPool)
		cfg := config(w.sim)
		cfg.Address = strings.TrimPrefix(w.sim.URLs()[1], "https://")
		c, err := Open(ctx, cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		w.sim.ExpireSessions()
		if i, err := c.VM(w.run.ID()).Info(ctx); err != nil || i.Name != "vm0001" || c.Describe().Endpoint != w.sim.URL() {
			t.Errorf("%+v at %s: %v", i, c.Describe().Endpoint, err)
		}
		cfg.Credentials.Password = "wrong-secret"
		if _, err := Open(ctx, cfg, nil); hypervisor.KindOf(err) != hypervisor.KindUnauthenticated || strings.Contains(err.Error(), "wrong-secret") {
			t.Errorf("by a wrong password: %v", err)
		}
	})
	t.Run("events", func(t *testing.T) {
		ctx, stop := context.WithCancel(settled(t))
		defer stop()
		w := newWorld(t, oldPool)
		var task *hypervisor.Task[hypervisor.None]
		for e, err := range w.c.Watch(ctx, "not a token") { // answered with a Resync, from which on events count
			if err != nil {
				t.Fatal(err)
			}
			if e.Type == hypervisor.Resync && task == nil {
				task = w.off.Start(ctx)
			}
			if e.Type == hypervisor.VMState && e.State == hypervisor.Running && e.Object.ID == string(w.off.ID()) {
				if err := wait(ctx, task); err != nil {
					t.Error(err)
				}
				return
			}
		}
		t.Error("the watch ended")
	})
}
