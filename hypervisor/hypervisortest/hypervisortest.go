// Package hypervisortest is the conformance suite for drivers of package
// hypervisor. A driver's test is a [Harness] and one call:
//
//	func TestConformance(t *testing.T) {
//		hypervisortest.Run(t, hypervisortest.Harness{
//			Driver: "kvm", Rung: hypervisortest.Real,
//			New: func(t hypervisortest.T) *hypervisortest.Backend { … },
//		})
//	}
//
// The suite is a list of areas, each with one Client and a list of rows. A
// row is a sub-test that makes its own machines, removes them, and fails
// independently of other rows: "go test -run
// TestConformance/clones/linked-is-independent" runs one.
//
// Every capability that the driver declares (LevelYes or LevelPartial) is exercised.
// One that no row could prove is a failure, unless the Harness explains it.
// Every capability that the driver denies must be refused, with the same
// reason, as Unsupported. [Check] runs the same rows without package
// testing's runner and returns its findings, for tests of the suite itself.
package hypervisortest

import (
	"context"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// Rung is how real the other end is.
type Rung string

const (
	Fake      Rung = "fake"
	Simulator Rung = "simulator" // the platform's protocol, over the wire
	Real      Rung = "real"
)

// T is the part of *testing.T that the suite needs.
type T interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
	Context() context.Context
}

// Harness describes a driver under test.
type Harness struct {
	Driver string // column of the capability table: "kvm", "vsphere", …
	Rung   Rung
	// Label distinguishes harnesses of the same driver and rung: "ESXi",
	// "pool".
	Label string

	// New returns a backend for one area of tests. Each row makes machines of
	// its own and removes them, so New may return the same backend each time.
	// The Client must be new, and is closed by the suite.
	New func(t T) *Backend

	// Unproven explains capabilities that the driver declares and that can't
	// be exercised on this rung.
	Unproven map[capability.Name]string
	// Known explains rows ("clones/linked-is-independent") that fail on this
	// rung. They are run, reported as known failures, and fail in the
	// capability table, while Run itself passes. A known row that passes is
	// an error, so that the list stays true.
	Known map[string]string
	// Empty explains fields of results ("HostInfo.Edition") that the platform
	// can't report, or that nothing on this rung gives a value. They must be
	// empty, so that the list stays true.
	Empty map[string]string
	// Refused explains fields of requests ("VMSpec.Machine") that the driver
	// refuses for a reason other than a capability that is not declared. It
	// also explains ListOptions.PageSize, a preference, where the driver has
	// no pages.
	Refused map[string]string
	// NotYet explains areas that are not run on this rung so far, unless Only
	// names them. They are logged and reported as "not run".
	NotYet map[string]string
	// Limit is the time for one row; 0 means 2 minutes. RowLimit holds other
	// limits by the row's path.
	Limit    time.Duration
	RowLimit map[string]time.Duration
	// Repeat is the number of times that idempotent calls are repeated; 0
	// means 10.
	Repeat int
	// AtOnce is the number of machines that the area concurrency deploys at
	// the same time; 0 means 20.
	AtOnce int
	// Worlds is the number of backends, made by New, that the rows of the
	// areas "faults" and "contexts" use in parallel; 0 means 1.
	Worlds int
	// Only runs just the named areas ("clones") and rows
	// ("clones/linked-is-independent"). Declared capabilities then need no
	// proof.
	Only []string
}

// Backend is one hypervisor, or a set of them, under test.
type Backend struct {
	Client *hypervisor.Client
	// Reopen opens a second Client on the same backend.
	Reopen func(ctx context.Context) (*hypervisor.Client, error)
	// Other is a Client of another management domain of the same kind, as a
	// target for migrations; nil if there is none.
	Other *hypervisor.Client
	// Spec describes a machine that can be made and started here, with at
	// least one disk.
	Spec func(name string) hypervisor.VMSpec
	// Open is like Reopen, with options; nil if options can't be given here.
	Open func(ctx context.Context, o *hypervisor.Options) (*hypervisor.Client, error)
	// Credentials are a valid login; nil where the backend has no logins.
	Credentials *hypervisor.Credentials
	// AbsentVM is a valid ID that no machine has.
	AbsentVM hypervisor.VMID
	// EventWait is the time that the suite waits for an event; 0 means 20
	// seconds.
	EventWait time.Duration

	// The other fields look behind the API and may be nil.

	// Booted waits until the guest of a started machine has booted far enough
	// to respond through its agent and to have memory content.
	Booted func(ctx context.Context, id hypervisor.VMID) error
	// WriteDisk and ReadDisk set and get the content identity of a machine's
	// first disk. The machine is off.
	WriteDisk func(ctx context.Context, id hypervisor.VMID, content string) error
	ReadDisk  func(ctx context.Context, id hypervisor.VMID) (string, error)
	// Uptime returns a number from the guest's memory that only grows while
	// this boot of the guest runs, and starts again with the next boot.
	Uptime func(ctx context.Context, id hypervisor.VMID) (int, error)
	// State reads a machine's power state with the platform's own tool. For a
	// machine that does not exist it returns an error wrapping
	// hypervisor.ErrNotFound.
	State func(ctx context.Context, id hypervisor.VMID) (hypervisor.PowerState, error)
	// Images lists every disk image, so that orphans are found. The area
	// faults needs their VolumeIDs.
	Images func(ctx context.Context) ([]string, error)
	// Chain compares the backing chain of images that a running machine uses
	// with the one in the images' headers, and returns the differences.
	Chain func(ctx context.Context, id hypervisor.VMID) error
	// Slow makes long operations of the backend take this long from now on;
	// 0 ends it.
	Slow func(d time.Duration)
	// Device describes a device of this backend that AttachDevice accepts. VF
	// and Profile do the same. The zero value means that there is none.
	Device, VF, Profile hypervisor.DeviceRequest
	// GuestDevices lists the PCI devices that a running machine's guest sees,
	// as "vendor:product" in four hex digits each.
	GuestDevices func(ctx context.Context, id hypervisor.VMID) ([]string, error)
	// ProfileDevice is the device that a guest sees for Profile, as
	// "vendor:product".
	ProfileDevice string
	// Replicate makes the platform report this state of a machine's
	// replication.
	Replicate func(ctx context.Context, id hypervisor.VMID, r hypervisor.ReplicationInfo) error
	// Foreign are the parts that other tools give to machines here, for the
	// area foreign.
	Foreign []Foreign
	// Customized reads the customization of a guest at its first start.
	Customized func(ctx context.Context, id hypervisor.VMID) (hypervisor.Customization, error)
	// Hang makes a running guest ignore requests to shut down.
	Hang func(ctx context.Context, id hypervisor.VMID) error
	// Crash takes a host down, or up again.
	Crash func(ctx context.Context, id hypervisor.HostID, down bool) error
	// Tuned reads the options that the machine's last migration had.
	Tuned func(ctx context.Context, id hypervisor.VMID) (hypervisor.MigrateOptions, error)
	// Login is a user of the guests, for programs in them.
	Login hypervisor.Credentials
	// ISO is an image for CD-ROMs, or empty if there is none.
	ISO hypervisor.VolumeID
	// Folder is an inventory folder in which machines can be made.
	Folder string
	// Break breaks the connection to the platform.
	Break *Breaker
	// DeviceSpec describes a machine that can have devices, where a machine
	// made from Spec can't; nil means Spec.
	DeviceSpec func(name string) hypervisor.VMSpec
}
