package xen

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// oldPool speaks XML-RPC alone and lacks the parameters that later versions
// brought.
var oldPool = xapisim.Config{Hosts: 2, GPUs: faultPool.GPUs, GCPause: -1, NoJSONRPC: true, Build: "none", APIMinor: 5, ProductVersion: "6.5.0", Lacks: []string{
	"VM.snapshot.ignore_vdis", "VM.migrate_send.vgpu_map", "VM.migrate_send.vdi_format_map", "VM.assert_can_migrate.vgpu_map",
	"host.evacuate.network",
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
		if i.CPUs != 2 || i.MemoryBytes != hypervisor.GiB || i.State != hypervisor.StateRunning || len(i.Disks) != 1 || i.Disks[0].SizeBytes != 10*hypervisor.GiB ||
			len(i.NICs) != 1 || len(i.Addresses) != 1 {
			t.Errorf("%+v", i)
		}
		for _, h := range w.hosts(ctx) {
			if h.MemoryBytes != 64*hypervisor.GiB || h.State != hypervisor.HostUp || h.IOMMU != hypervisor.FactPresent {
				t.Errorf("%+v", h)
			}
		}
	})
	t.Run("by a member", func(t *testing.T) {
		ctx := settled(t)
		w := newWorld(t, oldPool)
		cfg := config(w.sim)
		cfg.Host = strings.TrimPrefix(w.sim.URLs()[1], "https://")
		c, err := Open(ctx, cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		w.sim.ExpireSessions()
		if i, err := c.VM(w.run.ID()).Info(ctx); err != nil || i.Name != "vm0001" || c.Describe().Endpoint != w.sim.URL() {
			t.Errorf("%+v at %s: %v", i, c.Describe().Endpoint, err)
		}
		cfg.Password = "wrong-secret"
		if _, err := Open(ctx, cfg, nil); hypervisor.KindOf(err) != hypervisor.ErrUnauthenticated || strings.Contains(err.Error(), "wrong-secret") {
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
			if e.Type == hypervisor.EventResync && task == nil {
				task = w.off.Start(ctx)
			}
			if e.Type == hypervisor.EventVMState && e.State == hypervisor.StateRunning && e.Object.ID == string(w.off.ID()) {
				if err := wait(ctx, task); err != nil {
					t.Error(err)
				}
				return
			}
		}
		t.Error("the watch ended")
	})
}

// TestReleases runs the suite at each version of xapi from which on something
// is different. TestConformance runs it at the current one. No server is sent
// a message or parameter that it does not know.
func TestReleases(t *testing.T) {
	for _, build := range []string{"22.5.0", "23.28.0", "24.11.0", "25.6.0", "25.31.0"} {
		t.Run(build, func(t *testing.T) {
			if testing.Short() && build != "24.11.0" {
				t.Skip("the other versions take too long")
			}
			empty := untold
			if slices.Compare(parseRelease(build), release{25, 10, 0}) < 0 {
				empty = and(untold, map[string]string{"DeviceInfo.Product": "internal before xapi 25.10", "AttachedDevice.Product": "internal before xapi 25.10"})
			}
			t.Setenv(hypervisortest.ResultsDir, "") // the capability table shows the current version
			hypervisortest.Run(t, hypervisortest.Harness{
				Driver: "xapi", Rung: hypervisortest.Simulator, Label: "xapi " + build, Empty: empty, Refused: unheard,
				NotYet:   silent,
				Unproven: map[capability.Name]string{capability.MigrateCross: "shown by the pool"},
				New: func(t hypervisortest.T) *hypervisortest.Backend {
					hb, sim := newBackend(t, xapisim.Config{Hosts: 2, GPUs: []xapisim.GPU{{Model: "M60"}}, Build: build}, false)
					connectWLB(t.Context(), t, sim, hb.Client)
					t.Cleanup(func() {
						if s := sim.Strange(); len(s) > 0 {
							t.Errorf("a xapi %s does not know %v", build, s)
						}
					})
					return hb
				}})
		})
	}
}

