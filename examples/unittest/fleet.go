// Package fleet rolls out releases of a service, blue and green: new machines
// are made beside the old ones, and the old ones are removed when the new
// ones answer. It shows how such code is tested with the fake; see the tests.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// Fleet is the source of machines.
type Fleet struct {
	Client   *hypervisor.Client
	Template hypervisor.TemplateID
	Parallel int // machines at the same time; 0 means 4
}

const (
	serviceLabel = "fleet/service"
	releaseLabel = "fleet/release"
)

// number of attempts to start one piece of work that the hypervisor refuses
// as busy or never received.
const attempts = 3

// Rollout replaces a service's machines by n machines of a release. When it
// fails the old machines keep running and what it made is removed. It may be
// called again after a crash of its process: machines that were made are
// found again.
func (f *Fleet) Rollout(ctx context.Context, service, release string, n int) error {
	if err := f.able(ctx); err != nil {
		return err
	}
	old, err := f.machines(ctx, service, release)
	if err != nil {
		return err
	}
	green, err := f.provision(ctx, service, release, n)
	if err == nil {
		err = f.answer(ctx, green)
	}
	if err != nil {
		// The caller may have given up. The removal continues regardless.
		return errors.Join(fmt.Errorf("fleet: release %s of %s is not rolled out: %w", release, service, err),
			f.remove(context.WithoutCancel(ctx), green))
	}
	return f.remove(ctx, old)
}

// able fails before anything is made if the hypervisor lacks a capability
// that the roll-out needs.
func (f *Fleet) able(ctx context.Context) error {
	for _, k := range []capability.Name{capability.CloneLinked, capability.Labels} {
		s, err := f.Client.Supports(ctx, k, hypervisor.Ref{})
		if err != nil {
			return err
		}
		if s.Level == hypervisor.LevelNo {
			return hypervisor.Unsupported(f.Template.Ref(), k, s.Reason, s.Detail)
		}
	}
	return nil
}

// machines returns a service's machines of all releases but one.
func (f *Fleet) machines(ctx context.Context, service, but string) (out []*hypervisor.VM, err error) {
	o := &hypervisor.ListOptions{Labels: map[string]string{serviceLabel: service}}
	for v, err := range f.Client.VMs(ctx, o) {
		if err != nil {
			return nil, err
		}
		if v.Labels[releaseLabel] != but {
			out = append(out, f.Client.VM(v.ID))
		}
	}
	return out, nil
}

// each runs do for the numbers below n, a few at a time, and joins the errors.
func (f *Fleet) each(n int, do func(i int) error) error {
	parallel := f.Parallel
	if parallel <= 0 {
		parallel = 4
	}
	slots := make(chan struct{}, parallel)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(i)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// provision makes n machines and returns those that were made, also when it
// fails.
func (f *Fleet) provision(ctx context.Context, service, release string, n int) ([]*hypervisor.VM, error) {
	var mu sync.Mutex
	var made []*hypervisor.VM
	err := f.each(n, func(i int) error {
		name := fmt.Sprintf("%s-%s-%d", service, release, i)
		vm, err := again(ctx, func() (*hypervisor.VM, error) {
			// Run, not Wait: a machine of an abandoned roll-out must not
			// appear afterwards.
			return f.Client.Template(f.Template).Deploy(ctx, name, &hypervisor.CloneOptions{
				Mode: hypervisor.CloneModeLinked, Start: true, Token: name, // the same one after a restart
				Labels: map[string]string{serviceLabel: service, releaseLabel: release},
			}).Run(ctx, time.Minute)
		})
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			made = append(made, vm)
		}
		var e *hypervisor.Error
		if errors.As(err, &e) {
			for _, r := range e.Leftover {
				if r.Kind == hypervisor.ObjectVM {
					made = append(made, f.Client.VM(hypervisor.VMID(r.ID)))
				}
			}
		}
		return err
	})
	return made, err
}

// again repeats a call if the hypervisor reports that it may be repeated; a
// token makes the repetition safe.
func again[T any](ctx context.Context, do func() (T, error)) (T, error) {
	for n := 1; ; n++ {
		v, err := do()
		var e *hypervisor.Error
		repeat := errors.As(err, &e) && (e.Retryable() || e.Kind == hypervisor.ErrUnavailable)
		if !repeat || n == attempts {
			return v, err
		}
		select {
		case <-time.After(time.Duration(n) * 5 * time.Second):
		case <-ctx.Done():
			return v, errors.Join(err, ctx.Err())
		}
	}
}

// answer waits until every guest reports its host name, up to a minute.
func (f *Fleet) answer(ctx context.Context, vms []*hypervisor.VM) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	return f.each(len(vms), func(i int) error {
		for {
			g, err := vms[i].Guest(ctx)
			if err == nil && g.HostName != "" {
				return nil
			}
			if err != nil && hypervisor.KindOf(err) != hypervisor.ErrUnavailable {
				return err
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return errors.Join(ctx.Err(), err)
			}
		}
	})
}

// remove powers machines off and deletes them. A machine that is gone already
// is no error.
func (f *Fleet) remove(ctx context.Context, vms []*hypervisor.VM) error {
	return f.each(len(vms), func(i int) error {
		_, err := again(ctx, func() (hypervisor.None, error) {
			return vms[i].Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx)
		})
		if errors.Is(err, hypervisor.ErrNotFound) {
			err = nil
		}
		return err
	})
}
