// Package libvirtx is what the drivers on libvirt share: connections that
// heal, the event loop, errors, storage volumes, host devices, what every
// definition of a domain has, and the mark that this library leaves in its
// metadata. It works on one libvirtd; several as one Client are package fleet.
//
// Facts about libvirt are from its API reference (libvirt.org/html) and its
// formats (libvirt.org/format.html).
package libvirtx
