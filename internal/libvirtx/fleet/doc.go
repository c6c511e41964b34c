// Package fleet is the code that the drivers for KVM and for plain Xen have
// in common: it makes one Client of several libvirtd.
//
// A driver embeds a Fleet, whose methods are then its own, under the same
// file names as in other drivers: storage is in storage.go, events are in
// event.go. What differs between QEMU and Xen stays in the drivers:
// definitions of domains, inventory, snapshots, devices, migration and
// capabilities. Where shared code needs a piece of that, Platform provides
// it.
package fleet
