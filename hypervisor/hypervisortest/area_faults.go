package hypervisortest

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// faults: every operation that changes something runs with the connection
// broken at each of its calls. The outcome must be the complete work, or an
// error after which everything that is left is named and the same work can be
// done.
var faults = area{name: "faults", rows: faultRows()}

func faultRows() []row {
	rows := []row{{name: "reads", run: faulty(brokenReads), apart: true}}
	for _, t := range trials() {
		needs := slices.Clone(t.needs)
		if k := capabilityOf(t.op); k != "" && !slices.Contains(needs, k) && len(needs) == 0 {
			needs = append(needs, k)
		}
		rows = append(rows, row{name: t.name(), needs: needs, apart: true, run: faulty(func(e *env) { breakEverywhere(e, t) })})
	}
	return rows
}

// faulty returns a row that breaks calls, where the backend can.
func faulty(run func(*env)) func(*env) {
	return func(e *env) {
		if e.Break != nil && e.Break.Break == nil {
			e.unshown("Backend.Break breaks no calls")
			return
		}
		run(e)
	}
}

// capabilityOf returns the capability that an operation without options
// needs.
func capabilityOf(name op.Name) capability.Name {
	for _, o := range hypervisor.Operations() {
		if o.Name == name && len(o.Capabilities) > 0 {
			return o.Capabilities[0]
		}
	}
	return ""
}

// breaking is a trial at work in a row.
type breaking struct {
	trial
	base  base
	want  scene  // after the work without a fault
	spare *stage // in the state of a new one
	first scene  // of a new stage
}

// limit is how long an operation may take.
func (e *env) limit() time.Duration { return cmp.Or(e.Break.Limit, 30*time.Second) }

// apart gives the row a second Client, for everything but the work itself.
func (e *env) apart() bool {
	e.Helper()
	switch {
	case e.Break == nil:
		e.unshown("Backend.Break is nil")
		return false
	case e.Reopen == nil:
		e.Fatalf("Backend.Break needs Backend.Reopen")
	}
	c, err := e.Reopen(e.ctx)
	e.ok(err, "Reopen")
	e.quiet = c
	e.Cleanup(func() {
		if err := c.Close(); err != nil {
			e.Errorf("Close: %v", err)
		}
	})
	return true
}

func breakEverywhere(e *env, t trial) {
	if !e.apart() {
		return
	}
	if t.guest && e.Break.NoBoot {
		e.unshown("guests are not waited for here")
		return
	}
	if t.do == nil {
		t.do = changing[t.op]
	}
	k := &breaking{trial: t, base: e.base()}
	calls := k.measure(e)
	struck, late := 0, 0
	for _, x := range e.Break.targets(calls) {
		e.T.(tree).sub(x.String(), func(t tree) {
			try := *e
			try.T = t
			switch {
			case x.b.How == Late && k.tryLate(&try, x):
				late++
			case x.b.How != Late && k.try(&try, x):
				struck++
			}
		})
	}
	if e.Break.Late && struck > 0 && late == 0 && !e.Failed() && tasked(t.op) {
		e.Errorf("of the calls %v none was answered late", calls)
	}
	if k.spare != nil {
		k.spare.env = e
		e.ok(k.spare.clear(k.base, true), "remove the stage")
	}
	if struck == 0 && e.without == "" {
		e.unshown("it makes no call that is broken here")
	}
}

// stage returns a stage in the state of a new one.
func (k *breaking) stage(e *env) (*stage, scene) {
	e.Helper()
	if s := k.spare; s != nil {
		k.spare, s.env = nil, e
		return s, k.before(s)
	}
	var spec func(string) hypervisor.VMSpec
	if k.spec != nil {
		spec = k.spec(e.Backend)
	}
	s := e.newStage(string(k.op)[:2], spec)
	for _, f := range k.prepare {
		if f(s); s.missing != "" {
			return s, scene{}
		}
	}
	return s, k.before(s)
}

// before is the scene of a new stage: its machine, and as many images and
// lines as the first one has.
func (k *breaking) before(s *stage) scene {
	s.Helper()
	if k.first.lines == nil {
		k.first = k.scene(s, true)
		return k.first
	}
	out := k.first
	out.images = s.added(k.base.images)
	out.machines = map[hypervisor.VMID]hypervisor.VMInfo{s.vm.ID(): {ID: s.vm.ID()}}
	return out
}

