package main

import (
	"fmt"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
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
	if a.DryRun && k.Op != "list" {
		return k.rehearse(a, vm)
	}
	switch k.Op {
	case "list":
		all, err := vm.Snapshots(a.ctx)
		if err != nil {
			return err
		}
		var rows [][]any
		for _, b := range forest(all, func(s hypervisor.SnapshotInfo) (id, parent hypervisor.SnapshotID) { return s.ID, s.Parent }) {
			s, mark := b.item, ""
			if s.Current {
				mark = "*"
			}
			rows = append(rows, []any{indent(b.depth, s.Name) + mark, s.State, s.Memory, s.CreatedAt.Format(time.DateTime), "id:" + s.ID})
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

// rehearse looks up the snapshot and asks for what the operation needs.
func (k *snapshotCmd) rehearse(a *app, vm *hypervisor.VM) error {
	needs := []capability.Name{capability.SnapshotDisk}
	if k.Op != "create" {
		if _, err := a.snapshot(vm, k.Name); err != nil {
			return err
		}
		return a.rehearse(vm.Ref(), fmt.Sprintf("%s the snapshot %s of %s", k.Op, k.Name, k.VM), needs...)
	}
	if k.Memory {
		needs = append(needs, capability.SnapshotMemory)
	}
	if k.Quiesce {
		needs = append(needs, capability.SnapshotQuiesce)
	}
	return a.rehearse(vm.Ref(), fmt.Sprintf("make the snapshot %s of %s", k.Name, k.VM), needs...)
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
		if a.DryRun {
			return a.rehearse(t.Ref(), fmt.Sprintf("deploy the template %s as %s", k.Source, k.Name), o.Capability())
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
	if a.DryRun {
		live := capability.CloneRunning
		if o.Mode == hypervisor.CloneModeInstant || o.From != "" {
			live = ""
		}
		return a.rehearseVM(vm, fmt.Sprintf("copy the machine %s to %s", k.Source, k.Name), o.Capability(), live)
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
		if a.DryRun {
			return a.rehearseVM(vm, "make the machine "+k.Name+" a template", capability.Templates, "")
		}
		return only(a, vm.MarkTemplate(a.ctx))
	}
	t, err := a.template(k.Name)
	if err != nil {
		return err
	}
	if a.DryRun {
		need := map[string]capability.Name{"unmark": capability.Templates, "delete": capability.VMDelete}[k.Op]
		return a.rehearse(t.Ref(), k.Op+" the template "+k.Name, need)
	}
	if k.Op == "unmark" {
		return only(a, t.MarkVM(a.ctx, hypervisor.Placement{}))
	}
	return only(a, t.Delete(a.ctx, hypervisor.DeleteDisks))
}
