// Package xen drives Xen by two toolstacks behind one API.
//
// XenServer and XCP-ng pools through XAPI, over JSON-RPC on HTTPS (XML-RPC
// where the server is too old for it):
//
//	xapi://root@pool.example/?cafile=/etc/pool.pem
//	xenserver://root:secret@10.0.0.5/?fingerprint=ab12…
//
// Query parameters: fingerprint (SHA-256 of the server's certificate in hex,
// colons allowed), cafile (PEM), insecure=1 (no verification at all). Any
// member of the pool may be named; the master is found.
//
// Plain Xen through libvirt's libxl driver, see [OpenLibxl] for the forms of
// xen:// URLs and for how things are done there. It needs cgo and libvirt.
//
// # How XAPI maps
//
// Machine, snapshot and template IDs are uuids of class VM; host, datastore
// (SR), network, disk (VBD), image (VDI), adapter (VIF) and device (PCI) IDs
// are uuids of their classes; a task's ID is its reference. Labels and tokens
// are keys of VM.other_config with the prefix "anyvisor:". A linked clone is
// VM.clone, which shares a hidden base image that the storage manager keeps
// as long as it is needed, so deleting the source never harms it; a full
// clone is VM.copy. Work that takes several messages is shown in the pool as
// a task of its own, so that Client.Task finds it from other processes.
//
// As gives *RPC for the Client, and the machine's reference as a Ref for a VM.
package xen
