package main

import (
	"fmt"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

type snapshotCmd struct {
	Op       string `arg:"" enum:"list,create,revert,delete"`
	VM       string `arg:""`
	Name     string `arg:"" optional:""`
	Memory   bool   `help:"Keep the RAM too."`
	Quiesce  bool   `help:"Freeze the guest's file systems."`
	Children bool   `help:"Delete the snapshots below too."`
}

func (k *snapshotCmd) Run(a *app) error {
	vm, err := a.vm(k.VM)
	if err != nil {
		return err
	}
	switch k.Op {
	case "list":
		all, err := vm.Snapshots(a.ctx)
		if err != nil {
			return err
		}
		var rows [][]any
		for _, s := range all {
			mark := ""
			if s.Current {
				mark = "*"
			}
			rows = append(rows, []any{fmt.Sprintf("%*s%s", 2*s.Depth, "", s.Name) + mark, s.State, s.Memory, s.CreatedAt.Format(time.DateTime), "id:" + s.ID})
		}
		return a.print(all, "NAME STATE MEMORY MADE ID", rows)
	case "create":
		s, err := done(a, vm.CreateSnapshot(a.ctx, k.Name, &hypervisor.SnapshotOptions{Memory: k.Memory, Quiesce: k.Quiesce}))
		if err == nil {
			fmt.Fprintln(a.out, "id:"+s.ID())
		}
		return err
	}
	s, err := a.snapshot(vm, k.Name)
	if err != nil {
		return err
	}
	if k.Op == "revert" {
		return only(a, s.Revert(a.ctx, nil))
	}
	return only(a, s.Delete(a.ctx, &hypervisor.DeleteSnapshotOptions{Children: k.Children}))
}

type cloneCmd struct {
	Source   string `arg:"" help:"Machine, or template with --template."`
	Name     string `arg:""`
	Template bool
	Mode     string `enum:"full,linked,instant" default:"full"`
	From     string `help:"Snapshot of the source."`
	Start    bool
	Host     string
	Store    string
	Token    string `help:"Makes the call repeatable."`
}

func (k *cloneCmd) Run(a *app) error {
	h, err := a.host(k.Host)
	if err != nil {
		return err
	}
	ds, err := a.store(k.Store)
	if err != nil {
		return err
	}
	o := &hypervisor.CloneOptions{Start: k.Start, Token: k.Token, Placement: hypervisor.Placement{Host: h, Datastore: ds},
		Mode: map[string]hypervisor.CloneMode{"full": hypervisor.CloneModeFull, "linked": hypervisor.CloneModeLinked, "instant": hypervisor.CloneModeInstant}[k.Mode]}
	if k.Template {
		t, err := a.template(k.Source)
		if err != nil {
			return err
		}
		return a.made(t.Deploy(a.ctx, k.Name, o))
	}
	vm, err := a.vm(k.Source)
	if err != nil {
		return err
	}
	if k.From != "" {
		s, err := a.snapshot(vm, k.From)
		if err != nil {
			return err
		}
		o.From = s.ID()
	}
	return a.made(vm.Clone(a.ctx, k.Name, o))
}

type templateCmd struct {
	Op   string `arg:"" enum:"mark,unmark,delete"`
	Name string `arg:""`
}

func (k *templateCmd) Run(a *app) error {
	if k.Op == "mark" {
		vm, err := a.vm(k.Name)
		if err != nil {
			return err
		}
		return only(a, vm.MarkTemplate(a.ctx))
	}
	t, err := a.template(k.Name)
	if err != nil {
		return err
	}
	if k.Op == "unmark" {
		return only(a, t.MarkVM(a.ctx, hypervisor.Placement{}))
	}
	return only(a, t.Delete(a.ctx, hypervisor.DeleteDisks))
}
