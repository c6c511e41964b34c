package hypervisor

import (
	"context"
	"iter"
	"net/url"
	"time"
)

// Driver is what every driver must do: say what it is, list and read
// machines, say what it supports, find tasks again, and put its errors into
// classes. All else is an optional interface below; a driver implements those
// whose ability its platform has. Users never see a Driver: the methods of
// Client, VM and the other concrete types call it.
//
// The contract, for this interface and the optional ones:
//
//   - Arguments were checked: names, sizes and enumerations are sane, options
//     don't contradict each other. What only the platform knows (an ID that
//     isn't there, an option it can't honour, a wrong state) the driver
//     refuses before it touches anything.
//   - An option that the driver can't honour is refused with Unsupported,
//     with the reason that Supports gives. It is never ignored, and nothing
//     is silently done in a lesser way.
//   - Errors are native errors, which ErrorKind puts into classes, or *Error
//     (see Errorf, Unsupported) where the driver knows more: the object, the
//     leftovers. Context errors are returned as they are.
//   - Methods are called from many goroutines at once. When ctx ends they
//     return at once with ctx's error.
//   - A method that returns a DriverTask returns it as soon as the platform
//     has accepted the work, and an error when it refused. Work that the
//     driver itself composes runs in a TaskGroup and does not depend on ctx
//     after the method has returned.
//   - What a failed call made and did not finish is removed again or named in
//     Leftover. Copied data that is complete is never removed.
//   - A lost session or connection is renewed once per call, by the driver;
//     a call that may have reached the server is not sent twice unless it
//     only reads, or does nothing more a second time.
type Driver interface {
	// Describe names the driver and what it is connected to. It makes no call.
	Describe() Description

	// ListVMs returns one page of machines, templates included if q says so.
	// The number of calls to the platform for a page must not depend on the
	// number of machines in it. Snapshots and control domains are no machines.
	// A machine that vanishes meanwhile is left out.
	ListVMs(ctx context.Context, q VMQuery) (VMPage, error)

	// GetVM reads one machine or template in full. KindNotFound if absent.
	GetVM(ctx context.Context, id VMID) (VMInfo, error)

	// Supports answers for one capability in one scope: the zero Ref for the
	// connection, a host, a machine or a device. It changes nothing. For an
	// unknown capability it answers No with ReasonNotImplemented.
	Supports(ctx context.Context, c Capability, scope Ref) (Support, error)

	// Task finds work that was started earlier, perhaps by another process.
	// KindNotFound where the platform has forgotten it or never knew it.
	Task(ctx context.Context, id TaskID) (DriverTask, error)

	// ErrorKind puts a native error into a class. It makes no call.
	ErrorKind(err error) Kind

	// As sets target, a non-nil pointer, to the native object behind on (the
	// zero Ref: the connection itself) if target has the right type, and
	// reports whether it did.
	As(on Ref, target any) bool

	// Close ends the session and every goroutine of the driver. Work that the
	// platform does goes on. A second Close does nothing.
	Close() error
}

// Description says what a driver is and what it talks to.
type Description struct {
	Driver   string // "kvm", "vsphere", "hyperv", "xapi", "libxl", "fake"
	Product  string // "VMware vCenter Server", "XCP-ng", …
	Version  string // of the product
	Endpoint string // where, without secrets
}

// VMQuery asks for one page of machines.
type VMQuery struct {
	Detail    Detail
	Templates bool   // templates only; else machines only
	Name      string // exact name; empty for all. A driver filters at the server where it can.
	Host      HostID // empty for all
	Token     string // create or clone token; empty for all
	PageSize  int    // a wish; 0 leaves it to the driver
	Page      string // VMPage.Next of the page before
}

// VMPage is a part of a listing. Next is empty on the last page.
type VMPage struct {
	VMs  []VMInfo
	Next string
}

// DriverTask is work in progress. Methods may be called from several
// goroutines, but Next from one at a time.
type DriverTask interface {
	// ID is what Driver.Task takes. It is not empty.
	ID() TaskID
	// Next blocks until the state differs from the one returned before, or
	// ctx ends. The first call returns the present state at once. After a
	// state with Done set it returns that state again at once.
	Next(ctx context.Context) (TaskState, error)
	// Cancel asks the platform to stop and returns when it has taken the wish.
	// The true end comes through Next: KindCanceled, or success where the work
	// won the race. KindUnsupported where this work can't be cancelled. For
	// ended work it does nothing.
	Cancel(ctx context.Context) error
}

// Lifecycle makes and removes machines.
type Lifecycle interface {
	// CreateVM makes a machine; TaskState.Result is its Ref. With s.Token set,
	// a machine that carries the token already is the result, and nothing is
	// made. KindExists for a taken name where the platform demands unique ones.
	CreateVM(ctx context.Context, s VMSpec) (DriverTask, error)
	// DeleteVM removes a machine or template with its snapshots. Running,
	// paused: KindInvalidState unless r.Force. A disk that a linked clone of
	// another machine stands on: KindBusy naming the dependants, nothing
	// removed. A repeated call: KindNotFound.
	DeleteVM(ctx context.Context, id VMID, r DeleteRequest) (DriverTask, error)
}

