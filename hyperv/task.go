package hyperv

import (
	"context"
	"errors"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
)

// op is a job on a host.
type op struct {
	*job.Job
	d   *driver
	h   *host
	s   cim.Session
	ctx context.Context // of the work; Commit changes it
}

// start runs work as a task. If the work begins with a job of the host, the
// job gives the task its ID, so that another process can find it.
func (d *driver) start(ctx context.Context, h *host, spec job.Spec, work func(o *op) (hypervisor.Ref, error)) (hypervisor.DriverTask, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := h.session(ctx)
	if err != nil {
		return nil, err
	}
	if spec.ID == "" {
		spec.ID = hypervisor.TaskID("op:" + randomHex(16))
	}
	spec.Kind, spec.Closed = d.ErrorKind, d.closed
	return job.Go(ctx, &d.group, spec, func(ctx context.Context, j *job.Job) (hypervisor.Ref, error) {
		return work(&op{Job: j, d: d, h: h, s: s, ctx: ctx})
	})
}

func (m *machine) start(ctx context.Context, name string, id hypervisor.TaskID, work func(o *op) (hypervisor.Ref, error)) (hypervisor.DriverTask, error) {
	return m.d.start(ctx, m.h, job.Spec{ID: id, Op: name, Object: m.id.Ref()}, work)
}

// jobTask returns the ID of a task that is one native job.
func jobTask(h *host, ref cim.Ref) hypervisor.TaskID {
	return hypervisor.TaskID("job:" + string(h.id) + "|" + ref.Class + "|" + ref.Key("InstanceID"))
}

// taskOf returns the ID of the task that begins with an answer's job, or ""
// if there is none.
func taskOf(h *host, r *cim.Result) hypervisor.TaskID {
	if r == nil {
		return ""
	}
	ref, ok := r.Job()
	if !ok {
		return ""
	}
	return jobTask(h, ref)
}

// call invokes a method and waits for its job if there is one. The call
// itself is not interrupted: the job that it starts would continue unseen.
func (o *op) call(look trace, ref cim.Ref, method string, args ...cim.Arg) (*cim.Result, error) {
	q := &request{look, o.s, ref, method, args}
	var r *cim.Result
	err := o.d.persist(o.ctx, method, func() (err error) {
		if err := o.ctx.Err(); err != nil {
			return err
		}
		ctx, cancel := job.Late(o.ctx)
		defer cancel()
		r, err = q.call(ctx)
		if r, err = q.follow(o.ctx, r, err); err != nil {
			return err
		}
		return o.wait(r)
	})
	return r, err
}

// wait waits for the job of a result.
func (o *op) wait(r *cim.Result) error {
	ref, ok := r.Job()
	if !ok {
		return nil
	}
	return o.waitJob(ref)
}

func (o *op) waitJob(ref cim.Ref) error {
	_, err := o.Follow(o.ctx, &watch{look: o.d.jobState(o.s, ref), cancel: func(ctx context.Context) error { return cim.CancelJob(ctx, o.s, ref) }}, 0, 1)
	return err
}

// native starts work on the machine whose first step is one call, so that the
// task has the job's ID. rest runs after the job; it may be nil.
func (m *machine) native(ctx context.Context, name string, q *request, rest func(o *op) (hypervisor.Ref, error)) (hypervisor.DriverTask, error) {
	return m.begin(ctx, name, func(ctx context.Context) (hypervisor.DriverTask, error) {
		var r *cim.Result
		err := m.d.persist(ctx, q.method, func() (err error) { r, err = q.call(ctx); return err })
		if err != nil && !errors.Is(err, cim.ErrLost) {
			return nil, unsent(err)
		}
		return m.start(ctx, name, taskOf(m.h, r), func(o *op) (hypervisor.Ref, error) {
			r, err := q.follow(o.ctx, r, err)
			if err == nil {
				err = o.wait(r)
			}
			if err != nil || rest == nil {
				return hypervisor.Ref{}, err
			}
			return rest(o)
		})
	})
}

// begin makes the calls that start work on the machine. If ctx ends before
// they are answered, a task of this process represents the work.
func (m *machine) begin(ctx context.Context, name string, send func(context.Context) (hypervisor.DriverTask, error)) (hypervisor.DriverTask, error) {
	return job.Begin(ctx, &m.d.group, job.Spec{ID: hypervisor.TaskID("op:" + randomHex(16)), Op: name, Object: m.id.Ref(), Kind: m.d.ErrorKind, Closed: m.d.closed}, send)
}

