package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

func ExampleVM_Migrate() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "web-01", MemoryBytes: hypervisor.GiB, Start: true,
		Placement: hypervisor.Placement{Host: "host-1"}}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	o := hypervisor.MigrateOptions{Host: "host-2", Mode: hypervisor.MigrateModeLive, MaxDowntime: 300 * time.Millisecond}
	moved, err := vm.Migrate(ctx, o).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("now on", moved.Host)
	show(ctx, vm)
	// Output:
	// now on host-2
	// web-01 running
}

// A refused migration names everything that stands in its way.
func ExampleVM_Migrate_blocked() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	_, err = vm.Migrate(ctx, hypervisor.MigrateOptions{Storage: info.Disks[0].Datastore}).Wait(ctx)
	var b *hypervisor.BlockedError
	if errors.As(err, &b) {
		for _, x := range b.Blockers {
			fmt.Println(x.Reason)
		}
	}
	// Output: same-host
}

// The disks move to another datastore.
func ExampleVM_Migrate_storage() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	if _, err := vm.Migrate(ctx, hypervisor.MigrateOptions{Storage: "ds-archive"}).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Disks[0].Datastore)
	// Output: ds-archive
}

func ExampleVM_AttachDisk() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "db-01")
	disk, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: 20 * hypervisor.GiB, Datastore: "ds-shared", Provisioning: hypervisor.ProvisioningThin}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(disk.SizeBytes/hypervisor.GiB, "GiB on", disk.Datastore)
	// Output: 20 GiB on ds-shared
}

func ExampleVM_DetachDisk() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "db-01")
	disk, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: 20 * hypervisor.GiB}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := vm.DetachDisk(ctx, disk.ID, hypervisor.KeepDisks).Wait(ctx); err != nil { // the image stays
		log.Fatal(err)
	}
	if _, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{Volume: disk.Volume}).Wait(ctx); err != nil { // and can be used again
		log.Fatal(err)
	}
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(info.Disks), "disks")
	// Output: 2 disks
}

func ExampleVM_GrowDisk() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "db-01")
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	disk := info.Disks[0].ID
	if _, err := vm.GrowDisk(ctx, disk, 16*hypervisor.GiB).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = vm.GrowDisk(ctx, disk, 4*hypervisor.GiB).Wait(ctx)
	fmt.Println("never smaller:", errors.Is(err, hypervisor.ErrInvalidArgument))
	// Output: never smaller: true
}

func ExampleVM_AttachNIC() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	nic, err := vm.AttachNIC(ctx, hypervisor.NICSpec{Network: "net-2", MAC: "52:54:00:00:00:07"}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(nic.Network, nic.MAC)
	// Output: net-2 52:54:00:00:00:07
}

func ExampleVM_DetachNIC() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "web-01")
	nic, err := vm.AttachNIC(ctx, hypervisor.NICSpec{}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := vm.DetachNIC(ctx, nic.ID).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(info.NICs), "adapters")
	// Output: 0 adapters
}

func ExampleVM_AttachDevice() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "render-01")
	gpu, err := vm.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "10de", Product: "2330"}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(gpu.Vendor, gpu.Product)
	// Output: 10de 2330
}

// A share of a GPU is asked for by its profile.
func ExampleVM_AttachDevice_vgpu() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "desktop-01")
	share, err := vm.AttachDevice(ctx, hypervisor.DeviceRequest{Profile: "GRID M60-2Q"}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(share.Profile)
	// Output: GRID M60-2Q
}

func ExampleVM_DetachDevice() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := machine(ctx, c, "render-01")
	gpu, err := vm.AttachDevice(ctx, hypervisor.DeviceRequest{Class: hypervisor.ClassDisplay}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := vm.DetachDevice(ctx, gpu.ID).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(info.Devices), "devices")
	// Output: 0 devices
}

func ExampleVM_Guest() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := started(ctx, c, "web-01")
	g, err := vm.Guest(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(g.OS, g.HostName)
	// Output: linux web-01
}

