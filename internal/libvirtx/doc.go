// Package libvirtx is the code that the drivers on libvirt share: connections
// that renew themselves, the event loop, errors, storage volumes, host
// devices, the common part of every domain's definition, and the mark that
// this library leaves in its metadata. It works on one libvirtd. Package
// fleet combines several as one Client.
//
// Facts about libvirt are from its API reference (libvirt.org/html) and its
// formats (libvirt.org/format.html).
package libvirtx