// measure does the work without a fault and returns the calls that it takes.
func (k *breaking) measure(e *env) []string {
	e.Helper()
	s, before := k.stage(e)
	defer func() {
		if err := s.clear(k.base, true); err != nil {
			e.Errorf("remove what was made without faults: %v", err)
		}
	}()
	if s.missing != "" {
		e.unshown("%s", s.missing)
		return nil
	}
	e.Break.Calls()
	err := k.do(e.ctx, s)
	calls := e.Break.Calls()
	if errors.Is(err, hypervisor.ErrUnsupported) {
		e.unshown("%v", err)
		return nil
	}
	e.ok(err, "without faults")
	e.settle()
	k.want = k.scene(s, true)
	if same := k.want.shape() == before.shape(); same != k.same && !k.unseen {
		e.Errorf("without faults there is\n%s\nand there was\n%s", k.want.shape(), before.shape())
	}
	return calls
}

// brokenReads breaks every call of every operation that reads. The breakage
// must not be noticed.
func brokenReads(e *env) {
	if !e.apart() {
		return
	}
	b := e.base()
	s := e.newFullStage()
	defer func() { e.ok(s.clear(b, true), "remove the stage") }()
	for _, name := range slices.Sorted(maps.Keys(reading)) {
		if name == op.ClientWatch || name == op.TaskFind {
			continue // Watch belongs to the area events; all others wait for a task's end
		}
		e.Break.Calls()
		err := reading[name](e.ctx, s)
		calls := e.Break.Calls()
		if err != nil {
			e.Logf("%s is not broken: %v", name, err)
			continue
		}
		for _, x := range e.Break.targets(calls) {
			if x.b.How == Refuse || x.b.How == Late || x.b.Then != 0 {
				continue // contexts ends reads that wait for an answer
			}
			ctx, stop := context.WithTimeout(e.ctx, e.limit())
			e.Break.Break(x.call, x.nth, x.b)
			err := reading[name](ctx, s)
			e.Break.Heal()
			if stop(); err != nil {
				e.Errorf("%s, %s: %v", name, x, err)
			}
		}
	}
}

// tasked reports whether an operation starts work.
func tasked(name op.Name) bool {
	all := hypervisor.Operations()
	i := slices.IndexFunc(all, func(o hypervisor.Operation) bool { return o.Name == name })
	return i >= 0 && all[i].Task
}

func (e *env) settle() {
	e.Helper()
	if e.Break.Settle != nil {
		e.ok(e.Break.Settle(e.ctx), "wait for the end of what the platform does")
	}
}

// try does the work with one call broken. It reports whether a call was
// broken.
func (k *breaking) try(e *env, x target) (struck bool) {
	e.Helper()
	s, before := k.stage(e)
	clean := false
	defer func() { k.leave(e, s, clean) }()
	ctx, stop := context.WithTimeout(e.ctx, e.limit())
	defer stop()
	e.Break.Break(x.call, x.nth, x.b)
	err := k.do(ctx, s)
	struck = e.Break.Heal()
	if ctx.Err() != nil {
		e.Fatalf("it has not ended after %v: %v", e.limit(), err)
	}
	e.settle()
	v := verdict{breaking: k, stage: s, target: x, struck: struck, before: before}
	v.of(err)
	clean = !e.Failed() && k.recycle(s, before)
	return struck
}

// leave ends a try. It removes the stage if that is not clean.
func (k *breaking) leave(e *env, s *stage, clean bool) {
	e.Helper()
	e.Break.Heal()
	if clean {
		return
	}
	if err := s.clear(k.base, e.Failed()); err != nil && !e.Failed() {
		e.Errorf("remove what was made: %v", err)
	}
	if e.Failed() { // what can't be removed is not held against the next try
		k.base = e.base()
	}
}

// recycle removes what was made beside the stage. It then keeps the stage for
// the next try if it is as before, and reports whether it is.
func (k *breaking) recycle(s *stage, before scene) bool {
	s.Helper()
	if !k.token && !k.same || k.op == op.TemplateDeploy {
		return false
	}
	keep := base{maps.Clone(k.base.machines), append(slices.Clone(k.base.images), before.images...), k.base.hidden}
	for id := range before.machines {
		keep.machines[id] = true
	}
	undo := s.undo
	s.undo = nil
	err := s.clear(keep, false)
	s.undo = undo
	if err != nil || len(undo) > 0 || k.scene(s, false).shape() != k.first.shape() {
		return false
	}
	k.spare = s
	return true
}
