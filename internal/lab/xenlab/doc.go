// Package xenlab starts one or two real Xen hosts, each a QEMU machine (emulated, so it needs no
// KVM) that boots Xen with a small Debian dom0 running libvirtd, so that tests can use libxl for
// real, live migration included.
//
//	l, err := xenlab.Start(ctx, xenlab.Config{Hosts: 2})
//	if err != nil {
//		lab.Skip(t, err) // skips where no lab can run, fails on CI
//	}
//	defer l.Stop()
//	a, b := l.Hosts[0], l.Hosts[1]
//	_, err = a.Virsh(ctx, "create", l.WriteXML(xenlab.GuestXML("pvh", "vm", uuid)))
//	n, err := a.WaitTick(ctx, "vm", 1)                                 // the guest's counter
//	_, err = a.Virsh(ctx, "migrate", "--live", "vm", b.URI, b.MigrateURI) // client-driven; or --p2p with b.PeerURI
//	n2, err := b.WaitTick(ctx, "vm", n+1)                              // it continues where it was
//	out, err := b.Run(ctx, "xl list")
//
// Limits of this Xen, all seen with libvirt 9.0 and Xen 4.17: PVH guests need a native TSC timer
// (GuestXML has it) and can be migrated live; PV guests only without --live, because Debian's Xen
// has no shadow paging; HVM guests start but are too slow to use. A host takes 1.3 GB and is up
// in about 20 s; building its image takes half a minute more, once per machine.
package xenlab
