package fleet

import (
	"context"
	"errors"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// RollingOptions are the options for Rolling.
type RollingOptions struct {
	// Labels and Select choose the machines, as in Plan.
	Labels map[string]string
	Select func(hypervisor.VMInfo) bool
	// Snapshot are the options of the snapshots.
	Snapshot hypervisor.SnapshotOptions
	// Act changes the machine. It may run again after its worker was killed:
	// see Attempt.
	Act func(context.Context, *hypervisor.VM, *Attempt) error
	// Check is the step that decides whether the machine is well, with its
	// Tries and Wait. If it has no Do, Act decides. Its default name is
	// "check".
	Check Step
}

// SnapshotName is the name of the snapshots that a run of Rolling makes.
func SnapshotName(run string) string { return "fleet " + run }

// Rolling makes a plan that takes a snapshot of each machine, acts on it,
// checks it and drops the snapshot. If Act or the check fails, the machine is
// taken back to the snapshot and runs again if it ran before; then the snapshot
// is dropped. The caller may change the plan: add waves, for example.
func Rolling(id string, c *hypervisor.Client, o RollingOptions) *Plan {
	p := &Plan{ID: id, Clients: clientsOf(c), Labels: o.Labels, Select: o.Select}
	name := SnapshotName(id)
	p.Steps = append(p.Steps, Step{Name: "snapshot", Do: func(ctx context.Context, vm *hypervisor.VM, a *Attempt) error {
		v, err := vm.Info(ctx)
		if err != nil {
			return err
		}
		if v.State == hypervisor.StateRunning {
			a.Set("ran", "yes")
		}
		s, err := vm.FindSnapshot(ctx, name) // of a try whose worker was killed
		if a.Task != "" || errors.Is(err, hypervisor.ErrNotFound) {
			made, err := Await(ctx, a, func(ctx context.Context) *hypervisor.Task[*hypervisor.Snapshot] {
				return vm.CreateSnapshot(ctx, name, &o.Snapshot)
			})
			a.Set("snapshot", made.ID)
			return err
		}
		if err != nil {
			return err
		}
		a.Set("snapshot", string(s.ID()))
		return nil
	}}, Step{Name: "act", Do: o.Act})
	if o.Check.Do != nil {
		check := o.Check
		if check.Name == "" {
			check.Name = "check"
		}
		p.Steps = append(p.Steps, check)
	}
	p.Steps = append(p.Steps, Step{Name: "drop", Do: func(ctx context.Context, vm *hypervisor.VM, a *Attempt) error {
		return drop(ctx, a, vm.Snapshot(hypervisor.SnapshotID(a.Value("snapshot"))))
	}})
	p.Undo = &Step{Name: "rollback", Do: func(ctx context.Context, vm *hypervisor.VM, a *Attempt) error {
		if a.Failed.Step == "drop" { // the machine is well
			return a.Failed
		}
		s, err := vm.FindSnapshot(ctx, name)
		if errors.Is(err, hypervisor.ErrNotFound) { // none was made, or an earlier try has ended
			return nil
		}
		if err != nil {
			return err
		}
		if a.Failed.Step != "snapshot" {
			if _, err := s.Revert(ctx, nil).Wait(ctx); err != nil {
				return err
			}
			v, err := vm.Info(ctx)
			if err != nil {
				return err
			}
			if a.Value("ran") != "" && v.State == hypervisor.StateOff {
				if _, err := vm.Start(ctx).Wait(ctx); err != nil {
					return err
				}
			}
		}
		return drop(ctx, a, s)
	}}
	return p
}

// drop deletes a snapshot. One that is gone is dropped already.
func drop(ctx context.Context, a *Attempt, s *hypervisor.Snapshot) error {
	_, err := Await(ctx, a, func(ctx context.Context) *hypervisor.Task[hypervisor.None] { return s.Delete(ctx, nil) })
	if errors.Is(err, hypervisor.ErrNotFound) {
		if _, look := s.VM().Info(ctx); look == nil {
			return nil
		}
	}
	return err
}
