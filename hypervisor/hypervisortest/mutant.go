package hypervisortest

import (
	"context"
	"iter"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// mutant is a driver whose requests or results pass through a mutation.
type mutant struct {
	hypervisor.Driver
	m *mutation
}

// watching is a mutant of a driver with events.
type watching struct{ *mutant }

// wrap makes a mutant of a driver.
func (m *mutation) wrap(d hypervisor.Driver) hypervisor.Driver {
	x := &mutant{d, m}
	if _, ok := hypervisor.Ability[hypervisor.Watcher](d); ok {
		return watching{x}
	}
	return x
}

func (x *mutant) Unwrap() hypervisor.Driver { return x.Driver }

// through calls the driver below, if it has the ability, and passes on its
// result without the field.
func through[D, R any](ctx context.Context, x *mutant, k capability.Name, f func(D) (R, error)) (R, error) {
	d, ok := hypervisor.Ability[D](x.Driver)
	if !ok {
		x.m.absent.Store(true)
		var none R
		s, err := x.Driver.Supports(ctx, k, hypervisor.Ref{})
		if err != nil {
			return none, err
		}
		return none, hypervisor.Unsupported(hypervisor.Ref{}, k, s.Reason, s.Detail)
	}
	r, err := f(d)
	return read(x.m, r), err
}

// work is like through, for calls that start a task.
func work[D any](ctx context.Context, x *mutant, k capability.Name, f func(D) (hypervisor.DriverTask, error)) (hypervisor.DriverTask, error) {
	t, err := through(ctx, x, k, f)
	if err != nil {
		return nil, err
	}
	return mutantTask{t, x.m}, nil
}

type mutantTask struct {
	hypervisor.DriverTask
	m *mutation
}

func (t mutantTask) Next(ctx context.Context) (hypervisor.TaskState, error) {
	s, err := t.DriverTask.Next(ctx)
	return read(t.m, s), err
}

type (
	vmID  = hypervisor.VMID
	dtask = hypervisor.DriverTask
)

func (x *mutant) ListVMs(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
	p, err := x.Driver.ListVMs(ctx, asked(x.m, q))
	return read(x.m, p), err
}

func (x *mutant) GetVM(ctx context.Context, id vmID) (hypervisor.VMInfo, error) {
	v, err := x.Driver.GetVM(ctx, id)
	return read(x.m, v), err
}

func (x *mutant) Supports(ctx context.Context, k capability.Name, on hypervisor.Ref) (hypervisor.Support, error) {
	s, err := x.Driver.Supports(ctx, k, on)
	return read(x.m, s), err
}

func (x *mutant) Task(ctx context.Context, id hypervisor.TaskID) (dtask, error) {
	t, err := x.Driver.Task(ctx, id)
	if err != nil {
		return nil, err
	}
	return mutantTask{t, x.m}, nil
}

func (x *mutant) CreateVM(ctx context.Context, s hypervisor.VMSpec) (dtask, error) {
	return work(ctx, x, capability.VMCreate, func(d hypervisor.Lifecycle) (dtask, error) { return d.CreateVM(ctx, asked(x.m, s)) })
}

func (x *mutant) DeleteVM(ctx context.Context, id vmID, r hypervisor.DeleteRequest) (dtask, error) {
	return work(ctx, x, capability.VMDelete, func(d hypervisor.Lifecycle) (dtask, error) { return d.DeleteVM(ctx, id, asked(x.m, r)) })
}

func (x *mutant) Power(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
	return work(ctx, x, r.Op.Capability(), func(d hypervisor.Powerer) (dtask, error) { return d.Power(ctx, id, asked(x.m, r)) })
}

func (x *mutant) Reconfigure(ctx context.Context, id vmID, ch hypervisor.Changes) (dtask, error) {
	return work(ctx, x, capability.Reconfigure, func(d hypervisor.Reconfigurer) (dtask, error) { return d.Reconfigure(ctx, id, asked(x.m, ch)) })
}

func (x *mutant) AttachDisk(ctx context.Context, id vmID, s hypervisor.DiskSpec) (dtask, error) {
	return work(ctx, x, capability.DiskAttach, func(d hypervisor.DiskAttacher) (dtask, error) { return d.AttachDisk(ctx, id, asked(x.m, s)) })
}

func (x *mutant) DetachDisk(ctx context.Context, id vmID, disk hypervisor.DiskID, p hypervisor.DiskPolicy) (dtask, error) {
	return work(ctx, x, capability.DiskAttach, func(d hypervisor.DiskAttacher) (dtask, error) { return d.DetachDisk(ctx, id, disk, p) })
}

func (x *mutant) GrowDisk(ctx context.Context, id vmID, disk hypervisor.DiskID, n int64) (dtask, error) {
	return work(ctx, x, capability.DiskGrow, func(d hypervisor.DiskAttacher) (dtask, error) { return d.GrowDisk(ctx, id, disk, n) })
}

func (x *mutant) AttachNIC(ctx context.Context, id vmID, s hypervisor.NICSpec) (dtask, error) {
	return work(ctx, x, capability.NICAttach, func(d hypervisor.NICAttacher) (dtask, error) { return d.AttachNIC(ctx, id, asked(x.m, s)) })
}

func (x *mutant) DetachNIC(ctx context.Context, id vmID, nic hypervisor.NICID) (dtask, error) {
	return work(ctx, x, capability.NICAttach, func(d hypervisor.NICAttacher) (dtask, error) { return d.DetachNIC(ctx, id, nic) })
}

func (x *mutant) Snapshots(ctx context.Context, id vmID) ([]hypervisor.SnapshotInfo, error) {
	return through(ctx, x, capability.SnapshotDisk, func(d hypervisor.Snapshotter) ([]hypervisor.SnapshotInfo, error) { return d.Snapshots(ctx, id) })
}

func (x *mutant) CreateSnapshot(ctx context.Context, id vmID, r hypervisor.SnapshotRequest) (dtask, error) {
	return work(ctx, x, r.Capability(), func(d hypervisor.Snapshotter) (dtask, error) { return d.CreateSnapshot(ctx, id, asked(x.m, r)) })
}

func (x *mutant) RevertSnapshot(ctx context.Context, id vmID, s hypervisor.SnapshotID, r hypervisor.RevertOptions) (dtask, error) {
	return work(ctx, x, capability.SnapshotDisk, func(d hypervisor.Snapshotter) (dtask, error) { return d.RevertSnapshot(ctx, id, s, asked(x.m, r)) })
}

func (x *mutant) DeleteSnapshot(ctx context.Context, id vmID, s hypervisor.SnapshotID, r hypervisor.DeleteSnapshotOptions) (dtask, error) {
	return work(ctx, x, capability.SnapshotDisk, func(d hypervisor.Snapshotter) (dtask, error) { return d.DeleteSnapshot(ctx, id, s, asked(x.m, r)) })
}

func (x *mutant) Clone(ctx context.Context, src vmID, r hypervisor.CloneRequest) (dtask, error) {
	return work(ctx, x, r.Capability(), func(d hypervisor.Cloner) (dtask, error) { return d.Clone(ctx, src, asked(x.m, r)) })
}

func (x *mutant) MarkTemplate(ctx context.Context, id vmID) (dtask, error) {
	return work(ctx, x, capability.Templates, func(d hypervisor.Templater) (dtask, error) { return d.MarkTemplate(ctx, id) })
}

func (x *mutant) MarkVM(ctx context.Context, id hypervisor.TemplateID, p hypervisor.Placement) (dtask, error) {
	return work(ctx, x, capability.Templates, func(d hypervisor.Templater) (dtask, error) { return d.MarkVM(ctx, id, asked(x.m, p)) })
}

// plain removes the mutant from the destination, whose driver casts it.
func plain(r hypervisor.MigrateRequest) hypervisor.MigrateRequest {
	for {
		w, ok := r.To.(hypervisor.Wrapper)
		if !ok {
			return r
		}
		r.To = w.Unwrap()
	}
}

func (x *mutant) CheckMigrate(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
	return through(ctx, x, r.Capability(r.Mode != hypervisor.MigrateModeCold), func(d hypervisor.Migrator) (hypervisor.MigrateReport, error) {
		return d.CheckMigrate(ctx, id, asked(x.m, plain(r)))
	})
}

func (x *mutant) Migrate(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (dtask, error) {
	return work(ctx, x, r.Capability(r.Mode != hypervisor.MigrateModeCold), func(d hypervisor.Migrator) (dtask, error) { return d.Migrate(ctx, id, asked(x.m, plain(r))) })
}

func (x *mutant) Devices(ctx context.Context, f hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error) {
	return through(ctx, x, capability.DevicePCI, func(d hypervisor.DeviceAssigner) ([]hypervisor.DeviceInfo, error) {
		return d.Devices(ctx, asked(x.m, f))
	})
}

func (x *mutant) AttachDevice(ctx context.Context, id vmID, r hypervisor.DeviceRequest) (dtask, error) {
	return work(ctx, x, r.Capability(), func(d hypervisor.DeviceAssigner) (dtask, error) { return d.AttachDevice(ctx, id, asked(x.m, r)) })
}

func (x *mutant) DetachDevice(ctx context.Context, id vmID, a hypervisor.AttachmentID) (dtask, error) {
	return work(ctx, x, capability.DevicePCI, func(d hypervisor.DeviceAssigner) (dtask, error) { return d.DetachDevice(ctx, id, a) })
}

func (x *mutant) PrepareDevice(ctx context.Context, id hypervisor.DeviceID, p hypervisor.DevicePreparation) (dtask, error) {
	return work(ctx, x, capability.DevicePrepare, func(d hypervisor.DevicePreparer) (dtask, error) { return d.PrepareDevice(ctx, id, asked(x.m, p)) })
}

func (x *mutant) Hosts(ctx context.Context) ([]hypervisor.HostInfo, error) {
	return through(ctx, x, capability.HostList, func(d hypervisor.HostLister) ([]hypervisor.HostInfo, error) { return d.Hosts(ctx) })
}

func (x *mutant) EnterMaintenance(ctx context.Context, h hypervisor.HostID, r hypervisor.MaintenanceOptions) (dtask, error) {
	return work(ctx, x, capability.HostMaintenance, func(d hypervisor.Maintainer) (dtask, error) { return d.EnterMaintenance(ctx, h, asked(x.m, r)) })
}

func (x *mutant) ExitMaintenance(ctx context.Context, h hypervisor.HostID) (dtask, error) {
	return work(ctx, x, capability.HostMaintenance, func(d hypervisor.Maintainer) (dtask, error) { return d.ExitMaintenance(ctx, h) })
}

func (x *mutant) Datastores(ctx context.Context) ([]hypervisor.DatastoreInfo, error) {
	return through(ctx, x, capability.DatastoreList, func(d hypervisor.StorageLister) ([]hypervisor.DatastoreInfo, error) { return d.Datastores(ctx) })
}

func (x *mutant) Volumes(ctx context.Context, ds hypervisor.DatastoreID) ([]hypervisor.VolumeInfo, error) {
	return through(ctx, x, capability.VolumeManage, func(d hypervisor.StorageManager) ([]hypervisor.VolumeInfo, error) { return d.Volumes(ctx, ds) })
}

func (x *mutant) CreateVolume(ctx context.Context, s hypervisor.VolumeSpec) (dtask, error) {
	return work(ctx, x, capability.VolumeManage, func(d hypervisor.StorageManager) (dtask, error) { return d.CreateVolume(ctx, asked(x.m, s)) })
}

func (x *mutant) DeleteVolume(ctx context.Context, id hypervisor.VolumeID) (dtask, error) {
	return work(ctx, x, capability.VolumeManage, func(d hypervisor.StorageManager) (dtask, error) { return d.DeleteVolume(ctx, id) })
}

func (x *mutant) Dependencies(ctx context.Context, id vmID) (hypervisor.Dependencies, error) {
	return through(ctx, x, capability.CloneLinked, func(d hypervisor.DependencyLister) (hypervisor.Dependencies, error) { return d.Dependencies(ctx, id) })
}

func (x *mutant) Networks(ctx context.Context) ([]hypervisor.NetworkInfo, error) {
	return through(ctx, x, capability.NetworkList, func(d hypervisor.NetworkLister) ([]hypervisor.NetworkInfo, error) { return d.Networks(ctx) })
}

func (x watching) Watch(ctx context.Context, token string) iter.Seq2[hypervisor.Event, error] {
	w, _ := hypervisor.Ability[hypervisor.Watcher](x.Driver)
	return func(yield func(hypervisor.Event, error) bool) {
		for ev, err := range w.Watch(ctx, token) {
			if !yield(read(x.m, ev), err) {
				return
			}
		}
	}
}

func (x *mutant) GuestInfo(ctx context.Context, id vmID) (hypervisor.GuestInfo, error) {
	return through(ctx, x, capability.GuestFacts, func(d hypervisor.GuestAgent) (hypervisor.GuestInfo, error) { return d.GuestInfo(ctx, id) })
}

func (x *mutant) Exec(ctx context.Context, id vmID, r hypervisor.ExecRequest) (hypervisor.ExecResult, error) {
	return through(ctx, x, capability.GuestExec, func(d hypervisor.GuestAgent) (hypervisor.ExecResult, error) { return d.Exec(ctx, id, asked(x.m, r)) })
}

func (x *mutant) GuestClock(ctx context.Context, id vmID) (hypervisor.ClockReading, error) {
	return through(ctx, x, capability.GuestClock, func(d hypervisor.GuestAgent) (hypervisor.ClockReading, error) { return d.GuestClock(ctx, id) })
}

func (x *mutant) SetGuestClock(ctx context.Context, id vmID, t time.Time) error {
	_, err := through(ctx, x, capability.GuestClock, func(d hypervisor.GuestAgent) (struct{}, error) { return struct{}{}, d.SetGuestClock(ctx, id, t) })
	return err
}

func (x *mutant) Recommend(ctx context.Context, r hypervisor.PlaceRequest) ([]hypervisor.Recommendation, error) {
	return through(ctx, x, capability.PlacementNative, func(d hypervisor.Placer) ([]hypervisor.Recommendation, error) { return d.Recommend(ctx, r) })
}

func (x *mutant) BalancePlan(ctx context.Context) ([]hypervisor.Move, error) {
	return through(ctx, x, capability.PlacementNative, func(d hypervisor.Placer) ([]hypervisor.Move, error) { return d.BalancePlan(ctx) })
}

func (x *mutant) HA(ctx context.Context) ([]hypervisor.HAInfo, error) {
	return through(ctx, x, capability.HighAvailability, func(d hypervisor.Protector) ([]hypervisor.HAInfo, error) { return d.HA(ctx) })
}

func (x *mutant) Availability(ctx context.Context, id vmID) (hypervisor.Availability, error) {
	return through(ctx, x, capability.HighAvailability, func(d hypervisor.Protector) (hypervisor.Availability, error) { return d.Availability(ctx, id) })
}

func (x *mutant) SetRestartPriority(ctx context.Context, id vmID, p hypervisor.RestartPriority) (dtask, error) {
	return work(ctx, x, capability.HighAvailability, func(d hypervisor.Protector) (dtask, error) { return d.SetRestartPriority(ctx, id, p) })
}

func (x *mutant) Replication(ctx context.Context, id vmID) (hypervisor.ReplicationInfo, error) {
	return through(ctx, x, capability.ReplicationRead, func(d hypervisor.ReplicationReader) (hypervisor.ReplicationInfo, error) {
		return d.Replication(ctx, id)
	})
}
