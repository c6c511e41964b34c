package fake_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// stage has a running machine, one that is off with a snapshot, a template and a
// host with a device, and calls each operation by its name.
type stage struct {
	c        *hypervisor.Client
	run, off *hypervisor.VM
	tmpl     *hypervisor.Template
	snap     *hypervisor.Snapshot
	host     *hypervisor.Host
	device   hypervisor.DeviceInfo
}

func newStage(t *testing.T, b *fake.Backend, o *hypervisor.Options) *stage {
	t.Helper()
	c, err := b.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s := &stage{c: c}
	create := func(name string, start bool) *hypervisor.VM {
		return wait(t, c.CreateVM(t.Context(), hypervisor.VMSpec{Name: name, MemoryBytes: hypervisor.GiB, Start: start,
			Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}, NICs: []hypervisor.NICSpec{{}}}))
	}
	s.run, s.off = create("run", true), create("off", false)
	s.snap = wait(t, s.off.CreateSnapshot(t.Context(), "snap", nil))
	s.tmpl = wait(t, create("tmpl", false).MarkTemplate(t.Context()))
	hosts, err := hypervisor.Collect(c.Hosts(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	s.host = c.Host(hosts[0].ID)
	for d, err := range c.Devices(t.Context(), &hypervisor.DeviceFilter{Class: hypervisor.ClassDisplay}) {
		if err == nil {
			s.device = d
		}
	}
	return s
}

func done[T any](ctx context.Context, k *hypervisor.Task[T]) error {
	_, err := k.Wait(ctx)
	return err
}

func second[T any](_ T, err error) error { return err }

// calls has every operation that a method does.
func (s *stage) calls(ctx context.Context) map[op.Name]func() error {
	collect := func(n op.Name) error {
		switch n {
		case op.VMList:
			return second(hypervisor.Collect(s.c.VMs(ctx, nil)))
		case op.TemplateList:
			return second(hypervisor.Collect(s.c.Templates(ctx)))
		case op.HostList:
			return second(hypervisor.Collect(s.c.Hosts(ctx)))
		case op.HAList:
			return second(hypervisor.Collect(s.c.HA(ctx)))
		case op.DeviceList:
			return second(hypervisor.Collect(s.c.Devices(ctx, nil)))
		case op.DatastoreList:
			return second(hypervisor.Collect(s.c.Datastores(ctx)))
		case op.NetworkList:
			return second(hypervisor.Collect(s.c.Networks(ctx)))
		}
		return second(hypervisor.Collect(s.c.Volumes(ctx, "")))
	}
	out := map[op.Name]func() error{
		op.ClientSupports: func() error { return second(s.c.Supports(ctx, capability.CloneFull, hypervisor.Ref{})) },
		op.ClientWatch: func() error {
			for _, err := range s.c.Watch(ctx, "") {
				return err
			}
			return nil
		},
		op.TaskFind: func() error { return second(s.c.Task(ctx, "task-1")) },
		op.TaskCancel: func() error {
			k := s.off.Clone(ctx, "cancelled", nil)
			return errors.Join(k.Err(), k.Cancel(ctx))
		},
		op.VMFind:         func() error { return second(s.c.FindVM(ctx, "run")) },
		op.VMInfo:         func() error { return second(s.run.Info(ctx)) },
		op.VMDelete:       func() error { return done(ctx, s.off.Delete(ctx, hypervisor.DeleteDisks, nil)) },
		op.VMClone:        func() error { return done(ctx, s.off.Clone(ctx, "copy", nil)) },
		op.VMReconfigure:  func() error { return done(ctx, s.off.Reconfigure(ctx, hypervisor.Changes{CPUs: 2})) },
		op.VMSetLabels:    func() error { return s.run.SetLabels(ctx, nil) },
		op.VMDependencies: func() error { return second(s.run.Dependencies(ctx)) },
		op.VMStart:        func() error { return done(ctx, s.off.Start(ctx)) },
		op.VMShutdown:     func() error { return done(ctx, s.run.Shutdown(ctx, nil)) },
		op.VMPowerOff:     func() error { return done(ctx, s.run.PowerOff(ctx)) },
		op.VMReset:        func() error { return done(ctx, s.run.Reset(ctx)) },
		op.VMReboot:       func() error { return done(ctx, s.run.Reboot(ctx, nil)) },
		op.VMPause:        func() error { return done(ctx, s.run.Pause(ctx)) },
		op.VMSuspend:      func() error { return done(ctx, s.run.Suspend(ctx)) },
		op.VMResume:       func() error { return done(ctx, s.run.Resume(ctx)) },
		op.VMCheckMigrate: func() error { return second(s.run.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: "host-2"})) },
		op.VMMigrate:      func() error { return done(ctx, s.off.Migrate(ctx, hypervisor.MigrateOptions{Host: "host-2"})) },
		op.VMMarkTemplate: func() error { return done(ctx, s.off.MarkTemplate(ctx)) },
		op.VMAvailability: func() error { return second(s.run.Availability(ctx)) },
		op.VMSetRestartPriority: func() error {
			return done(ctx, s.run.SetRestartPriority(ctx, hypervisor.RestartHigh))
		},
		op.VMReplication:  func() error { return second(s.run.Replication(ctx)) },
		op.DiskAttach:     func() error { return done(ctx, s.off.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: hypervisor.GiB})) },
		op.DiskDetach:     func() error { return done(ctx, s.off.DetachDisk(ctx, "disk-x", hypervisor.DeleteDisks)) },
		op.DiskGrow:       func() error { return done(ctx, s.off.GrowDisk(ctx, "disk-x", 2*hypervisor.GiB)) },
		op.NICAttach:      func() error { return done(ctx, s.off.AttachNIC(ctx, hypervisor.NICSpec{})) },
		op.NICDetach:      func() error { return done(ctx, s.off.DetachNIC(ctx, "nic-x")) },
		op.SnapshotList:   func() error { return second(s.off.Snapshots(ctx)) },
		op.SnapshotFind:   func() error { return second(s.off.FindSnapshot(ctx, "snap")) },
		op.SnapshotInfo:   func() error { return second(s.snap.Info(ctx)) },
		op.SnapshotCreate: func() error { return done(ctx, s.off.CreateSnapshot(ctx, "next", nil)) },
		op.SnapshotRevert: func() error { return done(ctx, s.snap.Revert(ctx, nil)) },
		op.SnapshotDelete: func() error { return done(ctx, s.snap.Delete(ctx, nil)) },
		op.GuestInfo:      func() error { return second(s.run.Guest(ctx)) },
		op.GuestExec:      func() error { return second(s.run.Exec(ctx, hypervisor.ExecRequest{Path: "/bin/true"})) },
		op.GuestClock:     func() error { return second(s.run.Clock(ctx)) },
		op.GuestSetClock:  func() error { return s.run.SetClock(ctx, time.Time{}) },
		op.GuestFreeze:    func() error { return s.run.Freeze(ctx) },
		op.GuestThaw:      func() error { return s.run.Thaw(ctx) },
		op.TemplateFind:   func() error { return second(s.c.FindTemplate(ctx, "tmpl")) },
		op.TemplateInfo:   func() error { return second(s.tmpl.Info(ctx)) },
		op.TemplateDeploy: func() error { return done(ctx, s.tmpl.Deploy(ctx, "deployed", nil)) },
		op.TemplateDelete: func() error { return done(ctx, s.tmpl.Delete(ctx, hypervisor.DeleteDisks)) },
		op.TemplateMarkVM: func() error { return done(ctx, s.tmpl.MarkVM(ctx, hypervisor.Placement{})) },
		op.TemplateSetLabels: func() error {
			return s.tmpl.SetLabels(ctx, nil)
		},
		op.HostFind:             func() error { return second(s.c.FindHost(ctx, "host-1")) },
		op.HostInfo:             func() error { return second(s.host.Info(ctx)) },
		op.HostEnterMaintenance: func() error { return done(ctx, s.host.EnterMaintenance(ctx, nil)) },
		op.HostExitMaintenance:  func() error { return done(ctx, s.host.ExitMaintenance(ctx)) },
		op.DeviceAttach:         func() error { return done(ctx, s.off.AttachDevice(ctx, hypervisor.DeviceRequest{ID: s.device.ID})) },
		op.DeviceDetach:         func() error { return done(ctx, s.off.DetachDevice(ctx, "device-x")) },
		op.DevicePrepare: func() error {
			return done(ctx, s.c.PrepareDevice(ctx, s.device.ID, hypervisor.DevicePreparation{VFs: new(int)}))
		},
		op.VolumeCreate: func() error {
			return done(ctx, s.c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: "v", Datastore: "datastore-1", SizeBytes: hypervisor.GiB}))
		},
		op.VolumeDelete: func() error { return done(ctx, s.c.DeleteVolume(ctx, "volume-x")) },
		op.VMCreate: func() error {
			return done(ctx, s.c.CreateVM(ctx, hypervisor.VMSpec{Name: "new", MemoryBytes: hypervisor.GiB}))
		},
		op.ClientPlace:   func() error { return second(s.c.Place(ctx, hypervisor.PlaceRequest{VM: s.run.ID()})) },
		op.ClientBalance: func() error { return second(s.c.PlanBalance(ctx, nil)) },
		op.ClientAs:      func() error { return second(hypervisor.As[*fake.Driver](ctx, s.c, s.c)) },
		op.HostEvacuate:  func() error { return done(ctx, s.host.Evacuate(ctx, nil)) },
		op.ClientClose:   func() error { return s.c.Close() },
	}
	for _, n := range []op.Name{op.VMList, op.TemplateList, op.HostList, op.HAList, op.DeviceList, op.DatastoreList, op.NetworkList, op.VolumeList} {
		out[n] = func() error { return collect(n) }
	}
	return out
}

