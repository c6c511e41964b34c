package hypervisortest

import (
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// guest: facts, programs, clock. Without an agent the reason is reported.
var guest = area{"guest", []row{
	guestRow("facts", capability.GuestFacts, guestFacts),
	guestRow("exec", capability.GuestExec, guestExec),
	guestRow("clock", capability.GuestClock, guestClock),
	guestRow("freeze", capability.GuestFreeze, guestFreeze),
}}

// guestRow queries the guest of a machine that is off, and then of one that
// runs.
func guestRow(name string, k capability.Name, ask func(*env, *hypervisor.VM) error) row {
	return row{name: name, proves: caps{k}, run: func(e *env) {
		e.oneOf(ask(e, e.create("off")), "asking the guest of a machine that is off ("+string(k)+")", hypervisor.ErrInvalidState, hypervisor.ErrUnsupported)
		vm := e.running()
		s, err := vm.Supports(e.ctx, k)
		e.ok(err, "Supports(%s) of a running machine", k)
		err = ask(e, vm)
		if s.Level == hypervisor.LevelNo {
			e.refused(err, k, vm.ID().Ref())
			e.unshown("this guest can't be asked: %s", s.Detail)
		} else if err != nil {
			e.Errorf("%s: %v", k, err)
		}
	}}
}

func guestFacts(e *env, vm *hypervisor.VM) error {
	g, err := vm.Guest(e.ctx)
	if err == nil && g.OS == "" && g.HostName == "" && len(g.Addresses) == 0 && g.Tools == "" {
		e.Errorf("Guest reports nothing")
	}
	return err
}

func guestExec(e *env, vm *hypervisor.VM) error {
	r, err := vm.Exec(e.ctx, hypervisor.ExecRequest{Path: "/bin/sh", Args: []string{"-c", "exit 7"}, User: e.Login.Username, Password: e.Login.Password})
	if err == nil && r.ExitCode != 7 {
		e.Errorf("Exec of exit 7 ended with %d", r.ExitCode)
	}
	return err
}

func guestClock(e *env, vm *hypervisor.VM) error {
	r, err := vm.Clock(e.ctx)
	if err != nil {
		return err
	}
	if r.Host.Before(time.Now().Add(-time.Hour)) || r.Uncertainty <= 0 || r.Guest.IsZero() {
		e.Errorf("Clock reports %+v", r)
	}
	return vm.SetClock(e.ctx, time.Time{})
}

func guestFreeze(e *env, vm *hypervisor.VM) error {
	if err := vm.Freeze(e.ctx); err != nil {
		return err
	}
	return vm.Thaw(e.ctx)
}
