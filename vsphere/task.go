package vsphere

import (
	"context"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
	"github.com/anyvisor/anyvisor/internal/job"
)

// serverTask is a task of the server. The first state comes from a plain
// read. From then on a property collector of its own reports the changes by
// long poll, so that several watchers of one session don't take each other's
// updates.
type serverTask struct {
	d     *driver
	self  ref
	notes []string
	info  types.TaskInfo // the last reading
	// finish completes the final state of a success. If nil, the server's
	// state is used.
	finish func(context.Context, types.TaskInfo, *hypervisor.TaskState)
	// failed completes the final state of a failure.
	failed func(context.Context, *hypervisor.TaskState)

	pc      ref
	gen     uint64
	version string
	seen    *hypervisor.TaskState
}

// longPoll is the time that the server holds an idle poll, in seconds.
const longPoll = 30

var taskPaths = []string{"info"}

func (d *driver) job(self ref) *serverTask { return &serverTask{d: d, self: self} }

// Task finds a task of the server, or one that this driver composes.
func (d *driver) Task(ctx context.Context, id hypervisor.TaskID) (hypervisor.DriverTask, error) {
	if t, ok := d.group.Find(id); ok {
		return t, nil
	}
	j := d.job(taskRef(id))
	if _, err := j.look(ctx); err != nil {
		if isNotFound(err) {
			err = hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "the server does not know this task (any more)")
		}
		return nil, err
	}
	return j, nil
}

func (j *serverTask) ID() hypervisor.TaskID { return hypervisor.TaskID(j.self.Value) }

func (j *serverTask) look(ctx context.Context) (types.TaskInfo, error) {
	p, err := j.d.one(ctx, j.self, taskPaths...)
	if err != nil {
		return types.TaskInfo{}, err
	}
	return get[types.TaskInfo](p, "info"), nil
}

// breakLimit is the time for which readings of a task are repeated while
// connections break.
const breakLimit = 3 * time.Second

// Next is called from one goroutine at a time. What broke a connection may
// break the next ones, and the task must not be lost with it.
func (j *serverTask) Next(ctx context.Context) (hypervisor.TaskState, error) {
	began := time.Now()
	for wait := 50 * time.Millisecond; ; wait *= 2 {
		s, err := j.next(ctx)
		if err == nil || kindOf(err) != hypervisor.ErrUnavailable || ctx.Err() != nil || time.Since(began) > breakLimit {
			return s, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return s, err
		case <-j.d.ctx.Done():
			return s, err
		}
	}
}

func (j *serverTask) next(ctx context.Context) (hypervisor.TaskState, error) {
	if j.seen != nil && j.seen.Done {
		return *j.seen, nil
	}
	if j.seen == nil {
		info, err := j.look(ctx)
		if err != nil {
			return hypervisor.TaskState{}, err
		}
		return j.state(ctx, info)
	}
	for {
		info, err := j.change(ctx)
		if err != nil {
			j.drop()
			return hypervisor.TaskState{}, err
		}
		if info == nil {
			continue
		}
		old := *j.seen
		s, err := j.state(ctx, *info)
		if err != nil || s.Done || s.Fraction != old.Fraction || s.Phase != old.Phase {
			return s, err
		}
	}
}

// change waits for an update. It returns nil without an error if none came.
func (j *serverTask) change(ctx context.Context) (*types.TaskInfo, error) {
	for try := 0; ; try++ {
		gen := j.d.session.gen.Load()
		info, err := j.poll(ctx)
		if err == nil || ctx.Err() != nil || try == 1 {
			return info, err
		}
		// The collector is lost with its session, and a poll only reads, so a
		// broken connection is no reason to give up.
		_, gone := faultOf(err).(*types.ManagedObjectNotFound)
		if gen == j.d.session.gen.Load() && !gone && kindOf(err) != hypervisor.ErrUnavailable {
			return nil, err
		}
		j.pc = ref{}
	}
}

func (j *serverTask) poll(ctx context.Context) (*types.TaskInfo, error) {
	d := j.d
	if j.pc.Value == "" || j.gen != d.session.gen.Load() {
		gen := d.session.gen.Load()
		pc, err := d.newCollector(ctx, refSpec([]ref{j.self}, taskPaths))
		if err != nil {
			return nil, err
		}
		j.pc, j.gen, j.version = pc, gen, ""
	}
	set, err := d.updates(ctx, j.pc, j.version, longPoll)
	if err != nil || set == nil {
		return nil, err
	}
	j.version = set.Version
	var info *types.TaskInfo
	for _, f := range set.FilterSet {
		for _, o := range f.ObjectSet {
			if o.Kind == types.ObjectUpdateKindLeave {
				return nil, hypervisor.Errorf(hypervisor.ErrNotFound, j.ID().Ref(), "the server has forgotten the task")
			}
			for _, c := range o.ChangeSet {
				if t, ok := c.Val.(types.TaskInfo); ok {
					info = &t
				} else if c.Name != "info" { // a part of info: read it whole
					t, err := j.look(ctx)
					return &t, err
				}
			}
		}
	}
	return info, nil
}

