// Package hypervisor is one API for virtual machines on every hypervisor that
// has a driver. It covers inventory, power, snapshots, clones, templates,
// migration and devices.
//
// Users work with concrete types ([Client], [VM], [Snapshot], [Template],
// [Host], [Task]). Drivers implement [Driver] and the optional interfaces
// beside it. Differences between the platforms are reported as data:
// [Client.Supports] returns the level of each [capability.Name] with a
// reason, and a call that can't be honoured fails with [ErrUnsupported] and
// the same reason.
//
// # Words
//
// A Client is one management domain. Machines are Off, Running, Paused (vCPUs
// stopped, RAM kept) or Suspended (RAM on disk). A snapshot holds disks, or
// disks and RAM. Snapshots form a tree with a current one. Deleting a
// snapshot merges it. A full clone is independent, a linked clone shares a
// frozen base. A template is a machine that can't be started. Migration moves
// a machine to another host, its disks to another datastore, or both.
//
// # Rules
//
// Objects are addressed by ID. Names are for look-ups and may be ambiguous.
// Handles hold no state. Every long call returns a [Task], which is never nil
// and keeps an early error for [Task.Wait]. Options are structs: nil and zero
// fields mean the default, and an option that can't be honoured is an error.
// Every error is an [*Error], whose Leftover names what a half-done call left
// behind, or a [*DetachedError] where the hypervisor continues work that the
// caller no longer watches.
//
// # Where to look
//
// Package op has a constant for each operation, and package capability one
// for each capability. [Operations] relates the two to the methods of this
// package. Package fake is a driver for tests. Each driver's package
// documentation has its URLs, logins, rights, IDs and native types.
package hypervisor
