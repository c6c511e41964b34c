package fleet

import (
	"context"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// MoveOptions are the options for MoveN.
type MoveOptions struct {
	// Labels and Select choose the machines, as in Plan.
	Labels map[string]string
	Select func(hypervisor.VMInfo) bool
	// From are the hosts to leave, all at the same time. Machines elsewhere
	// are not moved, and machines that are off stay. Empty means the selected
	// machines of all hosts, off or not; To alone then decides.
	From []hypervisor.HostID
	// To are the allowed destinations; empty means all hosts but those in
	// From.
	To []hypervisor.HostID
	// Migrate are further options of the moves; Host must be empty.
	Migrate hypervisor.MigrateOptions
}

// MoveN makes a plan that moves machines to other hosts: a selection, or
// everything that runs on some hosts. Client.Place chooses each destination
// when the turn of the machine comes, among those that CheckMigrate accepts. A
// machine that is at a destination already is done. Give From, To or both:
// with neither, each machine moves to any other host. Limits are those of
// LimitsFor. The caller may change the plan.
func MoveN(id string, c *hypervisor.Client, o MoveOptions) *Plan {
	work := WorkMove
	if o.Migrate.Storage != "" {
		work = WorkMoveStorage
	}
	p := &Plan{ID: id, Clients: clientsOf(c), Labels: o.Labels, Limits: LimitsFor(c, work)}
	p.Select = func(v hypervisor.VMInfo) bool {
		return (len(o.From) == 0 || slices.Contains(o.From, v.Host) && v.State != hypervisor.StateOff) && (o.Select == nil || o.Select(v))
	}
	allowed := func(h hypervisor.HostID) bool {
		return !slices.Contains(o.From, h) && (len(o.To) == 0 || slices.Contains(o.To, h))
	}
	p.Steps = []Step{{Name: "move", Do: func(ctx context.Context, vm *hypervisor.VM, a *Attempt) error {
		if a.Task == "" {
			v, err := vm.Info(ctx)
			if err != nil || allowed(v.Host) && v.Host != "" && (len(o.To) > 0 || len(o.From) > 0) {
				return err
			}
		}
		host, err := destination(ctx, vm, o.Migrate, allowed)
		if err != nil && a.Task == "" {
			return err
		}
		_, err = Await(ctx, a, func(ctx context.Context) *hypervisor.Task[hypervisor.MigrateResult] {
			m := o.Migrate
			m.Host = host
			return vm.Migrate(ctx, m)
		})
		return err
	}}}
	return p
}

// destination returns the best host that accepts the machine.
func destination(ctx context.Context, vm *hypervisor.VM, m hypervisor.MigrateOptions, allowed func(hypervisor.HostID) bool) (hypervisor.HostID, error) {
	v, err := vm.Info(ctx)
	if err != nil {
		return "", err
	}
	recs, err := vm.Client().Place(ctx, hypervisor.PlaceRequest{VM: vm.ID(), Datastore: m.Storage})
	if err != nil {
		return "", err
	}
	var last error = hypervisor.Errorf(hypervisor.ErrExhausted, vm.Ref(), "no allowed host takes the machine")
	for _, r := range recs {
		if r.Host == v.Host || !allowed(r.Host) {
			continue
		}
		m.Host = r.Host
		rep, err := vm.CheckMigrate(ctx, m)
		if err == nil && rep.OK() {
			return r.Host, nil
		}
		if last = err; err == nil {
			last = hypervisor.Errorf(hypervisor.ErrIncompatible, vm.Ref(), "%w", &hypervisor.BlockedError{Blockers: rep.Blockers})
		}
	}
	return "", last
}
