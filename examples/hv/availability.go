package main

import (
	"fmt"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

type haCmd struct {
	VM       string `arg:"" optional:"" help:"Machine; empty for the clusters or pools."`
	Priority string `help:"Set it: never, best-effort, low, medium or high."`
}

func (k *haCmd) Run(a *app) error {
	if k.VM == "" {
		all, err := hypervisor.Collect(a.c.HA(a.ctx))
		if err != nil {
			return err
		}
		var rows [][]any
		for _, p := range all {
			rows = append(rows, []any{p.Name, p.Enabled, p.FailuresToTolerate, p.DefaultPriority, "id:" + p.Pool})
		}
		return a.print(all, "NAME ON FAILURES PRIORITY ID", rows)
	}
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	if k.Priority != "" && a.DryRun {
		return a.rehearseVM(vm, fmt.Sprintf("set the restart priority of %s to %s", k.VM, k.Priority), capability.HighAvailability, "")
	}
	if k.Priority != "" {
		return only(a, vm.SetRestartPriority(a.ctx, hypervisor.RestartPriority(k.Priority)))
	}
	v, err := vm.Availability(a.ctx)
	if err != nil {
		return err
	}
	return a.print(v, "PRIORITY INHERITED PROTECTED", [][]any{{v.Priority, v.Inherited, v.Protected}})
}

type replicationCmd struct {
	VM string `arg:""`
}

func (k *replicationCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	r, err := vm.Replication(a.ctx)
	if err != nil {
		return err
	}
	return a.print(r, "ROLE STATE HEALTH LAST", [][]any{{r.Role, r.State, r.Health, r.LastAt.Format(time.DateTime)}})
}
