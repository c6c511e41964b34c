package vsphere

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// baseIdle is the time without any change to a template, whose base another
// Client makes, after which that Client is considered dead. A living Client
// finishes a step within moments, or waits for a task: the server lets nobody
// take over while a task is at work on the template.
var baseIdle = time.Minute

const (
	baseTries = 3                // readings and steps that may fail in a row
	baseLimit = 10 * time.Minute // for putting a template back
	basePause = 50 * time.Millisecond
)

// baseBook holds the makers of a Client that are at work, one for each
// template.
type baseBook struct {
	mu     sync.Mutex
	owner  string // the Client's name in marks
	makers map[hypervisor.VMID]*baseMaker
}

// baseMaker makes the base of a template, for all who wait for it.
type baseMaker struct {
	d      *driver
	id     hypervisor.VMID
	owner  string
	cancel context.CancelFunc

	at     *spot     // placement of the template while it is a machine
	opened bool      // this maker has opened it, or may have
	began  bool      // something was changed, or may have been
	seen   baseState // the last reading

	waiters int  // under the book's lock
	left    bool // all waiters have gone

	once  sync.Once
	done  chan struct{}
	base  ref
	notes []string
	err   error
}

// templateBase returns the base of a template, and makes one if there is
// none. When all waiters have gone, the work that was started is undone.
func (d *driver) templateBase(ctx context.Context, id hypervisor.VMID) (ref, []string, error) {
	for {
		m, err := d.joinBase(ctx, id)
		if err != nil {
			return ref{}, nil, err
		}
		select {
		case <-m.done:
		case <-ctx.Done():
			if m.leave() {
				<-m.done
			}
			return ref{}, nil, ctx.Err()
		}
		if !m.left {
			return m.base, m.notes, m.err
		}
	}
}

// joinBase returns the maker of a template, or a new one if there is none. If
// all waiters have left a maker, joinBase only waits for its end.
func (d *driver) joinBase(ctx context.Context, id hypervisor.VMID) (*baseMaker, error) {
	b := &d.bases
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := b.makers[id]; m != nil {
		m.waiters++
		return m, nil
	}
	if b.owner == "" {
		b.owner = rand.Text()
	}
	m := &baseMaker{d: d, id: id, owner: b.owner, waiters: 1, done: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return nil, errClosed()
	}
	ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if b.makers == nil {
		b.makers = map[hypervisor.VMID]*baseMaker{}
	}
	b.makers[id] = m
	d.background.Go(func() {
		defer m.cancel()
		stop := context.AfterFunc(d.ctx, m.cancel)
		defer stop()
		base, err := m.run(ctx)
		m.deliver(base, err)
	})
	return m, nil
}

// leave removes one waiter. It returns true to the last one.
func (m *baseMaker) leave() bool {
	m.d.bases.mu.Lock()
	defer m.d.bases.mu.Unlock()
	m.waiters--
	if m.waiters > 0 {
		return false
	}
	m.left = true
	m.cancel()
	return true
}

// deliver ends the waiting.
func (m *baseMaker) deliver(base ref, err error) {
	m.once.Do(func() {
		m.d.bases.mu.Lock()
		defer m.d.bases.mu.Unlock()
		delete(m.d.bases.makers, m.id)
		m.base, m.err = base, err
		close(m.done)
	})
}

// run takes one step after the other, each determined by a reading, so that
// it continues where another Client ended, or after a call whose answer was
// lost. When it is cancelled or a step fails, it restores the template.
func (m *baseMaker) run(ctx context.Context) (ref, error) {
	var failure error
	now, stop, fails := ctx, context.CancelFunc(func() {}), 0
	defer func() { stop() }()
	undo := func(err error) {
		now, stop = context.WithTimeout(context.WithoutCancel(ctx), baseLimit)
		failure, fails = err, 0
	}
	for {
		if err := ctx.Err(); err != nil && failure == nil {
			undo(err)
		}
		b, done, err := m.step(now, failure == nil)
		switch {
		case err == nil && done:
			return b.base, failure
		case err == nil:
			fails = 0
		case ctx.Err() != nil && failure == nil:
		case m.outwait(now, b, err):
		case fails < baseTries && m.passes(now, b, err):
			fails++
		case failure == nil:
			undo(err)
		default:
			return ref{}, errors.Join(failure, m.notPutBack(err))
		}
	}
}

