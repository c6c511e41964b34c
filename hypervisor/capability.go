package hypervisor

import "context"

// Capability names one thing that a platform may or may not do. The text is
// stable and may be stored.
type Capability string

const (
	VMCreate      Capability = "vm.create"
	VMDelete      Capability = "vm.delete"
	BootDirect    Capability = "vm.direct-boot" // kernel and initrd given from outside
	Labels        Capability = "vm.labels"
	Reconfigure   Capability = "vm.reconfigure" // CPUs, memory, name of a machine that is off
	CPUHotAdd     Capability = "cpu.hot-add"
	MemoryHotAdd  Capability = "memory.hot-add"
	MemoryDynamic Capability = "memory.dynamic" // a range in which the platform balloons
	DiskAttach    Capability = "disk.attach"
	DiskHotplug   Capability = "disk.hotplug"
	DiskGrow      Capability = "disk.grow"
	DiskGrowLive  Capability = "disk.grow.live"
	NICAttach     Capability = "nic.attach"
	NICHotplug    Capability = "nic.hotplug"

	PowerShutdown Capability = "power.shutdown" // graceful, through the guest
	PowerReset    Capability = "power.reset"
	PowerPause    Capability = "power.pause"
	PowerSuspend  Capability = "power.suspend"

	SnapshotDisk    Capability = "snapshot.disk"   // disks only
	SnapshotMemory  Capability = "snapshot.memory" // disks and RAM
	SnapshotQuiesce Capability = "snapshot.quiesce"

	CloneFull         Capability = "clone.full"
	CloneLinked       Capability = "clone.linked"
	CloneInstant      Capability = "clone.instant" // forks a running machine, RAM and all
	CloneRunning      Capability = "clone.running"
	CloneFromSnapshot Capability = "clone.from-snapshot"
	CloneCustomize    Capability = "clone.customize" // host name and network set in the guest
	Templates         Capability = "template"

	MigrateLive        Capability = "migrate.live"
	MigrateCold        Capability = "migrate.cold"
	MigrateStorage     Capability = "migrate.storage"      // disks of a machine that is off
	MigrateLiveStorage Capability = "migrate.live-storage" // disks of a running machine
	MigrateBoth        Capability = "migrate.both"         // host and disks of a running machine in one step
	MigrateCross       Capability = "migrate.cross-client" // to another Client of the same kind
	MigratePostCopy    Capability = "migrate.post-copy"
	MigrateTuning      Capability = "migrate.tuning" // bandwidth, downtime limit, compression, channels

	DevicePCI     Capability = "device.pci"     // a whole PCI function
	DeviceVF      Capability = "device.vf"      // an SR-IOV virtual function
	DeviceVGPU    Capability = "device.vgpu"    // a vGPU, mdev or partition profile
	DeviceHotplug Capability = "device.hotplug" // to and from a running machine
	DevicePrepare Capability = "device.prepare" // make assignable, create functions

	WatchEvents Capability = "watch"
	WatchResume Capability = "watch.resume" // events after a token

	GuestFacts  Capability = "guest.facts"
	GuestExec   Capability = "guest.exec"
	GuestClock  Capability = "guest.clock"
	GuestFreeze Capability = "guest.freeze"

	HostMaintenance Capability = "host.maintenance"
	PlacementNative Capability = "placement.native" // the platform's own scheduler is asked

	HighAvailability Capability = "ha"          // restart after a host's failure: priorities read and set
	ReplicationRead  Capability = "replication" // state of a replication to another site

	TaskResume   Capability = "task.resume" // Client.Task finds work of another process
	TaskCancel   Capability = "task.cancel"
	VolumeManage Capability = "storage.volumes" // create and delete disk images
)

// Capabilities returns every capability that this package knows, in the order
// of the tables in the documentation.
func Capabilities() []Capability {
	return []Capability{
		VMCreate, VMDelete, BootDirect, Labels, Reconfigure, CPUHotAdd, MemoryHotAdd, MemoryDynamic,
		DiskAttach, DiskHotplug, DiskGrow, DiskGrowLive, NICAttach, NICHotplug,
		PowerShutdown, PowerReset, PowerPause, PowerSuspend,
		SnapshotDisk, SnapshotMemory, SnapshotQuiesce,
		CloneFull, CloneLinked, CloneInstant, CloneRunning, CloneFromSnapshot, CloneCustomize, Templates,
		MigrateLive, MigrateCold, MigrateStorage, MigrateLiveStorage, MigrateBoth, MigrateCross, MigratePostCopy, MigrateTuning,
		DevicePCI, DeviceVF, DeviceVGPU, DeviceHotplug, DevicePrepare,
		WatchEvents, WatchResume, GuestFacts, GuestExec, GuestClock, GuestFreeze,
		HostMaintenance, PlacementNative, HighAvailability, ReplicationRead, TaskResume, TaskCancel, VolumeManage,
	}
}