// Powerer changes the power state.
type Powerer interface {
	// Power brings the machine to the state that r.Op leads to; a machine that
	// is there already is success. A template: KindInvalidState. A wrong
	// state: KindInvalidState naming it. PowerShutdown that outlasts r.Timeout
	// ends with KindTimeout, or with power off where r.Force is set.
	Power(ctx context.Context, id VMID, r PowerRequest) (DriverTask, error)
}

// Reconfigurer changes CPUs, memory, name and description.
type Reconfigurer interface {
	// Reconfigure applies all changes or none. On a running machine what can't
	// be done live is refused, with the reason, unless ch.NextStart is set.
	Reconfigure(ctx context.Context, id VMID, ch Changes) (DriverTask, error)
}

// Labeler keeps key-value labels on machines and templates.
type Labeler interface {
	// SetLabels replaces all labels.
	SetLabels(ctx context.Context, id VMID, labels map[string]string) error
}

// DiskAttacher changes a machine's disks. On a running machine it works live
// or is refused with the reason.
type DiskAttacher interface {
	// AttachDisk adds a disk; TaskState.Result is its DiskID's Ref.
	AttachDisk(ctx context.Context, id VMID, d DiskSpec) (DriverTask, error)
	// DetachDisk removes a disk from the machine and, with DeleteDisks, its
	// image. KindBusy if a snapshot or linked clone needs the image.
	DetachDisk(ctx context.Context, id VMID, disk DiskID, p DiskPolicy) (DriverTask, error)
	// GrowDisk enlarges; the size given already is success, a smaller one is
	// KindInvalidArgument.
	GrowDisk(ctx context.Context, id VMID, disk DiskID, sizeBytes int64) (DriverTask, error)
}

// NICAttacher changes a machine's network adapters.
type NICAttacher interface {
	// AttachNIC adds an adapter; TaskState.Result is its NICID's Ref.
	AttachNIC(ctx context.Context, id VMID, n NICSpec) (DriverTask, error)
	DetachNIC(ctx context.Context, id VMID, nic NICID) (DriverTask, error)
}

// Snapshotter keeps points in time of a machine as a tree.
type Snapshotter interface {
	// Snapshots lists a machine's snapshots, parents before children.
	Snapshots(ctx context.Context, id VMID) ([]SnapshotInfo, error)
	// CreateSnapshot makes one and leaves the machine as it was;
	// TaskState.Result is its Ref. Names need not be unique unless the
	// platform demands it (KindExists).
	CreateSnapshot(ctx context.Context, id VMID, r SnapshotRequest) (DriverTask, error)
	// RevertSnapshot takes the machine back: to Running (or Paused) if the
	// snapshot has RAM, to Off if not. The snapshot becomes the current one.
	RevertSnapshot(ctx context.Context, id VMID, snap SnapshotID, r RevertRequest) (DriverTask, error)
	// DeleteSnapshot merges it away; children move to its parent unless
	// r.Children, which deletes them too. Done means merged. A snapshot that
	// a linked clone stands on: KindBusy.
	DeleteSnapshot(ctx context.Context, id VMID, snap SnapshotID, r DeleteSnapshotRequest) (DriverTask, error)
}

// Cloner copies machines and deploys templates.
type Cloner interface {
	// Clone copies a machine, one of its snapshots, or a template;
	// TaskState.Result is the new machine's Ref. The copy has a new ID and new
	// MAC addresses. Tokens work as in CreateVM. The mode asked for is the
	// mode done.
	Clone(ctx context.Context, src VMID, r CloneRequest) (DriverTask, error)
}

// Templater turns machines into templates and back.
type Templater interface {
	// MarkTemplate needs a machine that is off (KindInvalidState otherwise)
	// and makes one that can't be started. TaskState.Result is the template's
	// Ref. A template already: success.
	MarkTemplate(ctx context.Context, id VMID) (DriverTask, error)
	// MarkVM turns a template back. Templates that linked clones stand on:
	// KindBusy. A machine already: success. Placement may be needed by the
	// platform (vSphere: a pool); the zero value lets the driver choose.
	MarkVM(ctx context.Context, id TemplateID, place Placement) (DriverTask, error)
}

// Migrator moves machines and their disks.
type Migrator interface {
	// CheckMigrate lists everything that stands in the way. It changes nothing.
	CheckMigrate(ctx context.Context, id VMID, r MigrateRequest) (MigrateReport, error)
	// Migrate moves. A blocker: KindIncompatible with *BlockedError, nothing
	// changed. TaskState.Migration tells what was measured. A failed move
	// leaves the machine at the source, running if it ran.
	Migrate(ctx context.Context, id VMID, r MigrateRequest) (DriverTask, error)
}

