package hypervisor

import (
	"context"
	"fmt"
	"iter"
	"net/url"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// Driver is what every driver must implement: it describes itself, lists and
// reads machines, reports what it supports, finds tasks again, and classifies
// its errors. Everything else is an optional interface below. A driver
// implements those whose ability its platform has. Users never see a Driver:
// the methods of Client, VM and the other concrete types call it.
//
// The contract, for this interface and the optional ones:
//
//   - Arguments were checked: names, sizes and enumerations are valid, and
//     options don't contradict each other. The driver checks what only the
//     platform knows (an ID that doesn't exist, an option it can't honour, a
//     wrong state) and refuses before it touches anything.
//   - An option that the driver can't honour is refused with Unsupported,
//     with the reason that Supports gives. It is never ignored, and nothing
//     is silently done in a lesser way.
//   - Errors are native errors, which ErrorKind classifies, or *Error (see
//     Errorf, Unsupported) where the driver knows more, such as the object or
//     the leftovers. Context errors are returned as they are.
//   - Methods are called from many goroutines at once. When ctx ends they
//     return at once with ctx's error.
//   - A method that returns a DriverTask returns once the platform has
//     accepted the work, and returns an error if the platform refused it. Work
//     that the driver itself composes runs in a TaskGroup and does not depend
//     on ctx after the method has returned.
//   - Whatever a failed call made and did not finish is removed again or named
//     in Leftover. Copied data that is complete is never removed.
//   - The driver renews a lost session or connection once per call. A call
//     that may have reached the server is not sent twice, unless it only reads
//     or has no further effect a second time.
type Driver interface {
	// Describe names the driver and the endpoint it is connected to. It makes
	// no call.
	Describe() Description

	// ListVMs returns one page of machines, or of templates if q asks for
	// them. The number of calls to the platform for a page must not depend on
	// the number of machines in it. Snapshots and control domains are not
	// machines. A machine that vanishes during the call is left out.
	ListVMs(ctx context.Context, q VMQuery) (VMPage, error)

	// GetVM reads one machine or template in full. It returns ErrNotFound if
	// there is no such machine.
	GetVM(ctx context.Context, id VMID) (VMInfo, error)

	// Supports reports one capability in one scope: the zero Ref for the
	// connection, a host, a machine or a device. It changes nothing. For an
	// unknown capability it returns LevelNo with ReasonNotImplemented.
	Supports(ctx context.Context, c capability.Name, scope Ref) (Support, error)

	// Task finds work that was started earlier, perhaps by another process.
	// It returns ErrNotFound where the platform has forgotten the work or
	// never knew it.
	Task(ctx context.Context, id TaskID) (DriverTask, error)

	// ErrorKind classifies a native error. It makes no call.
	ErrorKind(err error) Kind

	// As sets target, a non-nil pointer, to the native object behind on (the
	// zero Ref means the connection itself). It returns ErrUnsupported if the
	// driver offers no such type for this object (see NoNative).
	As(ctx context.Context, on Ref, target any) error

	// Close ends the session. Work that the platform carries out by itself
	// continues, as it would if this process were killed. Work that needs
	// this process (composed work, a live migration that the connection
	// carries) is cancelled and undone: the object is then as before, or the
	// work is complete, never half done. Close returns within 5 seconds
	// whatever the servers do: TaskGroup.Close takes 3 at most and a logout
	// 1. Then the connections are closed hard, which ends every call that is
	// still under way and every goroutine. What could not be undone in that
	// time is left as after a kill, for the next Client to finish, and the
	// error names it in Leftover. A second Close does nothing.
	Close() error
}

// BaseDriver implements the methods of Driver for which a driver may have
// nothing to report. Drivers outside this module embed it, so that a method
// added to Driver later breaks none of them. The optional interfaces never
// get another method: a new ability is a new interface.
type BaseDriver struct{}

// Supports returns LevelNo with ReasonNotImplemented.
func (BaseDriver) Supports(context.Context, capability.Name, Ref) (Support, error) {
	return Support{Level: LevelNo, Reason: ReasonNotImplemented}, nil
}

// Task returns ErrNotFound.
func (BaseDriver) Task(_ context.Context, id TaskID) (DriverTask, error) {
	return nil, Errorf(ErrNotFound, id.Ref(), "this driver does not find tasks again")
}

// ErrorKind returns ErrUnknown.
func (BaseDriver) ErrorKind(error) Kind { return ErrUnknown }

// As returns NoNative.
func (BaseDriver) As(_ context.Context, on Ref, target any) error { return NoNative(on, target) }

// Close does nothing.
func (BaseDriver) Close() error { return nil }

// NoNative returns the error of Driver.As for a type that the driver does not
// offer.
func NoNative(on Ref, target any) error {
	return Errorf(ErrUnsupported, on, "the driver offers no %s for this object: see its package documentation for the types",
		strings.TrimPrefix(fmt.Sprintf("%T", target), "*"))
}

// Wrapper is a driver around another one. It implements the interfaces whose
// calls it changes. For all others, Unwrap returns the driver below it.
type Wrapper interface {
	Driver
	Unwrap() Driver
}

// Ability returns d as D, one of the optional interfaces, looking through
// Wrappers, and reports whether d has that ability.
func Ability[D any](d Driver) (D, bool) {
	for {
		if a, ok := d.(D); ok {
			return a, true
		}
		w, ok := d.(Wrapper)
		if !ok {
			var none D
			return none, false
		}
		d = w.Unwrap()
	}
}

// Description names a driver and the endpoint it talks to.
type Description struct {
	Driver   string // "kvm", "vsphere", "hyperv", "xapi", "libxl", "fake"
	Product  string // "VMware vCenter Server", "XCP-ng", …
	Version  string // of the product
	Endpoint string // the address, without secrets
}

// VMQuery asks for one page of machines.
type VMQuery struct {
	Detail    Detail
	Templates bool   // templates only; otherwise machines only
	Name      string // exact name; empty for all. A driver filters at the server where it can.
	Host      HostID // empty for all
	Token     string // create or clone token; empty for all
	PageSize  int    // a preference; 0 leaves it to the driver
	Page      string // VMPage.Next of the previous page
}

// VMPage is one page of a listing. Next is empty on the last page.
type VMPage struct {
	VMs  []VMInfo
	Next string
}

// DriverTask is work in progress. Its methods may be called from several
// goroutines, but Next from one at a time.
type DriverTask interface {
	// ID is the argument for Driver.Task. It is not empty.
	ID() TaskID
	// Next blocks until the state differs from the one returned before, or
	// ctx ends. The first call returns the present state at once. After a
	// state with Done set it returns that state again at once.
	Next(ctx context.Context) (TaskState, error)
	// Cancel asks the platform to stop and returns once the platform has
	// accepted the request. Next reports the outcome: ErrCanceled, or success
	// if the work finished first. Cancel returns ErrUnsupported where this
	// work can't be cancelled. For work that has ended it does nothing.
	Cancel(ctx context.Context) error
}

// Lifecycle makes and removes machines.
type Lifecycle interface {
	// CreateVM makes a machine; TaskState.Result is its Ref. If s.Token is
	// set and a machine already carries that token, that machine is the
	// result and nothing is made. A name that is taken is ErrExists where the
	// platform requires unique names.
	CreateVM(ctx context.Context, s VMSpec) (DriverTask, error)
	// DeleteVM removes a machine or template with its snapshots. A running or
	// paused machine is ErrInvalidState unless r.Force is set. A disk that
	// backs a linked clone of another machine is ErrBusy, which names the
	// dependants; nothing is removed. A repeated call returns ErrNotFound.
	DeleteVM(ctx context.Context, id VMID, r DeleteRequest) (DriverTask, error)
}

// Powerer changes the power state.
type Powerer interface {
	// Power brings the machine to the state that r.Op leads to. It succeeds
	// if the machine is already in that state. A template is ErrInvalidState.
	// A wrong state is ErrInvalidState, which names the state. A
	// PowerOpShutdown that takes longer than r.Timeout ends with ErrTimeout, or
	// with power off if r.Force is set.
	Power(ctx context.Context, id VMID, r PowerRequest) (DriverTask, error)
}

// Reconfigurer changes CPUs, memory, name and description.
type Reconfigurer interface {
	// Reconfigure applies all changes or none. A change that can't be made
	// live on a running machine is refused with the reason, unless
	// ch.NextStart is set.
	Reconfigure(ctx context.Context, id VMID, ch Changes) (DriverTask, error)
}

// Labeler keeps key-value labels on machines and templates.
type Labeler interface {
	// SetLabels replaces all labels.
	SetLabels(ctx context.Context, id VMID, labels map[string]string) error
}

// DiskAttacher changes a machine's disks. On a running machine the change is
// made live or refused with the reason.
type DiskAttacher interface {
	// AttachDisk adds a disk; TaskState.Result is its DiskID's Ref.
	AttachDisk(ctx context.Context, id VMID, d DiskSpec) (DriverTask, error)
	// DetachDisk removes a disk from the machine and, with DeleteDisks, its
	// image. It returns ErrBusy if a snapshot or linked clone needs the
	// image.
	DetachDisk(ctx context.Context, id VMID, disk DiskID, p DiskPolicy) (DriverTask, error)
	// GrowDisk enlarges a disk. It succeeds if the disk already has that
	// size. A smaller size is ErrInvalidArgument.
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
	// CreateSnapshot makes a snapshot and leaves the machine as it was;
	// TaskState.Result is the snapshot's Ref. Names need not be unique unless
	// the platform requires it (ErrExists).
	CreateSnapshot(ctx context.Context, id VMID, r SnapshotRequest) (DriverTask, error)
	// RevertSnapshot takes the machine back to the snapshot: to Running (or
	// Paused) if the snapshot has RAM, to Off if not. The snapshot becomes
	// the current one.
	RevertSnapshot(ctx context.Context, id VMID, snap SnapshotID, r RevertOptions) (DriverTask, error)
	// DeleteSnapshot merges a snapshot away. Its children move to its parent,
	// unless r.Children is set, which deletes them too. Done means merged;
	// TaskState.Phase is "merging" until then, and a note says so where the
	// platform merges later or not at all. A snapshot that backs a linked
	// clone is ErrBusy.
	DeleteSnapshot(ctx context.Context, id VMID, snap SnapshotID, r DeleteSnapshotOptions) (DriverTask, error)
}

// Cloner copies machines and deploys templates.
type Cloner interface {
	// Clone copies a machine, one of its snapshots, or a template;
	// TaskState.Result is the new machine's Ref. The copy has a new ID and
	// new MAC addresses. Tokens work as in CreateVM. The mode is the one that
	// was requested, never another.
	Clone(ctx context.Context, src VMID, r CloneRequest) (DriverTask, error)
}

// Templater turns machines into templates and back.
type Templater interface {
	// MarkTemplate turns a machine that is off (ErrInvalidState otherwise)
	// into a template, which can't be started. TaskState.Result is the
	// template's Ref. It succeeds if the machine already is a template.
	MarkTemplate(ctx context.Context, id VMID) (DriverTask, error)
	// MarkVM turns a template back into a machine. A template that backs
	// linked clones is ErrBusy. It succeeds if this is a machine already. The
	// platform may need a placement (vSphere: a pool); the zero value lets
	// the driver choose.
	MarkVM(ctx context.Context, id TemplateID, place Placement) (DriverTask, error)
}

// Migrator moves machines and their disks.
type Migrator interface {
	// CheckMigrate lists everything that blocks the migration. It changes
	// nothing.
	CheckMigrate(ctx context.Context, id VMID, r MigrateRequest) (MigrateReport, error)
	// Migrate moves a machine. A blocker is ErrIncompatible with a
	// *BlockedError, and nothing is changed. TaskState.Migration reports what
	// was measured. A failed move leaves the machine at the source, running
	// if it ran before.
	Migrate(ctx context.Context, id VMID, r MigrateRequest) (DriverTask, error)
}

// DeviceAssigner gives host devices to machines.
type DeviceAssigner interface {
	// Devices lists host devices that match the filter. The number of calls
	// depends on the number of hosts at most.
	Devices(ctx context.Context, f DeviceFilter) ([]DeviceInfo, error)
	// AttachDevice assigns one device that matches r. TaskState.Result is the
	// AttachmentID's Ref, and TaskState.Notes reports what else was set
	// (memory reserved, MMIO window). If no device matches or none is free,
	// the error is ErrExhausted. A device that can't be assigned is
	// Unsupported with its reason, and one in use is ErrBusy.
	AttachDevice(ctx context.Context, id VMID, r DeviceRequest) (DriverTask, error)
	DetachDevice(ctx context.Context, id VMID, a AttachmentID) (DriverTask, error)
}

// DevicePreparer makes host devices assignable.
type DevicePreparer interface {
	// PrepareDevice binds a device to the passthrough driver or back, and
	// sets its number of SR-IOV functions. TaskState.Notes reports if the
	// host must be restarted first.
	PrepareDevice(ctx context.Context, id DeviceID, p DevicePreparation) (DriverTask, error)
}

// HostLister lists hosts. A driver whose Client always is one host implements
// it too.
type HostLister interface {
	// Hosts lists all hosts. A host that is down is included, in state
	// HostDown.
	Hosts(ctx context.Context) ([]HostInfo, error)
}

// Maintainer has a native maintenance mode.
type Maintainer interface {
	// EnterMaintenance keeps new machines away from the host. With r.Evacuate
	// the platform first moves the running ones to other hosts. It succeeds
	// if the host already is in maintenance.
	EnterMaintenance(ctx context.Context, h HostID, r MaintenanceOptions) (DriverTask, error)
	ExitMaintenance(ctx context.Context, h HostID) (DriverTask, error)
}

// StorageLister lists datastores.
type StorageLister interface {
	Datastores(ctx context.Context) ([]DatastoreInfo, error)
}

// StorageManager handles disk images independently of machines.
type StorageManager interface {
	StorageLister
	// Volumes lists the images of a datastore, or of all for the empty ID.
	Volumes(ctx context.Context, ds DatastoreID) ([]VolumeInfo, error)
	// CreateVolume makes an image; TaskState.Result is its VolumeID's Ref.
	CreateVolume(ctx context.Context, s VolumeSpec) (DriverTask, error)
	// DeleteVolume removes an image. An image that is in use or that backs
	// others is ErrBusy.
	DeleteVolume(ctx context.Context, id VolumeID) (DriverTask, error)
}

// DependencyLister lists the backing chains of a machine's disks and who else
// depends on the same images.
type DependencyLister interface {
	Dependencies(ctx context.Context, id VMID) (Dependencies, error)
}

// NetworkLister lists the networks that adapters can connect to.
type NetworkLister interface {
	Networks(ctx context.Context) ([]NetworkInfo, error)
}

// Watcher has native events.
type Watcher interface {
	// Watch yields changes after token (empty means from now on) until ctx
	// ends or the consumer stops. Where it can't resume, or events were lost,
	// it yields an Event of type Resync and continues. A lost connection is
	// renewed once; after that the last pair carries the error.
	Watch(ctx context.Context, token string) iter.Seq2[Event, error]
}

// GuestAgent talks to software inside the guest. Without that software, calls
// fail as Unsupported with ReasonToolsMissing.
type GuestAgent interface {
	GuestInfo(ctx context.Context, id VMID) (GuestInfo, error)
	Exec(ctx context.Context, id VMID, r ExecRequest) (ExecResult, error)
	// GuestClock reads the guest's clock.
	GuestClock(ctx context.Context, id VMID) (ClockReading, error)
	SetGuestClock(ctx context.Context, id VMID, t time.Time) error
}

// Freezer quiesces a guest's file systems.
type Freezer interface {
	Freeze(ctx context.Context, id VMID) error
	Thaw(ctx context.Context, id VMID) error
}

// Placer asks the platform's own scheduler.
type Placer interface {
	// Recommend returns hosts for a machine, the best first. A request that
	// the scheduler doesn't accept, such as one without a machine, is
	// Unsupported; the portable planner then answers.
	Recommend(ctx context.Context, r PlaceRequest) ([]Recommendation, error)
	// BalancePlan returns the moves that the platform recommends now.
	BalancePlan(ctx context.Context) ([]Move, error)
}

// Protector has high availability: the platform restarts machines whose host
// fails.
type Protector interface {
	// HA lists the clusters or pools with their settings, including those in
	// which HA is off.
	HA(ctx context.Context) ([]HAInfo, error)
	// Availability reads one machine's availability. It returns ErrNotFound
	// if there is no such machine.
	Availability(ctx context.Context, id VMID) (Availability, error)
	// SetRestartPriority works with HA on and off. Setting the current
	// priority again succeeds. A priority with no equivalent on the platform
	// is refused as Unsupported. One that HA, while on, can't honour is
	// ErrExhausted, and nothing is changed.
	SetRestartPriority(ctx context.Context, id VMID, p RestartPriority) (DriverTask, error)
}

// ReplicationReader reports replication to another site.
type ReplicationReader interface {
	// Replication reads one machine's replication. A machine that isn't
	// replicated has the zero value. It returns ErrNotFound if there is no
	// such machine.
	Replication(ctx context.Context, id VMID) (ReplicationInfo, error)
}

// Opener connects a driver to a URL. The registered scheme is u.Scheme.
type Opener func(ctx context.Context, u *url.URL, o *Options) (Driver, error)