// TestEveryOperationIsNamed: each operation of the table is what the Observer
// sees, and a fault armed with its name strikes; operations that never reach
// the platform are refused as a fault's name.
func TestEveryOperationIsNamed(t *testing.T) {
	struck := errors.New("struck")
	for _, o := range hypervisor.Operations() {
		if o.Method == "" || o.Name == op.ClientOpen {
			continue
		}
		t.Run(string(o.Name), func(t *testing.T) {
			b := fake.New(fake.Config{HA: true})
			var seen []op.Name
			s := newStage(t, b, &hypervisor.Options{Observer: func(ctx context.Context, c hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
				seen = append(seen, c.Name)
				return ctx, func(hypervisor.CallEnd) {}
			}})
			call := s.calls(t.Context())[o.Name]
			if call == nil {
				t.Fatal("this test doesn't call it")
			}
			composed := o.Name == op.ClientAs || o.Name == op.ClientClose || o.Name == op.HostEvacuate
			if text := failing(b, o.Name, struck); (text != "") != composed {
				t.Errorf("Fail panics with %q", text)
			}
			seen = nil
			err := call()
			if o.Name != op.ClientClose && o.Name != op.TaskCancel && (len(seen) == 0 || seen[0] != o.Name) {
				t.Errorf("the Observer saw %v", seen)
			}
			if !composed && !errors.Is(err, struck) {
				t.Errorf("the fault did not strike: %v", err)
			}
			var he *hypervisor.Error
			if errors.As(err, &he) && he.Op != o.Name {
				t.Errorf("the error's operation is %s: %v", he.Op, err)
			}
		})
	}
}

