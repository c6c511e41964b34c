package hypervisortest

import (
	"context"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// verb calls an operation on a stage and waits for its end.
type verb func(ctx context.Context, s *stage) error

func done[T any](ctx context.Context, t *hypervisor.Task[T]) error {
	_, err := t.Wait(ctx)
	return err
}

func second[T any](_ T, err error) error { return err }

// reading are the verbs that change nothing.
var reading = map[op.Name]verb{
	op.ClientSupports: func(ctx context.Context, s *stage) error {
		return second(s.vm.Supports(ctx, capability.SnapshotMemory))
	},
	op.ClientWatch: func(ctx context.Context, s *stage) error {
		for _, err := range s.c.Watch(ctx, "") {
			if err != nil {
				return err
			}
		}
		return ctx.Err()
	},
	op.ClientPlace: func(ctx context.Context, s *stage) error {
		return second(s.c.Place(ctx, hypervisor.PlaceRequest{VM: s.vm.ID()}))
	},
	op.ClientBalance: func(ctx context.Context, s *stage) error { return second(s.c.PlanBalance(ctx, nil)) },
	op.TaskFind:      func(ctx context.Context, s *stage) error { return second(s.c.Task(ctx, s.task)) },
	op.VMList: func(ctx context.Context, s *stage) error {
		return second(hypervisor.Collect(s.c.VMs(ctx, &hypervisor.ListOptions{PageSize: 2})))
	},
	op.VMFind:         func(ctx context.Context, s *stage) error { return second(s.c.FindVM(ctx, s.name)) },
	op.VMInfo:         func(ctx context.Context, s *stage) error { return second(s.vm.Info(ctx)) },
	op.VMDependencies: func(ctx context.Context, s *stage) error { return second(s.vm.Dependencies(ctx)) },
	op.VMCheckMigrate: func(ctx context.Context, s *stage) error {
		return second(s.vm.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: s.host}))
	},
	op.VMAvailability: func(ctx context.Context, s *stage) error { return second(s.vm.Availability(ctx)) },
	op.VMReplication:  func(ctx context.Context, s *stage) error { return second(s.vm.Replication(ctx)) },
	op.SnapshotList:   func(ctx context.Context, s *stage) error { return second(s.vm.Snapshots(ctx)) },
	op.SnapshotFind:   func(ctx context.Context, s *stage) error { return second(s.vm.FindSnapshot(ctx, "snap")) },
	op.SnapshotInfo:   func(ctx context.Context, s *stage) error { return second(s.snapshot().Info(ctx)) },
	op.GuestInfo:      func(ctx context.Context, s *stage) error { return second(s.vm.Guest(ctx)) },
	op.GuestClock:     func(ctx context.Context, s *stage) error { return second(s.vm.Clock(ctx)) },
	op.TemplateList:   func(ctx context.Context, s *stage) error { return second(hypervisor.Collect(s.c.Templates(ctx))) },
	op.TemplateFind:   func(ctx context.Context, s *stage) error { return second(s.c.FindTemplate(ctx, s.name+"-template")) },
	op.TemplateInfo:   func(ctx context.Context, s *stage) error { return second(s.template().Info(ctx)) },
	op.HostList:       func(ctx context.Context, s *stage) error { return second(hypervisor.Collect(s.c.Hosts(ctx))) },
	op.HostFind:       func(ctx context.Context, s *stage) error { return second(s.c.FindHost(ctx, s.hostName)) },
	op.HostInfo:       func(ctx context.Context, s *stage) error { return second(s.c.Host(s.host).Info(ctx)) },
	op.HAList:         func(ctx context.Context, s *stage) error { return second(hypervisor.Collect(s.c.HA(ctx))) },
	op.DeviceList:     func(ctx context.Context, s *stage) error { return second(hypervisor.Collect(s.c.Devices(ctx, nil))) },
	op.DatastoreList:  func(ctx context.Context, s *stage) error { return second(hypervisor.Collect(s.c.Datastores(ctx))) },
	op.NetworkList:    func(ctx context.Context, s *stage) error { return second(hypervisor.Collect(s.c.Networks(ctx))) },
	op.VolumeList:     func(ctx context.Context, s *stage) error { return second(hypervisor.Collect(s.c.Volumes(ctx, ""))) },
}

