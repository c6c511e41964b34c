// Package vsphere drives VMware vSphere: vCenter Server and stand-alone ESXi
// hosts, through govmomi's SOAP client.
//
//	c, err := hypervisor.Open(ctx, "vsphere://administrator@vcenter.example/?datacenter=DC0", &hypervisor.Options{Credentials: …})
//	c, err := vsphere.Open(ctx, vsphere.Config{Host: "vcenter.example", Username: "…", Password: "…"}, nil)
//	c, err := vsphere.New(ctx, govmomiClient, nil)
//
// # IDs
//
// The ID of a machine, host, datastore, network, pool, snapshot or task is the
// value of its managed object reference ("vm-42", "host-21"): every call takes
// it as it is, so no look-up comes before a call, and it stays the same while
// the object is in the inventory of this vCenter. A machine that moves to
// another vCenter gets a new one. Disks, adapters and attached devices are
// device keys of their machine. A volume is its datastore's ID, a slash and
// the path inside ("datastore-12/web-01/web-01.vmdk"), a host device its
// host's ID, a slash and the PCI address.
//
// Labels and tokens are kept in the machine's extraConfig under
// "anyvisor.labels" and "anyvisor.token": ESXi has no custom attributes, and
// single keys of extraConfig can be read in the call that lists machines.
//
// # Native objects
//
// hypervisor.As finds *govmomi.Client, *vim25.Client and
// *object.VirtualMachine, *object.HostSystem.
package vsphere
