package xen_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// A Client of the simulator, which takes the place of a pool.
func ExampleOpen() {
	sim, err := xapisim.Start(xapisim.Config{Hosts: 2})
	if err != nil {
		log.Fatal(err)
	}
	defer sim.Close()

	ctx := context.Background()
	c, err := xen.Open(ctx, xen.Config{
		Host: strings.TrimPrefix(sim.URL(), "https://"), Thumbprint: sim.Thumbprint(),
		Username: sim.User(), Password: hypervisor.Secret(sim.Password()),
	}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for h, err := range c.Hosts(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(h.Name, h.State)
	}
	// Output:
	// host1 up
	// host2 up
}

// Messages of XAPI that the API does not cover.
func ExampleSession() {
	sim, err := xapisim.Start(xapisim.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer sim.Close()
	ctx := context.Background()
	c, err := xen.Open(ctx, xen.Config{
		Host: strings.TrimPrefix(sim.URL(), "https://"), Thumbprint: sim.Thumbprint(),
		Username: sim.User(), Password: hypervisor.Secret(sim.Password()),
	}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "web-01", MemoryBytes: hypervisor.GiB}).Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}

	s, err := hypervisor.As[*xen.Session](ctx, c, c)
	if err != nil {
		log.Fatal(err)
	}
	ref, err := hypervisor.As[xen.Ref](ctx, c, vm)
	if err != nil {
		log.Fatal(err)
	}
	var name string
	if err := s.Call(ctx, &name, "VM.get_name_label", ref); err != nil {
		log.Fatal(err)
	}
	fmt.Println(name)
	// Output: web-01
}
