// Package fleet rolls out releases of a service, blue and green: new machines
// are made beside the old ones, and the old ones go when the new ones answer.
// It is here to show how such code is tested with the fake; see the tests.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Fleet is where machines come from.
type Fleet struct {
	Client   *hypervisor.Client
	Template hypervisor.TemplateID
	Parallel int // machines at a time; 0 means 4
}

const (
	serviceLabel = "fleet/service"
	releaseLabel = "fleet/release"
)

// attempts to start one piece of work that the hypervisor refuses as busy or
// never got.
const attempts = 3

// Rollout replaces a service's machines by n of a release. When it fails the
// old machines run on and what it made is removed. It may be called again
// after a crash of its process: machines that were made are found again.
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
		// The caller may have given up: the removal goes on regardless.
		return errors.Join(fmt.Errorf("fleet: release %s of %s is not rolled out: %w", release, service, err),
			f.remove(context.WithoutCancel(ctx), green))
	}
	return f.remove(ctx, old)
}

// able fails before anything is made if the hypervisor can't do what it takes.
func (f *Fleet) able(ctx context.Context) error {
	for _, k := range []hypervisor.Capability{hypervisor.CloneLinked, hypervisor.Labels} {
		s, err := f.Client.Supports(ctx, k, hypervisor.Ref{})
		if err != nil {
			return err
		}
		if s.Level == hypervisor.No {
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
			// Run, not Wait: a machine of a roll-out that was given up must
			// not come to be afterwards.
			return f.Client.Template(f.Template).Deploy(ctx, name, &hypervisor.CloneOptions{
				Mode: hypervisor.Linked, Start: true, Token: name, // the same one after a restart
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
				if r.Kind == hypervisor.KindOfVM {
					made = append(made, f.Client.VM(hypervisor.VMID(r.ID)))
				}
			}
		}
		return err
	})
	return made, err
}

// again repeats what the hypervisor says may be repeated, and what a token
// makes safe to repeat.
func again[T any](ctx context.Context, do func() (T, error)) (T, error) {
	for n := 1; ; n++ {
		v, err := do()
		var e *hypervisor.Error
		repeat := errors.As(err, &e) && (e.Retryable() || e.Kind == hypervisor.KindUnavailable)
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

// answer waits until every guest tells its host name, up to a minute.
func (f *Fleet) answer(ctx context.Context, vms []*hypervisor.VM) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	return f.each(len(vms), func(i int) error {
		for {
			g, err := vms[i].Guest(ctx)
			if err == nil && g.HostName != "" {
				return nil
			}
			if err != nil && hypervisor.KindOf(err) != hypervisor.KindUnavailable {
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

// remove powers machines off and deletes them; one that is gone is fine.
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
