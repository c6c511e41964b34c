package hypervisortest

import (
	"errors"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// availability: restart priorities are kept and reported, and so is
// replication.
var availability = area{"availability", []row{
	{name: "of-a-new-machine", proves: caps{capability.HighAvailability}, run: availabilityNew},
	{name: "restart-priorities", proves: caps{capability.HighAvailability}, run: availabilityPriorities},
	{name: "priority-refused", needs: caps{capability.HighAvailability}, run: availabilityRefused},
	{name: "not-replicated", needs: caps{capability.ReplicationRead}, run: availabilityNotReplicated},
	{name: "replication-is-told", proves: caps{capability.ReplicationRead}, run: availabilityReplication},
}}

// pool returns the availability settings of the pool or cluster of a machine.
func (e *env) pool(vm *hypervisor.VM) hypervisor.HAInfo {
	e.Helper()
	pools, err := hypervisor.Collect(e.c.HA(e.ctx))
	e.ok(err, "HA")
	host, err := e.c.Host(e.info(vm).Host).Info(e.ctx)
	if err != nil { // it may be in none while it is off
		host = e.allHosts()[0]
	}
	i := slices.IndexFunc(pools, func(p hypervisor.HAInfo) bool { return p.Pool == host.Pool })
	if i < 0 {
		e.Fatalf("HA lists %+v, none of which is pool %q of host %s", pools, host.Pool, host.ID)
	}
	return pools[i]
}

func (e *env) availability(vm *hypervisor.VM) hypervisor.Availability {
	e.Helper()
	a, err := vm.Availability(e.ctx)
	e.ok(err, "Availability")
	return a
}

func availabilityNew(e *env) {
	vm := e.create("ha")
	p := e.pool(vm)
	if a := e.availability(vm); a.Protected || a.Inherited && a.Priority != p.DefaultPriority {
		e.Errorf("a new machine that is off has %+v, the pool %+v", a, p)
	}
}

func availabilityPriorities(e *env) {
	vm := e.running()
	kept := 0
	for _, p := range []hypervisor.RestartPriority{hypervisor.RestartBestEffort, hypervisor.RestartLow, hypervisor.RestartMedium, hypervisor.RestartNever, hypervisor.RestartHigh} {
		for n := range 2 {
			if !e.setPriority(vm, p, n == 0 && p == hypervisor.RestartBestEffort) {
				break
			}
			kept++
		}
	}
	if kept < 8 {
		e.Errorf("only %d of the calls were honoured", kept)
	}
	e.off(vm)
	if a := e.availability(vm); a.Priority != hypervisor.RestartHigh || a.Protected {
		e.Errorf("off, the machine has %+v, want high and not protected", a)
	}
}

// setPriority sets a running machine's priority. It returns false if the
// priority may be refused and was.
func (e *env) setPriority(vm *hypervisor.VM, p hypervisor.RestartPriority, mayRefuse bool) bool {
	e.Helper()
	before := e.availability(vm)
	err := errOf(e, vm.SetRestartPriority(e.ctx, p))
	if mayRefuse && errors.Is(err, hypervisor.ErrUnsupported) {
		if a := e.availability(vm); a != before {
			e.Errorf("refused, SetRestartPriority(%s) changed %+v to %+v", p, before, a)
		}
		return false
	}
	e.ok(err, "SetRestartPriority(%s)", p)
	a, pool := e.availability(vm), e.pool(vm)
	if a.Priority != p || a.Inherited {
		e.Errorf("after SetRestartPriority(%s): %+v", p, a)
	}
	if want := pool.Enabled && p != hypervisor.RestartNever; a.Protected != want {
		e.Errorf("a running machine of priority %s has Protected %t, the pool %+v", p, a.Protected, pool)
	}
	return true
}

func availabilityRefused(e *env) {
	absent := e.c.VM(e.AbsentVM)
	e.kind(errOf(e, e.create("ha").SetRestartPriority(e.ctx, "soon")), hypervisor.ErrInvalidArgument, "SetRestartPriority(soon)")
	e.kind(errOf(e, absent.SetRestartPriority(e.ctx, hypervisor.RestartLow)), hypervisor.ErrNotFound, "SetRestartPriority of an absent machine")
	_, err := absent.Availability(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Availability of an absent machine")
}

func availabilityNotReplicated(e *env) {
	r, err := e.create("single").Replication(e.ctx)
	e.ok(err, "Replication")
	if r != (hypervisor.ReplicationInfo{}) {
		e.Errorf("a machine that isn't replicated has %+v", r)
	}
	_, err = e.c.VM(e.AbsentVM).Replication(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Replication of an absent machine")
}

func availabilityReplication(e *env) {
	if e.Replicate == nil {
		e.unshown("the harness has no replication")
		return
	}
	vm := e.create("replicated")
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for _, want := range []hypervisor.ReplicationInfo{
		{Role: hypervisor.RolePrimary, State: hypervisor.ReplicationInitial, Health: hypervisor.HealthOK},
		{Role: hypervisor.RolePrimary, State: hypervisor.ReplicationActive, Health: hypervisor.HealthWarning, LastAt: at},
		{Role: hypervisor.RoleReplica, State: hypervisor.ReplicationSuspended, Health: hypervisor.HealthOK, LastAt: at},
		{Role: hypervisor.RoleTestReplica, State: hypervisor.ReplicationFailedOver, Health: hypervisor.HealthOK, LastAt: at},
		{Role: hypervisor.RoleExtendedReplica, State: hypervisor.ReplicationResync, Health: hypervisor.HealthCritical, LastAt: at},
		{Role: hypervisor.RolePrimary, State: hypervisor.ReplicationError, Health: hypervisor.HealthCritical, LastAt: at},
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
}
