package hyperv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// op is work in several steps. It reports progress, undoes what it made when
// it fails, and knows what it could not undo.
type op struct {
	d      *driver
	h      *host
	s      cim.Session
	ctx    context.Context
	report func(hypervisor.TaskState)
	state  hypervisor.TaskState
	undos  []undo
	ends   []func() // release what contexts hold, when the work has ended
}

type undo struct {
	ref  hypervisor.Ref // what stays behind if f fails
	what string         // or what stays changed
	f    func(context.Context) error
}

// cleanup bounds what is done after the end of the caller's context.
const cleanup = 2 * time.Minute

// onFailure adds a step that removes something made; steps run last first.
func (o *op) onFailure(ref hypervisor.Ref, f func(context.Context) error) {
	o.undos = append(o.undos, undo{ref: ref, f: f})
}

// setBack adds a step that gives something its former value.
func (o *op) setBack(what string, f func(context.Context) error) {
	o.undos = append(o.undos, undo{what: what, f: f})
}

func (o *op) phase(p string, fraction float64) {
	o.state.Phase, o.state.Fraction = p, fraction
	o.report(o.state)
}

func (o *op) note(s string) { o.state.Notes = append(o.state.Notes, s) }

// commit makes the rest of the work deaf to Cancel: what is done can't be
// undone, so it is finished. Close still ends it.
func (o *op) commit() {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(o.ctx))
	stop := context.AfterFunc(o.d.closed, func() { cancel(hypervisor.ErrClosed) })
	o.ends = append(o.ends, func() { stop(); cancel(nil) })
	o.ctx = ctx
}

// late is a context for what must be done although the work was cancelled.
func (o *op) late() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(o.ctx), cleanup)
}

// start runs composed work as a task. The work returns the Ref of what it
// made. A job that the work begins with gives the task its ID, so that another
// process can find it.
func (d *driver) start(ctx context.Context, h *host, id hypervisor.TaskID, work func(o *op) (hypervisor.Ref, error)) (hypervisor.DriverTask, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := h.session(ctx)
	if err != nil {
		return nil, err
	}
	if id == "" {
		id = hypervisor.TaskID("op:" + randomHex(16))
	}
	return d.group.Go(ctx, id, func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		o := &op{d: d, h: h, s: s, ctx: ctx, report: report, state: hypervisor.TaskState{Fraction: -1}}
		defer func() {
			for _, f := range o.ends {
				f()
			}
		}()
		ref, err := work(o)
		if err != nil {
			o.state.Err = err
			o.rollBack()
			return o.state
		}
		o.state.Result = ref
		return o.state
	})
}

func (o *op) rollBack() {
	ctx, cancel := o.late()
	defer cancel()
	for i := len(o.undos) - 1; i >= 0; i-- {
		u := o.undos[i]
		err := u.f(ctx)
		switch {
		case err == nil || cim.KindOf(err) == cim.NotFound:
		case u.what != "":
			o.state.Err = stays(o.state.Err, u.what, err)
		case !slices.Contains(o.state.Leftover, u.ref):
			o.state.Leftover = append(o.state.Leftover, u.ref)
		}
	}
}

// stays adds to an error that something that was there before is not as it
// was. Leftover has no place for it: what it names may be removed.
func stays(err error, what string, why error) error {
	return fmt.Errorf("%w (and %s could not be set back: %v)", err, what, why)
}

// jobTask is the ID of a task that is one native job.
func jobTask(h *host, job cim.Ref) hypervisor.TaskID {
	return hypervisor.TaskID("job:" + string(h.id) + "|" + job.Class + "|" + job.Key("InstanceID"))
}

// taskOf is the ID of the task that begins with an answer's job; "" for none.
func taskOf(h *host, r *cim.Result) hypervisor.TaskID {
	if r == nil {
		return ""
	}
	job, ok := r.Job()
	if !ok {
		return ""
	}
	return jobTask(h, job)
}

// call invokes a method and waits for the job if there is one.
func (o *op) call(look trace, ref cim.Ref, method string, args ...cim.Arg) (*cim.Result, error) {
	if err := o.ctx.Err(); err != nil {
		return nil, err
	}
	// The call itself is not broken off: the job that it starts would go on
	// unseen. It ends with the session, and a job can be cancelled after it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(o.ctx), cleanup)
	defer cancel()
	q := &request{o.s, look, ref, method, args}
	r, err := q.call(ctx)
	if r, err = q.follow(o.ctx, r, err); err != nil {
		return nil, err
	}
	return r, o.wait(r)
}

// wait waits for the job of a result.
func (o *op) wait(r *cim.Result) error {
	job, ok := r.Job()
	if !ok {
		return nil
	}
	return o.waitJob(job)
}

