package xen

import (
	"context"
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Values of VM.ha_restart_priority. An empty value means never.
const (
	haRestart    = "restart"
	haBestEffort = "best-effort"
)

// restartOrder maps a priority to VM.order, among machines that are
// restarted. XAPI starts those of lower numbers first, and a new machine has
// 0. The same field orders the start of a vApp's machines.
var restartOrder = map[hypervisor.RestartPriority]int64{hypervisor.RestartHigh: 0, hypervisor.RestartMedium: 1, hypervisor.RestartLow: 2}

// HA returns the settings of the pool (pool.ha_enabled,
// ha_host_failures_to_tolerate).
func (d *driver) HA(ctx context.Context) ([]hypervisor.HAInfo, error) {
	if err := d.allowed(ctx, hypervisor.Ref{Kind: hypervisor.ObjectClient}, capability.HighAvailability); err != nil {
		return nil, err
	}
	p, _, err := d.pool(ctx)
	if err != nil {
		return nil, err
	}
	return []hypervisor.HAInfo{{Pool: hypervisor.PoolID(p.UUID), Name: p.Name, Enabled: p.HA, FailuresToTolerate: int(p.HAFailures)}}, nil
}

// priority maps ha_restart_priority and order. XAPI has no default that
// machines inherit.
func (v *vmRec) priority() hypervisor.RestartPriority {
	switch {
	case v.HAPriority == haBestEffort:
		return hypervisor.RestartBestEffort
	case v.HAPriority != haRestart:
		return hypervisor.RestartNever
	case v.Order == 0:
		return hypervisor.RestartHigh
	case v.Order == 1:
		return hypervisor.RestartMedium
	}
	return hypervisor.RestartLow // a negative order comes last
}

// protected reports whether HA, once on, keeps the machine running. That is a
// machine of priority "restart", from its start to its stop (ha_always_run).
func (v *vmRec) protected() bool { return v.HAPriority == haRestart && v.HAAlways }

// Availability reads the availability of one machine.
func (d *driver) Availability(ctx context.Context, id hypervisor.VMID) (hypervisor.Availability, error) {
	if err := d.allowed(ctx, id.Ref(), capability.HighAvailability); err != nil {
		return hypervisor.Availability{}, err
	}
	_, v, err := d.vm(ctx, id)
	if err != nil {
		return hypervisor.Availability{}, err
	}
	p, _, err := d.pool(ctx)
	if err != nil {
		return hypervisor.Availability{}, err
	}
	a := hypervisor.Availability{Priority: v.priority()}
	if st := state(v.PowerState); p.HA && (st == hypervisor.StateRunning || st == hypervisor.StatePaused) {
		a.Protected = v.protected() || v.HAPriority == haBestEffort
	}
	return a, nil
}

// SetRestartPriority calls VM.set_ha_restart_priority and, for low, medium
// and high, VM.set_order.
func (d *driver) SetRestartPriority(ctx context.Context, id hypervisor.VMID, p hypervisor.RestartPriority) (hypervisor.DriverTask, error) {
	if err := d.allowed(ctx, id.Ref(), capability.HighAvailability); err != nil {
		return nil, err
	}
	vm, v, err := d.machine(ctx, id)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	if v.ill() { // otherwise HA would start it
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), blindDetail)
	}
	want := ""
	order, restarts := restartOrder[p]
	switch {
	case restarts:
		want = haRestart
	case p == hypervisor.RestartBestEffort:
		want = haBestEffort
	}
	var steps []step
	if v.HAPriority != want {
		steps = append(steps, step{"VM.set_ha_restart_priority", []any{want}, "VM.set_ha_restart_priority", []any{v.HAPriority}})
	}
	if restarts && v.priority() != p && v.Order != order {
		steps = append(steps, step{"VM.set_order", []any{order}, "VM.set_order", []any{v.Order}})
	}
	if len(steps) == 0 {
		return done(on), nil
	}
	return d.compose(ctx, "restart priority", on, capability.HighAvailability, "", func(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
		err := j.apply(ctx, vm, steps)
		if xapi.Code(err) == "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN" {
			err = d.unprotectable(ctx, vm, on, err)
		}
		return on, err
	})
}

// unprotectable returns the reason why HA can't keep a machine: it is tied to
// its host, or there is too little room on the others.
func (d *driver) unprotectable(ctx context.Context, vm xapi.Ref, on hypervisor.Ref, err error) error {
	why := "the other hosts have too little memory left: free some, tolerate fewer failures of hosts, or set ha_allow_overcommit on the pool"
	if tied := d.c.Call(ctx, nil, "VM.assert_agile", vm); xapi.Code(tied) != "" {
		why = fmt.Sprintf("it can't run on every host (%v): put its disks on shared storage and take its devices away", tied)
	}
	return hypervisor.Errorf(hypervisor.ErrExhausted, on, "HA could not keep the machine running when hosts fail: %s: %w", why, err)
}
