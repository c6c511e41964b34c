// Package kvm is the driver for QEMU/KVM machines through libvirt.
//
//	import _ "github.com/anyvisor/anyvisor/kvm"
//
//	c, err := hypervisor.Open(ctx, "kvm:///system", nil)
//
// URLs are libvirt's with kvm in place of qemu, and may name several hosts,
// which then are one [hypervisor.Client]:
//
//	kvm:///system                         this machine
//	kvm+unix:///system?socket=/run/x      a socket; repeat socket for more hosts
//	kvm+ssh://root@h1,h2/system           two hosts over SSH; tls and tcp likewise
//	kvm://h1,h2/system                    libvirt's default transport, TLS
//	kvm+test:///default                   libvirt's built-in test driver
//
// Parameters of the driver's own: domain=qemu (or kvm, see Config.DomainType)
// and serial-log=FOLDER. Others go to libvirt.
//
// It needs libvirt 7.0 or newer at both ends, and a build with cgo and
// libvirt's headers; without cgo Open fails as Unsupported with ReasonBuild.
//
// # How things are done
//
// A machine is a persistent domain; its ID is the domain's UUID. A datastore
// is a storage pool, and pools with one UUID on several hosts are one shared
// datastore. Images that the driver makes begin with their machine's UUID.
// Labels and the token are in the domain's metadata.
//
// A template is a domain whose definition can't start: it has an adapter on
// the network "anyvisor-template", which nobody defines, and 1 KiB of memory.
// virsh start fails with "no network with matching name 'anyvisor-template'".
// Because that is a part of the definition it holds after a restart of libvirtd and
// for every tool, and because the memory is in libvirt's bulk statistics a
// listing can tell templates from machines without reading each definition.
//
// Snapshots are external: the image of that moment is frozen and the machine
// goes on in an overlay. So a linked clone can stand on a snapshot, and a
// revert never writes to an image that something else stands on. Reverting is
// composed of new overlays and a new definition, because libvirt before 9.9
// refuses to revert to external snapshots; deleting commits the overlay into
// its base. Internal snapshots that others made are listed, reverted to and
// deleted through libvirt as long as nothing stands on their image.
//
// A device is given to a machine through VFIO, with the other functions of its
// card that share its IOMMU group. A vGPU is a mediated device that is made for
// the machine and removed with it; that needs libvirt 7.8 and, on the host, its
// maker's driver and mdevctl. libvirt can't set the number of virtual functions:
// the driver writes it to the host's sysfs, which for hosts other than this one
// needs [Config].Sysfs.
//
// Native types for [hypervisor.As]: *libvirt.Connect for a Client of one host
// and for a Host, *libvirt.Domain for a VM (Free it).
package kvm
