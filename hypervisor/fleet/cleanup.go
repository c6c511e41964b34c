package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// CleanUp makes a plan that removes what a run of DeployN or Rolling left on
// the targets that it did not finish: machines that were deployed and not made
// ready, with their disks, and snapshots. The run must have ended; cancel it
// first. Snapshots are merged, so the machines keep their present content.
func CleanUp(id string, c *hypervisor.Client, of *Run) *Plan {
	p := &Plan{ID: id, Clients: clientsOf(c)}
	name := SnapshotName(of.ID())
	tokens := func(ctx context.Context) (map[string]bool, map[string]bool, error) {
		if _, over, err := of.Ended(ctx); err != nil || !over {
			return nil, nil, errors.Join(err, fmt.Errorf("fleet: run %q has not ended: cancel it first", of.ID()))
		}
		left, err := of.Left(ctx)
		made, had := map[string]bool{}, map[string]bool{}
		for _, t := range left {
			made[Token(of.ID(), t.Key(), "deploy")] = true
			if t.Ref.ID != "" {
				had[t.Ref.ID] = true
			}
		}
		return made, had, err
	}
	p.Targets = func(ctx context.Context) ([]Target, error) {
		made, had, err := tokens(ctx)
		if err != nil {
			return nil, err
		}
		var out []Target
		for v, err := range c.VMs(ctx, nil) {
			if err != nil {
				return nil, err
			}
			if v.Token != "" && made[v.Token] || had[string(v.ID)] && v.Snapshots > 0 {
				out = append(out, TargetOf(only, v))
			}
		}
		return out, nil
	}
	p.Steps = []Step{{Name: "clean", Do: func(ctx context.Context, vm *hypervisor.VM, a *Attempt) error {
		v, err := vm.Info(ctx)
		if errors.Is(err, hypervisor.ErrNotFound) { // deleted by a try whose worker was killed, or by others
			return nil
		}
		if err != nil {
			return err
		}
		made, _, err := tokens(ctx)
		if err != nil {
			return err
		}
		if v.Token != "" && made[v.Token] {
			_, err := Await(ctx, a, func(ctx context.Context) *hypervisor.Task[hypervisor.None] {
				return vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true})
			})
			return err
		}
		s, err := vm.FindSnapshot(ctx, name)
		if errors.Is(err, hypervisor.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return drop(ctx, a, s)
	}}}
	return p
}
