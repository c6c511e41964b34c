// Package hyperv drives Microsoft Hyper-V through its WMI provider (namespace
// root\virtualization\v2), over WS-Management from any operating system or
// over COM from Windows. One Client may hold several hosts.
//
// Identifiers: a machine's ID is its GUID, a host's ID is the name under which
// it was given to Open. Disk images and datastores of a host's own drives are
// written "host|path", those that several hosts reach (cluster shared volumes,
// SMB shares) by their path alone.
//
// Labels, tokens and template marks are kept as a line of JSON at the end of
// the machine's notes.
package hyperv
