package hyperv

import (
	"context"
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// opCase is one operation, done to its end.
type opCase struct {
	name string
	// prepare runs before faults and counting; do gets what it returns.
	prepare func(context.Context, *world) (any, error)
	do      func(context.Context, *world, any) error
	creates bool // a machine called "made", with a token
}

func wait[T any](ctx context.Context, t *hypervisor.Task[T]) error { _, err := t.Wait(ctx); return err }

func diskOf(ctx context.Context, w *world) (any, error) {
	i, err := w.off.Info(ctx)
	if err != nil || len(i.Disks) == 0 {
		return nil, fmt.Errorf("disks %v: %w", i.Disks, err)
	}
	return i.Disks[0], nil
}

func snapshotOf(ctx context.Context, w *world) (any, error) {
	return w.off.CreateSnapshot(ctx, "snap", nil).Wait(ctx)
}

// treeOf makes a snapshot with a child.
func treeOf(ctx context.Context, w *world) (any, error) {
	s, err := snapshotOf(ctx, w)
	if err != nil {
		return nil, err
	}
	return s, wait(ctx, w.off.CreateSnapshot(ctx, "child", nil))
}

func templateOf(ctx context.Context, w *world) (any, error) { return w.off.MarkTemplate(ctx).Wait(ctx) }

// assignable gives back the ID of a device that machines can have.
func assignable(ctx context.Context, w *world) (any, error) {
	return nil, dismountAll(ctx, w.c, "25b6")
}

func clustered(_ context.Context, w *world) (any, error) {
	return nil, w.sim.Cluster(string(w.run.ID()))
}

func (w *world) device(ctx context.Context, product string) (hypervisor.DeviceID, error) {
	for d, err := range w.c.Devices(ctx, &hypervisor.DeviceFilter{Product: product}) {
		return d.ID, err
	}
	return "", fmt.Errorf("no device %s", product)
}

func (w *world) volume() hypervisor.VolumeSpec {
	return hypervisor.VolumeSpec{Name: "vol", SizeBytes: hypervisor.GiB, Datastore: hypervisor.DatastoreID(w.config.Hosts[0] + "|C:")}
}

// opCases are the operations of the driver that change something.
func opCases() []opCase {
	none := func(context.Context, *world) (any, error) { return nil, nil }
	do := func(name string, f func(ctx context.Context, w *world) error) opCase {
		return opCase{name, none, func(ctx context.Context, w *world, _ any) error { return f(ctx, w) }, false}
	}
	power := func(name string, prep, f func(*hypervisor.VM, context.Context) *hypervisor.Task[hypervisor.None]) opCase {
		return opCase{name, func(ctx context.Context, w *world) (any, error) {
			if prep != nil {
				return nil, wait(ctx, prep(w.run, ctx))
			}
			return nil, nil
		}, func(ctx context.Context, w *world, _ any) error { return wait(ctx, f(w.run, ctx)) }, false}
	}
	clone := func(name string, src func(*world) *hypervisor.VM, o hypervisor.CloneOptions) opCase {
		return opCase{name, none, func(ctx context.Context, w *world, _ any) error {
			o := o
			return wait(ctx, src(w).Clone(ctx, "made", &o))
		}, true}
	}
	deploy := func(mode hypervisor.CloneMode) func(context.Context, *world, any) error {
		return func(ctx context.Context, w *world, t any) error {
			return wait(ctx, t.(*hypervisor.Template).Deploy(ctx, "made", &hypervisor.CloneOptions{Mode: mode, Token: "t1"}))
		}
	}
	migrate := func(name string, vm func(*world) *hypervisor.VM, o func(*world) hypervisor.MigrateOptions) opCase {
		return do(name, func(ctx context.Context, w *world) error { return wait(ctx, vm(w).Migrate(ctx, o(w))) })
	}
	off, run := func(w *world) *hypervisor.VM { return w.off }, func(w *world) *hypervisor.VM { return w.run }
	there := func(w *world) hypervisor.HostID { return hypervisor.HostID(w.config.Hosts[1]) }
	disk := hypervisor.DiskSpec{SizeBytes: hypervisor.GiB}
	yes, no, two := true, false, 2
	return []opCase{
		{"create", none, func(ctx context.Context, w *world, _ any) error {
			return wait(ctx, w.c.CreateVM(ctx, hypervisor.VMSpec{Name: "made", CPUs: 2, MemoryBytes: 512 * hypervisor.MiB, Disks: []hypervisor.DiskSpec{disk, disk}, NICs: []hypervisor.NICSpec{{}},
				Token: "t1", Start: true, Placement: hypervisor.Placement{Host: hypervisor.HostID(w.config.Hosts[0])}}))
		}, true},
		clone("clone full", off, hypervisor.CloneOptions{Token: "t1"}),
		clone("clone linked", off, hypervisor.CloneOptions{Token: "t1", Mode: hypervisor.Linked, CPUs: 3, Labels: map[string]string{"k": "v"}}),
		clone("clone running", run, hypervisor.CloneOptions{Token: "t1"}),
		{"clone from snapshot", snapshotOf, func(ctx context.Context, w *world, s any) error {
			return wait(ctx, w.off.Clone(ctx, "made", &hypervisor.CloneOptions{From: s.(*hypervisor.Snapshot).ID(), Token: "t1"}))
		}, true},
		{"deploy", templateOf, deploy(hypervisor.FullClone), true},
		{"deploy linked", templateOf, deploy(hypervisor.Linked), true},
		do("snapshot", func(ctx context.Context, w *world) error { _, err := snapshotOf(ctx, w); return err }),
		do("snapshot with RAM", func(ctx context.Context, w *world) error {
			return wait(ctx, w.run.CreateSnapshot(ctx, "ram", &hypervisor.SnapshotOptions{Memory: true, Description: "d"}))
		}),
		{"revert", func(ctx context.Context, w *world) (any, error) {
			return w.run.CreateSnapshot(ctx, "ram", &hypervisor.SnapshotOptions{Memory: true}).Wait(ctx)
		}, func(ctx context.Context, _ *world, s any) error {
			return wait(ctx, s.(*hypervisor.Snapshot).Revert(ctx, nil))
		}, false},
		{"delete snapshot", treeOf, func(ctx context.Context, _ *world, s any) error {
			return wait(ctx, s.(*hypervisor.Snapshot).Delete(ctx, nil))
		}, false},
		{"delete snapshots", treeOf, func(ctx context.Context, _ *world, s any) error {
			return wait(ctx, s.(*hypervisor.Snapshot).Delete(ctx, &hypervisor.DeleteSnapshotOptions{Children: true}))
		}, false},
		{"delete", snapshotOf, func(ctx context.Context, w *world, _ any) error {
			return wait(ctx, w.off.Delete(ctx, hypervisor.DeleteDisks, nil))
		}, false},
		do("delete running", func(ctx context.Context, w *world) error {
			return wait(ctx, w.run.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}))
		}),
		{"delete and keep disks", treeOf, func(ctx context.Context, w *world, _ any) error {
			return wait(ctx, w.off.Delete(ctx, hypervisor.KeepDisks, nil))
		}, false},
		do("mark template", func(ctx context.Context, w *world) error { return wait(ctx, w.off.MarkTemplate(ctx)) }),
		{"mark machine", templateOf, func(ctx context.Context, _ *world, t any) error {
			return wait(ctx, t.(*hypervisor.Template).MarkVM(ctx, hypervisor.Placement{}))
		}, false},
		do("start", func(ctx context.Context, w *world) error { return wait(ctx, w.off.Start(ctx)) }),
		power("power off", nil, (*hypervisor.VM).PowerOff),
		power("power off suspended", (*hypervisor.VM).Suspend, (*hypervisor.VM).PowerOff),
		power("shutdown", nil, func(m *hypervisor.VM, ctx context.Context) *hypervisor.Task[hypervisor.None] {
			return m.Shutdown(ctx, nil)
		}),
		power("reset", nil, (*hypervisor.VM).Reset),
		power("pause", nil, (*hypervisor.VM).Pause),
		power("suspend", nil, (*hypervisor.VM).Suspend),
		power("resume", (*hypervisor.VM).Pause, (*hypervisor.VM).Resume),
		do("reconfigure", func(ctx context.Context, w *world) error {
			return wait(ctx, w.off.Reconfigure(ctx, hypervisor.Changes{CPUs: 4, MemoryBytes: 2 * hypervisor.GiB, Name: "renamed"}))
		}),
		do("labels", func(ctx context.Context, w *world) error { return w.off.SetLabels(ctx, map[string]string{"a": "b"}) }),
		do("attach disk", func(ctx context.Context, w *world) error { return wait(ctx, w.run.AttachDisk(ctx, disk)) }),
		{"attach image", diskOf, func(ctx context.Context, w *world, d any) error {
			return wait(ctx, w.off.AttachDisk(ctx, hypervisor.DiskSpec{Image: d.(hypervisor.DiskInfo).Volume, SizeBytes: 30 * hypervisor.GiB}))
		}, false},
		{"detach disk", diskOf, func(ctx context.Context, w *world, d any) error {
			return wait(ctx, w.off.DetachDisk(ctx, d.(hypervisor.DiskInfo).ID, hypervisor.DeleteDisks))
		}, false},
		{"grow disk", diskOf, func(ctx context.Context, w *world, d any) error {
			return wait(ctx, w.off.GrowDisk(ctx, d.(hypervisor.DiskInfo).ID, 32*hypervisor.GiB))
		}, false},
		do("attach adapter", func(ctx context.Context, w *world) error {
			return wait(ctx, w.run.AttachNIC(ctx, hypervisor.NICSpec{Model: "sr-iov"}))
		}),
		{"detach adapter", func(ctx context.Context, w *world) (any, error) { return w.off.Info(ctx) }, func(ctx context.Context, w *world, i any) error {
			return wait(ctx, w.off.DetachNIC(ctx, i.(hypervisor.VMInfo).NICs[0].ID))
		}, false},
		migrate("migrate live", run, func(w *world) hypervisor.MigrateOptions { return hypervisor.MigrateOptions{Host: there(w)} }),
		migrate("migrate cold", off, func(w *world) hypervisor.MigrateOptions { return hypervisor.MigrateOptions{Host: there(w)} }),
		migrate("migrate storage", run, func(w *world) hypervisor.MigrateOptions {
			return hypervisor.MigrateOptions{Storage: hypervisor.DatastoreID(w.config.Hosts[0] + "|C:")}
		}),
		migrate("migrate with storage", run, func(w *world) hypervisor.MigrateOptions {
			return hypervisor.MigrateOptions{Host: there(w), Storage: hypervisor.DatastoreID(w.config.Hosts[1] + "|C:")}
		}),
		do("restart priority", func(ctx context.Context, w *world) error {
			return wait(ctx, w.run.SetRestartPriority(ctx, hypervisor.RestartLow))
		}),
		{"delete clustered", clustered, func(ctx context.Context, w *world, _ any) error {
			return wait(ctx, w.run.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}))
		}, false},
		{"migrate clustered", clustered, func(ctx context.Context, w *world, _ any) error {
			return wait(ctx, w.run.Migrate(ctx, hypervisor.MigrateOptions{Host: there(w)}))
		}, false},
		{"attach device", assignable, func(ctx context.Context, w *world, _ any) error {
			return wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "10de", Product: "25b6"}))
		}, false},
		do("attach partition", func(ctx context.Context, w *world) error {
			return wait(ctx, w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Profile: partitionProfile}))
		}),
		{"detach device", func(ctx context.Context, w *world) (any, error) {
			if _, err := assignable(ctx, w); err != nil {
				return nil, err
			}
			return w.off.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "10de", Product: "25b6"}).Wait(ctx)
		}, func(ctx context.Context, w *world, a any) error {
			return wait(ctx, w.off.DetachDevice(ctx, a.(hypervisor.AttachedDevice).ID))
		}, false},
		{"dismount device", func(ctx context.Context, w *world) (any, error) { return w.device(ctx, "25b6") }, func(ctx context.Context, w *world, d any) error {
			return wait(ctx, w.c.PrepareDevice(ctx, d.(hypervisor.DeviceID), hypervisor.DevicePreparation{Passthrough: &yes}))
		}, false},
		{"mount device", func(ctx context.Context, w *world) (any, error) {
			if _, err := assignable(ctx, w); err != nil {
				return nil, err
			}
			return w.device(ctx, "25b6")
		}, func(ctx context.Context, w *world, d any) error {
			return wait(ctx, w.c.PrepareDevice(ctx, d.(hypervisor.DeviceID), hypervisor.DevicePreparation{Passthrough: &no}))
		}, false},
		{"split device", func(ctx context.Context, w *world) (any, error) { return w.device(ctx, "2236") }, func(ctx context.Context, w *world, d any) error {
			return wait(ctx, w.c.PrepareDevice(ctx, d.(hypervisor.DeviceID), hypervisor.DevicePreparation{VFs: &two}))
		}, false},
		do("create volume", func(ctx context.Context, w *world) error { return wait(ctx, w.c.CreateVolume(ctx, w.volume())) }),
		{"delete volume", func(ctx context.Context, w *world) (any, error) { return w.c.CreateVolume(ctx, w.volume()).Wait(ctx) }, func(ctx context.Context, w *world, v any) error {
			return wait(ctx, w.c.DeleteVolume(ctx, v.(hypervisor.VolumeID)))
		}, false},
	}
}