// changing are the verbs that change something, in their plainest form.
var changing = map[op.Name]verb{
	op.TaskCancel: func(ctx context.Context, s *stage) error { return s.work.Cancel(ctx) },

	op.VMCreate: func(ctx context.Context, s *stage) error {
		spec := s.Spec(s.made())
		spec.Token = s.token()
		return done(ctx, s.c.CreateVM(ctx, spec))
	},
	op.VMDelete: func(ctx context.Context, s *stage) error {
		return done(ctx, s.vm.Delete(ctx, hypervisor.DeleteDisks, nil))
	},
	op.VMClone: func(ctx context.Context, s *stage) error { return s.clone(ctx, hypervisor.CloneOptions{}) },
	op.VMReconfigure: func(ctx context.Context, s *stage) error {
		text := "changed"
		return done(ctx, s.vm.Reconfigure(ctx, hypervisor.Changes{Name: s.name + "-renamed", CPUs: 2, MemoryBytes: 512 * hypervisor.MiB, Description: &text}))
	},
	op.VMSetLabels: func(ctx context.Context, s *stage) error {
		return s.vm.SetLabels(ctx, map[string]string{"new": "label"})
	},
	op.VMStart:        func(ctx context.Context, s *stage) error { return done(ctx, s.vm.Start(ctx)) },
	op.VMShutdown:     func(ctx context.Context, s *stage) error { return done(ctx, s.vm.Shutdown(ctx, nil)) },
	op.VMPowerOff:     func(ctx context.Context, s *stage) error { return done(ctx, s.vm.PowerOff(ctx)) },
	op.VMReset:        func(ctx context.Context, s *stage) error { return done(ctx, s.vm.Reset(ctx)) },
	op.VMReboot:       func(ctx context.Context, s *stage) error { return done(ctx, s.vm.Reboot(ctx, nil)) },
	op.VMPause:        func(ctx context.Context, s *stage) error { return done(ctx, s.vm.Pause(ctx)) },
	op.VMSuspend:      func(ctx context.Context, s *stage) error { return done(ctx, s.vm.Suspend(ctx)) },
	op.VMResume:       func(ctx context.Context, s *stage) error { return done(ctx, s.vm.Resume(ctx)) },
	op.VMMigrate:      func(ctx context.Context, s *stage) error { return s.move(ctx, s.host, "") },
	op.VMMarkTemplate: func(ctx context.Context, s *stage) error { return done(ctx, s.vm.MarkTemplate(ctx)) },
	op.VMSetRestartPriority: func(ctx context.Context, s *stage) error {
		return done(ctx, s.vm.SetRestartPriority(ctx, hypervisor.RestartLow))
	},

	op.DiskAttach: func(ctx context.Context, s *stage) error {
		return done(ctx, s.vm.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: 8 * hypervisor.MiB}))
	},
	op.DiskDetach: func(ctx context.Context, s *stage) error {
		return done(ctx, s.vm.DetachDisk(ctx, s.disk, hypervisor.DeleteDisks))
	},
	op.DiskGrow: func(ctx context.Context, s *stage) error {
		return done(ctx, s.vm.GrowDisk(ctx, s.disk, s.diskBytes+16*hypervisor.MiB))
	},
	op.NICAttach: func(ctx context.Context, s *stage) error { return done(ctx, s.vm.AttachNIC(ctx, hypervisor.NICSpec{})) },
	op.NICDetach: func(ctx context.Context, s *stage) error { return done(ctx, s.vm.DetachNIC(ctx, s.nic)) },

	op.SnapshotCreate: func(ctx context.Context, s *stage) error { return done(ctx, s.vm.CreateSnapshot(ctx, "new", nil)) },
	op.SnapshotRevert: func(ctx context.Context, s *stage) error { return done(ctx, s.snapshot().Revert(ctx, nil)) },
	op.SnapshotDelete: func(ctx context.Context, s *stage) error { return done(ctx, s.snapshot().Delete(ctx, nil)) },

	op.GuestExec: func(ctx context.Context, s *stage) error {
		return second(s.vm.Exec(ctx, hypervisor.ExecRequest{Path: "/bin/true", User: s.Login.Username, Password: s.Login.Password}))
	},
	op.GuestSetClock: func(ctx context.Context, s *stage) error { return s.vm.SetClock(ctx, time.Time{}) },
	op.GuestFreeze:   func(ctx context.Context, s *stage) error { return s.vm.Freeze(ctx) },
	op.GuestThaw:     func(ctx context.Context, s *stage) error { return s.vm.Thaw(ctx) },

	op.TemplateDeploy: func(ctx context.Context, s *stage) error {
		return done(ctx, s.template().Deploy(ctx, s.made(), &hypervisor.CloneOptions{Token: s.token()}))
	},
	op.TemplateDelete: func(ctx context.Context, s *stage) error {
		return done(ctx, s.template().Delete(ctx, hypervisor.DeleteDisks))
	},
	op.TemplateMarkVM: func(ctx context.Context, s *stage) error {
		t := s.template().MarkVM(ctx, hypervisor.Placement{})
		if err := done(ctx, t); err != nil {
			return err
		}
		s.dropNoted(t.Notes())
		return nil
	},
	op.TemplateSetLabels: func(ctx context.Context, s *stage) error {
		return s.template().SetLabels(ctx, map[string]string{"new": "label"})
	},

	op.HostEvacuate: func(ctx context.Context, s *stage) error { return done(ctx, s.c.Host(s.at).Evacuate(ctx, nil)) },
	op.HostEnterMaintenance: func(ctx context.Context, s *stage) error {
		return done(ctx, s.c.Host(s.at).EnterMaintenance(ctx, &hypervisor.MaintenanceOptions{Evacuate: true}))
	},
	op.HostExitMaintenance: func(ctx context.Context, s *stage) error { return done(ctx, s.c.Host(s.at).ExitMaintenance(ctx)) },

	op.DeviceAttach: func(ctx context.Context, s *stage) error { return done(ctx, s.vm.AttachDevice(ctx, s.Device)) },
	op.DeviceDetach: func(ctx context.Context, s *stage) error { return done(ctx, s.vm.DetachDevice(ctx, s.attachment)) },
	op.DevicePrepare: func(ctx context.Context, s *stage) error {
		return done(ctx, s.c.PrepareDevice(ctx, s.device, s.preparation))
	},

	op.VolumeCreate: func(ctx context.Context, s *stage) error { return s.createVolume(ctx, "") },
	op.VolumeDelete: func(ctx context.Context, s *stage) error { return done(ctx, s.c.DeleteVolume(ctx, s.volume)) },
}

// unsent are the operations for which nothing is sent to the platform, or that
// have no Client yet.
var unsent = map[op.Name]string{
	op.ClientOpen:  "the area contexts opens Clients",
	op.ClientClose: "the area contexts closes Clients",
	op.ClientAs:    "the native object is the driver's own, so that no area knows its type",
}
