package dbosfleet_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/anyvisor/anyvisor/hypervisor/fleet/dbosfleet"
	"github.com/anyvisor/anyvisor/hypervisor/fleet/fleettest"
)

// resume begins the run of a plan, or continues it after a kill.
func resume(ctx context.Context, url string, p *fleet.Plan) error {
	e, err := dbosfleet.Open(ctx, dbosfleet.Config{URL: url})
	if err != nil {
		return err
	}
	defer e.Close()
	var exists *fleet.RunExistsError
	if _, err := e.Start(ctx, p); err != nil && !errors.As(err, &exists) {
		return err
	}
	return e.Work(ctx, p)
}

// report pauses a run and prints what became of its targets.
func report(ctx context.Context, e fleet.Engine, id string) error {
	run, err := e.Find(ctx, id)
	if err != nil {
		return err
	}
	if err := run.Pause(ctx); err != nil { // or Resume, or Cancel
		return err
	}
	for r, err := range run.Results(ctx) {
		if err != nil {
			return err
		}
		fmt.Println(r.Target.Ref, r.State, r.Err())
	}
	return nil
}

var _ = report

func ExampleOpen() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	dir, err := os.MkdirTemp("", "anyvisor-example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c, err := fake.New(fake.Config{}).Open(ctx, nil)
	if err == nil {
		err = fleettest.Machines(ctx, c, 3)
	}
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	p := &fleet.Plan{ID: "stop-all", Clients: map[string]*hypervisor.Client{"dc1": c}, Steps: []fleet.Step{{
		Name: "power-off",
		Do: func(ctx context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
			_, err := fleet.Await(ctx, a, vm.PowerOff)
			return err
		},
	}}, Waves: []fleet.Wave{{Count: 2, Gate: func(_ context.Context, r fleet.WaveResult) error {
		fmt.Println(r.Done, "machines are off")
		stop() // the program ends here
		return nil
	}}, {}}}
	fmt.Println(resume(ctx, "sqlite:"+filepath.Join(dir, "fleet.db"), p))
	// Output:
	// 2 machines are off
	// context canceled
}
