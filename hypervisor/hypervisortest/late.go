package hypervisortest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// tryLate does the work with the answer to one call held back, and ends the
// caller's context when the platform has acted. It reports whether an answer
// was held back.
func (k *breaking) tryLate(e *env, x target) bool {
	e.Helper()
	s, before := k.stage(e)
	clean := false
	defer func() { k.leave(e, s, clean) }()
	ctx, stop := context.WithTimeout(e.ctx, e.limit())
	defer stop()
	acted, done := make(chan struct{}), make(chan error, 1)
	x.b.Acted = sync.OnceFunc(func() { close(acted) })
	e.Break.Break(x.call, x.nth, x.b)
	go func() { done <- k.do(ctx, s) }()
	var err error
	struck := false
	select {
	case <-acted:
		struck = true
		stop()
		err = e.returns(done)
	case err = <-done:
		select {
		case <-acted: // by work of the Client that nobody waits for
			struck = true
		default:
		}
	}
	e.Break.Heal()
	e.settle()
	v := verdict{breaking: k, stage: s, target: x, struck: struck, before: before}
	v.late(err)
	clean = !e.Failed() && k.recycle(s, before)
	return struck
}

// returns waits for the end of an operation whose context has ended.
func (e *env) returns(done <-chan error) error {
	e.Helper()
	took := stopwatch()
	select {
	case err := <-done:
		if d := took(); d > soon {
			e.Errorf("it returned %v after its context: %v", d, err)
		}
		return err
	case <-time.After(10 * soon):
		e.Errorf("it has not returned %v after its context", took())
	}
	e.Break.Heal()
	select {
	case err := <-done:
		return err
	case <-time.After(e.limit()):
		e.Fatalf("it heeds no context")
		return nil
	}
}

// late judges work whose caller gave up before the answer came. It is found
// by its task, or was undone, or what is left of it is named.
func (v *verdict) late(err error) {
	v.Helper()
	var detached *hypervisor.DetachedError
	followed := errors.As(err, &detached)
	if followed {
		err = v.found(detached)
	}
	if err == nil {
		if now := v.now(v.trial.templates()); now.shape() != v.want.shape() {
			v.Fatalf("it succeeded, but there is\n%s\nwant\n%s", now.shape(), v.want.shape())
		}
		return
	}
	var e *hypervisor.Error
	switch {
	case !errors.As(err, &e):
		v.Fatalf("%v is no *hypervisor.Error", err)
	case !followed && !errors.Is(err, context.Canceled):
		v.Errorf("%v (kind %s), want that its context ended", err, e.Kind)
	case followed && e.Kind != hypervisor.ErrCanceled:
		v.Errorf("the work was not cancelled and has not succeeded: %v", err)
	}
	now := v.now(true)
	if now.shape() != v.want.shape() {
		v.tidy(e)
	} else {
		v.unharmed(now, e)
	}
	v.taken(e)
	for end := time.Now().Add(5 * time.Second); now.shape() != v.before.shape() && time.Now().Before(end); now = v.now(true) {
		time.Sleep(20 * time.Millisecond) // it is undone without its caller
	}
	if now.shape() == v.want.shape() && tasked(v.trial.op) && now.shape() != v.before.shape() {
		v.Fatalf("the work was done, and the error has no task: %v", err)
	}
	v.nothingHalf(now, err)
	v.repeat(&now)
}

// taken looks up what a Leftover names: the API must take the ID, and may not
// find it. Parts of machines have no look-up; tidy removes them.
func (v *verdict) taken(e *hypervisor.Error) {
	v.Helper()
	c := v.calm()
	for _, r := range e.Leftover {
		if r.ID == "" { // nobody could look
			continue
		}
		var err error
		switch r.Kind {
		case hypervisor.ObjectVM:
			_, err = c.VM(hypervisor.VMID(r.ID)).Info(v.ctx)
		case hypervisor.ObjectTemplate:
			_, err = c.Template(hypervisor.TemplateID(r.ID)).Info(v.ctx)
		case hypervisor.ObjectSnapshot:
			_, err = v.sure().Snapshot(hypervisor.SnapshotID(r.ID)).Info(v.ctx)
		case hypervisor.ObjectHost:
			_, err = c.Host(hypervisor.HostID(r.ID)).Info(v.ctx)
		case hypervisor.ObjectTask:
			_, err = c.Task(v.ctx, hypervisor.TaskID(r.ID))
		case hypervisor.ObjectVolume:
			if err = v.remove(r); !errors.Is(err, hypervisor.ErrInvalidArgument) {
				err = nil // it may be in use
			}
		case hypervisor.ObjectDisk, hypervisor.ObjectNIC, hypervisor.ObjectDevice:
		default:
			v.Errorf("Leftover names %v, for which there is no handle: %v", r, e)
		}
		if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
			v.Errorf("Leftover names %v, which the API doesn't take: %v", r, err)
		}
	}
}