// notPutBack reports the state of a template that could not be restored.
func (m *baseMaker) notPutBack(err error) error {
	what := "is left as a machine"
	switch {
	case !m.began:
		return nil
	case m.seen.template && !m.opened:
		what = "may have a line in its notes that says that its base is being made"
	case m.seen.template || kindOf(err) == hypervisor.ErrUnavailable:
		what = "may be left as a machine"
	}
	return fmt.Errorf("the template %s %s, until the next deployment from it: %w", m.id, what, err)
}

// outwait waits for the task that prevents a step, and returns false if there
// is none. If the base exists, it need not wait for the removal of its mark.
func (m *baseMaker) outwait(ctx context.Context, b baseState, err error) bool {
	f, ok := faultOf(err).(*types.TaskInProgress)
	if !ok {
		return false
	}
	if b.template && b.base.Value != "" {
		m.deliver(b.base, nil)
	}
	// The outcome of that task concerns others.
	_, _ = m.d.await(ctx, f.Task)
	return pause(ctx, basePause) == nil
}

// passes reports whether a failed step may be tried again: others did
// something meanwhile, or the server was not reachable.
func (m *baseMaker) passes(ctx context.Context, b baseState, err error) bool {
	if k := kindOf(err); k == hypervisor.ErrUnavailable || k == hypervisor.ErrBusy {
		return pause(ctx, basePause) == nil
	}
	again, rerr := m.d.readBase(ctx, m.id)
	return rerr == nil && again != b
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// step reads, and takes the next step. want is false to restore the template.
func (m *baseMaker) step(ctx context.Context, want bool) (b baseState, done bool, err error) {
	d, self := m.d, m.d.baseSelf(vmRef(m.id))
	if b, err = d.readBase(ctx, m.id); err != nil {
		return b, !want && isNotFound(err), err
	}
	m.seen, m.opened = b, m.opened && !b.template
	b.marked = b.marked || m.opened // the mark may be removed again when a slow call arrives
	has := b.base.Value != "" || !want
	switch {
	case b.owner != "" && b.owner != m.owner:
		return m.watch(ctx, b, want)
	case b.template && has && !b.marked, !b.template && !b.marked && !want:
		return b, true, nil
	case !b.template && !b.marked:
		return b, false, invalidState(m.id.Ref(), "this is a machine now, and no template")
	case b.template && has:
		return b, false, m.note(ctx, b, "")
	case b.template && !b.marked:
		return b, false, m.note(ctx, b, markOf(self, ""))
	case b.template:
		return b, false, m.open(ctx, b)
	case b.owner == "" || !has && !b.option:
		return b, false, m.claim(ctx, b)
	case !has:
		return b, false, m.snapshot(ctx)
	case b.option: // the template keeps only its notes
		return b, false, d.change(ctx, m.id, types.VirtualMachineConfigSpec{ChangeVersion: b.version, Annotation: joinNote(b.note, markOf(self, m.owner)),
			ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: baseKey, Value: ""}}})
	}
	_, err = methods.MarkAsTemplate(ctx, d.rt, &types.MarkAsTemplate{This: vmRef(m.id)})
	return b, false, err
}

// note writes the notes of a template. It sends no version: for a template,
// vSphere refuses everything but a name and notes.
func (m *baseMaker) note(ctx context.Context, b baseState, mark string) error {
	m.began = true
	return m.d.change(ctx, m.id, types.VirtualMachineConfigSpec{Annotation: joinNote(b.note, mark)})
}

