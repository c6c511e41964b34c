package hypervisortest

import (
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// guest: facts, programs, clock; without an agent the reason is said.
func guest(e *env) {
	vm := e.create("vm")
	type probe struct {
		k hypervisor.Capability
		f func() error
	}
	now := time.Now()
	probes := []probe{
		{hypervisor.GuestFacts, func() error {
			g, err := vm.Guest(e.ctx)
			if err == nil && g.OS == "" && g.HostName == "" && len(g.Addresses) == 0 && g.Tools == "" {
				e.Errorf("Guest tells nothing")
			}
			return err
		}},
		{hypervisor.GuestExec, func() error {
			r, err := vm.Exec(e.ctx, hypervisor.ExecRequest{Path: "/bin/sh", Args: []string{"-c", "exit 7"}, User: "root", Password: "x"})
			if err == nil && r.ExitCode != 7 {
				e.Errorf("Exec of exit 7 ended with %d", r.ExitCode)
			}
			return err
		}},
		{hypervisor.GuestClock, func() error {
			r, err := vm.Clock(e.ctx)
			if err == nil && (r.Host.Before(now.Add(-time.Hour)) || r.Uncertainty <= 0 || r.Guest.IsZero()) {
				e.Errorf("Clock tells %+v", r)
			}
			if err == nil {
				err = vm.SetClock(e.ctx, time.Time{})
			}
			return err
		}},
		{hypervisor.GuestFreeze, func() error {
			err := vm.Freeze(e.ctx)
			if err == nil {
				err = vm.Thaw(e.ctx)
			}
			return err
		}},
	}
	probes = slices.DeleteFunc(probes, func(p probe) bool { return !e.has(p.k) })
	if len(probes) == 0 {
		return
	}
	for _, p := range probes {
		e.oneOf(p.f(), "asking the guest of a machine that is off ("+string(p.k)+")", hypervisor.ErrInvalidState, hypervisor.ErrUnsupported)
	}
	e.start(vm)
	for _, p := range probes {
		s, err := vm.Supports(e.ctx, p.k)
		e.ok(err, "Supports(%s) of a running machine", p.k)
		err = p.f()
		if s.Level == hypervisor.No {
			e.refused(err, p.k, vm.ID().Ref())
		} else if err != nil {
			e.Errorf("%s: %v", p.k, err)
		}
		if s.Level != hypervisor.No {
			e.proved(p.k)
		}
	}
}
