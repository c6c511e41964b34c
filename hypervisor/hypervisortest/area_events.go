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
	var vm *hypervisor.VM
	made := map[hypervisor.VMID]*hypervisor.VM{}
	token := ""
	// hear returns the next event of a machine made here that f takes, or false
	// when there is none in time.
	hear := func(wait time.Duration, f func(hypervisor.Event) bool) (hypervisor.VMID, bool) {
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
				id := hypervisor.VMID(ev.Object.ID)
				if made[id] != nil && (vm == nil || id == vm.ID()) && f(ev) {
					token = ev.Token
					return id, true
				}
			case <-t:
				return "", false
			case err := <-done:
				e.Fatalf("Watch ended: %v", err)
			}
		}
	}
	expect := func(what string, f func(hypervisor.Event) bool) {
		e.Helper()
		if _, ok := hear(wait, f); !ok {
			e.Fatalf("no event within %v: %s", wait, what)
		}
	}
	// Nothing tells when a watch stands. A machine made before that is told of
	// by no event, so another follows, a little later each time.
	for try, waited := 2*time.Second, time.Duration(0); vm == nil; try *= 2 {
		if waited > wait {
			e.Fatalf("no event within %v: %d machines created", waited, len(made))
		}
		m := e.create("vm")
		made[m.ID()] = m
		if id, ok := hear(try, func(v hypervisor.Event) bool { return v.Type == hypervisor.VMCreated }); ok {
			vm = made[id]
		}
		waited += try
	}
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
