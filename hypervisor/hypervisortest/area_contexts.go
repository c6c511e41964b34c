package hypervisortest

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// contexts: every operation runs against a server that accepts connections
// and answers nothing: once over existing connections, and once while another
// call waits for a new one. The operation must end with its context, and when
// the server answers again the Client must work as before.
var contexts = area{name: "contexts", rows: contextRows()}

const (
	patience = 200 * time.Millisecond // the lifetime of an operation's context
	soon     = time.Second            // the time in which it must have returned
	// closeLimit is the limit of Client.Close, and a little more.
	closeLimit = 5*time.Second + 100*time.Millisecond
)

// silentForms are the two ways to be silent; the value is Breaker.Silence's.
var silentForms = []struct {
	name string
	cut  bool
}{{"silent", false}, {"dialling", true}}

// answers lists the operations that may succeed at a silent server, and why.
var answers = map[op.Name]string{
	op.ClientSupports: "what was learnt before holds on",
	op.TaskFind:       "the Client knows its own work",
	op.TaskCancel:     "work that the Client carries is cancelled in it",
	op.HAList:         "what was learnt before holds on",
	op.HostList:       "a host that doesn't answer is listed as such",
	op.HostFind:       "a host that doesn't answer is found as such",
	op.HostInfo:       "a host that doesn't answer is described as such",
}

func contextRows() []row {
	rows := []row{{name: "describe", run: describeInSilence, apart: true}}
	for _, o := range hypervisor.Operations() {
		r := row{name: string(o.Name), apart: true}
		if len(o.Capabilities) > 0 {
			r.needs = caps{o.Capabilities[0]}
		}
		switch {
		case o.Name == op.ClientOpen:
			r.run = openInSilence
		case o.Name == op.ClientClose:
			r.run = closeInSilence
		case reading[o.Name] != nil:
			r.run = func(e *env) { readInSilence(e, o.Name) }
		case changing[o.Name] != nil:
			r.run = func(e *env) { changeInSilence(e, o.Name) }
		default:
			continue
		}
		rows = append(rows, r)
	}
	return rows
}

// inForms runs f with each kind of silence. It stops at one that shows
// nothing.
func (e *env) inForms(f func(e *env, cut bool)) {
	e.Helper()
	for _, form := range silentForms {
		if e.without != "" {
			return
		}
		e.T.(tree).sub(form.name, func(t tree) {
			try := *e
			try.T = t
			defer func() { e.without = try.without }() // also after Fatalf
			f(&try, form.cut)
		})
	}
}

// list is a read that queries every host of the Client.
func list(ctx context.Context, c *hypervisor.Client) error {
	return second(hypervisor.Collect(c.VMs(ctx, nil)))
}

// inSilence makes the server silent, calls f with a context that ends soon,
// and ends the silence. If connections are cut, another call waits for a new
// one all the while. It must end when the silence does.
func (e *env) inSilence(cut bool, what string, f func(context.Context) error) error {
	e.Helper()
	e.Break.Silence(cut)
	defer e.Break.Heal()
	other := make(chan error, 1)
	if cut {
		ctx := e.ctx
		go func() {
			var err error
			for range 5 { // several old connections may turn out to be cut
				if err = list(ctx, e.c); hypervisor.KindOf(err) != hypervisor.ErrUnavailable {
					break
				}
			}
			other <- err
		}()
		time.Sleep(patience / 4) // it is under way by then, most probably
	} else {
		other <- nil
	}
	err := e.ends(what, f)
	if cut && len(other) > 0 {
		e.Errorf("another call, which has time, has returned from a silent server: %v", <-other)
		other <- nil
	}
	e.Break.Heal()
	select {
	case err := <-other:
		if err != nil {
			e.Errorf("another call, which had waited for a silent server: %v", err)
		}
	case <-time.After(e.limit()):
		e.Errorf("another call is still waiting %v after the server spoke again", e.limit())
	}
	return err
}

