package hypervisortest

import (
	"cmp"
	"context"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// events: changes are reported, and a watch resumes from a token.
var events = area{"events", []row{
	{name: "told", proves: caps{capability.WatchEvents}, anyway: true, run: eventsTold},
	{name: "ends-with-its-context", run: eventsEnd},
	{name: "resumed", proves: caps{capability.WatchResume}, anyway: true, run: eventsResumed},
}}

// watcher listens to events about machines that it made.
type watcher struct {
	*env
	stop   func()
	wait   time.Duration
	tokens bool // events must carry one
	events chan hypervisor.Event
	done   chan error
	made   map[hypervisor.VMID]*hypervisor.VM
	vm     *hypervisor.VM // whose events came; nil: none did yet
	token  string         // of the last event heard
}

func (e *env) watch() *watcher {
	ctx, stop := context.WithCancel(e.ctx)
	w := &watcher{env: e, stop: stop, wait: cmp.Or(e.EventWait, 20*time.Second), events: make(chan hypervisor.Event, 1000),
		tokens: e.has(capability.WatchEvents) && e.has(capability.WatchResume),
		done:   make(chan error, 1), made: map[hypervisor.VMID]*hypervisor.VM{}}
	go func() {
		var last error
		for ev, err := range w.Client.Watch(ctx, "") {
			if err != nil {
				last = err
				break
			}
			w.events <- ev
		}
		w.done <- last
	}()
	time.Sleep(50 * time.Millisecond) // most watches are established by then, see created
	return w
}

// hear returns the machine of the next event that f accepts, or false when
// there is none in time.
func (w *watcher) hear(wait time.Duration, f func(hypervisor.Event) bool) (hypervisor.VMID, bool) {
	w.Helper()
	t := time.After(wait)
	for {
		select {
		case ev := <-w.events:
			if ev.Type == "" || ev.Time.IsZero() {
				w.Errorf("event without type or time: %+v", ev)
			}
			if w.tokens && ev.Token == "" {
				w.Errorf("event without a token: %+v", ev)
			}
			id := hypervisor.VMID(ev.Object.ID)
			if w.made[id] != nil && (w.vm == nil || id == w.vm.ID()) && f(ev) {
				w.token = ev.Token
				return id, true
			}
		case <-t:
			return "", false
		case err := <-w.done:
			w.Fatalf("Watch ended: %v", err)
		}
	}
}

func (w *watcher) expect(what string, f func(hypervisor.Event) bool) {
	w.Helper()
	if _, ok := w.hear(w.wait, f); !ok {
		w.Fatalf("no event within %v: %s", w.wait, what)
	}
}

func (w *watcher) expectState(s hypervisor.PowerState) {
	w.Helper()
	w.expect(string(s), func(v hypervisor.Event) bool { return v.Type == hypervisor.EventVMState && v.State == s })
}

// created makes a machine and waits for its event. Nothing signals that a
// watch is established, and earlier events are lost: it makes more machines,
// with growing pauses, until one is reported.
func (w *watcher) created() *hypervisor.VM {
	w.Helper()
	for try, waited := 2*time.Second, time.Duration(0); w.vm == nil; try *= 2 {
		if waited > w.wait {
			w.Fatalf("no event within %v: %d machines created", waited, len(w.made))
		}
		m := w.create("vm")
		w.made[m.ID()] = m
		if id, ok := w.hear(try, func(v hypervisor.Event) bool { return v.Type == hypervisor.EventVMCreated }); ok {
			w.vm = w.made[id]
		}
		waited += try
	}
	return w.vm
}

// deleted deletes the machine and waits for its event.
func (w *watcher) deleted() {
	w.Helper()
	must(w.env, w.vm.Delete(w.ctx, hypervisor.DeleteDisks, nil), "Delete")
	w.expect("deleted", func(v hypervisor.Event) bool { return v.Type == hypervisor.EventVMDeleted })
}

// end ends the watch's context, and checks that the watch ends.
func (w *watcher) end() {
	w.Helper()
	w.stop()
	select {
	case err := <-w.done:
		w.ok(err, "Watch after its context ended")
	case <-time.After(w.wait):
		w.Fatalf("Watch continues after its context ended")
	}
}

func eventsTold(e *env) {
	w := e.watch()
	defer w.stop()
	vm := w.created()
	e.start(vm)
	w.expectState(hypervisor.StateRunning)
	e.off(vm)
	w.expectState(hypervisor.StateOff)
	w.deleted()
	w.end()
}

func eventsEnd(e *env) {
	e.watch().end()
}

// From an old token: the deletion again, or a Resync.
func eventsResumed(e *env) {
	resume := e.has(capability.WatchResume)
	w := e.watch()
	defer w.stop()
	vm := w.created()
	from := w.token
	w.deleted()
	w.end()
	ctx, stop := context.WithTimeout(e.ctx, w.wait)
	defer stop()
	if from == "" && resume {
		e.Errorf("%s is declared, and events carry no token", capability.WatchResume)
	}
	for _, token := range []string{from, "no such token"} {
		if token == "" {
			continue
		}
		got := false
		for ev, err := range e.c.Watch(ctx, token) {
			e.ok(err, "Watch from token %q", token)
			if ev.Type == hypervisor.EventResync && (!resume || token != from) || ev.Type == hypervisor.EventVMDeleted && ev.Object.ID == string(vm.ID()) {
				got = true
				break
			}
		}
		if !got {
			e.Errorf("Watch from token %q told neither the deletion nor a Resync", token)
		}
	}
}
