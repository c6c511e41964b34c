package fleet

import (
	"context"
	"errors"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// HostOptions are the options for RestartHosts.
type HostOptions struct {
	// Select chooses the hosts that are up; nil means all.
	Select func(hypervisor.HostInfo) bool
	// Evacuate are the options for emptying a host.
	Evacuate hypervisor.EvacuateOptions
	// Act patches and restarts the empty host. This API has no call for it:
	// the platform's own tool or the host's management board does it. It may
	// run again after its worker was killed.
	Act func(context.Context, *hypervisor.Host, *Attempt) error
	// Wait is the time for the host to come back; 0 means 30 minutes.
	Wait time.Duration
}

// RestartHosts makes a plan that takes one host after the other out of use:
// evacuate, enter maintenance, act, wait until the host is back, exit
// maintenance. On platforms without maintenance these two steps do nothing. A
// host whose Act failed or that did not come back stays in maintenance, and no
// other host begins. The caller may change the plan.
func RestartHosts(id string, c *hypervisor.Client, o HostOptions) *Plan {
	p := &Plan{ID: id, Clients: clientsOf(c), Limits: Limits{Total: 1}, StopAfter: 1}
	p.Targets = func(ctx context.Context) ([]Target, error) {
		var out []Target
		for h, err := range c.Hosts(ctx) {
			if err != nil {
				return nil, err
			}
			if h.State == hypervisor.HostUp && (o.Select == nil || o.Select(h)) {
				out = append(out, Target{Client: only, Ref: hypervisor.Ref{Kind: hypervisor.ObjectHost, ID: string(h.ID), Name: h.Name}, Hosts: []hypervisor.HostID{h.ID}})
			}
		}
		return out, nil
	}
	step := func(name string, do func(context.Context, *hypervisor.Host, *Attempt) error) Step {
		return Step{Name: name, Do: func(ctx context.Context, _ *hypervisor.VM, a *Attempt) error {
			return do(ctx, c.Host(hypervisor.HostID(a.Target.Ref.ID)), a)
		}}
	}
	maintain := func(ctx context.Context, h *hypervisor.Host, want hypervisor.HostState, begin func(context.Context) *hypervisor.Task[hypervisor.None], a *Attempt) error {
		v, err := h.Info(ctx)
		if err != nil || v.State == want {
			return err
		}
		if _, err = Await(ctx, a, begin); errors.Is(err, hypervisor.ErrUnsupported) {
			a.Set("maintenance", "not supported")
			return nil
		}
		return err
	}
	back := step("wait", func(ctx context.Context, h *hypervisor.Host, _ *Attempt) error {
		for {
			v, err := h.Info(ctx)
			if err == nil && v.State != hypervisor.HostDown {
				return nil
			}
			if err := sleep(ctx, time.Second); err != nil {
				return hypervisor.Errorf(hypervisor.ErrTimeout, h.Ref(), "the host has not come back: %w", err)
			}
		}
	})
	if back.Timeout = o.Wait; back.Timeout == 0 {
		back.Timeout = 30 * time.Minute
	}
	p.Steps = []Step{
		step("evacuate", func(ctx context.Context, h *hypervisor.Host, _ *Attempt) error {
			_, err := h.Evacuate(ctx, &o.Evacuate).Run(ctx, time.Minute)
			return err
		}),
		step("enter-maintenance", func(ctx context.Context, h *hypervisor.Host, a *Attempt) error {
			return maintain(ctx, h, hypervisor.HostMaintaining, func(ctx context.Context) *hypervisor.Task[hypervisor.None] { return h.EnterMaintenance(ctx, nil) }, a)
		}),
		step("act", o.Act),
		back,
		step("exit-maintenance", func(ctx context.Context, h *hypervisor.Host, a *Attempt) error {
			return maintain(ctx, h, hypervisor.HostUp, h.ExitMaintenance, a)
		}),
	}
	return p
}
