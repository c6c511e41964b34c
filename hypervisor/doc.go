// Package hypervisor is one API for virtual machines on every hypervisor that
// has a driver: inventory, power, snapshots, clones, templates, migration and
// devices.
//
// Users hold concrete types ([Client], [VM], [Snapshot], [Template], [Host],
// [Task]); drivers implement [Driver] and the optional interfaces beside it.
// What the platforms do differently is said in data: [Client.Supports] tells
// how far each [Capability] goes and why, and a call that can't be honoured
// fails with [ErrUnsupported] and the same reason.
//
// # Words
//
// A Client is one management domain. Machines are Off, Running, Paused (vCPUs
// stopped, RAM kept) or Suspended (RAM on disk). A snapshot holds disks, or
// disks and RAM; snapshots form a tree with a current one. Deleting a snapshot
// merges it. A full clone is independent, a linked clone shares a frozen base.
// A template is a machine that can't be started. Migration moves a machine to
// another host, its disks to another datastore, or both.
//
// # Rules
//
// IDs address things; names look up and may be ambiguous. Handles hold no
// state. Every long call returns a [Task], which is never nil and keeps an
// early error for [Task.Wait]. Options are structs; nil and zero fields mean
// the default, and an option that can't be honoured is an error. Every error
// is an [*Error]; what a half-done call left behind is in its Leftover.
package hypervisor
