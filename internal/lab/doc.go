// Package lab is the common part of the test labs: installing Debian packages, a cache of built
// images, a Linux kernel and a small counting guest.
//
// The labs themselves are its sub-packages: kvmlab (two libvirt/QEMU hosts), vfiolab (a nested
// host with an emulated IOMMU and devices to pass through) and xenlab (Xen hosts under QEMU).
// They need Debian and root. Elsewhere their Start returns an error that wraps [ErrUnavailable].
// Pass it to [Skip], which skips a test with that one sentence, or fails it on CI.
package lab
