package hyperv_test

import (
	"context"
	"fmt"
	"log"
	"net/url"

	"github.com/anyvisor/anyvisor/hyperv"
	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// A session runs WQL and methods of any class of the host, over the Client's
// connection.
func ExampleSession() {
	sim, err := hvsim.Start(hvsim.Config{}) // in place of a host
	if err != nil {
		log.Fatal(err)
	}
	defer sim.Close()
	u, _ := url.Parse(sim.Host(0).URL())
	ctx := context.Background()
	c, err := hyperv.Open(ctx, hyperv.Config{Hosts: []string{u.Host}, Username: "Administrator", Password: hypervisor.Secret(sim.Password()), Insecure: true}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "web", CPUs: 1, MemoryBytes: hypervisor.GiB}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}

	s, err := hypervisor.As[*hyperv.Session](ctx, c, vm) // of the host that the machine is on
	if err != nil {
		log.Fatal(err)
	}
	path, err := hypervisor.As[hyperv.Path](ctx, c, vm)
	if err != nil {
		log.Fatal(err)
	}
	code, out, err := s.Invoke(ctx, path, "RequestStateChange", hyperv.Arg{Name: "RequestedState", Value: uint16(2)})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("started:", code == 0 || code == 4096 && out.Get("Job") != "")
	for row, err := range s.Query(ctx, "root/virtualization/v2", "SELECT Name, ElementName FROM Msvm_VirtualEthernetSwitch") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("switch:", row.Get("ElementName"))
	}
	// Output:
	// started: true
	// switch: External
}
