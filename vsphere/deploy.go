package vsphere

import (
	"context"
	"slices"
	"sync"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// deploy takes one task of the server, if the base for a linked clone exists
// or a full clone need not wait for the making of the base.
func (d *driver) deploy(ctx context.Context, id hypervisor.VMID, b baseState, r hypervisor.CloneRequest, spec *types.VirtualMachineCloneSpec,
	call string, notes []string, begin func(context.Context) (ref, error)) (hypervisor.DriverTask, error) {
	linked := r.Mode == hypervisor.CloneModeLinked && r.From == ""
	if b.marked || linked && !b.ready() {
		return d.deployLater(ctx, id, r, spec, call, notes, begin)
	}
	if linked {
		spec.Snapshot = &b.base
	}
	t, err := d.cloneJob(ctx, r, call, notes, begin)
	if b.ready() {
		return t, err
	}
	// Another Client may start to make the base, and then no clone can start.
	inTheWay := func(ctx context.Context, why error) (bool, error) { return d.baseInTheWay(ctx, id, why) }
	later := func(ctx context.Context) (hypervisor.DriverTask, error) {
		return d.deployLater(ctx, id, r, spec, call, notes, begin)
	}
	if err != nil {
		if base, rerr := inTheWay(ctx, err); rerr == nil && base {
			return later(ctx)
		}
		return nil, err
	}
	return &patient{DriverTask: t, id: t.ID(), inTheWay: inTheWay, later: later}, nil
}

// baseInTheWay reports whether a template was busy because its base was made.
func (d *driver) baseInTheWay(ctx context.Context, id hypervisor.VMID, why error) (bool, error) {
	f, busy := faultOf(why).(*types.TaskInProgress)
	if !busy {
		return false, nil
	}
	if p, err := d.one(ctx, f.Task, "info.descriptionId"); err == nil && p.str("info.descriptionId") == "VirtualMachine.reconfigure" {
		_, _ = d.await(ctx, f.Task) // it may write the mark
	}
	b, err := d.readBase(ctx, id)
	return b.marked || b.ready(), err
}

// deployLater waits for the template's base, or makes it.
func (d *driver) deployLater(ctx context.Context, id hypervisor.VMID, r hypervisor.CloneRequest, spec *types.VirtualMachineCloneSpec,
	call string, notes []string, begin func(context.Context) (ref, error)) (hypervisor.DriverTask, error) {
	return d.group.Go(ctx, newID("clone"), func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		for try := 0; ; try++ {
			report(hypervisor.TaskState{Fraction: -1, Phase: "waiting for the base of linked clones"})
			base, more, err := d.templateBase(ctx, id)
			if err != nil {
				return hypervisor.TaskState{Err: err}
			}
			notes := slices.Concat(notes, more)
			if r.Mode == hypervisor.CloneModeLinked && r.From == "" {
				spec.Snapshot = &base
			}
			info, err := d.step(ctx, func(s hypervisor.TaskState) { s.Notes = notes; report(s) }, begin)
			if err == nil {
				return hypervisor.TaskState{Result: resultOf(info), Notes: notes}
			}
			// A separate task removes the mark from the template.
			f, busy := faultOf(err).(*types.TaskInProgress)
			if !busy || try == baseTries {
				return hypervisor.TaskState{Err: err, Notes: notes, Leftover: d.leftBy(context.WithoutCancel(ctx), call, r.Name)}
			}
			_, _ = d.await(ctx, f.Task) // its outcome concerns others
			if err := pause(ctx, basePause); err != nil {
				return hypervisor.TaskState{Err: err}
			}
		}
	})
}

// patient is a task of the server that is replaced by another one if the
// making of the template's base was in its way.
type patient struct {
	id       hypervisor.TaskID
	inTheWay func(context.Context, error) (bool, error)
	later    func(context.Context) (hypervisor.DriverTask, error)

	mu sync.Mutex
	hypervisor.DriverTask
	final bool // it is not replaced
}

func (p *patient) ID() hypervisor.TaskID { return p.id }

func (p *patient) Next(ctx context.Context) (hypervisor.TaskState, error) {
	for {
		p.mu.Lock()
		t, final := p.DriverTask, p.final
		p.mu.Unlock()
		s, err := t.Next(ctx)
		if err != nil || final || !s.Done || s.Err == nil {
			return s, err
		}
		again, err := p.inTheWay(ctx, s.Err)
		if err != nil {
			return hypervisor.TaskState{}, err
		}
		if !again {
			return s, nil
		}
		if err := p.replace(ctx); err != nil {
			return hypervisor.TaskState{}, err
		}
	}
}

// replace starts another task, unless it did before or the first was
// cancelled.
func (p *patient) replace(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.final {
		return nil
	}
	t, err := p.later(ctx) // makes no call itself
	if err == nil {
		p.DriverTask, p.final = t, true
	}
	return err
}

func (p *patient) Cancel(ctx context.Context) error {
	p.mu.Lock()
	p.final = true
	t := p.DriverTask
	p.mu.Unlock()
	return t.Cancel(ctx)
}
