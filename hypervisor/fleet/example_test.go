package fleet_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/anyvisor/anyvisor/hypervisor/fleet/fleettest"
)

// platform makes a platform with 40 running machines for the examples.
func platform(ctx context.Context) *hypervisor.Client {
	c, err := fake.New(fake.Config{}).Open(ctx, nil)
	if err == nil {
		err = fleettest.Machines(ctx, c, 40)
	}
	if err != nil {
		log.Fatal(err)
	}
	return c
}

func ExampleDo() {
	ctx := context.Background()
	c := platform(ctx)
	defer c.Close()
	p := &fleet.Plan{
		ID:      "restart-2026-12",
		Clients: map[string]*hypervisor.Client{"dc1": c},
		Labels:  map[string]string{"fleet": "yes"},
		Steps: []fleet.Step{{
			Name:  "restart",
			Tries: 3,
			Wait:  10 * time.Second,
			Do: func(ctx context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
				_, err := fleet.Await(ctx, a, vm.Reset)
				return err
			},
		}},
		Waves: []fleet.Wave{
			{Count: 1},
			{Percent: 10, Gate: func(ctx context.Context, r fleet.WaveResult) error {
				if r.Failed > 0 {
					return fmt.Errorf("%d of the first ten percent failed", r.Failed)
				}
				return nil
			}},
			{}, // the rest
		},
		Limits:    fleet.Limits{Total: 20, PerHost: 4},
		StopAfter: 3,
	}
	summary, err := fleet.Do(ctx, p)
	fmt.Println(summary.Done, "done,", summary.Failed, "failed,", summary.Left, "left over:", err)
	// Output: 40 done, 0 failed, 0 left over: <nil>
}

func ExampleRun_Events() {
	ctx := context.Background()
	c := platform(ctx)
	defer c.Close()
	p := fleet.MoveN("empty-host-1", c, fleet.MoveOptions{From: []hypervisor.HostID{"host-1"}})

	e := fleet.NewMemory()
	run, err := e.Start(ctx, p)
	if err != nil {
		log.Fatal(err)
	}
	events := run.Events(ctx)
	work, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- e.Work(work) }()
	moved := 0
	for event, err := range events {
		if err != nil {
			log.Fatal(err)
		}
		if event.Kind == fleet.EventTargetEnded {
			moved++
		}
	}
	stop()
	<-ended
	fmt.Println(moved, "machines moved")
	// Output: 20 machines moved
}

func ExampleDeployN() {
	ctx := context.Background()
	c, err := fake.New(fake.Config{}).Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "golden", MemoryBytes: hypervisor.GiB}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	template, err := vm.MarkTemplate(ctx).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}

	p := fleet.DeployN("web-1", c, template.ID(), hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}, fleet.DeployOptions{
		N:     3,
		Name:  "web-%02d",
		Start: true,
		Each: func(i int, o *hypervisor.CloneOptions) {
			o.Labels = map[string]string{"number": fmt.Sprint(i)}
		},
	})
	summary, err := fleet.Do(ctx, p)
	fmt.Println(summary.Done, err)
	// Output: 3 <nil>
}

func ExampleRolling() {
	ctx := context.Background()
	c := platform(ctx)
	defer c.Close()

	p := fleet.Rolling("patch-2026-12", c, fleet.RollingOptions{
		Labels: map[string]string{"fleet": "yes"},
		Act: func(ctx context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
			_, err := vm.Exec(ctx, hypervisor.ExecRequest{Path: "/bin/true"})
			return err
		},
		Check: fleet.Step{Tries: 5, Wait: 10 * time.Second, Do: func(ctx context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
			_, err := vm.Guest(ctx)
			return err
		}},
	})
	p.Waves = []fleet.Wave{{Count: 1}, {Percent: 10}, {}}
	p.Limits = fleet.Limits{Total: 50, PerDatastore: 8}
	summary, err := fleet.Do(ctx, p)
	fmt.Println(summary.Done, err)
	// Output: 40 <nil>
}
