package fake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// platform makes a backend with one machine, and a Client on it.
func platform(ctx context.Context, cfg fake.Config) (*fake.Backend, *hypervisor.Client, *hypervisor.VM) {
	b := fake.New(cfg)
	c, err := b.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "web-01", MemoryBytes: hypervisor.GiB,
		Disks: []hypervisor.DiskSpec{{SizeBytes: 8 * hypervisor.GiB}}}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	return b, c, vm
}

// A test gives its program a Client and looks at the platform afterwards.
func Example() {
	ctx := context.Background()
	b, c, vm := platform(ctx, fake.Config{})
	defer c.Close()
	if _, err := vm.Start(ctx).Wait(ctx); err != nil { // the code under test
		log.Fatal(err)
	}
	state, err := b.State(vm.ID())
	fmt.Println(state, err)
	// Output: running <nil>
}

// The platform refuses a call, here with an error of its own.
func ExampleBackend_Fail() {
	ctx := context.Background()
	b, c, vm := platform(ctx, fake.Config{})
	defer c.Close()
	b.Fail(fake.Fault{Op: op.VMClone, Err: &fake.NativeError{Kind: hypervisor.ErrExhausted, Text: "datastore full"}})
	for range 2 { // a fault strikes once
		_, err := vm.Clone(ctx, "web-02", nil).Wait(ctx)
		fmt.Println(errors.Is(err, hypervisor.ErrExhausted))
	}
	// Output:
	// true
	// false
}

// The second call fails in the middle of its work, which is undone.
func ExampleFault_after() {
	ctx := context.Background()
	b, c, vm := platform(ctx, fake.Config{})
	defer c.Close()
	images := len(b.Images())
	b.Fail(fake.Fault{Op: op.VMClone, Nth: 2, After: 0.5, Err: errors.New("the array is broken")})
	_, err := vm.Clone(ctx, "web-02", nil).Wait(ctx)
	fmt.Println(err, len(b.Images())-images)
	_, err = vm.Clone(ctx, "web-03", nil).Wait(ctx)
	fmt.Println(err != nil, len(b.Images())-images)
	// Output:
	// <nil> 1
	// true 1
}

// What a crash leaves behind is named in the error.
func ExampleFault_leftover() {
	ctx := context.Background()
	b, c, vm := platform(ctx, fake.Config{})
	defer c.Close()
	b.Fail(fake.Fault{Op: op.VMClone, Err: errors.New("the host has crashed"), Leftover: true})
	_, err := vm.Clone(ctx, "web-02", nil).Wait(ctx)
	var e *hypervisor.Error
	if errors.As(err, &e) {
		for _, r := range e.Leftover {
			fmt.Println(r.Kind)
		}
	}
	// Output: volume
}

// The platform acts and its answer is lost: a token finds what was made.
func ExampleFault_lost() {
	ctx := context.Background()
	b, c, vm := platform(ctx, fake.Config{})
	defer c.Close()
	b.Fail(fake.Fault{Op: op.VMClone, Lost: fake.AfterSend})
	o := &hypervisor.CloneOptions{Token: "order-17"}
	_, err := vm.Clone(ctx, "web-02", o).Wait(ctx)
	fmt.Println(hypervisor.KindOf(err).String())
	_, err = vm.Clone(ctx, "web-02", o).Wait(ctx)
	all, _ := hypervisor.Collect(c.VMs(ctx, nil))
	fmt.Println(err, len(all), "machines")
	// Output:
	// unavailable
	// <nil> 2 machines
}

// A session that ends is renewed by the driver.
func ExampleFault_expire() {
	ctx := context.Background()
	b, c, vm := platform(ctx, fake.Config{})
	defer c.Close()
	b.ForgetCalls()
	b.Fail(fake.Fault{Op: op.VMStart, Expire: true})
	_, err := vm.Start(ctx).Wait(ctx)
	fmt.Println(err)
	for _, call := range b.Calls() {
		fmt.Println(call.Op)
	}
	// Output:
	// <nil>
	// vm.start
	// client.login
	// vm.start
}

// A silent platform holds nobody longer than his context. Heal ends the
// silence.
func ExampleBackend_Heal() {
	ctx := context.Background()
	b, c, vm := platform(ctx, fake.Config{})
	defer c.Close()
	b.Fail(fake.Fault{Op: "*", Lost: fake.NoAnswer, Count: -1})
	short, stop := context.WithTimeout(ctx, time.Millisecond)
	defer stop()
	_, err := vm.Info(short)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	b.Heal()
	_, err = vm.Info(ctx)
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}