// DeviceAssigner gives host devices to machines.
type DeviceAssigner interface {
	// Devices lists host devices that match the filter, in a number of calls
	// that depends on the number of hosts at most.
	Devices(ctx context.Context, f DeviceFilter) ([]DeviceInfo, error)
	// AttachDevice assigns one device that matches r; TaskState.Result is the
	// AttachmentID's Ref and TaskState.Notes tells what else was set (memory
	// reserved, MMIO window). No match or none free: KindExhausted; one that
	// can't be assigned: Unsupported with its reason; in use: KindBusy.
	AttachDevice(ctx context.Context, id VMID, r DeviceRequest) (DriverTask, error)
	DetachDevice(ctx context.Context, id VMID, a AttachmentID) (DriverTask, error)
}

// DevicePreparer makes host devices assignable.
type DevicePreparer interface {
	// PrepareDevice binds a device to the passthrough driver or back, and sets
	// its number of SR-IOV functions. TaskState.Notes says if the host must
	// be restarted first.
	PrepareDevice(ctx context.Context, id DeviceID, p DevicePreparation) (DriverTask, error)
}

// HostLister tells about hosts. A driver whose Client is always one host
// implements it too.
type HostLister interface {
	// Hosts lists all, with a host that is down in state HostDown.
	Hosts(ctx context.Context) ([]HostInfo, error)
}

// Maintainer has a native maintenance mode.
type Maintainer interface {
	// EnterMaintenance keeps new machines away; with r.Evacuate the platform
	// moves the running ones to other hosts first. In it already: success.
	EnterMaintenance(ctx context.Context, h HostID, r MaintenanceRequest) (DriverTask, error)
	ExitMaintenance(ctx context.Context, h HostID) (DriverTask, error)
}

// StorageLister tells about datastores.
type StorageLister interface {
	Datastores(ctx context.Context) ([]DatastoreInfo, error)
}

// StorageManager handles disk images apart from machines.
type StorageManager interface {
	StorageLister
	// Volumes lists the images of a datastore, of all for the empty ID.
	Volumes(ctx context.Context, ds DatastoreID) ([]VolumeInfo, error)
	// CreateVolume makes an image; TaskState.Result is its VolumeID's Ref.
	CreateVolume(ctx context.Context, s VolumeSpec) (DriverTask, error)
	// DeleteVolume removes an image. In use or a base of others: KindBusy.
	DeleteVolume(ctx context.Context, id VolumeID) (DriverTask, error)
}

// DependencyLister tells which disk images a machine stands on and who else
// stands on them.
type DependencyLister interface {
	Dependencies(ctx context.Context, id VMID) (Dependencies, error)
}

// NetworkLister tells about networks that adapters can connect to.
type NetworkLister interface {
	Networks(ctx context.Context) ([]NetworkInfo, error)
}

// Watcher has native events.
type Watcher interface {
	// Watch yields changes after token (empty: from now on) until ctx ends or
	// the consumer stops. Where it can't resume, or events were lost, it
	// yields an Event of type Resync and goes on. A lost connection is renewed
	// once; then the last pair carries the error.
	Watch(ctx context.Context, token string) iter.Seq2[Event, error]
}

// GuestAgent talks to software inside the guest. Without that software calls
// fail as Unsupported with ReasonToolsMissing.
type GuestAgent interface {
	GuestInfo(ctx context.Context, id VMID) (GuestInfo, error)
	Exec(ctx context.Context, id VMID, r ExecRequest) (ExecResult, error)
	// GuestClock reads the guest's clock.
	GuestClock(ctx context.Context, id VMID) (ClockReading, error)
	SetGuestClock(ctx context.Context, id VMID, t time.Time) error
}

// Freezer quiets a guest's file systems.
type Freezer interface {
	Freeze(ctx context.Context, id VMID) error
	Thaw(ctx context.Context, id VMID) error
}

// Placer asks the platform's own scheduler.
type Placer interface {
	// Recommend returns hosts for a machine, the best first. A request that the
	// scheduler doesn't take, such as one without a machine: Unsupported, and
	// the portable planner answers.
	Recommend(ctx context.Context, r PlaceRequest) ([]Recommendation, error)
	// BalancePlan returns the moves that the platform recommends now.
	BalancePlan(ctx context.Context) ([]Move, error)
}

// Protector has high availability: the platform restarts machines whose host
// fails.
type Protector interface {
	// HA lists the clusters or pools with their settings, those in which HA is
	// off included.
	HA(ctx context.Context) ([]HAInfo, error)
	// Availability reads one machine's. KindNotFound if absent.
	Availability(ctx context.Context, id VMID) (Availability, error)
	// SetRestartPriority works with HA on and off; the present one again is
	// success. A priority that the platform has no equal of: Unsupported. One
	// that HA, being on, can't keep: KindExhausted, nothing changed.
	SetRestartPriority(ctx context.Context, id VMID, p RestartPriority) (DriverTask, error)
}

// ReplicationReader tells about replication to another site.
type ReplicationReader interface {
	// Replication reads one machine's; one that isn't replicated has the zero
	// value. KindNotFound if the machine is absent.
	Replication(ctx context.Context, id VMID) (ReplicationInfo, error)
}

// Opener connects a driver for a URL. The registered scheme is u.Scheme.
type Opener func(ctx context.Context, u *url.URL, o *Options) (Driver, error)
