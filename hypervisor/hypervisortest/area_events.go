package hypervisortest

import (
	"context"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// events: what happens is told, and a token resumes.
func events(e *env) {
	native := e.has(hypervisor.WatchEvents)
	resume := e.has(hypervisor.WatchResume)
	wait := e.EventWait
	if wait == 0 {
		wait = 20 * time.Second
	}
	ctx, stop := context.WithCancel(e.ctx)
	defer stop()
	ch := make(chan hypervisor.Event, 1000)
	done := make(chan error, 1)
	go func() {
		var last error
		for ev, err := range e.c.Watch(ctx, "") {
			if err != nil {
				last = err
				break
			}
			ch <- ev
		}
		done <- last
	}()
	time.Sleep(100 * time.Millisecond) // until the watch stands
	vm := e.create("vm")
	token := ""
	expect := func(what string, f func(hypervisor.Event) bool) {
		e.Helper()
		t := time.After(wait)
		for {
			select {
			case ev := <-ch:
				if ev.Type == "" || ev.Time.IsZero() {
					e.Errorf("event without type or time: %+v", ev)
				}
				if native && resume && ev.Token == "" {
					e.Errorf("event without a token: %+v", ev)
				}
				if ev.Object.ID == string(vm.ID()) && f(ev) {
					token = ev.Token
					return
				}
			case <-t:
				e.Fatalf("no event within %v: %s", wait, what)
			case err := <-done:
				e.Fatalf("Watch ended: %v", err)
			}
		}
	}
	expect("created", func(v hypervisor.Event) bool { return v.Type == hypervisor.VMCreated })
	e.start(vm)
	expect("running", func(v hypervisor.Event) bool {
		return v.Type == hypervisor.VMState && v.State == hypervisor.Running
	})
	e.off(vm)
	expect("off", func(v hypervisor.Event) bool { return v.Type == hypervisor.VMState && v.State == hypervisor.Off })
	from := token
	_, err := vm.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
	e.ok(err, "Delete")
	expect("deleted", func(v hypervisor.Event) bool { return v.Type == hypervisor.VMDeleted })
	stop()
	select {
	case err := <-done:
		e.ok(err, "Watch after its context ended")
	case <-time.After(wait):
		e.Fatalf("Watch goes on after its context ended")
	}
	if native {
		e.proved(hypervisor.WatchEvents)
	}
	// From an old token: the deletion again, or a Resync.
	ctx2, stop2 := context.WithTimeout(e.ctx, wait)
	defer stop2()
	if from == "" && resume {
		e.Errorf("%s is declared, and events carry no token", hypervisor.WatchResume)
	}
	for _, token := range []string{from, "no such token"} {
		got := false
		if token == "" {
			continue
		}
		for ev, err := range e.c.Watch(ctx2, token) {
			e.ok(err, "Watch from token %q", token)
			if ev.Type == hypervisor.Resync && (!resume || token != from) || ev.Type == hypervisor.VMDeleted && ev.Object.ID == string(vm.ID()) {
				got = true
				break
			}
		}
		if !got {
			e.Errorf("Watch from token %q told neither the deletion nor a Resync", token)
		}
	}
	if resume {
		e.proved(hypervisor.WatchResume)
	}
}