// Work takes as long as it should. In testing/synctest an hour costs nothing.
func ExampleBackend_SetDelay() {
	ctx := context.Background()
	b, c, vm := platform(ctx, fake.Config{})
	defer c.Close()
	b.SetDelay("vm.*", time.Hour)               // every operation on machines
	b.SetDelay(op.VMStart, 10*time.Millisecond) // but this
	begin := time.Now()
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(time.Since(begin) >= 10*time.Millisecond)
	// Output: true
}

func ExampleConfig_delays() {
	ctx := context.Background()
	_, c, vm := platform(ctx, fake.Config{Delays: map[op.Name]time.Duration{op.VMClone: time.Hour}})
	defer c.Close()
	task := vm.Clone(ctx, "web-02", nil)
	if err := task.Cancel(ctx); err != nil {
		log.Fatal(err)
	}
	_, err := task.Wait(ctx)
	fmt.Println(hypervisor.KindOf(err).String())
	// Output: canceled
}

// A lesser platform: its refusals have the reason that the test gives.
func ExampleConfig_disable() {
	ctx := context.Background()
	_, c, vm := platform(ctx, fake.Config{Disable: map[capability.Name]hypervisor.Support{
		capability.CloneLinked: {Level: hypervisor.LevelNo, Reason: hypervisor.ReasonPlatform, Detail: "disks can't share a base"},
	}})
	defer c.Close()
	_, err := vm.Clone(ctx, "web-02", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx)
	var u *hypervisor.UnsupportedError
	if errors.As(err, &u) {
		fmt.Println(u.Capability, u.Support.Reason)
	}
	// Output: clone.linked platform
}

// The call log shows what was sent, with its arguments.
func ExampleBackend_Calls() {
	ctx := context.Background()
	b, c, vm := platform(ctx, fake.Config{})
	defer c.Close()
	b.ForgetCalls()
	if _, err := vm.Clone(ctx, "web-02", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	for _, call := range b.Calls() {
		if r, ok := call.Args.(hypervisor.CloneRequest); ok {
			fmt.Println(call.Op, r.Name, r.Mode)
		}
	}
	// Output: vm.clone web-02 linked
}

// Disks have content, so a test sees that a snapshot brings the old one back.
func ExampleBackend_ReadDisk() {
	ctx := context.Background()
	b, c, vm := platform(ctx, fake.Config{})
	defer c.Close()
	_ = b.WriteDisk(vm.ID(), 0, "first")
	snap, err := vm.CreateSnapshot(ctx, "before", nil).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	_ = b.WriteDisk(vm.ID(), 0, "second")
	if _, err := snap.Revert(ctx, nil).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(b.ReadDisk(vm.ID(), 0))
	// Output: first <nil>
}

// A host that goes down takes its machines along, or HA restarts them.
func ExampleBackend_SetHostState() {
	ctx := context.Background()
	b, c, vm := platform(ctx, fake.Config{HA: true})
	defer c.Close()
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	before, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if err := b.SetHostState(before.Host, hypervisor.HostDown); err != nil {
		log.Fatal(err)
	}
	after, err := vm.Info(ctx)
	fmt.Println(after.State, "elsewhere:", after.Host != before.Host, err)
	// Output: running elsewhere: true <nil>
}

// Unwaited finds work that a program has started and forgotten.
func ExampleBackend_Unwaited() {
	ctx := context.Background()
	b, c, vm := platform(ctx, fake.Config{})
	defer c.Close()
	_ = vm.Start(ctx) // nobody waits
	if err := b.Settle(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(b.Unwaited()), "forgotten")
	// Output: 1 forgotten
}

// A saved backend continues in another process.
func ExampleRestore() {
	ctx := context.Background()
	b, c, vm := platform(ctx, fake.Config{Seed: 1})
	_ = b.WriteDisk(vm.ID(), 0, "kept")
	_ = c.Close()
	data, err := json.Marshal(b)
	if err != nil {
		log.Fatal(err)
	}

	restored, err := fake.Restore(data, fake.Config{})
	if err != nil {
		log.Fatal(err)
	}
	again, err := restored.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer again.Close()
	found, err := again.FindVM(ctx, "web-01")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(restored.ReadDisk(found.ID(), 0))
	// Output: kept <nil>
}