// open turns the template into a machine. The placement was settled one
// reading earlier, so that there is no more than one call between a reading
// and this. A cancel does not interrupt it.
func (m *baseMaker) open(ctx context.Context, b baseState) error {
	if m.at == nil {
		at, err := m.d.settle(ctx, hypervisor.Placement{Host: hypervisor.HostID(b.host.Value)})
		if err == nil {
			m.at = &at
		}
		return err
	}
	m.began = true
	err := m.d.markVM(context.WithoutCancel(ctx), m.id, *m.at)
	m.opened = err == nil || kindOf(err) == hypervisor.ErrUnavailable
	return err
}

// claim makes this Client the owner, if nothing has changed since the reading.
func (m *baseMaker) claim(ctx context.Context, b baseState) error {
	m.began = true
	return m.d.change(ctx, m.id, types.VirtualMachineConfigSpec{ChangeVersion: b.version, Annotation: joinNote(b.note, ""),
		ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: baseKey, Value: m.d.baseSelf(vmRef(m.id)) + " " + m.owner}}})
}

func (m *baseMaker) snapshot(ctx context.Context) error {
	info, err := m.d.step(ctx, nil, func(ctx context.Context) (ref, error) { return m.d.snapshot(ctx, m.id, baseSnapshot) })
	if err == nil {
		m.notes = append(m.notes, "the template was a machine for a moment: vSphere makes no snapshots of templates",
			"snapshot "+resultOf(info).ID+" was made as the base of the linked clone")
	}
	return err
}

// watch waits for the owner to continue, and takes over from a dead one.
func (m *baseMaker) watch(ctx context.Context, b baseState, want bool) (baseState, bool, error) {
	if !want {
		return b, true, nil
	}
	if b.template && b.base.Value != "" {
		// Only the mark must be removed, which tasks prevent.
		if busy, err := m.d.atWork(ctx, m.id); busy || err != nil {
			return b, busy, err
		}
	}
	dead, err := m.d.baseIdles(ctx, m.id, b)
	switch {
	case err != nil || !dead:
		return b, false, err
	case b.template:
		return b, false, m.note(ctx, b, "")
	}
	return b, false, m.claim(ctx, b)
}

// atWork reports whether a task is at work on a machine.
func (d *driver) atWork(ctx context.Context, id hypervisor.VMID) (bool, error) {
	list, err := d.all(ctx, hopSpec(vmRef(id), "recentTask", "Task", []string{"info.state"}))
	for _, o := range list {
		if s := get[types.TaskInfoState](props(o), "info.state"); s == types.TaskInfoStateQueued || s == types.TaskInfoStateRunning {
			return true, err
		}
	}
	return false, err
}

// baseIdles waits until something has happened to a template since a reading.
// It returns true if nothing happened for a time that a living owner never
// takes. The time is measured here, and everything else is reported by the
// server: no two clocks are compared.
func (d *driver) baseIdles(ctx context.Context, id hypervisor.VMID, b baseState) (bool, error) {
	gen := d.session.gen.Load()
	pc, err := d.newCollector(ctx, refSpec([]ref{vmRef(id)}, []string{"config.changeVersion", "recentTask", "snapshot", "summary.config.template"}))
	if err != nil {
		return false, err
	}
	defer d.later(func(ctx context.Context) { d.dropCollector(ctx, pc) })
	began, version := time.Now(), ""
	for left := baseIdle; left > 0; left = baseIdle - time.Since(began) {
		set, err := d.updates(ctx, pc, version, int32(min(left/time.Second+1, longPoll)))
		switch {
		case err != nil && gen != d.session.gen.Load(): // the collector was lost with its session
			return false, nil
		case err != nil:
			return false, err
		case set == nil:
			continue
		case version != "" || !told(set, "config.changeVersion", b.version):
			return false, nil
		}
		version = set.Version
	}
	again, err := d.readBase(ctx, id)
	return err == nil && again == b, err
}

// told reports whether an update gives a property a value.
func told(set *types.UpdateSet, name string, val types.AnyType) bool {
	for _, f := range set.FilterSet {
		for _, o := range f.ObjectSet {
			for _, c := range o.ChangeSet {
				if c.Name == name {
					return c.Val == val
				}
			}
		}
	}
	return false
}