// A guest reports its addresses some time after it has booted.
func ExampleVM_Guest_address() {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Minute)
	defer stop()
	c := client(ctx)
	defer c.Close()
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "web-01", MemoryBytes: hypervisor.GiB, NICs: []hypervisor.NICSpec{{}}, Start: true}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for {
		g, err := vm.Guest(ctx)
		var u *hypervisor.UnsupportedError
		switch {
		case err == nil && len(g.Addresses) > 0:
			fmt.Println("it has", len(g.Addresses), "address")
			return
		case errors.As(err, &u) && u.Support.Reason == hypervisor.ReasonToolsMissing: // not started yet
		case err != nil:
			log.Fatal(err)
		}
		select {
		case <-ctx.Done():
			log.Fatal(ctx.Err())
		case <-time.After(2 * time.Second):
		}
	}
	// Output: it has 1 address
}

func ExampleVM_Exec() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := started(ctx, c, "web-01")
	x, err := vm.Exec(ctx, hypervisor.ExecRequest{Path: "/bin/sh", Args: []string{"-c", "exit 3"}, Timeout: 10 * time.Second})
	if err != nil { // the program could not be run
		log.Fatal(err)
	}
	fmt.Println("it ended with", x.ExitCode)
	// Output: it ended with 3
}

func ExampleVM_Clock() {
	ctx := context.Background()
	b := fake.New(fake.Config{})
	c, err := b.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm := started(ctx, c, "web-01")
	if err := b.SetGuest(vm.ID(), fake.Guest{ClockOffset: -time.Hour}); err != nil {
		log.Fatal(err)
	}
	r, err := vm.Clock(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the guest's clock is off by", r.Drift().Round(time.Minute))
	// Output: the guest's clock is off by -1h0m0s
}

func ExampleVM_SetClock() {
	ctx := context.Background()
	b := fake.New(fake.Config{})
	c, err := b.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm := started(ctx, c, "web-01")
	if err := b.SetGuest(vm.ID(), fake.Guest{ClockOffset: -time.Hour}); err != nil {
		log.Fatal(err)
	}
	if err := vm.SetClock(ctx, time.Time{}); err != nil { // the zero time means now
		log.Fatal(err)
	}
	r, err := vm.Clock(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the guest's clock is off by", r.Drift().Round(time.Minute))
	// Output: the guest's clock is off by 0s
}

// A guest that was frozen must be thawed, whatever happens in between.
func ExampleVM_Freeze() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := started(ctx, c, "db-01")
	if err := vm.Freeze(ctx); err != nil {
		log.Fatal(err)
	}
	defer func() {
		if err := vm.Thaw(context.WithoutCancel(ctx)); err != nil {
			log.Fatal(err)
		}
		fmt.Println("thawed")
	}()
	fmt.Println("a storage array may copy the disks now")
	// Output:
	// a storage array may copy the disks now
	// thawed
}

func ExampleVM_Thaw() {
	ctx := context.Background()
	c := client(ctx)
	defer c.Close()
	vm := started(ctx, c, "db-01")
	if err := vm.Freeze(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(vm.Thaw(ctx))
	// Output: <nil>
}

func ExampleVM_Availability() {
	ctx := context.Background()
	c, err := fake.New(fake.Config{HA: true}).Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm := started(ctx, c, "db-01")
	a, err := vm.Availability(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(a.Priority, "inherited:", a.Inherited, "protected:", a.Protected)
	// Output: medium inherited: true protected: true
}

func ExampleVM_SetRestartPriority() {
	ctx := context.Background()
	c, err := fake.New(fake.Config{HA: true}).Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm := started(ctx, c, "db-01")
	if _, err := vm.SetRestartPriority(ctx, hypervisor.RestartHigh).Wait(ctx); err != nil {
		log.Fatal(err)
	}
	a, err := vm.Availability(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(a.Priority, "inherited:", a.Inherited)
	// Output: high inherited: false
}

func ExampleVM_Replication() {
	ctx := context.Background()
	b := fake.New(fake.Config{})
	c, err := b.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm := machine(ctx, c, "db-01")
	if err := b.SetReplication(vm.ID(), hypervisor.ReplicationInfo{Role: hypervisor.RolePrimary, State: hypervisor.ReplicationActive, Health: hypervisor.HealthOK}); err != nil {
		log.Fatal(err)
	}
	r, err := vm.Replication(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Role, r.State, r.Health)
	// Output: primary replicating ok
}
