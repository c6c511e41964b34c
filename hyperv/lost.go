package hyperv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// A connection that breaks takes the answer of a call with it: the host may
// have done the call, may have begun a job for it, or may never have got it.
// Each call that changes something therefore comes with a way to find out,
// which looks at the host and at nothing else.

// trace finds out what became of a call whose answer was lost. It returns an
// answer in its stead, or nil if the call may be sent again: it did nothing,
// and a second one can do nothing that the first, should it come late, undoes
// or does again.
type trace func(ctx context.Context) (*cim.Result, error)

// request is a call that changes something.
type request struct {
	s      cim.Session
	look   trace
	ref    cim.Ref
	method string
	args   []cim.Arg
}

// errUndone is what a trace says of a call that did nothing, and that is not
// sent again all the same: the host may get it yet, and would do it twice.
var errUndone = errors.New("the host shows no trace of it")

// once makes the trace of a call that must not be done twice.
func once(look trace) trace {
	return func(ctx context.Context) (*cim.Result, error) {
		r, err := look(ctx)
		if r == nil && err == nil {
			err = errUndone
		}
		return r, err
	}
}

func (q *request) call(ctx context.Context) (*cim.Result, error) {
	return cim.Call(ctx, q.s, q.ref, q.method, q.args...)
}

func (q *request) send(ctx context.Context) (*cim.Result, error) {
	r, err := q.call(ctx)
	return q.follow(ctx, r, err)
}

// follow goes on from the first answer: if it was lost it finds out what came
// of the call, and sends it again, once, if nothing did.
func (q *request) follow(ctx context.Context, r *cim.Result, err error) (*cim.Result, error) {
	for again := true; errors.Is(err, cim.ErrLost); again = false {
		found, lerr := q.look(ctx)
		switch {
		case errors.Is(lerr, errUndone):
			return nil, fmt.Errorf("%s: %w (%w)", q.method, err, lerr)
		case lerr != nil:
			return nil, fmt.Errorf("%s: %w; whether it was done is not known: %v", q.method, err, lerr)
		case found != nil:
			found.Method = q.method
			return found, nil
		case !again:
			return nil, err
		}
		r, err = q.call(ctx)
	}
	return r, err
}

// done is the trace of a call that is done when a condition holds, once no job
// works on the machine.
func (m *machine) done(is func(ctx context.Context) (bool, error)) trace {
	return m.h.done(func(ctx context.Context) error { return m.quiet(ctx) }, is)
}

func (h *host) done(quiet func(context.Context) error, is func(context.Context) (bool, error)) trace {
	return func(ctx context.Context) (*cim.Result, error) {
		if err := quiet(ctx); err != nil {
			return nil, err
		}
		if yes, err := is(ctx); err != nil || !yes {
			return nil, err
		}
		return &cim.Result{}, nil
	}
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

// repeat is the trace of a call on a machine that does no harm a second time.
func (m *machine) repeat(ctx context.Context) (*cim.Result, error) { return nil, m.quiet(ctx) }

// unknown is the trace of a call that leaves none, and that must not be done
// twice.
func unknown(context.Context) (*cim.Result, error) { return nil, errors.New("it leaves no trace") }

// absent is a condition: an object is not there.
func absent(s cim.Session, ref cim.Ref) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		_, err := cim.Read(ctx, s, ref)
		if isGone(err) {
			return true, nil
		}
		return false, err
	}
}

// in is a condition: the machine is in a state.
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

// jobs are the unfinished jobs that work on the machine, none if it is gone.
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

// quiet waits for the jobs of a host that work on no machine yet, as those do
// that make one.
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
// path: not all tell which they work on.
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

// finishAll waits for the end of jobs, whatever it is.
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

// madeByTask finds the machine that a task of this package made, by its notes; ""
// if there is none.
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
