package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// EvacuateOptions are the options for Host.Evacuate. Nil means two machines
// at a time, to the hosts that Place recommends.
type EvacuateOptions struct {
	Parallel int      // machines at a time; 0 means 2
	To       []HostID // allowed destinations; empty for all
}

// EvacuateResult is what an evacuation did. It is also returned beside an
// error, when some machines could not be moved.
type EvacuateResult struct {
	Moved []MigrateResult
	Left  []Ref // machines that are still on the host
}

var evacuation atomic.Uint64

// Evacuate moves every running or paused machine of the host to other hosts
// by live migration. Machines that are Off or Suspended stay. A machine that cannot be moved does not stop the others: the
// error then joins every failure, Leftover names the machines that are still
// on the host, and the result lists what was moved. The task's phases count
// the machines. This package composes the work, so it ends with the Client;
// package fleet has a way that survives a restart of the program. The platform's own way, where there is
// one, is EnterMaintenance with Evacuate.
func (h *Host) Evacuate(ctx context.Context, o *EvacuateOptions) *Task[EvacuateResult] {
	const op = op.HostEvacuate
	on := h.id.Ref()
	opt := EvacuateOptions{Parallel: 2}
	if o != nil {
		opt.To = o.To
		if o.Parallel != 0 {
			opt.Parallel = o.Parallel
		}
	}
	bad := checkID(op, on)
	if bad == nil && opt.Parallel < 1 {
		bad = invalid(op, on, "Parallel %d: move at least one machine at a time", opt.Parallel)
	}
	if bad == nil && slices.Contains(opt.To, h.id) {
		bad = invalid(op, on, "To contains the host itself")
	}
	var e evacuationRun
	t := start(ctx, h.c, op, on, capability.MigrateLive, bad, func(ctx context.Context, _ Migrator) (DriverTask, error) {
		vms, err := h.running(ctx)
		if err != nil {
			return nil, err
		}
		e = evacuationRun{h: h, opt: opt, total: len(vms)}
		id := TaskID(fmt.Sprintf("evacuate-%s-%d", h.id, evacuation.Add(1)))
		return h.c.group.Go(context.WithValue(ctx, part{}, true), id, func(ctx context.Context, report func(TaskState)) TaskState {
			return e.run(ctx, vms, report)
		})
	}, func(context.Context, TaskState) (EvacuateResult, error) { return EvacuateResult{e.moved, e.left}, nil })
	t.partial = true
	return t
}

func (h *Host) running(ctx context.Context) ([]VMInfo, error) {
	if _, err := h.Info(ctx); err != nil {
		return nil, err
	}
	all, err := Collect(h.c.VMs(ctx, &ListOptions{Detail: DetailBrief, Host: h.id}))
	return slices.DeleteFunc(all, func(v VMInfo) bool { return v.Host != h.id || v.State != StateRunning && v.State != StatePaused }), err
}

type evacuationRun struct {
	h     *Host
	opt   EvacuateOptions
	total int

	mu    sync.Mutex
	moved []MigrateResult
	left  []Ref
	errs  []error
}

func (e *evacuationRun) run(ctx context.Context, vms []VMInfo, report func(TaskState)) TaskState {
	var wg sync.WaitGroup
	slots := make(chan struct{}, e.opt.Parallel)
	for _, v := range vms {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			r, err := e.move(ctx, v)
			e.mu.Lock()
			defer e.mu.Unlock()
			if err != nil {
				e.errs = append(e.errs, err)
				e.left = append(e.left, Ref{Kind: ObjectVM, ID: string(v.ID), Name: v.Name})
			} else {
				e.moved = append(e.moved, r)
			}
			n := len(e.moved) + len(e.left)
			report(TaskState{Fraction: float64(n) / float64(e.total), Phase: fmt.Sprintf("%d of %d machines", n, e.total)})
		})
	}
	wg.Wait()
	s := TaskState{Result: e.h.id.Ref(), Leftover: e.left}
	if len(e.errs) > 0 {
		s.Err = fmt.Errorf("%d of %d machines could not be moved: %w", len(e.errs), e.total, errors.Join(e.errs...))
		if ctx.Err() == nil {
			s.Err = Errorf(KindOf(e.errs[0]), e.h.Ref(), "%w", s.Err)
		}
	}
	return s
}

// move tries the destinations in the order of Place until one accepts the
// machine.
func (e *evacuationRun) move(ctx context.Context, v VMInfo) (MigrateResult, error) {
	c := e.h.c
	if err := ctx.Err(); err != nil {
		return MigrateResult{}, err
	}
	recs, err := c.place(ctx, v.ID.Ref(), PlaceRequest{VM: v.ID})
	if err != nil {
		return MigrateResult{}, c.wrap(op.ClientPlace, v.ID.Ref(), err)
	}
	var last error = Errorf(ErrExhausted, v.ID.Ref(), "no other host takes the machine")
	for _, r := range recs {
		if r.Host == e.h.id || len(e.opt.To) > 0 && !slices.Contains(e.opt.To, r.Host) {
			continue
		}
		opt := MigrateOptions{Host: r.Host, Mode: MigrateModeLive}
		rep, err := c.VM(v.ID).CheckMigrate(ctx, opt)
		if err == nil && !rep.OK() {
			err = Errorf(ErrIncompatible, v.ID.Ref(), "%w", &BlockedError{rep.Blockers})
		}
		if err != nil {
			last = err
			continue
		}
		// The move itself is not abandoned halfway: its true outcome counts.
		return c.VM(v.ID).Migrate(ctx, opt).Run(ctx, defaultShutdown)
	}
	return MigrateResult{}, last
}
