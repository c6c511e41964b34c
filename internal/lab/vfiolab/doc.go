// Package vfiolab starts a nested libvirt/QEMU host that has an IOMMU and PCI devices to pass
// through, all emulated by QEMU, so that tests can use VFIO for real on a machine without either.
//
//	l, err := vfiolab.Start(ctx)
//	if err != nil {
//		lab.Skip(t, err) // skips where no lab can run, fails on CI
//	}
//	defer l.Stop()
//	conn, err := libvirt.NewConnect(l.URI)
//	_, err = l.Virsh(ctx, "create", l.WriteXML(l.GuestXML("vm", vfiolab.Display)), "--paused") // or running: takes minutes to boot
//	out, err := l.Virsh(ctx, "qemu-monitor-command", "vm", "--hmp", "info pci") // shows 1234:1111, the display device
//	ids, err := l.WaitDevices(ctx, "vm")                                          // "1234:1111" among them: what the guest sees
//	_, err = l.Run(ctx, "echo 4 >/sys/bus/pci/devices/"+vfiolab.NVMe+"/sriov_numvfs")
//
// The VGA card offers mediated devices, as a GPU with vGPUs does, by the kernel's own sample driver.
//
// The nested host sees this machine's root read-only below a layer in memory, so it runs the same
// libvirt and QEMU, and finds the same files under the same paths.
package vfiolab
