package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	_ "github.com/anyvisor/anyvisor/hypervisor/fake"
)

// client opens the fake; a program would open "kvm:///system" or
// "vsphere://administrator@vcenter.example/" and import that driver.
func client(ctx context.Context) *hypervisor.Client {
	c, err := hypervisor.Open(ctx, "fake://", nil)
	if err != nil {
		log.Fatal(err)
	}
	return c
}

func machine(ctx context.Context, c *hypervisor.Client, name string) *hypervisor.VM {
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: name, MemoryBytes: hypervisor.GiB, Disks: []hypervisor.DiskSpec{{SizeBytes: 8 * hypervisor.GiB}}}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	return vm
}

func Example() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	snap, err := vm.CreateSnapshot(ctx, "before", nil).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, token := range []string{"request-17", "request-17"} { // the second finds what the first made
		if _, err := vm.Clone(ctx, "web-02", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked, From: snap.ID(), Token: token}).Wait(ctx); err != nil {
			log.Fatal(err)
		}
	}
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

func ExampleClient_Supports() {
	ctx := context.Background()
	c, err := hypervisor.Open(ctx, "fake://?edition=free", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	s, err := c.Supports(ctx, capability.MigrateLive, hypervisor.Ref{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Level, s.Reason)
	// Output: no edition
}

func ExampleVM_CheckMigrate() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "render-01")
	if _, err := vm.AttachDevice(ctx, hypervisor.DeviceRequest{Class: hypervisor.ClassDisplay}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for h, err := range c.Hosts(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		if h.ID == info.Host {
			continue
		}
		rep, err := vm.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: h.ID})
		if err != nil {
			log.Fatal(err)
		}
		for _, b := range rep.Blockers {
			fmt.Println(b.Reason)
		}
	}
	// Output: vm-has-passthrough
}

func ExampleTask_Wait() {
	ctx := context.Background()
	c, err := hypervisor.Open(ctx, "fake://?delay=200ms", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	impatient, stop := context.WithTimeout(ctx, time.Millisecond)
	defer stop()
	task := c.CreateVM(ctx, hypervisor.VMSpec{Name: "slow", MemoryBytes: hypervisor.GiB})
	_, err = task.Wait(impatient)
	var d *hypervisor.DetachedError
	fmt.Println("detached:", errors.As(err, &d))

	again, err := c.Task(ctx, d.Task) // perhaps in another process
	if err != nil {
		log.Fatal(err)
	}
	ref, err := again.Wait(ctx)
	fmt.Println(ref.Kind, err)
	// Output:
	// detached: true
	// vm <nil>
}

func ExampleVM_Delete() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	base := machine(ctx, c, "base")
	if _, err := base.Clone(ctx, "child", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	_, err := base.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx)
	fmt.Println(errors.Is(err, hypervisor.ErrBusy))
	// Output: true
}
