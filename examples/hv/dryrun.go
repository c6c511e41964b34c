package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

const (
	dryChecked    = "the objects that the command names are there, and the hypervisor does not rule out the capabilities above"
	dryNotChecked = "values, free room and states, which the hypervisor checks when the work starts"
)

// rehearsal is what --dry-run prints for a verb that the library can't check
// as a whole.
type rehearsal struct {
	Would        string                                 `json:"would"`
	Capabilities map[capability.Name]hypervisor.Support `json:"capabilities"`
	Checked      string                                 `json:"checked"`
	NotChecked   string                                 `json:"notChecked"`
}

// rehearse prints what a command would do, and asks for each capability that
// it needs in a scope: the zero Ref, a machine, a template, a host or a
// device. A level of no is the error that the command itself would end with.
// Nothing is changed.
func (a *app) rehearse(scope hypervisor.Ref, would string, needs ...capability.Name) error {
	r := rehearsal{Would: would, Capabilities: map[capability.Name]hypervisor.Support{}, Checked: dryChecked, NotChecked: dryNotChecked}
	for _, k := range needs {
		s, err := a.c.Supports(a.ctx, k, scope)
		if err != nil {
			return err
		}
		if s.Level == hypervisor.LevelNo {
			return hypervisor.Unsupported(scope, k, s.Reason, s.Detail)
		}
		r.Capabilities[k] = s
	}
	if a.Output != "table" {
		return a.document(r)
	}
	fmt.Fprintln(a.out, "would", would)
	for _, k := range needs {
		s := r.Capabilities[k]
		fmt.Fprintf(a.out, "  %s: %s", k, s.Level)
		if s.Reason != "" {
			fmt.Fprintf(a.out, " (%s) %s", s.Reason, s.Detail)
		}
		fmt.Fprintln(a.out)
	}
	fmt.Fprintf(a.out, "checked: %s\nnot checked: %s\nnothing was changed\n", r.Checked, r.NotChecked)
	return nil
}

// rehearseVM is rehearse for a machine. live is needed too where the machine
// runs; it may be empty.
func (a *app) rehearseVM(vm *hypervisor.VM, would string, need, live capability.Name) error {
	i, err := vm.Info(a.ctx)
	if err != nil {
		return err
	}
	needs := []capability.Name{need}
	if live != "" && (i.State == hypervisor.StateRunning || i.State == hypervisor.StatePaused) {
		needs = append(needs, live)
	}
	return a.rehearse(vm.Ref(), would, needs...)
}

// there returns a handle. With --dry-run it reads the object first, since an
// ID from the command line may be wrong.
func there[H, I any](a *app, handle H, info func(context.Context) (I, error)) (H, error) {
	if !a.DryRun {
		return handle, nil
	}
	_, err := info(a.ctx)
	return handle, err
}

// part checks that an object's part with an ID, such as a disk of a machine, is
// in a list of IDs.
func part[ID ~string](all []ID, kind string, id ID) error {
	if slices.Contains(all, id) {
		return nil
	}
	return hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.Ref{}, "there is no %s with the ID %q: hv info and hv devices list the IDs", kind, id)
}

// ids returns the IDs of all items.
func ids[T any, ID ~string](all []T, of func(T) ID) []ID {
	var out []ID
	for _, x := range all {
		out = append(out, of(x))
	}
	return out
}

// deviceThere checks that the hypervisor has a host device.
func (a *app) deviceThere(id hypervisor.DeviceID) error {
	all, err := hypervisor.Collect(a.c.Devices(a.ctx, nil))
	if err != nil {
		return err
	}
	return part(ids(all, func(d hypervisor.DeviceInfo) hypervisor.DeviceID { return d.ID }), "host device", id)
}

// evacuationStep is where --dry-run finds room for one machine of a host.
type evacuationStep struct {
	VM   hypervisor.VMID   `json:"vm"`
	Name string            `json:"name"`
	To   hypervisor.HostID `json:"to,omitempty"` // empty: no host takes it now
	Why  string            `json:"why,omitempty"`
}

// rehearseEvacuation prints for each running machine of a host the first host
// in the order of Place that CheckMigrate allows. Each machine is looked at by
// itself, so that all together may not have room. A machine that can't leave is
// an error.
func (a *app) rehearseEvacuation(from hypervisor.HostID) error {
	vms, err := hypervisor.Collect(a.c.VMs(a.ctx, &hypervisor.ListOptions{Host: from, Detail: hypervisor.DetailBrief}))
	if err != nil {
		return err
	}
	var steps []evacuationStep
	var rows [][]any
	stuck := 0
	for _, v := range vms {
		if v.Host != from || v.State != hypervisor.StateRunning && v.State != hypervisor.StatePaused {
			continue
		}
		s := evacuationStep{VM: v.ID, Name: v.Name, Why: "no other host takes it"}
		hosts, err := a.c.Place(a.ctx, hypervisor.PlaceRequest{VM: v.ID})
		if err != nil && hypervisor.KindOf(err) != hypervisor.ErrExhausted {
			return err
		}
		for _, h := range hosts {
			if h.Host == from {
				continue
			}
			r, err := a.c.VM(v.ID).CheckMigrate(a.ctx, hypervisor.MigrateOptions{Host: h.Host, Mode: hypervisor.MigrateModeLive})
			if err != nil {
				return err
			}
			if r.OK() {
				s.To, s.Why = h.Host, ""
				break
			}
			s.Why = (&hypervisor.BlockedError{Blockers: r.Blockers}).Error()
		}
		if s.To == "" {
			stuck++
		}
		steps, rows = append(steps, s), append(rows, []any{s.Name, s.To, s.Why})
	}
	if err := a.print(steps, "MACHINE TO WHY", rows); err != nil {
		return err
	}
	if stuck > 0 {
		return hypervisor.Errorf(hypervisor.ErrIncompatible, from.Ref(), "%d of %d machines can't leave the host", stuck, len(steps))
	}
	return nil
}
