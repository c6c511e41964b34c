package vspheresim_test

import (
	"context"
	"fmt"
	"log"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func Example() {
	ctx := context.Background()
	sim, err := vspheresim.Start(vspheresim.Config{VMs: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer sim.Close()
	c, err := govmomi.NewClient(ctx, sim.URL(), true)
	if err != nil {
		log.Fatal(err)
	}
	defer func() {
		_ = c.Logout(ctx)
		c.CloseIdleConnections()
	}()
	vm, err := find.NewFinder(c.Client).VirtualMachine(ctx, "/DC0/vm/DC0_C0_RP0_VM0")
	if err != nil {
		log.Fatal(err)
	}
	task, err := vm.Reconfigure(ctx, types.VirtualMachineConfigSpec{NumCPUs: 2})
	if err != nil {
		log.Fatal(err)
	}
	// The machine runs, and was not made for hot-add.
	fmt.Println(task.Wait(ctx))
	// Output: CpuHotPlugNotSupported
}
