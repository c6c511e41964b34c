// Package kvmlab starts one or two libvirt/QEMU hosts on this machine, each a libvirtd with its
// own namespaces, state, host UUID and network, so that tests can use the real thing, live
// migration included. Guests are emulated (<domain type='qemu'>), so it needs no KVM.
//
//	l, err := kvmlab.Start(ctx, kvmlab.Config{Hosts: 2})
//	if err != nil {
//		lab.Skip(t, err) // skips where no lab can run, fails on CI
//	}
//	defer l.Stop()
//	a, b := l.Hosts[0], l.Hosts[1]
//	conn, err := libvirt.NewConnect(a.URI)           // or a.Virsh(ctx, "list", "--all")
//	_, err = a.Virsh(ctx, "create", l.WriteXML(xml)) // kernel l.Kernel, initrd l.Initrd, console a.Serial("vm")
//	n, err := a.WaitTick(ctx, "vm", 1)               // the guest's counter
//	_, err = a.Virsh(ctx, "migrate", "--live", "--p2p", "--unsafe", "vm", b.TCPURI)
//	n2, err := b.WaitTick(ctx, "vm", n+1)            // it continues where it was
//	err = a.Restart(ctx)                             // libvirtd only, guests live on; also Kill, StopDaemon, StartDaemon
//
// Each host has two active directory pools, "default" (Host.Dir) and "shared" (Lab.Shared, the
// same path on both), and a network "default" on a bridge "br0" that joins both hosts. There is
// no DHCP. Everything lives below one temporary folder and is gone after Stop, or when the
// process that started it dies.
package kvmlab