// TestRefusedByVersion: a server refuses what its version should know. The
// error says which version has it, and nothing is changed.
func TestRefusedByVersion(t *testing.T) {
	for lacks, x := range map[string]struct {
		since string
		do    func(context.Context, *testing.T, *world) error
	}{
		"host.disable.auto_enable": {"25.31.0", func(ctx context.Context, t *testing.T, w *world) error {
			return wait(ctx, w.c.Host(w.hosts(ctx)[0].ID).EnterMaintenance(ctx, &hypervisor.MaintenanceOptions{Evacuate: true}))
		}},
		"PCI.disable_dom0_access": {"24.14.0", func(ctx context.Context, t *testing.T, w *world) error {
			yes := true
			for dev, err := range w.c.Devices(ctx, &hypervisor.DeviceFilter{Class: hypervisor.ClassNetwork}) {
				if err != nil {
					t.Fatal(err)
				}
				return wait(ctx, w.c.PrepareDevice(ctx, dev.ID, hypervisor.DevicePreparation{Passthrough: &yes}))
			}
			return nil
		}},
		"VM.checkpoint": {"another version", func(ctx context.Context, t *testing.T, w *world) error {
			return wait(ctx, w.run.CreateSnapshot(ctx, "ram", &hypervisor.SnapshotOptions{Memory: true}))
		}},
		"VM.pause": {"another version", func(ctx context.Context, t *testing.T, w *world) error { return wait(ctx, w.run.Pause(ctx)) }},
		"VIF.create": {"another version", func(ctx context.Context, t *testing.T, w *world) error {
			return wait(ctx, w.c.CreateVM(ctx, spec("new")))
		}},
	} {
		t.Run(lacks, func(t *testing.T) {
			pool := faultPool
			pool.Lacks = []string{lacks}
			w, ctx := newWorld(t, pool), settled(t)
			err := x.do(ctx, t, w)
			if !errors.Is(err, hypervisor.ErrUnsupported) || hypervisor.KindOf(err) != hypervisor.ErrUnsupported || reasonOf(err) != hypervisor.ReasonAPIVersion || !strings.Contains(err.Error(), x.since) {
				t.Errorf("%v (%v, reason %q)", err, hypervisor.KindOf(err), reasonOf(err))
			}
			for _, h := range w.hosts(ctx) {
				if h.State != hypervisor.HostUp {
					t.Errorf("host %s is %s", h.Name, h.State)
				}
			}
			if got := w.truth(t); got.vms != w.before.vms || got.snapshots != 0 || len(got.loose) > 0 {
				t.Errorf("there is %+v", got)
			}
		})
	}
}

// TestRefusedForms: a server of another version can't read a value or a field,
// or has removed the message. Nothing is left of the operation.
func TestRefusedForms(t *testing.T) {
	for name, refusal := range map[string]*xapisim.Failure{
		"unknown value":      {Code: "INTERNAL_ERROR", Params: []string{"Unknown tag/contents"}},
		"other type":         {Code: "INTERNAL_ERROR", Params: []string{"Expected string, got 'I(5)'"}},
		"other type, quoted": {Code: "INTERNAL_ERROR", Params: []string{`Failure("Expected bool, got 'S(false)'")`}},
		"missing field":      {Code: "INTERNAL_ERROR", Params: []string{`Server_helpers.Dispatcher_FieldNotFound("user_version")`}},
		"not implemented":    {Code: "NOT_IMPLEMENTED", Params: []string{"VM.query_services"}},
		"removed":            {Code: "MESSAGE_REMOVED"},
	} {
		for method, do := range map[string]func(context.Context, *world) error{
			"VM.create":         func(ctx context.Context, w *world) error { return wait(ctx, w.c.CreateVM(ctx, spec("new"))) },
			"VBD.create":        func(ctx context.Context, w *world) error { return wait(ctx, w.c.CreateVM(ctx, spec("new"))) },
			"VDI.create":        func(ctx context.Context, w *world) error { return wait(ctx, w.off.AttachDisk(ctx, newDisk())) },
			"VM.snapshot":       func(ctx context.Context, w *world) error { return wait(ctx, w.off.CreateSnapshot(ctx, "s", nil)) },
			"VM.copy":           func(ctx context.Context, w *world) error { return wait(ctx, w.off.Clone(ctx, "copy", nil)) },
			"VM.start":          func(ctx context.Context, w *world) error { return wait(ctx, w.off.Start(ctx)) },
			"VM.set_name_label": func(ctx context.Context, w *world) error { return wait(ctx, w.off.Rename(ctx, "renamed")) },
			"host.evacuate": func(ctx context.Context, w *world) error {
				return wait(ctx, w.c.Host(w.hosts(ctx)[0].ID).EnterMaintenance(ctx, &hypervisor.MaintenanceOptions{Evacuate: true}))
			},
		} {
			t.Run(name+"/"+method, func(t *testing.T) {
				w, ctx := newWorld(t, faultPool), settled(t)
				w.sim.Fault(xapisim.Fault{Method: method, Err: refusal, Count: -1})
				if err := do(ctx, w); hypervisor.KindOf(err) != hypervisor.ErrUnsupported || reasonOf(err) != hypervisor.ReasonAPIVersion {
					t.Errorf("%v (%v, reason %q)", err, hypervisor.KindOf(err), reasonOf(err))
				}
				if got := w.truth(t); got.vms != w.before.vms || got.snapshots != 0 || len(got.loose) > 0 {
					t.Errorf("there is %+v", got)
				}
			})
		}
	}
	w, ctx := newWorld(t, faultPool), settled(t)
	w.sim.Fault(xapisim.Fault{Method: "VM.start", Err: &xapisim.Failure{Code: "INTERNAL_ERROR", Params: []string{"VM not in expected power state after completing operation"}}})
	if err := wait(ctx, w.off.Start(ctx)); err == nil || hypervisor.KindOf(err) == hypervisor.ErrUnsupported {
		t.Errorf("another internal error is %v", err)
	}
}

func TestParseRelease(t *testing.T) {
	for build, want := range map[string]bool{"": false, "none": false, "24.11.0": false, "25.30.9": false, "25.31": false, "25.31.0": true, "25.31.0-2.xs9": true, "25.31.0.rc1": true, "26.1": true} {
		d := &driver{xapi: parseRelease(build)}
		if got := d.has(autoEnable); got != want {
			t.Errorf("%q has %v, want %v", build, got, want)
		}
	}
}
