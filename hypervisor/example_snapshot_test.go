package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

func ExampleVM_CreateSnapshot() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := started(ctx, c, "web-01")
	snap, err := vm.CreateSnapshot(ctx, "before", &hypervisor.SnapshotOptions{Memory: true, Description: "before the upgrade"}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	info, err := snap.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Name, "with RAM:", info.Memory, "of a machine that was", info.State)
	// Output: before with RAM: true of a machine that was running
}

func ExampleVM_Snapshots() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	for _, name := range []string{"monday", "tuesday"} {
		if _, err := vm.CreateSnapshot(ctx, name, nil).Wait(ctx); err != nil {
			log.Fatal(err)
		}
	}
	all, err := vm.Snapshots(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range all { // parents come before children
		fmt.Println(s.Depth, s.Name, s.Current)
	}
	// Output:
	// 0 monday false
	// 1 tuesday true
}

func ExampleVM_FindSnapshot() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	_, err := vm.FindSnapshot(ctx, "before")
	fmt.Println("none:", errors.Is(err, hypervisor.ErrNotFound))
	for range 2 { // names need not be unique
		if _, err := vm.CreateSnapshot(ctx, "before", nil).Wait(ctx); err != nil {
			log.Fatal(err)
		}
	}
	_, err = vm.FindSnapshot(ctx, "before")
	fmt.Println("two:", errors.Is(err, hypervisor.ErrAmbiguous))
	// Output:
	// none: true
	// two: true
}

func ExampleSnapshot_Info() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	snap, err := vm.CreateSnapshot(ctx, "before", nil).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	info, err := vm.Snapshot(snap.ID()).Info(ctx) // a handle by ID, as it was stored
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Name, info.Memory, info.VM == vm.ID())
	// Output: before false true
}

func ExampleSnapshot_VM() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	snap, err := vm.CreateSnapshot(ctx, "before", nil).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	show(ctx, snap.VM())
	// Output: web-01 off
}

// A handle for an ID that was stored. It asks nobody.
func ExampleVM_Snapshot() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	snap, err := vm.CreateSnapshot(ctx, "before", nil).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	stored := string(snap.ID())
	_, err = vm.Snapshot(hypervisor.SnapshotID(stored)).Revert(ctx, nil).Wait(ctx)
	fmt.Println(err)
	// Output: <nil>
}

func ExampleSnapshot_Revert() {
	ctx := context.Background()
	b := fake.New(fake.Config{})
	c, err := b.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm := machine(ctx, c, "db-01")
	_ = b.WriteDisk(vm.ID(), 0, "good data")
	snap, err := vm.CreateSnapshot(ctx, "before", nil).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	_ = b.WriteDisk(vm.ID(), 0, "broken data")
	if _, err := snap.Revert(ctx, nil).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	data, err := b.ReadDisk(vm.ID(), 0)
	fmt.Println(data, err)
	// Output: good data <nil>
}

// Deleting a snapshot keeps what the machine has written since.
func ExampleSnapshot_Delete() {
	ctx := context.Background()
	b := fake.New(fake.Config{})
	c, err := b.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm := machine(ctx, c, "db-01")
	snap, err := vm.CreateSnapshot(ctx, "before", nil).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	_ = b.WriteDisk(vm.ID(), 0, "new data")
	if _, err := snap.Delete(ctx, &hypervisor.DeleteSnapshotOptions{Children: true}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	data, err := b.ReadDisk(vm.ID(), 0)
	fmt.Println(data, err)
	// Output: new data <nil>
}
