// Package fleet is what the drivers for KVM and for plain Xen do alike: it
// makes one Client of several libvirtd.
//
// A driver embeds a Fleet, whose methods are then its own, under the same file
// names as elsewhere: storage is in storage.go, events are in event.go. What
// is different on QEMU and on Xen stays in the drivers: definitions of
// domains, inventory, snapshots, devices, migration and capabilities. Where
// code that is shared needs a piece of that, Platform has it.
package fleet
