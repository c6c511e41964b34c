package vsphere

import (
	"context"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// job watches a task of the server. The first look is a plain read; from the
// second on a property collector of its own tells the changes by long poll, so
// that several watchers of one session don't take each other's updates.
type job struct {
	d     *driver
	self  ref
	notes []string
	// finish completes the final state of a success; nil for the server's word.
	finish func(context.Context, types.TaskInfo, *hypervisor.TaskState)
	// failed completes the final state of a failure.
	failed func(context.Context, *hypervisor.TaskState)

	mu      sync.Mutex
	pc      ref
	gen     uint64
	version string
	seen    *hypervisor.TaskState
}

// longPoll is how long the server holds an idle poll, in seconds.
const longPoll = 30

var taskPaths = []string{"info"}

func (d *driver) job(self ref) *job { return &job{d: d, self: self} }

// Task finds a task of the server, or of this driver's own composing.
func (d *driver) Task(ctx context.Context, id hypervisor.TaskID) (hypervisor.DriverTask, error) {
	if t, ok := d.group.Find(id); ok {
		return t, nil
	}
	j := d.job(taskRef(id))
	if _, err := j.look(ctx); err != nil {
		if isNotFound(err) {
			err = hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "the server does not know this task (any more)")
		}
		return nil, err
	}
	return j, nil
}

func (j *job) ID() hypervisor.TaskID { return hypervisor.TaskID(j.self.Value) }

func (j *job) look(ctx context.Context) (types.TaskInfo, error) {
	p, err := j.d.one(ctx, j.self, taskPaths...)
	if err != nil {
		return types.TaskInfo{}, err
	}
	return get[types.TaskInfo](p, "info"), nil
}

func (j *job) Next(ctx context.Context) (hypervisor.TaskState, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
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

// change waits for an update; nil without an error means none came.
func (j *job) change(ctx context.Context) (*types.TaskInfo, error) {
	for try := 0; ; try++ {
		gen := j.d.session.gen.Load()
		info, err := j.poll(ctx)
		if err == nil || ctx.Err() != nil || try == 1 {
			return info, err
		}
		// The collector goes with its session, and a poll only reads: a broken
		// connection is no reason to give up.
		_, gone := faultOf(err).(*types.ManagedObjectNotFound)
		if gen == j.d.session.gen.Load() && !gone && kindOf(err) != hypervisor.KindUnavailable {
			return nil, err
		}
		j.pc = ref{}
	}
}

func (j *job) poll(ctx context.Context) (*types.TaskInfo, error) {
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
				return nil, hypervisor.Errorf(hypervisor.KindNotFound, j.ID().Ref(), "the server has forgotten the task")
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
func (j *job) drop() {
	pc := j.pc
	j.pc = ref{}
	if pc.Value == "" {
		return
	}
	j.d.later(func(ctx context.Context) { j.d.dropCollector(ctx, pc) })
}

func (j *job) state(ctx context.Context, t types.TaskInfo) (hypervisor.TaskState, error) {
	s := hypervisor.TaskState{Fraction: -1, Phase: string(t.State), Notes: j.notes}
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

// taskError is the failure of a task. A cancelled one may say anything else.
func taskError(t types.TaskInfo) error {
	err := taskFailure(t.Error)
	if t.Cancelled && kindOf(err) != hypervisor.KindCanceled {
		on := hypervisor.Ref{}
		if t.Entity != nil {
			on = refOf(*t.Entity)
		}
		return hypervisor.Errorf(hypervisor.KindCanceled, on, "%w", err)
	}
	return err
}

// resultOf is what a task made, or else what it worked on.
func resultOf(t types.TaskInfo) hypervisor.Ref {
	if r, ok := t.Result.(ref); ok {
		return refOf(r)
	}
	if t.Entity != nil {
		return refOf(*t.Entity)
	}
	return hypervisor.Ref{}
}

// Cancel asks the server. What can't be cancelled says NotSupported.
func (j *job) Cancel(ctx context.Context) error {
	_, err := methods.CancelTask(ctx, j.d.rt, &types.CancelTask{This: j.self})
	switch kindOf(err) {
	case hypervisor.KindInvalidState, hypervisor.KindNotFound: // it has ended
		return nil
	case hypervisor.KindUnsupported:
		return hypervisor.Unsupported(j.ID().Ref(), hypervisor.TaskCancel, hypervisor.ReasonPlatform, "vSphere can't cancel this kind of task")
	}
	return err
}

// await waits for a task of the server to end, for work in several steps and
// for calls that are no tasks to the caller.
func (d *driver) await(ctx context.Context, self ref) (types.TaskInfo, error) {
	return d.follow(ctx, self, nil)
}

// follow is await that reports progress, and cancels the task when ctx ends;
// it then waits for the task's true end.
func (d *driver) follow(ctx context.Context, self ref, report func(hypervisor.TaskState)) (types.TaskInfo, error) {
	j := d.job(self)
	var last types.TaskInfo
	j.finish = func(_ context.Context, t types.TaskInfo, _ *hypervisor.TaskState) { last = t }
	watch := ctx
	for {
		s, err := j.Next(watch)
		switch {
		case err != nil && ctx.Err() != nil && watch == ctx:
			if report == nil || d.ctx.Err() != nil {
				return last, ctx.Err()
			}
			late, stop := context.WithTimeout(d.ctx, 10*time.Minute)
			defer stop()
			watch = late
			if err := j.Cancel(late); err != nil && kindOf(err) != hypervisor.KindUnsupported {
				return last, err
			}
			continue
		case err != nil:
			return last, err
		case s.Done:
			return last, s.Err
		case report != nil:
			report(s)
		}
	}
}

// step is one task of the server within work that this package composes. A
// call whose answer is cut off would lose the task, so ctx counts before and
// after it: then the task is cancelled, where that can be, and its true end is
// the step's.
func (d *driver) step(ctx context.Context, report func(hypervisor.TaskState), start func(context.Context) (ref, error)) (types.TaskInfo, error) {
	if err := ctx.Err(); err != nil {
		return types.TaskInfo{}, err
	}
	self, err := start(context.WithoutCancel(ctx))
	if err != nil {
		return types.TaskInfo{}, err
	}
	if report == nil {
		report = func(hypervisor.TaskState) {}
	}
	return d.follow(ctx, self, report)
}

// newCollector makes a property collector with one filter.
func (d *driver) newCollector(ctx context.Context, spec types.PropertyFilterSpec) (ref, error) {
	res, err := methods.CreatePropertyCollector(ctx, d.rt, &types.CreatePropertyCollector{This: d.collector()})
	if err != nil {
		return ref{}, err
	}
	if _, err = methods.CreateFilter(ctx, d.rt, &types.CreateFilter{This: res.Returnval, Spec: spec, PartialUpdates: false}); err != nil {
		d.later(func(ctx context.Context) { d.dropCollector(ctx, res.Returnval) })
		return ref{}, err
	}
	return res.Returnval, nil
}

func (d *driver) dropCollector(ctx context.Context, pc ref) {
	// What fails here ends with the session anyway.
	_, _ = methods.DestroyPropertyCollector(ctx, d.rt, &types.DestroyPropertyCollector{This: pc})
}

// updates is one long poll; nil when none came in time.
func (d *driver) updates(ctx context.Context, pc ref, version string, seconds int32) (*types.UpdateSet, error) {
	res, err := methods.WaitForUpdatesEx(ctx, d.rt, &types.WaitForUpdatesEx{This: pc, Version: version,
		Options: &types.WaitOptions{MaxWaitSeconds: &seconds}})
	if err != nil {
		return nil, err
	}
	return res.Returnval, nil
}
