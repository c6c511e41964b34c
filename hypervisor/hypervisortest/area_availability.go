package hypervisortest

import (
	"errors"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// availability: restart priorities are kept and told, and so is replication.
func availability(e *env) {
	if e.has(hypervisor.HighAvailability) {
		e.restartPriorities()
	}
	if e.has(hypervisor.ReplicationRead) {
		e.replication()
	}
}

func (e *env) restartPriorities() {
	pools, err := hypervisor.Collect(e.c.HA(e.ctx))
	e.ok(err, "HA")
	if len(pools) == 0 {
		e.Fatalf("HA lists no cluster or pool")
	}
	vm := e.create("ha")
	host, err := e.c.Host(e.info(vm).Host).Info(e.ctx)
	if err != nil { // it may be on none while it is off
		hosts, err := hypervisor.Collect(e.c.Hosts(e.ctx))
		e.ok(err, "Hosts")
		host = hosts[0]
	}
	i := slices.IndexFunc(pools, func(p hypervisor.HAInfo) bool { return p.Pool == host.Pool })
	if i < 0 {
		e.Fatalf("HA lists %+v, none of which is pool %q of host %s", pools, host.Pool, host.ID)
	}
	read := func() hypervisor.Availability {
		e.Helper()
		a, err := vm.Availability(e.ctx)
		e.ok(err, "Availability")
		return a
	}
	if a := read(); a.Protected || a.Inherited && a.Priority != pools[i].DefaultPriority {
		e.Errorf("a new machine that is off has %+v, the pool %+v", a, pools[i])
	}
	e.start(vm)
	kept := 0
	for _, p := range []hypervisor.RestartPriority{hypervisor.RestartBestEffort, hypervisor.RestartLow, hypervisor.RestartMedium, hypervisor.RestartNever, hypervisor.RestartHigh} {
		before := read()
		for n := range 2 {
			_, err := vm.SetRestartPriority(e.ctx, p).Wait(e.ctx)
			if n == 0 && p == hypervisor.RestartBestEffort && errors.Is(err, hypervisor.ErrUnsupported) {
				if a := read(); a != before {
					e.Errorf("refused, SetRestartPriority(%s) changed %+v to %+v", p, before, a)
				}
				break
			}
			e.ok(err, "SetRestartPriority(%s)", p)
			a := read()
			if a.Priority != p || a.Inherited {
				e.Errorf("after SetRestartPriority(%s): %+v", p, a)
			}
			if want := pools[i].Enabled && p != hypervisor.RestartNever; a.Protected != want {
				e.Errorf("a running machine of priority %s has Protected %t, the pool %+v", p, a.Protected, pools[i])
			}
			kept++
		}
	}
	if kept < 8 {
		e.Errorf("only %d of the calls were honoured", kept)
	}
	e.off(vm)
	if a := read(); a.Priority != hypervisor.RestartHigh || a.Protected {
		e.Errorf("off, the machine has %+v, want high and not protected", a)
	}
	_, err = vm.SetRestartPriority(e.ctx, "soon").Wait(e.ctx)
	e.kind(err, hypervisor.ErrInvalidArgument, "SetRestartPriority(soon)")
	_, err = e.c.VM(e.AbsentVM).SetRestartPriority(e.ctx, hypervisor.RestartLow).Wait(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "SetRestartPriority of an absent machine")
	_, err = e.c.VM(e.AbsentVM).Availability(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Availability of an absent machine")
	e.proved(hypervisor.HighAvailability)
}

func (e *env) replication() {
	vm := e.create("replicated")
	r, err := vm.Replication(e.ctx)
	e.ok(err, "Replication")
	if r != (hypervisor.ReplicationInfo{}) {
		e.Errorf("a machine that isn't replicated has %+v", r)
	}
	_, err = e.c.VM(e.AbsentVM).Replication(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Replication of an absent machine")
	if e.Replicate == nil {
		return
	}
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for _, want := range []hypervisor.ReplicationInfo{
		{Role: hypervisor.Primary, State: hypervisor.ReplicationInitial, Health: hypervisor.HealthOK},
		{Role: hypervisor.Primary, State: hypervisor.Replicating, Health: hypervisor.HealthWarning, LastAt: at},
		{Role: hypervisor.Replica, State: hypervisor.ReplicationSuspended, Health: hypervisor.HealthOK, LastAt: at},
		{Role: hypervisor.TestReplica, State: hypervisor.FailedOver, Health: hypervisor.HealthOK, LastAt: at},
		{Role: hypervisor.ExtendedReplica, State: hypervisor.ReplicationResync, Health: hypervisor.HealthCritical, LastAt: at},
		{Role: hypervisor.Primary, State: hypervisor.ReplicationError, Health: hypervisor.HealthCritical, LastAt: at},
		{},
	} {
		e.ok(e.Replicate(e.ctx, vm.ID(), want), "have the machine say %+v", want)
		got, err := vm.Replication(e.ctx)
		e.ok(err, "Replication")
		same := got.LastAt.Equal(want.LastAt)
		got.Detail, got.LastAt = "", want.LastAt
		if got != want || !same {
			e.Errorf("Replication is %+v, want %+v", got, want)
		}
	}
	e.proved(hypervisor.ReplicationRead)
}
