package hyperv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
)

// trace finds the outcome of a call whose answer was lost. look finds an
// answer on the host in its place, or nil if there is none.
type trace struct {
	look func(context.Context) (*cim.Result, error)
	once bool // a call without a trace must not be sent again
}

// once makes the trace of a call that must not be done twice.
func once(t trace) trace {
	t.once = true
	return t
}

// request is a call that changes something.
type request struct {
	trace
	s      cim.Session
	ref    cim.Ref
	method string
	args   []cim.Arg
}

func (m *machine) request(t trace, ref cim.Ref, method string, args ...cim.Arg) *request {
	return &request{t, m.s, ref, method, args}
}

func (q *request) call(ctx context.Context) (*cim.Result, error) {
	return cim.Call(ctx, q.s, q.ref, q.method, q.args...)
}

func (q *request) send(ctx context.Context) (*cim.Result, error) {
	r, err := q.call(ctx)
	return q.follow(ctx, r, err)
}

// follow continues with the first answer.
func (q *request) follow(ctx context.Context, r *cim.Result, err error) (*cim.Result, error) {
	lost := func(err error) bool { return errors.Is(err, cim.ErrLost) }
	r, err = job.Call[*cim.Result]{Send: q.call, Lost: lost, Again: !q.once, Goal: func(ctx context.Context) (*cim.Result, bool, error) {
		found, err := q.look(ctx)
		if found != nil {
			found.Method = q.method
		}
		return found, found != nil, err
	}}.After(ctx, r, err)
	if lost(err) {
		err = fmt.Errorf("%s: %w", q.method, err)
	}
	return r, err
}

// done is the trace of a call that is complete when a condition holds, once
// no job works on the machine.
func (m *machine) done(is func(ctx context.Context) (bool, error)) trace {
	return m.h.done(func(ctx context.Context) error { return m.quiet(ctx) }, is)
}

func (h *host) done(quiet func(context.Context) error, is func(context.Context) (bool, error)) trace {
	return trace{look: func(ctx context.Context) (*cim.Result, error) {
		if err := quiet(ctx); err != nil {
			return nil, err
		}
		if yes, err := is(ctx); err != nil || !yes {
			return nil, err
		}
		return &cim.Result{}, nil
	}}
}

// set is the trace of a call that changes properties to values.
func (m *machine) set(to ...*cim.Embedded) trace {
	return m.done(func(ctx context.Context) (bool, error) {
		for _, e := range to {
			want := &cim.Instance{Props: e.Props}
			now, err := cim.Read(ctx, m.s, m.h.settingRef(e.Class, want.Str("InstanceID")))
			if err != nil {
				return false, err
			}
			for _, p := range e.Props {
				if !slices.EqualFunc(p.Value.Strings(), now.Get(p.Name).Strings(), strings.EqualFold) {
					return false, nil
				}
			}
		}
		return true, nil
	})
}

// repeat is the trace of a call on a machine that is harmless a second time.
func (m *machine) repeat() trace {
	return trace{look: func(ctx context.Context) (*cim.Result, error) { return nil, m.quiet(ctx) }}
}

// unknown is the trace of a call that leaves no trace, and that must not be
// done twice.
var unknown = trace{look: func(context.Context) (*cim.Result, error) { return nil, errors.New("it leaves no trace") }}

// absent is the condition that an object does not exist.
func absent(s cim.Session, ref cim.Ref) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		_, err := cim.Read(ctx, s, ref)
		if isGone(err) {
			return true, nil
		}
		return false, err
	}
}

// in is the condition that the machine is in a state.
func (m *machine) in(want hypervisor.PowerState) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		i, err := cim.Read(ctx, m.s, m.ref())
		if err != nil {
			return false, err
		}
		return state(i) == want, nil
	}
}

// running is the condition of unfinished jobs: JobState is 2 (new) to 6
// (shutting down).
const running = "JobState < 7"

// quiet waits for the jobs that work on the machine.
func (m *machine) quiet(ctx context.Context) error {
	jobs, err := m.jobs(ctx)
	if err != nil {
		return err
	}
	return m.d.finishAll(ctx, m.s, jobs)
}

// jobs are the unfinished jobs that work on the machine, or none if it is
// gone.
func (m *machine) jobs(ctx context.Context) ([]cim.Ref, error) {
	rows, err := cim.Collect(m.s.Query(ctx, cim.Virtualization, cim.AssociatorsOf(m.ref(), cim.Assoc{Class: "Msvm_AffectedJobElement", Result: "CIM_ConcreteJob"})))
	if err != nil && !isGone(err) {
		return nil, err
	}
	var out []cim.Ref
	for _, j := range rows {
		if j.Uint("JobState") < 7 {
			out = append(out, j.Self(m.h.name))
		}
	}
	return out, nil
}

// quiet waits for the jobs of a host that do not work on a machine yet, such
// as jobs that make one.
func (o *op) quiet(ctx context.Context) error {
	rows, err := cim.Collect(o.s.Query(ctx, cim.Virtualization, cim.Select("Msvm_ConcreteJob", nil, running)))
	if err != nil {
		return err
	}
	var jobs []cim.Ref
	for _, j := range rows {
		on, err := cim.JobResult(ctx, o.s, j.Self(o.h.name), "CIM_ComputerSystem")
		if err != nil && !isGone(err) {
			return err
		}
		if !slices.ContainsFunc(on, func(i *cim.Instance) bool { return guid.MatchString(i.Str("Name")) }) { // not of the host itself
			jobs = append(jobs, j.Self(o.h.name))
		}
	}
	return o.d.finishAll(ctx, o.s, jobs)
}

// quietImages waits for the jobs of the image service that may work on a
// path: not all of them report their path.
func (d *driver) quietImages(ctx context.Context, h *host, s cim.Session, path string) error {
	rows, err := cim.Collect(s.Query(ctx, cim.Virtualization, cim.Select("Msvm_StorageJob", nil, running)))
	if err != nil {
		return err
	}
	var jobs []cim.Ref
	for _, j := range rows {
		if c := j.Str("Child"); c == "" || strings.EqualFold(c, path) {
			jobs = append(jobs, j.Self(h.name))
		}
	}
	return d.finishAll(ctx, s, jobs)
}

// finishAll waits for the end of jobs, whatever their outcome.
func (d *driver) finishAll(ctx context.Context, s cim.Session, jobs []cim.Ref) error {
	for _, j := range jobs {
		var ce *cim.Error
		err := cim.WaitJob(ctx, s, j, d.poll, nil)
		if err != nil && (!errors.As(err, &ce) || errors.Is(err, cim.ErrConnection)) {
			return err
		}
	}
	return nil
}

// madeByTask finds the machine that a task of this package made, by its
// notes, or "" if there is none.
func (o *op) madeByTask(ctx context.Context, task hypervisor.TaskID) (string, error) {
	inv, err := readInventory(ctx, o.h, o.s, []int{rowSettings, rowSystems}, nil)
	if err != nil {
		return "", err
	}
	for _, id := range inv.machines() {
		if parseNotes(inv.byID[id].settings.Strs("Notes")).Task == string(task) {
			return id, nil
		}
	}
	return "", nil
}