// Task implements hypervisor.Driver. Work of this process is found by any ID,
// work of another one by the ID of its job, for five minutes after its end.
func (d *driver) Task(ctx context.Context, id hypervisor.TaskID) (hypervisor.DriverTask, error) {
	if t, ok := d.group.Find(id); ok {
		return t, nil
	}
	if t, err := d.findMake(ctx, id); t != nil || err != nil {
		return t, err
	}
	rest, ok := strings.CutPrefix(string(id), "job:")
	parts := strings.SplitN(rest, "|", 3)
	if !ok || len(parts) != 3 {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no task of this client has this ID, and it names no job of a host")
	}
	h, err := d.host(hypervisor.HostID(parts[0]))
	if err != nil {
		return nil, err
	}
	s, err := h.session(ctx)
	if err != nil {
		return nil, err
	}
	ref := cim.NewRef(parts[1], "InstanceID", parts[2])
	if _, err := cim.ReadJob(ctx, s, ref); err != nil {
		return nil, err
	}
	state := d.jobState(s, ref)
	return &watch{id: id, look: func(ctx context.Context) (hypervisor.TaskState, error) {
		st, err := state(ctx)
		if err == nil && st.Done && st.Err == nil {
			st.Result = jobResult(ctx, s, ref)
		}
		return st, err
	}, cancel: func(ctx context.Context) error {
		st, err := cim.ReadJob(ctx, s, ref)
		if err != nil || st.Done {
			return err
		}
		if !st.Cancellable {
			return hypervisor.Errorf(hypervisor.ErrUnsupported, id.Ref(), "the host reports that this job can't be cancelled")
		}
		return cim.CancelJob(ctx, s, ref)
	}}, nil
}

// watch is work of the host or of another process.
type watch struct {
	id     hypervisor.TaskID
	look   func(context.Context) (hypervisor.TaskState, error) // waits between two readings
	cancel func(context.Context) error
	last   hypervisor.TaskState
	seen   bool
}

func (w *watch) ID() hypervisor.TaskID { return w.id }

func (w *watch) Next(ctx context.Context) (hypervisor.TaskState, error) {
	for !w.last.Done {
		now, err := w.look(ctx)
		if err != nil {
			return hypervisor.TaskState{}, err
		}
		old := w.last
		if w.last = now; !w.seen || now.Fraction != old.Fraction || now.Phase != old.Phase {
			break
		}
	}
	w.seen = true
	return w.last, nil
}

func (w *watch) Cancel(ctx context.Context) error {
	if w.last.Done {
		return nil
	}
	return w.cancel(ctx)
}

// jobState reads a job of the host, at growing intervals.
func (d *driver) jobState(s cim.Session, ref cim.Ref) func(context.Context) (hypervisor.TaskState, error) {
	w := cim.JobWatch{Session: s, Job: ref, Poll: d.poll}
	return func(ctx context.Context) (hypervisor.TaskState, error) {
		st, err := w.Next(ctx)
		now := hypervisor.TaskState{Done: st.Done, Fraction: float64(st.Percent) / 100, Phase: st.Status, Err: st.Err}
		if st.Warning != "" {
			now.Notes = []string{st.Warning}
		}
		return now, err
	}
}

// jobResult looks for the object that a job made or changed: a snapshot or a
// machine.
func jobResult(ctx context.Context, s cim.Session, ref cim.Ref) hypervisor.Ref {
	sets, err := cim.JobResult(ctx, s, ref, "Msvm_VirtualSystemSettingData")
	if err == nil {
		for _, i := range sets {
			if strings.HasPrefix(i.Str("VirtualSystemType"), snapshotPrefix) {
				return hypervisor.SnapshotID(ownerOf(i.Str("InstanceID"))).Ref()
			}
		}
	}
	vms, err := cim.JobResult(ctx, s, ref, "Msvm_ComputerSystem")
	if err == nil && len(vms) > 0 {
		return hypervisor.VMID(strings.ToUpper(vms[0].Str("Name"))).Ref()
	}
	return hypervisor.Ref{}
}
