package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

// museum is a driver for a platform that can only be looked at.
type museum struct{ hypervisor.BaseDriver }

func (museum) Describe() hypervisor.Description {
	return hypervisor.Description{Driver: "museum", Product: "An old hypervisor"}
}

func (museum) ListVMs(context.Context, hypervisor.VMQuery) (hypervisor.VMPage, error) {
	return hypervisor.VMPage{VMs: []hypervisor.VMInfo{{ID: "1", Name: "exhibit", State: hypervisor.StateOff}}}, nil
}

func (museum) GetVM(_ context.Context, id hypervisor.VMID) (hypervisor.VMInfo, error) {
	return hypervisor.VMInfo{}, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such machine")
}

// BaseDriver answers what a driver has nothing to say to.
func ExampleBaseDriver() {
	ctx := context.Background()
	c, err := hypervisor.New(ctx, museum{}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm, err := c.FindVM(ctx, "exhibit")
	if err != nil {
		log.Fatal(err)
	}
	_, err = vm.Start(ctx).Wait(ctx)
	fmt.Println(errors.Is(err, hypervisor.ErrUnsupported))
	// Output: true
}

// quota is a driver around another one that refuses large machines.
type quota struct {
	hypervisor.Driver
	max int64
}

func (q quota) Unwrap() hypervisor.Driver { return q.Driver }

func (q quota) CreateVM(ctx context.Context, s hypervisor.VMSpec) (hypervisor.DriverTask, error) {
	if s.MemoryBytes > q.max {
		return nil, hypervisor.Errorf(hypervisor.ErrExhausted, hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: s.Name}, "at most %d MiB of memory", q.max/hypervisor.MiB)
	}
	d, _ := hypervisor.Ability[hypervisor.Lifecycle](q.Driver)
	return d.CreateVM(ctx, s)
}

func (q quota) DeleteVM(ctx context.Context, id hypervisor.VMID, r hypervisor.DeleteRequest) (hypervisor.DriverTask, error) {
	d, _ := hypervisor.Ability[hypervisor.Lifecycle](q.Driver)
	return d.DeleteVM(ctx, id, r)
}

// A Wrapper changes some calls and keeps the other abilities of the driver
// below it.
func ExampleWrapper() {
	ctx := context.Background()
	var d hypervisor.Wrapper = quota{fake.New(fake.Config{}).Driver(), 4 * hypervisor.GiB}
	c, err := hypervisor.New(ctx, d, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = c.CreateVM(ctx, hypervisor.VMSpec{Name: "large", MemoryBytes: 8 * hypervisor.GiB}).Wait(ctx)
	fmt.Println(err)
	vm := machine(ctx, c, "small")
	_, err = vm.CreateSnapshot(ctx, "before", nil).Wait(ctx)
	fmt.Println(err)
	// Output:
	// vm.create vm ("large"): at most 4096 MiB of memory
	// <nil>
}

// A TaskGroup runs work that a driver composes of several calls.
func ExampleTaskGroup() {
	ctx := context.Background()
	var group hypervisor.TaskGroup
	task, err := group.Go(ctx, "copy-1", func(ctx context.Context, report func(hypervisor.TaskState)) hypervisor.TaskState {
		report(hypervisor.TaskState{Phase: "copying", Fraction: 0.5})
		return hypervisor.TaskState{Result: hypervisor.VMID("42").Ref()}
	})
	if err != nil {
		log.Fatal(err)
	}
	for {
		s, err := task.Next(ctx)
		if err != nil {
			log.Fatal(err)
		}
		if s.Done {
			fmt.Println(s.Result, s.Err)
			break
		}
	}
	_, found := group.Find("copy-1") // for Driver.Task
	fmt.Println(found, group.Close())
	// Output:
	// vm 42 <nil>
	// true <nil>
}