// waitJob waits for a job. A cancelled task cancels the job and waits for its
// true end: the job may win.
func (o *op) waitJob(job cim.Ref) error {
	base := o.state
	tell := func(st cim.JobStatus) {
		if !st.Done {
			base.Fraction, base.Notes = float64(st.Percent)/100, o.state.Notes
			if st.Status != "" {
				base.Phase = st.Status
			}
			o.report(base)
		}
		if st.Warning != "" {
			o.note(st.Warning)
		}
	}
	err := cim.WaitJob(o.ctx, o.s, job, o.d.poll, tell)
	if o.ctx.Err() == nil || context.Cause(o.ctx) != hypervisor.ErrCanceled {
		return err
	}
	ctx, cancel := o.late()
	defer cancel()
	// A job that can't be cancelled any more ends by itself.
	_ = cim.CancelJob(ctx, o.s, job)
	err = cim.WaitJob(ctx, o.s, job, o.d.poll, nil)
	if err == nil {
		return nil
	}
	return errors.Join(o.ctx.Err(), err)
}

// native starts work whose first step is one call, so that the task has the
// job's ID. Rest runs after the job; it may be nil.
func (d *driver) native(ctx context.Context, h *host, look trace, ref cim.Ref, method string, args []cim.Arg, rest func(o *op, r *cim.Result) (hypervisor.Ref, error)) (hypervisor.DriverTask, error) {
	s, err := h.session(ctx)
	if err != nil {
		return nil, err
	}
	q := &request{s, look, ref, method, args}
	r, err := q.call(ctx)
	if err != nil && !errors.Is(err, cim.ErrLost) {
		return nil, unsent(err)
	}
	return d.start(ctx, h, taskOf(h, r), func(o *op) (hypervisor.Ref, error) {
		r, err := q.follow(o.ctx, r, err)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		if err := o.wait(r); err != nil {
			return hypervisor.Ref{}, err
		}
		if rest == nil {
			return hypervisor.Ref{}, nil
		}
		return rest(o, r)
	})
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
		return nil, hypervisor.Errorf(hypervisor.KindNotFound, id.Ref(), "no task of this client has this ID, and it names no job of a host")
	}
	h, err := d.host(hypervisor.HostID(parts[0]))
	if err != nil {
		return nil, err
	}
	s, err := h.session(ctx)
	if err != nil {
		return nil, err
	}
	job := cim.NewRef(parts[1], "InstanceID", parts[2])
	if _, err := cim.ReadJob(ctx, s, job); err != nil {
		return nil, err
	}
	return &jobWatch{d: d, h: h, s: s, job: job, id: id}, nil
}

// jobWatch follows a job that another process started.
type jobWatch struct {
	d    *driver
	h    *host
	s    cim.Session
	job  cim.Ref
	id   hypervisor.TaskID
	last hypervisor.TaskState
	seen bool
}

func (w *jobWatch) ID() hypervisor.TaskID { return w.id }

func (w *jobWatch) Next(ctx context.Context) (hypervisor.TaskState, error) {
	if w.last.Done {
		return w.last, nil
	}
	for step := 0; ; step++ {
		st, err := cim.ReadJob(ctx, w.s, w.job)
		if err != nil {
			return hypervisor.TaskState{}, err
		}
		now := hypervisor.TaskState{Done: st.Done, Fraction: float64(st.Percent) / 100, Phase: st.Status, Err: st.Err}
		if st.Warning != "" {
			now.Notes = []string{st.Warning}
		}
		if st.Done && st.Err == nil {
			now.Result = w.result(ctx)
		}
		if !w.seen || now.Done || now.Fraction != w.last.Fraction || now.Phase != w.last.Phase {
			w.last, w.seen = now, true
			return now, nil
		}
		if err := w.d.poll.Next(ctx, step); err != nil {
			return hypervisor.TaskState{}, err
		}
	}
}

// result looks for what the job made or changed: a snapshot or a machine.
func (w *jobWatch) result(ctx context.Context) hypervisor.Ref {
	sets, err := cim.JobResult(ctx, w.s, w.job, "Msvm_VirtualSystemSettingData")
	if err == nil {
		for _, i := range sets {
			if strings.HasPrefix(i.Str("VirtualSystemType"), snapshotPrefix) {
				return hypervisor.SnapshotID(ownerOf(i.Str("InstanceID"))).Ref()
			}
		}
	}
	vms, err := cim.JobResult(ctx, w.s, w.job, "Msvm_ComputerSystem")
	if err == nil && len(vms) > 0 {
		return hypervisor.VMID(strings.ToUpper(vms[0].Str("Name"))).Ref()
	}
	return hypervisor.Ref{}
}

func (w *jobWatch) Cancel(ctx context.Context) error {
	st, err := cim.ReadJob(ctx, w.s, w.job)
	if err != nil || st.Done {
		return err
	}
	if !st.Cancellable {
		return hypervisor.Errorf(hypervisor.KindUnsupported, w.id.Ref(), "the host says that this job can't be cancelled")
	}
	return cim.CancelJob(ctx, w.s, w.job)
}
