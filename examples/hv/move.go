package main

import (
	"fmt"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

type migrateCmd struct {
	VM      string `arg:""`
	Host    string
	Store   string
	Cold    bool
	Check   bool  `help:"Only list what stands in the way."`
	Limit   int64 `help:"Bandwidth in MiB/s."`
	Timeout time.Duration
}

func (k *migrateCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	h, err := a.host(k.Host)
	if err != nil {
		return err
	}
	ds, err := a.store(k.Store)
	if err != nil {
		return err
	}
	o := hypervisor.MigrateOptions{Host: h, Storage: ds, BandwidthBytes: k.Limit * hypervisor.MiB, Timeout: k.Timeout}
	if k.Cold {
		o.Mode = hypervisor.MigrateModeCold
	}
	if k.Check || a.DryRun {
		r, err := vm.CheckMigrate(a.ctx, o)
		if err != nil {
			return err
		}
		var rows [][]any
		for _, b := range r.Blockers {
			rows = append(rows, []any{"blocker", b.Reason, b.Detail})
		}
		for _, b := range r.Warnings {
			rows = append(rows, []any{"warning", b.Reason, b.Detail})
		}
		if len(rows) == 0 && a.Output == "table" {
			_, err := fmt.Fprintln(a.out, "nothing stands in the way")
			return err
		}
		if err := a.print(r, "WHAT REASON DETAIL", rows); err != nil || k.Check || r.OK() {
			return err
		}
		return hypervisor.Errorf(hypervisor.ErrIncompatible, vm.Ref(), "%w", &hypervisor.BlockedError{Blockers: r.Blockers})
	}
	r, err := done(a, vm.Migrate(a.ctx, o))
	if err == nil {
		fmt.Fprintf(a.out, "on %s after %v, stood still for %v\n", r.Host, r.Total, r.Downtime)
	}
	return err
}

type evacuateCmd struct {
	Host     string `arg:""`
	Parallel int    `default:"2"`
}

func (k *evacuateCmd) Run(a *app) error {
	h, err := a.host(k.Host)
	if err != nil {
		return err
	}
	if a.DryRun {
		return a.rehearseEvacuation(h)
	}
	r, err := done(a, a.c.Host(h).Evacuate(a.ctx, &hypervisor.EvacuateOptions{Parallel: k.Parallel}))
	for _, m := range r.Moved {
		fmt.Fprintln(a.out, m.VM, "is on", m.Host)
	}
	return err
}

type maintenanceCmd struct {
	Op       string `arg:"" enum:"enter,exit"`
	Host     string `arg:""`
	Evacuate bool   `help:"Have the platform move the running machines away first."`
}

func (k *maintenanceCmd) Run(a *app) error {
	h, err := a.host(k.Host)
	if err != nil {
		return err
	}
	if a.DryRun {
		return a.rehearse(h.Ref(), k.Op+" maintenance of "+k.Host, capability.HostMaintenance)
	}
	if k.Op == "exit" {
		return only(a, a.c.Host(h).ExitMaintenance(a.ctx))
	}
	return only(a, a.c.Host(h).EnterMaintenance(a.ctx, &hypervisor.MaintenanceOptions{Evacuate: k.Evacuate}))
}

type placeCmd struct {
	VM     string `help:"An existing machine; else the size of a new one:"`
	CPUs   int    `name:"cpus"`
	Memory int64  `help:"MiB."`
	Store  string `help:"That the host must reach."`
}

func (k *placeCmd) Run(a *app) error {
	ds, err := a.store(k.Store)
	if err != nil {
		return err
	}
	r := hypervisor.PlaceRequest{CPUs: k.CPUs, MemoryBytes: k.Memory * hypervisor.MiB, Datastore: ds}
	if k.VM != "" {
		vm, err := a.vm(k.VM)
		if err != nil {
			return err
		}
		r.VM = vm.ID()
	}
	all, err := a.c.Place(a.ctx, r)
	if err != nil {
		return err
	}
	var rows [][]any
	for _, x := range all {
		rows = append(rows, []any{x.Host, fmt.Sprintf("%.2f", x.Score), x.Reason})
	}
	return a.print(all, "HOST SCORE WHY", rows)
}

type balanceCmd struct {
	Moves int `help:"At most so many."`
}

func (k *balanceCmd) Run(a *app) error {
	plan, err := a.c.PlanBalance(a.ctx, &hypervisor.BalanceOptions{MaxMoves: k.Moves})
	if err != nil {
		return err
	}
	var rows [][]any
	for _, m := range plan {
		rows = append(rows, []any{"id:" + m.VM, m.From, m.To, m.Reason})
	}
	return a.print(plan, "MACHINE FROM TO WHY", rows)
}
