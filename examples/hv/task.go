package main

import (
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

type taskCmd struct {
	Op string `arg:"" enum:"wait,cancel"`
	ID string `arg:""`
}

func (k *taskCmd) Run(a *app) error {
	t, err := a.c.Task(a.ctx, hypervisor.TaskID(k.ID))
	if err != nil {
		return err
	}
	if k.Op == "cancel" && a.DryRun {
		return a.rehearse(hypervisor.Ref{}, "cancel the task "+k.ID, capability.TaskCancel)
	}
	if k.Op == "cancel" {
		return t.Cancel(a.ctx)
	}
	r, err := done(a, t)
	if err == nil {
		fmt.Fprintln(a.out, r)
	}
	return err
}
