package fake_test

import (
	"context"
	"iter"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

type (
	vmID   = hypervisor.VMID
	dtask  = hypervisor.DriverTask
	tstate = hypervisor.TaskState
)

// lie is the fake with some calls replaced. A nil field is honest.
type lie struct {
	*fake.Driver
	b           *fake.Backend
	list        func(context.Context, hypervisor.VMQuery) (hypervisor.VMPage, error)
	get         func(context.Context, vmID) (hypervisor.VMInfo, error)
	supports    func(capability.Name, hypervisor.Support) hypervisor.Support
	find        func(context.Context, hypervisor.TaskID) (dtask, error)
	create      func(context.Context, hypervisor.VMSpec) (dtask, error)
	remove      func(context.Context, vmID, hypervisor.DeleteRequest) (dtask, error)
	power       func(context.Context, vmID, hypervisor.PowerRequest) (dtask, error)
	reconfigure func(context.Context, vmID, hypervisor.Changes) (dtask, error)
	setLabels   func(context.Context, vmID, map[string]string) error
	attachDisk  func(context.Context, vmID, hypervisor.DiskSpec) (dtask, error)
	detachDisk  func(context.Context, vmID, hypervisor.DiskID, hypervisor.DiskPolicy) (dtask, error)
	growDisk    func(context.Context, vmID, hypervisor.DiskID, int64) (dtask, error)
	attachNIC   func(context.Context, vmID, hypervisor.NICSpec) (dtask, error)
	snaps       func(context.Context, vmID) ([]hypervisor.SnapshotInfo, error)
	snap        func(context.Context, vmID, hypervisor.SnapshotRequest) (dtask, error)
	revert      func(context.Context, vmID, hypervisor.SnapshotID, hypervisor.RevertOptions) (dtask, error)
	unsnap      func(context.Context, vmID, hypervisor.SnapshotID, hypervisor.DeleteSnapshotOptions) (dtask, error)
	clone       func(context.Context, vmID, hypervisor.CloneRequest) (dtask, error)
	mark        func(context.Context, vmID) (dtask, error)
	check       func(context.Context, vmID, hypervisor.MigrateRequest) (hypervisor.MigrateReport, error)
	migrate     func(context.Context, vmID, hypervisor.MigrateRequest) (dtask, error)
	devices     func(context.Context, hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error)
	attachDev   func(context.Context, vmID, hypervisor.DeviceRequest) (dtask, error)
	hosts       func(context.Context) ([]hypervisor.HostInfo, error)
	maintain    func(context.Context, hypervisor.HostID, hypervisor.MaintenanceOptions) (dtask, error)
	recommend   func(context.Context, hypervisor.PlaceRequest) ([]hypervisor.Recommendation, error)
	delVolume   func(context.Context, hypervisor.VolumeID) (dtask, error)
	watch       func(context.Context, string) iter.Seq2[hypervisor.Event, error]
	exec        func(context.Context, vmID, hypervisor.ExecRequest) (hypervisor.ExecResult, error)
	clock       func(context.Context, vmID) (hypervisor.ClockReading, error)
	depend      func(context.Context, vmID) (hypervisor.Dependencies, error)
	avail       func(context.Context, vmID) (hypervisor.Availability, error)
	restart     func(context.Context, vmID, hypervisor.RestartPriority) (dtask, error)
	replication func(context.Context, vmID) (hypervisor.ReplicationInfo, error)
	closed      func() error
}

func (l *lie) ListVMs(ctx context.Context, q hypervisor.VMQuery) (hypervisor.VMPage, error) {
	if l.list != nil {
		return l.list(ctx, q)
	}
	return l.Driver.ListVMs(ctx, q)
}

func (l *lie) GetVM(ctx context.Context, id vmID) (hypervisor.VMInfo, error) {
	if l.get != nil {
		return l.get(ctx, id)
	}
	return l.Driver.GetVM(ctx, id)
}

func (l *lie) Supports(ctx context.Context, k capability.Name, on hypervisor.Ref) (hypervisor.Support, error) {
	s, err := l.Driver.Supports(ctx, k, on)
	if l.supports != nil && err == nil {
		s = l.supports(k, s)
	}
	return s, err
}

func (l *lie) Task(ctx context.Context, id hypervisor.TaskID) (dtask, error) {
	if l.find != nil {
		return l.find(ctx, id)
	}
	return l.Driver.Task(ctx, id)
}

func (l *lie) CreateVM(ctx context.Context, s hypervisor.VMSpec) (dtask, error) {
	if l.create != nil {
		return l.create(ctx, s)
	}
	return l.Driver.CreateVM(ctx, s)
}

func (l *lie) DeleteVM(ctx context.Context, id vmID, r hypervisor.DeleteRequest) (dtask, error) {
	if l.remove != nil {
		return l.remove(ctx, id, r)
	}
	return l.Driver.DeleteVM(ctx, id, r)
}

func (l *lie) Power(ctx context.Context, id vmID, r hypervisor.PowerRequest) (dtask, error) {
	if l.power != nil {
		return l.power(ctx, id, r)
	}
	return l.Driver.Power(ctx, id, r)
}

func (l *lie) Reconfigure(ctx context.Context, id vmID, ch hypervisor.Changes) (dtask, error) {
	if l.reconfigure != nil {
		return l.reconfigure(ctx, id, ch)
	}
	return l.Driver.Reconfigure(ctx, id, ch)
}

func (l *lie) SetLabels(ctx context.Context, id vmID, m map[string]string) error {
	if l.setLabels != nil {
		return l.setLabels(ctx, id, m)
	}
	return l.Driver.SetLabels(ctx, id, m)
}

func (l *lie) AttachDisk(ctx context.Context, id vmID, s hypervisor.DiskSpec) (dtask, error) {
	if l.attachDisk != nil {
		return l.attachDisk(ctx, id, s)
	}
	return l.Driver.AttachDisk(ctx, id, s)
}

func (l *lie) DetachDisk(ctx context.Context, id vmID, d hypervisor.DiskID, p hypervisor.DiskPolicy) (dtask, error) {
	if l.detachDisk != nil {
		return l.detachDisk(ctx, id, d, p)
	}
	return l.Driver.DetachDisk(ctx, id, d, p)
}

func (l *lie) GrowDisk(ctx context.Context, id vmID, d hypervisor.DiskID, n int64) (dtask, error) {
	if l.growDisk != nil {
		return l.growDisk(ctx, id, d, n)
	}
	return l.Driver.GrowDisk(ctx, id, d, n)
}

func (l *lie) AttachNIC(ctx context.Context, id vmID, n hypervisor.NICSpec) (dtask, error) {
	if l.attachNIC != nil {
		return l.attachNIC(ctx, id, n)
	}
	return l.Driver.AttachNIC(ctx, id, n)
}

func (l *lie) Snapshots(ctx context.Context, id vmID) ([]hypervisor.SnapshotInfo, error) {
	if l.snaps != nil {
		return l.snaps(ctx, id)
	}
	return l.Driver.Snapshots(ctx, id)
}

func (l *lie) CreateSnapshot(ctx context.Context, id vmID, r hypervisor.SnapshotRequest) (dtask, error) {
	if l.snap != nil {
		return l.snap(ctx, id, r)
	}
	return l.Driver.CreateSnapshot(ctx, id, r)
}

func (l *lie) RevertSnapshot(ctx context.Context, id vmID, s hypervisor.SnapshotID, r hypervisor.RevertOptions) (dtask, error) {
	if l.revert != nil {
		return l.revert(ctx, id, s, r)
	}
	return l.Driver.RevertSnapshot(ctx, id, s, r)
}

func (l *lie) DeleteSnapshot(ctx context.Context, id vmID, s hypervisor.SnapshotID, r hypervisor.DeleteSnapshotOptions) (dtask, error) {
	if l.unsnap != nil {
		return l.unsnap(ctx, id, s, r)
	}
	return l.Driver.DeleteSnapshot(ctx, id, s, r)
}

func (l *lie) Clone(ctx context.Context, id vmID, r hypervisor.CloneRequest) (dtask, error) {
	if l.clone != nil {
		return l.clone(ctx, id, r)
	}
	return l.Driver.Clone(ctx, id, r)
}

func (l *lie) MarkTemplate(ctx context.Context, id vmID) (dtask, error) {
	if l.mark != nil {
		return l.mark(ctx, id)
	}
	return l.Driver.MarkTemplate(ctx, id)
}

func (l *lie) CheckMigrate(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (hypervisor.MigrateReport, error) {
	if l.check != nil {
		return l.check(ctx, id, r)
	}
	return l.Driver.CheckMigrate(ctx, id, r)
}

func (l *lie) Migrate(ctx context.Context, id vmID, r hypervisor.MigrateRequest) (dtask, error) {
	if l.migrate != nil {
		return l.migrate(ctx, id, r)
	}
	return l.Driver.Migrate(ctx, id, r)
}

func (l *lie) Devices(ctx context.Context, f hypervisor.DeviceFilter) ([]hypervisor.DeviceInfo, error) {
	if l.devices != nil {
		return l.devices(ctx, f)
	}
	return l.Driver.Devices(ctx, f)
}

func (l *lie) AttachDevice(ctx context.Context, id vmID, r hypervisor.DeviceRequest) (dtask, error) {
	if l.attachDev != nil {
		return l.attachDev(ctx, id, r)
	}
	return l.Driver.AttachDevice(ctx, id, r)
}

func (l *lie) Hosts(ctx context.Context) ([]hypervisor.HostInfo, error) {
	if l.hosts != nil {
		return l.hosts(ctx)
	}
	return l.Driver.Hosts(ctx)
}

func (l *lie) EnterMaintenance(ctx context.Context, h hypervisor.HostID, r hypervisor.MaintenanceOptions) (dtask, error) {
	if l.maintain != nil {
		return l.maintain(ctx, h, r)
	}
	return l.Driver.EnterMaintenance(ctx, h, r)
}

func (l *lie) Recommend(ctx context.Context, r hypervisor.PlaceRequest) ([]hypervisor.Recommendation, error) {
	if l.recommend != nil {
		return l.recommend(ctx, r)
	}
	return l.Driver.Recommend(ctx, r)
}

func (l *lie) DeleteVolume(ctx context.Context, id hypervisor.VolumeID) (dtask, error) {
	if l.delVolume != nil {
		return l.delVolume(ctx, id)
	}
	return l.Driver.DeleteVolume(ctx, id)
}

func (l *lie) Watch(ctx context.Context, token string) iter.Seq2[hypervisor.Event, error] {
	if l.watch != nil {
		return l.watch(ctx, token)
	}
	return l.Driver.Watch(ctx, token)
}

func (l *lie) Exec(ctx context.Context, id vmID, r hypervisor.ExecRequest) (hypervisor.ExecResult, error) {
	if l.exec != nil {
		return l.exec(ctx, id, r)
	}
	return l.Driver.Exec(ctx, id, r)
}

func (l *lie) GuestClock(ctx context.Context, id vmID) (hypervisor.ClockReading, error) {
	if l.clock != nil {
		return l.clock(ctx, id)
	}
	return l.Driver.GuestClock(ctx, id)
}

func (l *lie) Dependencies(ctx context.Context, id vmID) (hypervisor.Dependencies, error) {
	if l.depend != nil {
		return l.depend(ctx, id)
	}
	return l.Driver.Dependencies(ctx, id)
}

func (l *lie) Availability(ctx context.Context, id vmID) (hypervisor.Availability, error) {
	if l.avail != nil {
		return l.avail(ctx, id)
	}
	return l.Driver.Availability(ctx, id)
}

func (l *lie) SetRestartPriority(ctx context.Context, id vmID, p hypervisor.RestartPriority) (dtask, error) {
	if l.restart != nil {
		return l.restart(ctx, id, p)
	}
	return l.Driver.SetRestartPriority(ctx, id, p)
}

func (l *lie) Replication(ctx context.Context, id vmID) (hypervisor.ReplicationInfo, error) {
	if l.replication != nil {
		return l.replication(ctx, id)
	}
	return l.Driver.Replication(ctx, id)
}

func (l *lie) Close() error {
	if l.closed != nil {
		return l.closed()
	}
	return l.Driver.Close()
}

// did is a task that claims to have done something.
func did(r hypervisor.Ref) (dtask, error) {
	return hypervisor.DoneTask("task-lie", tstate{Result: r}), nil
}

// bent changes the states that a task reports.
type bent struct {
	dtask
	f func(tstate) tstate
}

func (t bent) Next(ctx context.Context) (tstate, error) {
	s, err := t.dtask.Next(ctx)
	if err == nil {
		s = t.f(s)
	}
	return s, err
}

// bend applies f to a task's states.
func bend(t dtask, err error, f func(tstate) tstate) (dtask, error) {
	if err != nil {
		return nil, err
	}
	return bent{t, f}, nil
}

// then waits for a task, does something more and ends with the task's state.
func then(t dtask, err error, f func(tstate)) (dtask, error) {
	if err != nil {
		return nil, err
	}
	for {
		s, err := t.Next(context.Background())
		if err != nil {
			return nil, err
		}
		if s.Done {
			if s.Err == nil {
				f(s)
			}
			return hypervisor.DoneTask(t.ID(), s), nil
		}
	}
}

// must waits for honest work behind a lie.
func must(t dtask, err error) {
	if _, err = then(t, err, func(tstate) {}); err != nil {
		panic(err)
	}
}