// ends calls f and checks that it returns soon after the end of its context.
func (e *env) ends(what string, f func(context.Context) error) error {
	e.Helper()
	ctx, stop := context.WithTimeout(e.ctx, patience)
	defer stop()
	took := stopwatch()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		if d := took(); d > soon {
			e.Errorf("%s returned %v after its start with a context of %v: %v", what, d, patience, err)
		}
		return err
	case <-time.After(10 * soon):
		e.Errorf("%s has not returned %v after its start with a context of %v", what, took(), patience)
	}
	e.Break.Heal()
	select {
	case <-done: // so that it disturbs nobody
	case <-time.After(e.limit()):
	}
	e.Fatalf("%s heeds no context", what)
	return nil
}

// stopwatch measures until the function that it returns is called. It counts
// only the time in which this program could run, so that an operation doesn't
// look slow on a machine that is busy with other work.
func stopwatch() func() time.Duration {
	const tick = 10 * time.Millisecond
	var ran atomic.Int64
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(tick):
				ran.Add(int64(tick))
			}
		}
	}()
	return func() time.Duration { close(stop); return time.Duration(ran.Load()) }
}

// gaveUp checks that the error is that of a context that ended.
func (e *env) gaveUp(name op.Name, err error) {
	e.Helper()
	var he *hypervisor.Error
	var d *hypervisor.DetachedError
	switch {
	case err == nil && answers[name] != "":
	case err == nil:
		e.Errorf("%s succeeded at a silent server", name)
	case !errors.Is(err, context.DeadlineExceeded):
		e.Errorf("%s: %v (kind %s), want that its context ended", name, err, hypervisor.KindOf(err))
	case errors.As(err, &d) && d.Task == "":
		e.Errorf("%s is detached, and names no task: %v", name, err)
	case d == nil && !errors.As(err, &he) && name != op.ClientWatch: // it ends with its context, without an error
		e.Errorf("%s: %v is no *hypervisor.Error", name, err)
	case he != nil && (he.Object.Kind == "" || he.Object.ID == "" && he.Object.Name == ""):
		e.Errorf("%s: the error names no object: %v", name, err)
	case he != nil && he.Kind != hypervisor.ErrUnknown:
		e.Errorf("%s: %v is of kind %s, as if the caller had not given up", name, err, he.Kind)
	}
}

// goesOn checks that the Client works.
func (e *env) goesOn() {
	e.Helper()
	e.ok(list(e.ctx, e.c), "VMs after the silence")
}

func readInSilence(e *env, name op.Name) {
	if !e.apart() {
		return
	}
	b, read := e.base(), reading[name]
	s := e.readingStage(name)
	defer func() { s.env = e; e.ok(s.clear(b, true), "remove the stage") }()
	if s.missing != "" {
		e.unshown("%s", s.missing)
		return
	}
	// once reads with as much time as an operation gets that ends by itself.
	once := func() error {
		ctx, stop := e.ctx, func() {}
		if name == op.ClientWatch {
			ctx, stop = context.WithTimeout(ctx, patience)
		}
		defer stop()
		return read(ctx, s)
	}
	want := once()
	if errors.Is(want, hypervisor.ErrUnsupported) {
		e.unshown("%v", want)
		return
	}
	e.inForms(func(e *env, cut bool) {
		s.env = e
		e.gaveUp(name, e.inSilence(cut, string(name), func(ctx context.Context) error { return read(ctx, s) }))
		e.goesOn()
		if got := once(); (got == nil) != (want == nil) || hypervisor.KindOf(got) != hypervisor.KindOf(want) {
			e.Errorf("%s after the silence: %v, and %v before", name, got, want)
		}
	})
}

