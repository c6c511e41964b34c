// Package vspheresim is govmomi's vCenter and ESXi simulator made strict, for tests of code that manages vSphere.
//
//	sim, err := vspheresim.Start(vspheresim.Config{VMs: 4})
//	defer sim.Close()
//	c, err := govmomi.NewClient(ctx, sim.URL(), true)
//
// govmomi's simulator accepts much that a real system refuses, and leaves out much that a real system does. This
// package runs it unchanged and answers some calls itself.
package vspheresim
