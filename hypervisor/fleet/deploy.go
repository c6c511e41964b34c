package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// only is the name of the Client in plans for one Client.
const only = "client"

func clientsOf(c *hypervisor.Client) map[string]*hypervisor.Client {
	return map[string]*hypervisor.Client{only: c}
}

// ValueVM is the value with the ID of a machine that DeployN made.
const ValueVM = "vm"

// DeployOptions are the options for DeployN.
type DeployOptions struct {
	N int
	// Name is the pattern of the names, with one verb for the number from 1
	// on: "web-%03d".
	Name string
	// Each changes the options for machine i, from 1 on: a host name, an
	// address, labels. It may be called again with the same number, and must
	// do the same then. Token must stay empty.
	Each func(i int, o *hypervisor.CloneOptions)
	// Start starts the machines in a step of its own.
	Start bool
	// Ready is a last step, if it is set: it waits for the guest, for example.
	Ready func(context.Context, *hypervisor.VM) error
}

// DeployN makes a plan that deploys N machines from a template. Each carries
// the token of its step, so no name is deployed twice by one run. clone's
// Token and Start must be empty: the plan sets the token, and
// DeployOptions.Start starts the machines. The IDs are in Result.Values under
// ValueVM. Limits are those of LimitsFor. The caller may change the plan.
func DeployN(id string, c *hypervisor.Client, t hypervisor.TemplateID, clone hypervisor.CloneOptions, o DeployOptions) *Plan {
	// The number is found again by the name, since targets are kept and
	// functions are not.
	numbers := map[string]int{}
	for i := 1; i <= o.N; i++ {
		numbers[fmt.Sprintf(o.Name, i)] = i
	}
	p := &Plan{ID: id, Clients: clientsOf(c), Limits: LimitsFor(c, WorkClone)}
	p.Targets = func(context.Context) ([]Target, error) {
		if o.N < 1 || len(numbers) != o.N || clone.Token != "" || clone.Start {
			return nil, errors.New("fleet: DeployN needs N, a Name with a verb for the number, and no Token or Start in the options")
		}
		var out []Target
		for i := 1; i <= o.N; i++ {
			t := Target{Client: only, Ref: hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: fmt.Sprintf(o.Name, i)}}
			if h := clone.Placement.Host; h != "" {
				t.Hosts = []hypervisor.HostID{h}
			}
			if d := clone.Placement.Datastore; d != "" {
				t.Datastores = []hypervisor.DatastoreID{d}
			}
			out = append(out, t)
		}
		return out, nil
	}
	p.Steps = []Step{{Name: "deploy", Do: func(ctx context.Context, _ *hypervisor.VM, a *Attempt) error {
		name := a.Target.Ref.Name
		opt := clone
		if o.Each != nil {
			o.Each(numbers[name], &opt)
		}
		opt.Token = a.Token
		made, err := Await(ctx, a, func(ctx context.Context) *hypervisor.Task[*hypervisor.VM] {
			return c.Template(t).Deploy(ctx, name, &opt)
		})
		a.Set(ValueVM, made.ID)
		return err
	}}}
	vm := func(a *Attempt) *hypervisor.VM { return c.VM(hypervisor.VMID(a.Value(ValueVM))) }
	if o.Start {
		p.Steps = append(p.Steps, Step{Name: "start", Do: func(ctx context.Context, _ *hypervisor.VM, a *Attempt) error {
			_, err := Await(ctx, a, vm(a).Start)
			return err
		}})
	}
	if o.Ready != nil {
		p.Steps = append(p.Steps, Step{Name: "ready", Do: func(ctx context.Context, _ *hypervisor.VM, a *Attempt) error { return o.Ready(ctx, vm(a)) }})
	}
	return p
}