// drop removes the collector, without waiting for it.
func (j *serverTask) drop() {
	pc := j.pc
	j.pc = ref{}
	if pc.Value == "" {
		return
	}
	j.d.later(func(ctx context.Context) { j.d.dropCollector(ctx, pc) })
}

// taskOps maps the description of a task (API reference,
// TaskInfo.descriptionId) to its operation.
var taskOps = map[string]op.Name{
	"VirtualMachine.clone": op.VMClone, "Folder.createVm": op.VMCreate, "VirtualMachine.destroy": op.VMDelete, "ManagedEntity.destroy": op.VMDelete,
	"VirtualMachine.reconfigure": op.VMReconfigure, "VirtualMachine.powerOn": op.VMStart, "VirtualMachine.powerOff": op.VMPowerOff,
	"VirtualMachine.reset": op.VMReset, "VirtualMachine.suspend": op.VMSuspend, "VirtualMachine.migrate": op.VMMigrate,
	"VirtualMachine.relocate": op.VMMigrate, "VirtualMachine.createSnapshot": op.SnapshotCreate, "vm.Snapshot.revert": op.SnapshotRevert,
	"vm.Snapshot.remove": op.SnapshotDelete, "HostSystem.enterMaintenanceMode": op.HostEnterMaintenance,
	"HostSystem.exitMaintenanceMode": op.HostExitMaintenance, "VirtualDiskManager.createVirtualDisk": op.VolumeCreate,
	"VirtualDiskManager.deleteVirtualDisk": op.VolumeDelete,
}

func (j *serverTask) state(ctx context.Context, t types.TaskInfo) (hypervisor.TaskState, error) {
	j.info = t
	s := hypervisor.TaskState{Op: taskOps[t.DescriptionId], Fraction: -1, Phase: string(t.State), Notes: j.notes}
	if t.Entity != nil {
		s.Object = refOf(*t.Entity)
	}
	if s.Started = t.QueueTime; t.StartTime != nil {
		s.Started = *t.StartTime
	}
	if t.Description != nil && t.State == types.TaskInfoStateRunning && t.Description.Message != "" {
		s.Phase = t.Description.Message
	}
	switch t.State {
	case types.TaskInfoStateRunning:
		if t.Progress > 0 {
			s.Fraction = float64(min(t.Progress, 100)) / 100
		}
	case types.TaskInfoStateSuccess:
		s.Done, s.Fraction = true, 1
		s.Result = resultOf(t)
		if j.finish != nil {
			j.finish(ctx, t, &s)
			if ctx.Err() != nil {
				return hypervisor.TaskState{}, ctx.Err()
			}
		}
	case types.TaskInfoStateError:
		s.Done = true
		s.Err = taskError(t)
		if j.failed != nil {
			j.failed(ctx, &s)
			if ctx.Err() != nil {
				return hypervisor.TaskState{}, ctx.Err()
			}
		}
	}
	if s.Done {
		j.drop()
	}
	j.seen = &s
	return s, nil
}

// taskError returns the failure of a task. A cancelled one may report any
// other.
func taskError(t types.TaskInfo) error {
	err := taskFailure(t.Error)
	if t.Cancelled && kindOf(err) != hypervisor.ErrCanceled {
		on := hypervisor.Ref{}
		if t.Entity != nil {
			on = refOf(*t.Entity)
		}
		return hypervisor.Errorf(hypervisor.ErrCanceled, on, "%w", err)
	}
	return err
}

// resultOf returns the object that a task made, or else the one that it
// worked on.
func resultOf(t types.TaskInfo) hypervisor.Ref {
	if r, ok := t.Result.(ref); ok {
		return refOf(r)
	}
	if t.Entity != nil {
		return refOf(*t.Entity)
	}
	return hypervisor.Ref{}
}

// Cancel asks the server. For a task that can't be cancelled, the server
// reports NotSupported.
func (j *serverTask) Cancel(ctx context.Context) error {
	_, err := methods.CancelTask(ctx, j.d.rt, &types.CancelTask{This: j.self})
	switch kindOf(err) {
	case hypervisor.ErrInvalidState, hypervisor.ErrNotFound: // it has ended
		return nil
	case hypervisor.ErrUnsupported:
		return hypervisor.Unsupported(j.ID().Ref(), capability.TaskCancel, hypervisor.ReasonPlatform, "vSphere can't cancel this kind of task")
	}
	return err
}

// await waits for a task of the server to end. It leaves the task alone when
// ctx ends.
func (d *driver) await(ctx context.Context, self ref) (types.TaskInfo, error) {
	for j := d.job(self); ; {
		s, err := j.Next(ctx)
		switch {
		case ctx.Err() != nil && err != nil:
			return j.info, ctx.Err()
		case err != nil:
			return j.info, err
		case s.Done:
			return j.info, s.Err
		}
	}
}

