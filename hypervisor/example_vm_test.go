package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

// started makes a machine that runs.
func started(ctx context.Context, c *hypervisor.Client, name string) *hypervisor.VM {
	vm := machine(ctx, c, name)
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	return vm
}

// show prints the state of a machine.
func show(ctx context.Context, vm *hypervisor.VM) {
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Name, info.State)
}

func ExampleVM_Info() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Name, info.State, info.CPUs, "CPU", info.MemoryBytes/hypervisor.MiB, "MiB")
	for _, d := range info.Disks {
		fmt.Println("disk of", d.SizeBytes/hypervisor.GiB, "GiB")
	}
	// Output:
	// web-01 off 1 CPU 1024 MiB
	// disk of 8 GiB
}

func ExampleVM_Start() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	for range 2 { // a machine that runs already is success
		if _, err := vm.Start(ctx).Wait(ctx); err != nil {
			log.Fatal(err)
		}
	}
	show(ctx, vm)
	// Output: web-01 running
}

func ExampleVM_PowerOff() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := started(ctx, c, "web-01")
	if _, err := vm.PowerOff(ctx).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	show(ctx, vm)
	// Output: web-01 off
}

// A guest that does not react is powered off when its time is up.
func ExampleVM_Shutdown() {
	ctx := context.Background()
	b := fake.New(fake.Config{})
	c, err := b.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm := started(ctx, c, "web-01")
	if err := b.SetGuest(vm.ID(), fake.Guest{Hangs: true}); err != nil {
		log.Fatal(err)
	}
	_, err = vm.Shutdown(ctx, &hypervisor.ShutdownOptions{Timeout: time.Millisecond}).Wait(ctx)
	fmt.Println("time limit:", errors.Is(err, hypervisor.ErrTimeout))
	if _, err := vm.Shutdown(ctx, &hypervisor.ShutdownOptions{Timeout: time.Millisecond, Force: true}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	show(ctx, vm)
	// Output:
	// time limit: true
	// web-01 off
}

func ExampleVM_Reboot() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := started(ctx, c, "web-01")
	if _, err := vm.Reboot(ctx, &hypervisor.ShutdownOptions{Timeout: time.Minute}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	show(ctx, vm)
	// Output: web-01 running
}

func ExampleVM_Reset() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	_, err := vm.Reset(ctx).Wait(ctx)
	fmt.Println("off:", errors.Is(err, hypervisor.ErrInvalidState))
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := vm.Reset(ctx).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	show(ctx, vm)
	// Output:
	// off: true
	// web-01 running
}

func ExampleVM_Pause() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := started(ctx, c, "web-01")
	if _, err := vm.Pause(ctx).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	show(ctx, vm)
	_, err := vm.Start(ctx).Wait(ctx)
	fmt.Println("use Resume:", errors.Is(err, hypervisor.ErrInvalidState))
	// Output:
	// web-01 paused
	// use Resume: true
}

func ExampleVM_Suspend() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := started(ctx, c, "web-01")
	if _, err := vm.Suspend(ctx).Wait(ctx); err != nil { // the RAM is on disk now
		log.Fatal(err)
	}
	show(ctx, vm)
	// Output: web-01 suspended
}

func ExampleVM_Resume() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := started(ctx, c, "web-01")
	if _, err := vm.Suspend(ctx).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := vm.Resume(ctx).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	show(ctx, vm)
	// Output: web-01 running
}

func ExampleVM_Reconfigure() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	text := "front end"
	if _, err := vm.Reconfigure(ctx, hypervisor.Changes{CPUs: 4, MemoryBytes: 2 * hypervisor.GiB, Description: &text}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.CPUs, info.MemoryBytes/hypervisor.GiB, info.Description)
	// Output: 4 2 front end
}

// What a running machine cannot take is refused, or waits for its next start.
func ExampleVM_Reconfigure_nextStart() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := started(ctx, c, "web-01")
	_, err := vm.Reconfigure(ctx, hypervisor.Changes{CPUs: 4}).Wait(ctx)
	var u *hypervisor.UnsupportedError
	if errors.As(err, &u) {
		fmt.Println(u.Support.Reason)
	}
	if _, err := vm.Reconfigure(ctx, hypervisor.Changes{CPUs: 4, NextStart: true}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := vm.PowerOff(ctx).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.CPUs)
	// Output:
	// hot-add-off
	// 4
}

func ExampleVM_Rename() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	if _, err := vm.Rename(ctx, "web-old").Wait(ctx); err != nil {
		log.Fatal(err)
	}
	show(ctx, vm)
	// Output: web-old off
}

func ExampleVM_SetLabels() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	machine(ctx, c, "db-01")
	if err := vm.SetLabels(ctx, map[string]string{"team": "shop", "tier": "web"}); err != nil {
		log.Fatal(err)
	}
	for v, err := range c.VMs(ctx, &hypervisor.ListOptions{Labels: map[string]string{"team": "shop"}}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(v.Name, v.Labels["tier"])
	}
	// Output: web-01 web
}

func ExampleVM_Supports() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "render-01")
	if _, err := vm.AttachDevice(ctx, hypervisor.DeviceRequest{Class: hypervisor.ClassDisplay}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	s, err := vm.Supports(ctx, capability.SnapshotMemory)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Level, s.Reason)
	// Output: no vm-has-passthrough
}

func ExampleVM_Clone() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "base")
	o := &hypervisor.CloneOptions{
		Mode: hypervisor.CloneModeLinked, Start: true, CPUs: 2,
		Labels: map[string]string{"team": "shop"},
		Token:  "order-17/web-01", // the same call again finds this clone
		Customize: &hypervisor.Customization{HostName: "web-01",
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}, Gateway: netip.MustParseAddr("192.0.2.1")},
	}
	// The source needs an adapter for the address.
	if _, err := vm.AttachNIC(ctx, hypervisor.NICSpec{}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	first, err := vm.Clone(ctx, "web-01", o).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	second, err := vm.Clone(ctx, "web-01", o).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	show(ctx, first)
	fmt.Println("one machine:", first.ID() == second.ID())
	// Output:
	// web-01 running
	// one machine: true
}

// A running machine is forked with its RAM.
func ExampleVM_Clone_instant() {
	ctx := context.Background()
	b := fake.New(fake.Config{})
	c, err := b.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm := started(ctx, c, "parent")
	if err := b.WriteMemory(vm.ID(), "warm cache"); err != nil {
		log.Fatal(err)
	}
	child, err := vm.Clone(ctx, "child", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeInstant}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	ram, err := b.ReadMemory(child.ID())
	fmt.Println(ram, err)
	// Output: warm cache <nil>
}

func ExampleVM_Dependencies() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	base := machine(ctx, c, "base")
	child, err := base.Clone(ctx, "child", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	deps, err := child.Dependencies(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, v := range deps.Volumes {
		fmt.Println("images below:", v.Depth, "needed by others:", len(v.Dependants))
	}
	// Output:
	// images below: 1 needed by others: 0
	// images below: 0 needed by others: 1
}

func ExampleVM_MarkTemplate() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "golden")
	tpl, err := vm.MarkTemplate(ctx).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	info, err := tpl.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	_, err = vm.Start(ctx).Wait(ctx)
	fmt.Println(info.Name, "can't be started:", errors.Is(err, hypervisor.ErrInvalidState))
	// Output: golden can't be started: true
}
