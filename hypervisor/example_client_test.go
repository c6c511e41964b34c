package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// A program that needs something learns at its start that it is missing.
func ExampleOpen() {
	ctx := context.Background()
	_, err := hypervisor.Open(ctx, "fake://lab?edition=free", &hypervisor.Options{
		Require:     []capability.Name{capability.MigrateLive},
		Credentials: &hypervisor.Credentials{Username: "svc", Password: "secret"},
	})
	var u *hypervisor.UnsupportedError
	fmt.Println(errors.As(err, &u), u.Capability, u.Support.Reason)
	// Output: true migrate.live edition
}

func ExampleOptions_logger() {
	ctx := context.Background()
	plain := func(_ []string, a slog.Attr) slog.Attr {
		switch a.Key {
		case slog.TimeKey, "took", "object", "calls", "task", "driver":
			return slog.Attr{} // left out, so that the output is always the same
		}
		return a
	}
	c, err := hypervisor.Open(ctx, "fake://", &hypervisor.Options{
		Logger: slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: plain})),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.VM("vm-42").Info(ctx); err == nil {
		log.Fatal("there is such a machine")
	}
	// Output: level=WARN msg=vm.info error="vm.info vm vm-42: no such machine"
}

func ExampleObserver() {
	ctx := context.Background()
	observe := func(ctx context.Context, call hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
		return ctx, func(end hypervisor.CallEnd) { fmt.Println(call.Name, end.Kind.String(), end.Err == nil) }
	}
	c, err := hypervisor.Open(ctx, "fake://", &hypervisor.Options{Observer: observe})
	if err != nil {
		log.Fatal(err)
	}
	vm := machine(ctx, c, "web-01")
	if _, err := vm.Pause(ctx).Wait(ctx); err == nil {
		log.Fatal("a machine that is off was paused")
	}
	_ = c.Close()
	// Output:
	// vm.create unknown true
	// vm.pause invalid-state false
}

func ExampleClient_Describe() {
	ctx := context.Background()
	c, err := fake.New(fake.Config{Name: "lab"}).Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	d := c.Describe()
	fmt.Println(d.Driver, "at", d.Endpoint)
	// Output: fake at lab
}

// Shutdown waits for the work that the Client has started.
func ExampleClient_Shutdown() {
	ctx := context.Background()
	b := fake.New(fake.Config{Delays: map[op.Name]time.Duration{op.VMCreate: 10 * time.Millisecond}})
	c, err := b.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	task := c.CreateVM(ctx, hypervisor.VMSpec{Name: "web-01", MemoryBytes: hypervisor.GiB})
	if err := task.Err(); err != nil {
		log.Fatal(err)
	}
	if err := c.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	vm, err := task.Wait(ctx) // the end is known already
	if err != nil {
		log.Fatal(err)
	}
	state, err := b.State(vm.ID())
	fmt.Println("made, and", state, err)
	_, err = vm.Info(ctx)
	fmt.Println(errors.Is(err, hypervisor.ErrClosed))
	// Output:
	// made, and off <nil>
	// true
}

func ExampleClient_Close() {
	ctx := context.Background()
	c := client(ctx)
	if err := c.Close(); err != nil {
		log.Fatal(err)
	}
	_, err := c.FindVM(ctx, "web-01")
	fmt.Println(errors.Is(err, hypervisor.ErrClosed))
	// Output: true
}

// As gives the native object: a *libvirt.Domain with driver kvm, an
// *object.VirtualMachine with driver vsphere.
func ExampleAs() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	b, err := hypervisor.As[*fake.Backend](ctx, c, vm)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(b.Boots(vm.ID()))
	// Output: 0 <nil>
}

func ExampleClient_CreateVM() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	spec := hypervisor.VMSpec{
		Name: "web-01", CPUs: 2, MemoryBytes: 2 * hypervisor.GiB, Firmware: hypervisor.FirmwareUEFI,
		Disks:     []hypervisor.DiskSpec{{SizeBytes: 20 * hypervisor.GiB}},
		NICs:      []hypervisor.NICSpec{{Network: "net-1"}},
		Placement: hypervisor.Placement{Host: "host-1", Datastore: "ds-shared"},
		Labels:    map[string]string{"team": "shop"},
		Start:     true,
		Token:     "order-17/web-01", // makes the call safe to repeat
	}
	first, err := c.CreateVM(ctx, spec).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	second, err := c.CreateVM(ctx, spec).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("one machine:", first.ID() == second.ID())
	// Output: one machine: true
}

func ExampleClient_VMs() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	machine(ctx, c, "web-01")
	machine(ctx, c, "web-02")
	for v, err := range c.VMs(ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(v.Name, v.State)
	}
	// Output:
	// web-01 off
	// web-02 off
}

func ExampleCollect() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	machine(ctx, c, "web-01")
	all, err := hypervisor.Collect(c.VMs(ctx, nil))
	fmt.Println(len(all), err)
	// Output: 1 <nil>
}

func ExampleClient_FindVM() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	machine(ctx, c, "web-01")
	machine(ctx, c, "twin")
	machine(ctx, c, "twin")
	for _, name := range []string{"web-01", "twin", "web-99"} {
		_, err := c.FindVM(ctx, name)
		fmt.Println(name, err == nil, hypervisor.KindOf(err).String())
	}
	// Output:
	// web-01 true unknown
	// twin false ambiguous
	// web-99 false not-found
}

// A handle for an ID that was stored. It asks nobody.
func ExampleClient_VM() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	stored := string(machine(ctx, c, "web-01").ID())
	show(ctx, c.VM(hypervisor.VMID(stored)))
	// Output: web-01 off
}

// template makes one.
func template(ctx context.Context, c *hypervisor.Client, name string) *hypervisor.Template {
	tpl, err := machine(ctx, c, name).MarkTemplate(ctx).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	return tpl
}

// Place ranks the hosts for a machine that exists, its present host too.
// CheckMigrate reports whether the machine can go there.
func ExampleClient_Place_move() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "web-01", MemoryBytes: hypervisor.GiB, Start: true, Placement: hypervisor.Placement{Host: "host-1"}}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	hosts, err := c.Place(ctx, hypervisor.PlaceRequest{VM: vm.ID()})
	if err != nil {
		log.Fatal(err)
	}
	for _, h := range hosts {
		if h.Host == "host-1" { // to be emptied
			continue
		}
		to := hypervisor.MigrateOptions{Host: h.Host, Mode: hypervisor.MigrateModeLive}
		r, err := vm.CheckMigrate(ctx, to)
		if err != nil {
			log.Fatal(err)
		}
		if !r.OK() {
			continue
		}
		moved, err := vm.Migrate(ctx, to).Wait(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("now on", moved.Host)
		break
	}
	// Output: now on host-2
}

func ExampleClient_Place() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	big := hypervisor.VMSpec{Name: "big", MemoryBytes: 256 * hypervisor.GiB, Start: true, Placement: hypervisor.Placement{Host: "host-1"}}
	if _, err := c.CreateVM(ctx, big).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	hosts, err := c.Place(ctx, hypervisor.PlaceRequest{CPUs: 4, MemoryBytes: 16 * hypervisor.GiB, Device: &hypervisor.DeviceRequest{Vendor: "10de"}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("best:", hosts[0].Host)
	_, err = c.Place(ctx, hypervisor.PlaceRequest{CPUs: 4, MemoryBytes: hypervisor.TiB})
	fmt.Println("too large:", errors.Is(err, hypervisor.ErrExhausted))
	// Output:
	// best: host-2
	// too large: true
}
