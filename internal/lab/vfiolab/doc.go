// Package vfiolab starts a nested libvirt/QEMU host that has an IOMMU and PCI devices to pass
// through, all emulated by QEMU, so that tests can use VFIO for real on a machine without either.
//
//	l, err := vfiolab.Start(ctx)
//	if err != nil {
//		lab.Skip(t, err) // skips where no lab can run, fails on CI
//	}
//	defer l.Stop()
//	conn, err := libvirt.NewConnect(l.URI)
//	_, err = l.Run(ctx, "echo 4 >/sys/bus/pci/devices/"+vfiolab.NVMe+"/sriov_numvfs")
//	ids, err := l.WaitDevices(ctx, "vm") // a guest's list of its devices: "1234:1111"
//
// The VGA card offers mediated devices through the kernel's own sample driver, like a GPU with
// vGPUs.
//
// The nested host sees this machine's root read-only below a layer in memory, so it runs the same
// libvirt and QEMU, and finds the same files under the same paths.
package vfiolab