// Level is how far a capability goes. Unproven, the zero value, means that
// the code is there and was never run against the real thing in this
// configuration: it may be tried, and is not the same as No.
type Level uint8

const (
	Unproven Level = iota
	No
	Partial
	Yes
)

// String returns "unproven", "no", "partial" or "yes".
func (l Level) String() string {
	return [...]string{"unproven", "no", "partial", "yes"}[min(l, Yes)]
}

// ReasonCode says in one stable word why a capability is not Yes, why a
// device can't be assigned, or why a machine can't move.
type ReasonCode string

const (
	ReasonEdition         ReasonCode = "edition"         // licence or SKU
	ReasonNotImplemented  ReasonCode = "not-implemented" // the platform could, this driver doesn't
	ReasonPlatform        ReasonCode = "platform"        // the platform has no such thing
	ReasonAPIVersion      ReasonCode = "api-version"     // too old (or too new) a server
	ReasonEmulated        ReasonCode = "emulated"        // works, made of other parts; Detail says how
	ReasonToolsMissing    ReasonCode = "tools-missing"   // no guest agent or tools
	ReasonSingleHost      ReasonCode = "single-host"     // needs a second host in this Client
	ReasonNoSharedStorage ReasonCode = "no-shared-storage"
	ReasonHostIOMMUOff    ReasonCode = "host-iommu-off"
	ReasonNoIOMMUGroup    ReasonCode = "no-iommu-group"
	ReasonGroupShared     ReasonCode = "iommu-group-shared" // other devices of the group are in use
	ReasonNoDevice        ReasonCode = "no-device"
	ReasonDeviceInUse     ReasonCode = "device-in-use"
	ReasonHostUsesDevice  ReasonCode = "host-uses-device" // boot disk, console, management NIC
	ReasonDevicePrepare   ReasonCode = "device-not-prepared"
	ReasonVMPassthrough   ReasonCode = "vm-has-passthrough"
	ReasonVMState         ReasonCode = "vm-state"
	ReasonVMSnapshots     ReasonCode = "vm-has-snapshots"
	ReasonVMLinked        ReasonCode = "vm-has-linked-clones"
	ReasonVMBusy          ReasonCode = "vm-busy"
	ReasonIsTemplate      ReasonCode = "is-template"
	ReasonCPU             ReasonCode = "cpu-incompatible"
	ReasonVersion         ReasonCode = "version-incompatible"
	ReasonNoMemory        ReasonCode = "no-memory"
	ReasonNoSpace         ReasonCode = "no-space"
	ReasonDiskUnreachable ReasonCode = "disk-unreachable"
	ReasonDiskFormat      ReasonCode = "disk-format"
	ReasonNetworkMissing  ReasonCode = "network-missing"
	ReasonNameTaken       ReasonCode = "name-taken"
	ReasonIDTaken         ReasonCode = "id-taken"
	ReasonSameHost        ReasonCode = "same-host"
	ReasonHostDown        ReasonCode = "host-down"
	ReasonMaintenance     ReasonCode = "host-in-maintenance"
	ReasonHotAddOff       ReasonCode = "hot-add-off" // the machine was not made for it
	ReasonConfig          ReasonCode = "configuration"
	ReasonBuild           ReasonCode = "build" // this program was built without it (cgo, operating system)
)

// Support is the answer to "can it, here?".
type Support struct {
	Level  Level      `json:"level"`
	Reason ReasonCode `json:"reason,omitempty"` // empty for Yes
	Detail string     `json:"detail,omitempty"` // a sentence for people
}

// Supports reports on one capability for a scope: the whole Client (zero
// Ref), a host, a machine or a device. It changes nothing. The answer for a
// machine takes its state and configuration into account.
func (c *Client) Supports(ctx context.Context, k Capability, scope Ref) (Support, error) {
	ctx, sp, err := c.begin(ctx, "supports", scope)
	if err != nil {
		return Support{}, err
	}
	s, err := retryRead(ctx, c, func() (Support, error) { return c.d.Supports(ctx, k, scope) })
	return s, sp.end(c.wrap("supports", scope, err))
}

// unsupported is the error for an ability whose interface the driver lacks;
// the reason comes from the driver's own answer.
func (c *Client) unsupported(ctx context.Context, op string, on Ref, k Capability) error {
	s, err := c.d.Supports(ctx, k, Ref{})
	if err != nil || s.Reason == "" {
		s = Support{Level: No, Reason: ReasonNotImplemented}
	}
	e := Unsupported(on, k, s.Reason, s.Detail)
	e.Op = op
	return e
}