// compose runs work of several steps as a task of this process.
func (d *driver) compose(ctx context.Context, op string, on hypervisor.Ref, work func(context.Context, *job.Job) (hypervisor.Ref, error)) (hypervisor.DriverTask, error) {
	return job.Go(ctx, &d.group, job.Spec{ID: newID(op), Op: op, Object: on, Kind: kindOf, Closed: d.ctx}, work)
}

// unlessLate makes a call that makes something. The call continues when ctx
// ends, and undo then gets what was made.
func unlessLate[T any](ctx context.Context, d *driver, call func(context.Context) (T, error), undo func(context.Context, T)) (v T, err error) {
	if err := ctx.Err(); err != nil {
		return v, err
	}
	type answer struct {
		v   T
		err error
	}
	got := make(chan answer)
	go func() {
		v, err := call(context.WithoutCancel(ctx))
		select {
		case got <- answer{v, err}:
		case <-ctx.Done():
			if err == nil {
				d.later(func(ctx context.Context) { undo(ctx, v) })
			}
		}
	}()
	select {
	case a := <-got:
		return a.v, a.err
	case <-ctx.Done():
		return v, ctx.Err()
	}
}

// start starts a task of the server, which dress, if it is not nil,
// completes. The server may act and answer too late: a task of this process
// then represents the server's.
func (d *driver) start(ctx context.Context, on hypervisor.Ref, begin func(context.Context) (ref, error), dress func(*serverTask)) (hypervisor.DriverTask, error) {
	return job.Begin(ctx, &d.group, job.Spec{ID: newID("late"), Op: "late", Object: on, Kind: kindOf, Closed: d.ctx}, func(ctx context.Context) (hypervisor.DriverTask, error) {
		self, err := begin(ctx)
		if err != nil {
			return nil, err
		}
		j := d.job(self)
		if dress != nil {
			dress(j)
		}
		return j, nil
	})
}

// taskStarted is the answer of every call that starts a task.
type taskStarted interface {
	~struct {
		Returnval ref `xml:"returnval" json:"returnval"`
	}
}

// taskOf returns the task of such an answer.
func taskOf[R taskStarted](res *R, err error) (ref, error) {
	if err != nil {
		return ref{}, err
	}
	return types.Destroy_TaskResponse(*res).Returnval, nil
}

// step runs one task of the server within composed work. If ctx ended during
// the call, the task would be lost, so ctx is checked before and after it.
// The task is then cancelled, where that is possible, and its true end is the
// step's.
func (d *driver) step(ctx context.Context, report func(hypervisor.TaskState), start func(context.Context) (ref, error)) (types.TaskInfo, error) {
	if err := ctx.Err(); err != nil {
		return types.TaskInfo{}, err
	}
	self, err := start(context.WithoutCancel(ctx))
	if err != nil {
		return types.TaskInfo{}, err
	}
	t, j := d.job(self), job.New(job.Spec{Closed: d.ctx}, report)
	j.Bound = true
	_, err = j.Follow(ctx, t, 0, 1)
	return t.info, err
}

// newCollector makes a property collector with one filter. A collector is
// lost with its session: if that was renewed in between, another one is made.
func (d *driver) newCollector(ctx context.Context, spec types.PropertyFilterSpec) (ref, error) {
	for try := 0; ; try++ {
		gen := d.session.gen.Load()
		res, err := methods.CreatePropertyCollector(ctx, d.rt, &types.CreatePropertyCollector{This: d.collector()})
		if err != nil {
			return ref{}, err
		}
		if _, err = methods.CreateFilter(ctx, d.rt, &types.CreateFilter{This: res.Returnval, Spec: spec, PartialUpdates: false}); err == nil {
			return res.Returnval, nil
		}
		if gen != d.session.gen.Load() && try == 0 {
			continue
		}
		d.later(func(ctx context.Context) { d.dropCollector(ctx, res.Returnval) })
		return ref{}, err
	}
}

func (d *driver) dropCollector(ctx context.Context, pc ref) {
	// If this fails, it ends with the session anyway.
	_, _ = methods.DestroyPropertyCollector(ctx, d.rt, &types.DestroyPropertyCollector{This: pc})
}

// updates is one long poll. It returns nil when no update came in time.
func (d *driver) updates(ctx context.Context, pc ref, version string, seconds int32) (*types.UpdateSet, error) {
	res, err := methods.WaitForUpdatesEx(ctx, d.rt, &types.WaitForUpdatesEx{This: pc, Version: version,
		Options: &types.WaitOptions{MaxWaitSeconds: &seconds}})
	if err != nil {
		return nil, err
	}
	return res.Returnval, nil
}
