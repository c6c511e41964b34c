// Package capability names what a platform may or may not support.
//
// A name is the object and the action: "clone.linked", "device.pci".
// hypervisor.Client.Supports reports on one of them, an error of kind
// ErrUnsupported names the missing one, and the tables in the documentation
// have a row for each.
package capability

// Name names one thing that a platform may or may not support. The text is
// stable and may be stored.
type Name string

const (
	VMCreate      Name = "vm.create"
	VMDelete      Name = "vm.delete"
	VMStart       Name = "vm.start"       // power on and off
	BootDirect    Name = "vm.direct-boot" // kernel and initrd given from outside the machine
	Labels        Name = "vm.labels"      // key-value labels on machines and templates
	Reconfigure   Name = "vm.reconfigure" // CPUs, memory, name of a machine that is off
	CPUHotAdd     Name = "cpu.hot-add"
	MemoryHotAdd  Name = "memory.hot-add"
	MemoryDynamic Name = "memory.dynamic" // a range in which the platform balloons
	DiskAttach    Name = "disk.attach"
	DiskHotplug   Name = "disk.hotplug" // to and from a running machine
	DiskGrow      Name = "disk.grow"
	DiskGrowLive  Name = "disk.grow.live" // of a running machine
	NICAttach     Name = "nic.attach"
	NICHotplug    Name = "nic.hotplug" // to and from a running machine

	PowerShutdown Name = "power.shutdown" // graceful, through the guest
	PowerReset    Name = "power.reset"    // hard restart
	PowerPause    Name = "power.pause"    // vCPUs stopped, RAM kept in memory
	PowerSuspend  Name = "power.suspend"  // RAM on disk

	SnapshotDisk    Name = "snapshot.disk"    // disks only
	SnapshotMemory  Name = "snapshot.memory"  // disks and RAM
	SnapshotQuiesce Name = "snapshot.quiesce" // disks, with the guest's file systems frozen

	CloneFull         Name = "clone.full"    // an independent copy
	CloneLinked       Name = "clone.linked"  // shares a frozen base with its source
	CloneInstant      Name = "clone.instant" // forks a running machine, RAM and all
	CloneRunning      Name = "clone.running" // the source runs
	CloneFromSnapshot Name = "clone.from-snapshot"
	CloneCustomize    Name = "clone.customize" // host name and network set in the guest
	Templates         Name = "template"        // mark machines as templates and back, deploy from them

	MigrateLive        Name = "migrate.live"         // a running machine to another host
	MigrateCold        Name = "migrate.cold"         // a machine that is off or suspended to another host
	MigrateStorage     Name = "migrate.storage"      // disks of a machine that is off
	MigrateLiveStorage Name = "migrate.live-storage" // disks of a running machine
	MigrateBoth        Name = "migrate.both"         // host and disks of a running machine in one step
	MigrateCross       Name = "migrate.cross-client" // to another Client of the same kind
	MigratePostCopy    Name = "migrate.post-copy"
	MigrateTuning      Name = "migrate.tuning" // bandwidth, downtime limit, compression, channels

	DevicePCI     Name = "device.pci"     // a whole PCI function
	DeviceVF      Name = "device.vf"      // an SR-IOV virtual function
	DeviceVGPU    Name = "device.vgpu"    // a vGPU, mdev or partition profile
	DeviceHotplug Name = "device.hotplug" // to and from a running machine
	DevicePrepare Name = "device.prepare" // make assignable, create functions

	WatchEvents Name = "watch"
	WatchResume Name = "watch.resume" // events after a token

	GuestFacts  Name = "guest.facts"  // VM.Guest
	GuestExec   Name = "guest.exec"   // programs in guests
	GuestClock  Name = "guest.clock"  // read and set
	GuestFreeze Name = "guest.freeze" // file systems, until VM.Thaw

	HostList        Name = "host.list"
	DatastoreList   Name = "datastore.list"
	NetworkList     Name = "network.list"
	HostMaintenance Name = "host.maintenance" // a maintenance mode of the platform
	PlacementNative Name = "placement.native" // uses the platform's own scheduler

	HighAvailability Name = "ha"          // restart after a host's failure: priorities can be read and set
	ReplicationRead  Name = "replication" // state of a replication to another site

	TaskResume   Name = "task.resume" // Client.Task finds another process's work
	TaskCancel   Name = "task.cancel"
	VolumeManage Name = "storage.volumes" // create and delete disk images
)

// All returns every capability that this package knows, in the order
// of the tables in the documentation.
func All() []Name {
	return []Name{
		VMCreate, VMDelete, VMStart, BootDirect, Labels, Reconfigure, CPUHotAdd, MemoryHotAdd, MemoryDynamic,
		DiskAttach, DiskHotplug, DiskGrow, DiskGrowLive, NICAttach, NICHotplug,
		PowerShutdown, PowerReset, PowerPause, PowerSuspend,
		SnapshotDisk, SnapshotMemory, SnapshotQuiesce,
		CloneFull, CloneLinked, CloneInstant, CloneRunning, CloneFromSnapshot, CloneCustomize, Templates,
		MigrateLive, MigrateCold, MigrateStorage, MigrateLiveStorage, MigrateBoth, MigrateCross, MigratePostCopy, MigrateTuning,
		DevicePCI, DeviceVF, DeviceVGPU, DeviceHotplug, DevicePrepare,
		WatchEvents, WatchResume, GuestFacts, GuestExec, GuestClock, GuestFreeze,
		HostList, DatastoreList, NetworkList, HostMaintenance, PlacementNative, HighAvailability, ReplicationRead, TaskResume, TaskCancel, VolumeManage,
	}
}
