// Package anyvisor is the root of a library that manages virtual machines on
// VMware vSphere, Microsoft Hyper-V, Xen (XAPI and libxl) and KVM through one
// API: inventory, power, snapshots, clones, templates, live migration and GPU
// passthrough. It has no code of its own.
//
// The API is package hypervisor, and each driver is a package that registers
// a URL scheme:
//
//	import (
//		"github.com/anyvisor/anyvisor/hypervisor"
//		_ "github.com/anyvisor/anyvisor/kvm"
//	)
//
//	c, err := hypervisor.Open(ctx, "kvm:///system", nil)
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	vm, err := c.FindVM(ctx, "web-01")
//	if err != nil {
//		return err
//	}
//	copy, err := vm.Clone(ctx, "web-02", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked, Token: request}).Wait(ctx)
//
// Where to read next: package hypervisor for the API, hypervisor/fake for
// tests of your own program, hypervisor/hypervisortest to write a driver,
// examples/quickstart for a tour, docs/capabilities.md for what each driver
// supports.
package anyvisor
