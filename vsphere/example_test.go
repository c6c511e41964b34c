package vsphere_test

import (
	"context"
	"fmt"
	"log"

	"github.com/vmware/govmomi/object"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// A Client of the simulator, and govmomi's object for what the API does not
// cover. The simulator takes the place of a vCenter, whose certificate CA or
// Thumbprint would verify.
func ExampleOpen() {
	sim, err := vspheresim.Start(vspheresim.Config{VMs: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer sim.Close()
	u := sim.URL()
	password, _ := u.User.Password()

	ctx := context.Background()
	c, err := vsphere.Open(ctx, vsphere.Config{Host: u.Host, Username: u.User.Username(), Password: hypervisor.Secret(password), PlainHTTP: true}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm, err := c.FindVM(ctx, "DC0_C0_RP0_VM0")
	if err != nil {
		log.Fatal(err)
	}
	native, err := hypervisor.As[*object.VirtualMachine](ctx, c, vm)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.Describe().Driver, native.Reference().Type, native.Reference().Value == string(vm.ID()))
	// Output: vsphere VirtualMachine true
}