// failing arms a fault and returns what Fail panicked with.
func failing(b *fake.Backend, name op.Name, err error) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprint(p)
		}
	}()
	b.Fail(fake.Fault{Op: name, Err: err})
	return ""
}

func TestUnknownNamesFailAtOnce(t *testing.T) {
	for what, f := range map[string]func(){
		"Fault.Op":            func() { fake.New(fake.Config{}).Fail(fake.Fault{Op: "migrate"}) },
		"SetDelay":            func() { fake.New(fake.Config{}).SetDelay("vm.migrat", time.Second) },
		"Config.Delays":       func() { fake.New(fake.Config{Delays: map[op.Name]time.Duration{"clone": time.Second}}) },
		"Config.Uncancelable": func() { fake.New(fake.Config{Uncancelable: []op.Name{"clone"}}) },
		"takes no time":       func() { fake.New(fake.Config{}).SetDelay(op.VMInfo, time.Second) },
	} {
		t.Run(what, func(t *testing.T) {
			defer func() {
				if p := fmt.Sprint(recover()); !strings.Contains(p, what) || !strings.Contains(p, `"`) {
					t.Errorf("panicked with %q, which doesn't name %s", p, what)
				}
			}()
			f()
		})
	}
}

// TestDelayPatterns: a pattern delays all that it matches, the last call counts.
func TestDelayPatterns(t *testing.T) {
	b := fake.New(fake.Config{})
	s := newStage(t, b, nil)
	b.SetDelay("vm.*", time.Hour)
	b.SetDelay(op.VMStart, 0)
	if err := done(t.Context(), s.off.Start(t.Context())); err != nil {
		t.Error(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	if err := done(ctx, s.run.Pause(t.Context())); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Pause was not delayed: %v", err)
	}
}
