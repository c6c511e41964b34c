// Package libvirtx is what the drivers on libvirt share: connections that
// heal, the event loop, errors, storage volumes, host devices and the mark that
// this library leaves in a domain's metadata. It knows nothing of what a
// domain is made of on one hypervisor.
//
// Facts about libvirt are from its API reference (libvirt.org/html) and its
// formats (libvirt.org/format.html).
package libvirtx