// readingStage prepares the arguments of an operation that reads.
func (e *env) readingStage(name op.Name) *stage {
	e.Helper()
	s := &stage{env: e, name: e.name("read"), known: map[hypervisor.VMID]bool{}}
	object, _, _ := strings.Cut(string(name), ".")
	switch {
	case object == "template":
		if e.has(capability.Templates) {
			besideTemplate(s)
		}
	case object == "host":
		anyHost(s)
	case object == "task":
		s = e.newStage("read", nil)
		if briefClone(s); s.missing == "" {
			s.task = s.work.ID()
		}
	case object == "snapshot":
		s = e.newStage("read", nil)
		snapshotted(s)
	case name == op.VMCheckMigrate:
		s = e.newStage("read", nil)
		anyHost(s)
	case object == "vm" && name != op.VMList, object == "guest", name == op.ClientSupports, name == op.ClientPlace:
		s = e.newStage("read", nil)
	}
	return s
}

// briefClone starts a clone that is under way when the server becomes silent.
// A platform that can't cancel it finishes it soon. Its error may be that of
// a broken connection; whatever it has left shows when the stage is removed.
func briefClone(s *stage) { s.Helper(); s.cloneFor(10 * patience) }

// anyHost finds any host.
func anyHost(s *stage) {
	s.Helper()
	all, err := hypervisor.Collect(s.calm().Hosts(s.ctx))
	s.ok(err, "Hosts")
	if len(all) == 0 {
		s.Fatalf("there is no host")
	}
	h := all[len(all)-1]
	s.host, s.hostName = h.ID, h.Name
}

func changeInSilence(e *env, name op.Name) {
	if !e.apart() {
		return
	}
	b := e.base()
	e.inForms(func(e *env, cut bool) {
		k, s := e.choose(name, b)
		if k == nil {
			return
		}
		defer func() {
			e.Break.Heal()
			if err := s.clear(b, true); err != nil && !e.Failed() {
				e.Errorf("remove what was made: %v", err)
			}
		}()
		v := verdict{breaking: k, stage: s, target: target{b: Breakage{How: Before}}, before: k.first}
		err := e.inSilence(cut, string(name), func(ctx context.Context) error { return k.do(ctx, s) })
		e.gaveUp(name, err)
		e.goesOn()
		e.settle()
		if v.afterSilence(err) {
			return
		}
		if err := k.do(e.ctx, s); errors.Is(err, hypervisor.ErrUnsupported) {
			e.unshown("%v", err)
		} else if err != nil {
			e.Errorf("%s after the silence: %v", name, err)
		}
	})
}

// choose prepares the first of the trials of an operation that is possible
// here, or returns nil if there is none.
func (e *env) choose(name op.Name, b base) (*breaking, *stage) {
	e.Helper()
	why := "no form of it is declared"
	for _, t := range trials() {
		if t.op != name || !e.hasAll(t.needs) {
			continue
		}
		if t.guest && e.Break.NoBoot {
			why = "guests are not waited for here"
			continue
		}
		if t.do == nil {
			t.do = changing[name]
		}
		if name == op.TaskCancel { // its trial needs more, and takes longer
			t.do, t.prepare = changing[name], prepare(briefClone)
		}
		k := &breaking{trial: t, base: b}
		s, _ := k.stage(e)
		if s.missing == "" {
			return k, s
		}
		why = s.missing
		e.ok(s.clear(b, true), "remove the stage")
	}
	e.unshown("%s", why)
	return nil, nil
}

func (e *env) hasAll(ks caps) bool {
	e.Helper()
	for _, k := range ks {
		if !e.has(k) {
			return false
		}
	}
	return true
}

// afterSilence checks that an operation that never arrived has done nothing.
// Work that continued without its caller may be complete by now, and the
// result reports that.
func (v *verdict) afterSilence(err error) (whole bool) {
	v.Helper()
	var detached *hypervisor.DetachedError
	if errors.As(err, &detached) {
		if err = v.found(detached); err == nil {
			return true
		}
	}
	if v.trial.op == op.TaskCancel { // the work continues
		return false
	}
	var e *hypervisor.Error
	if errors.As(err, &e) && len(e.Leftover) > 0 {
		v.tidy(e)
	}
	v.nothingHalf(v.now(true), err)
	return false
}
