package main

import (
	"fmt"
	"os"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// guestNeeds is the capability for each operation that may change the guest.
var guestNeeds = map[string]capability.Name{
	"sync": capability.GuestClock, "freeze": capability.GuestFreeze, "thaw": capability.GuestFreeze, "exec": capability.GuestExec,
}

type guestCmd struct {
	Op   string   `arg:"" enum:"info,clock,sync,freeze,thaw,exec"`
	VM   string   `arg:""`
	Args []string `arg:"" optional:"" passthrough:""`
}

func (k *guestCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	if need, changes := guestNeeds[k.Op]; changes && a.DryRun {
		return a.rehearseVM(vm, fmt.Sprintf("%s in the guest of %s", k.Op, k.VM), need, "")
	}
	switch k.Op {
	case "clock":
		r, err := vm.Clock(a.ctx)
		if err == nil {
			fmt.Fprintf(a.out, "%v ahead, give or take %v\n", r.Drift(), r.Uncertainty)
		}
		return err
	case "sync":
		return vm.SetClock(a.ctx, time.Time{})
	case "freeze":
		return vm.Freeze(a.ctx)
	case "thaw":
		return vm.Thaw(a.ctx)
	case "exec":
		if len(k.Args) == 0 {
			return fmt.Errorf("exec needs a program")
		}
		r, err := vm.Exec(a.ctx, hypervisor.ExecRequest{Path: k.Args[0], Args: k.Args[1:]})
		if err != nil {
			return err
		}
		_, _ = a.out.Write(r.Stdout)
		_, _ = os.Stderr.Write(r.Stderr)
		if r.ExitCode != 0 {
			return fmt.Errorf("the program ended with %d", r.ExitCode)
		}
		return nil
	}
	g, err := vm.Guest(a.ctx)
	if err != nil {
		return err
	}
	return a.print(g, "HOST OS TOOLS ADDRESSES", [][]any{{g.HostName, g.OS + " " + g.OSVersion, g.Tools, g.Addresses}})
}
