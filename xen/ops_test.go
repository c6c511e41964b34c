package xen

import (
	"context"
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// opCase is one operation, done to its end.
type opCase struct {
	name string
	// prepare runs before faults and counting; do gets what it returns.
	prepare func(context.Context, *world) (any, error)
	do      func(context.Context, *world, any) error
	creates string // the name of what it makes with a token
}

func diskOf(ctx context.Context, vm *hypervisor.VM) (hypervisor.DiskInfo, error) {
	i, err := vm.Info(ctx)
	if err != nil || len(i.Disks) == 0 {
		return hypervisor.DiskInfo{}, fmt.Errorf("disks %v: %w", i.Disks, err)
	}
	return i.Disks[0], nil
}

func snapshotOf(ctx context.Context, w *world) (any, error) {
	return w.off.CreateSnapshot(ctx, "snap", nil).Wait(ctx)
}

// otherHost is a host that the running machine is not on.
func otherHost(ctx context.Context, w *world) (any, error) {
	i, err := w.run.Info(ctx)
	for _, h := range w.hosts(ctx) {
		if h.ID != i.Host {
			return h.ID, err
		}
	}
	return nil, fmt.Errorf("no other host: %w", err)
}

func localStore(ctx context.Context, w *world) (any, error) {
	i, err := w.run.Info(ctx)
	if err != nil {
		return nil, err
	}
	for d, err := range w.c.Datastores(ctx) {
		if err == nil && !d.Shared && slices.Contains(d.Hosts, i.Host) {
			return d.ID, nil
		}
	}
	return nil, fmt.Errorf("no local datastore on %s", i.Host)
}

func newDisk() hypervisor.DiskSpec { return hypervisor.DiskSpec{SizeBytes: hypervisor.GiB} }

// opCases are the operations of the driver. Names are stable: the golden numbers of calls are
// by name.
func opCases() []opCase {
	none := func(context.Context, *world) (any, error) { return nil, nil }
	power := func(name string, prep, f func(*hypervisor.VM, context.Context) *hypervisor.Task[hypervisor.None]) opCase {
		return opCase{name, func(ctx context.Context, w *world) (any, error) {
			if prep != nil {
				return nil, wait(ctx, prep(w.run, ctx))
			}
			return nil, nil
		}, func(ctx context.Context, w *world, _ any) error { return wait(ctx, f(w.run, ctx)) }, ""}
	}
	do := func(name string, f func(ctx context.Context, w *world) error) opCase {
		return opCase{name, none, func(ctx context.Context, w *world, _ any) error { return f(ctx, w) }, ""}
	}
	clone := func(name string, src func(*world) *hypervisor.VM, o hypervisor.CloneOptions) opCase {
		return opCase{name, none, func(ctx context.Context, w *world, _ any) error {
			o := o
			return wait(ctx, src(w).Clone(ctx, "made", &o))
		}, "made"}
	}
	off, run := func(w *world) *hypervisor.VM { return w.off }, func(w *world) *hypervisor.VM { return w.run }
	spec := func(s hypervisor.VMSpec) func(context.Context, *world, any) error {
		return func(ctx context.Context, w *world, _ any) error { return wait(ctx, w.c.CreateVM(ctx, s)) }
	}
	pause := (*hypervisor.VM).Pause
	return []opCase{
		do("list brief", func(ctx context.Context, w *world) error {
			return drain(w.c.VMs(ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}))
		}),
		do("list full", func(ctx context.Context, w *world) error { return drain(w.c.VMs(ctx, nil)) }),
		do("info", func(ctx context.Context, w *world) error { _, err := w.run.Info(ctx); return err }),
		do("hosts", func(ctx context.Context, w *world) error { return drain(w.c.Hosts(ctx)) }),
		do("datastores", func(ctx context.Context, w *world) error { return drain(w.c.Datastores(ctx)) }),
		do("volumes", func(ctx context.Context, w *world) error { return drain(w.c.Volumes(ctx, "")) }),
		do("networks", func(ctx context.Context, w *world) error { return drain(w.c.Networks(ctx)) }),
		do("devices", func(ctx context.Context, w *world) error { return drain(w.c.Devices(ctx, nil)) }),
		do("guest", func(ctx context.Context, w *world) error { _, err := w.run.Guest(ctx); return err }),
		do("dependencies", func(ctx context.Context, w *world) error { _, err := w.off.Dependencies(ctx); return err }),
		do("labels", func(ctx context.Context, w *world) error { return w.off.SetLabels(ctx, map[string]string{"a": "b"}) }),
		{"snapshots", snapshotOf, func(ctx context.Context, w *world, _ any) error { _, err := w.off.Snapshots(ctx); return err }, ""},
		{"create", none, spec(hypervisor.VMSpec{Name: "made", MemoryBytes: 256 * hypervisor.MiB, Disks: []hypervisor.DiskSpec{newDisk(), newDisk()},
			NICs: []hypervisor.NICSpec{{}}}), ""},
		{"create with token", none, spec(hypervisor.VMSpec{Name: "made", MemoryBytes: 256 * hypervisor.MiB, Disks: []hypervisor.DiskSpec{newDisk()},
			NICs: []hypervisor.NICSpec{{}}, Token: "t1", Start: true}), "made"},
		clone("clone full", off, hypervisor.CloneOptions{Token: "t1"}),
		clone("clone linked", off, hypervisor.CloneOptions{Token: "t1", Mode: hypervisor.CloneModeLinked, CPUs: 3, Labels: map[string]string{"k": "v"}}),
		clone("clone running", run, hypervisor.CloneOptions{Token: "t1"}),
		{"clone without token", none, func(ctx context.Context, w *world, _ any) error { return wait(ctx, w.run.Clone(ctx, "made", nil)) }, ""},
		{"clone from snapshot", snapshotOf, func(ctx context.Context, w *world, s any) error {
			return wait(ctx, w.off.Clone(ctx, "made", &hypervisor.CloneOptions{From: s.(*hypervisor.Snapshot).ID(), Token: "t1"}))
		}, "made"},
		{"deploy", func(ctx context.Context, w *world) (any, error) { return w.c.FindTemplate(ctx, "Debian Bookworm 12") },
			func(ctx context.Context, w *world, t any) error {
				return wait(ctx, t.(*hypervisor.Template).Deploy(ctx, "made", &hypervisor.CloneOptions{Token: "t1"}))
			}, "made"},
		do("snapshot", func(ctx context.Context, w *world) error { _, err := snapshotOf(ctx, w); return err }),
		do("checkpoint", func(ctx context.Context, w *world) error {
			return wait(ctx, w.run.CreateSnapshot(ctx, "ram", &hypervisor.SnapshotOptions{Memory: true, Description: "d"}))
		}),
		{"revert", func(ctx context.Context, w *world) (any, error) {
			return w.run.CreateSnapshot(ctx, "ram", &hypervisor.SnapshotOptions{Memory: true}).Wait(ctx)
		}, func(ctx context.Context, _ *world, s any) error {
			return wait(ctx, s.(*hypervisor.Snapshot).Revert(ctx, nil))
		}, ""},
		{"delete snapshot", snapshotOf, func(ctx context.Context, _ *world, s any) error {
			return wait(ctx, s.(*hypervisor.Snapshot).Delete(ctx, nil))
		}, ""},
		{"delete", snapshotOf, func(ctx context.Context, w *world, _ any) error {
			return wait(ctx, w.off.Delete(ctx, hypervisor.DeleteDisks, nil))
		}, ""},
		do("start", func(ctx context.Context, w *world) error { return wait(ctx, w.off.Start(ctx)) }),
		power("power off", nil, (*hypervisor.VM).PowerOff),
		power("shutdown", nil, func(m *hypervisor.VM, ctx context.Context) *hypervisor.Task[hypervisor.None] {
			return m.Shutdown(ctx, nil)
		}),
		power("reset", nil, (*hypervisor.VM).Reset),
		power("pause", nil, pause),
		power("suspend", nil, (*hypervisor.VM).Suspend),
		power("resume", pause, (*hypervisor.VM).Resume),
		do("reconfigure", func(ctx context.Context, w *world) error {
			return wait(ctx, w.off.Reconfigure(ctx, hypervisor.Changes{CPUs: 4, MemoryBytes: 2 * hypervisor.GiB, Name: "renamed"}))
		}),
		do("attach disk", func(ctx context.Context, w *world) error { return wait(ctx, w.run.AttachDisk(ctx, newDisk())) }),
		{"attach image", func(ctx context.Context, w *world) (any, error) { return diskOf(ctx, w.off) }, func(ctx context.Context, w *world, d any) error {
			return wait(ctx, w.off.AttachDisk(ctx, hypervisor.DiskSpec{Image: d.(hypervisor.DiskInfo).Volume}))
		}, ""},
		{"detach disk", func(ctx context.Context, w *world) (any, error) { return diskOf(ctx, w.off) }, func(ctx context.Context, w *world, d any) error {
			return wait(ctx, w.off.DetachDisk(ctx, d.(hypervisor.DiskInfo).ID, hypervisor.DeleteDisks))
		}, ""},
		{"grow disk", func(ctx context.Context, w *world) (any, error) { return diskOf(ctx, w.off) }, func(ctx context.Context, w *world, d any) error {
			return wait(ctx, w.off.GrowDisk(ctx, d.(hypervisor.DiskInfo).ID, 12*hypervisor.GiB))
		}, ""},
		do("attach adapter", func(ctx context.Context, w *world) error {
			return wait(ctx, w.run.AttachNIC(ctx, hypervisor.NICSpec{}))
		}),
		{"detach adapter", func(ctx context.Context, w *world) (any, error) { return w.off.Info(ctx) }, func(ctx context.Context, w *world, i any) error {
			return wait(ctx, w.off.DetachNIC(ctx, i.(hypervisor.VMInfo).NICs[0].ID))
		}, ""},
		do("restart priority", func(ctx context.Context, w *world) error {
			return wait(ctx, w.run.SetRestartPriority(ctx, hypervisor.RestartMedium))
		}),
		do("availability", func(ctx context.Context, w *world) error { _, err := w.run.Availability(ctx); return err }),
		do("mark template", func(ctx context.Context, w *world) error { return wait(ctx, w.off.MarkTemplate(ctx)) }),
		{"mark machine", func(ctx context.Context, w *world) (any, error) { return w.off.MarkTemplate(ctx).Wait(ctx) }, func(ctx context.Context, _ *world, t any) error {
			return wait(ctx, t.(*hypervisor.Template).MarkVM(ctx, hypervisor.Placement{}))
		}, ""},
		do("attach device", func(ctx context.Context, w *world) error {
			return wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Class: hypervisor.ClassNetwork}))
		}),
		do("attach vGPU", func(ctx context.Context, w *world) error {
			return wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Profile: "GRID M60-2Q"}))
		}),
		{"detach device", func(ctx context.Context, w *world) (any, error) {
			return w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Profile: "GRID M60-2Q"}).Wait(ctx)
		}, func(ctx context.Context, w *world, a any) error {
			return wait(ctx, w.off.DetachDevice(ctx, a.(hypervisor.AttachedDevice).ID))
		}, ""},
		{"check migration", otherHost, func(ctx context.Context, w *world, h any) error {
			_, err := w.run.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: h.(hypervisor.HostID)})
			return err
		}, ""},
		{"migrate", otherHost, func(ctx context.Context, w *world, h any) error {
			return wait(ctx, w.run.Migrate(ctx, hypervisor.MigrateOptions{Host: h.(hypervisor.HostID)}))
		}, ""},
		{"migrate storage", localStore, func(ctx context.Context, w *world, d any) error {
			return wait(ctx, w.run.Migrate(ctx, hypervisor.MigrateOptions{Storage: d.(hypervisor.DatastoreID)}))
		}, ""},
		{"create volume", localStore, func(ctx context.Context, w *world, d any) error {
			return wait(ctx, w.c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "vol", SizeBytes: hypervisor.GiB, Datastore: d.(hypervisor.DatastoreID)}))
		}, ""},
		{"delete volume", func(ctx context.Context, w *world) (any, error) {
			d, err := localStore(ctx, w)
			if err != nil {
				return nil, err
			}
			return w.c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "vol", SizeBytes: hypervisor.GiB, Datastore: d.(hypervisor.DatastoreID)}).Wait(ctx)
		}, func(ctx context.Context, w *world, v any) error {
			return wait(ctx, w.c.DeleteVolume(ctx, v.(hypervisor.VolumeID)))
		}, ""},
		{"maintenance", func(ctx context.Context, w *world) (any, error) { i, err := w.run.Info(ctx); return i.Host, err }, func(ctx context.Context, w *world, h any) error {
			return wait(ctx, w.c.Host(h.(hypervisor.HostID)).EnterMaintenance(ctx, &hypervisor.MaintenanceOptions{Evacuate: true}))
		}, ""},
	}
}
