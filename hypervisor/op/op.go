// Package op names the operations of package hypervisor.
//
// A name is the object that the operation works on, a dot and the verb:
// "vm.clone", "snapshot.delete". The Observer, errors, the fake's faults,
// delays and call log, and the tables in the documentation all use these
// names. hypervisor.Operations describes each of them.
package op

// Name is the name of an operation.
type Name string

// Operations on a Client.
const (
	ClientOpen     Name = "client.open"
	ClientClose    Name = "client.close"
	ClientSupports Name = "client.supports"
	ClientWatch    Name = "client.watch"
	ClientPlace    Name = "client.place"
	ClientBalance  Name = "client.balance"
	ClientAs       Name = "client.as"
	TaskFind       Name = "task.find"
	TaskCancel     Name = "task.cancel"
)

// Operations on machines.
const (
	VMList               Name = "vm.list"
	VMFind               Name = "vm.find"
	VMInfo               Name = "vm.info"
	VMCreate             Name = "vm.create"
	VMDelete             Name = "vm.delete"
	VMClone              Name = "vm.clone"
	VMReconfigure        Name = "vm.reconfigure"
	VMSetLabels          Name = "vm.set-labels"
	VMDependencies       Name = "vm.dependencies"
	VMStart              Name = "vm.start"
	VMShutdown           Name = "vm.shutdown"
	VMPowerOff           Name = "vm.power-off"
	VMReset              Name = "vm.reset"
	VMReboot             Name = "vm.reboot"
	VMPause              Name = "vm.pause"
	VMSuspend            Name = "vm.suspend"
	VMResume             Name = "vm.resume"
	VMCheckMigrate       Name = "vm.check-migrate"
	VMMigrate            Name = "vm.migrate"
	VMMarkTemplate       Name = "vm.mark-template"
	VMAvailability       Name = "vm.availability"
	VMSetRestartPriority Name = "vm.set-restart-priority"
	VMReplication        Name = "vm.replication"
)

// Operations on the parts of a machine.
const (
	DiskAttach     Name = "disk.attach"
	DiskDetach     Name = "disk.detach"
	DiskGrow       Name = "disk.grow"
	NICAttach      Name = "nic.attach"
	NICDetach      Name = "nic.detach"
	SnapshotList   Name = "snapshot.list"
	SnapshotFind   Name = "snapshot.find"
	SnapshotInfo   Name = "snapshot.info"
	SnapshotCreate Name = "snapshot.create"
	SnapshotRevert Name = "snapshot.revert"
	SnapshotDelete Name = "snapshot.delete"
	GuestInfo      Name = "guest.info"
	GuestExec      Name = "guest.exec"
	GuestClock     Name = "guest.clock"
	GuestSetClock  Name = "guest.set-clock"
	GuestFreeze    Name = "guest.freeze"
	GuestThaw      Name = "guest.thaw"
)

// Operations on templates.
const (
	TemplateList      Name = "template.list"
	TemplateFind      Name = "template.find"
	TemplateInfo      Name = "template.info"
	TemplateDeploy    Name = "template.deploy"
	TemplateDelete    Name = "template.delete"
	TemplateMarkVM    Name = "template.mark-vm"
	TemplateSetLabels Name = "template.set-labels"
)

// Operations on hosts and their resources.
const (
	HostList             Name = "host.list"
	HostFind             Name = "host.find"
	HostInfo             Name = "host.info"
	HostEvacuate         Name = "host.evacuate"
	HostEnterMaintenance Name = "host.enter-maintenance"
	HostExitMaintenance  Name = "host.exit-maintenance"
	HAList               Name = "ha.list"
	DeviceList           Name = "device.list"
	DeviceAttach         Name = "device.attach"
	DeviceDetach         Name = "device.detach"
	DevicePrepare        Name = "device.prepare"
	DatastoreList        Name = "datastore.list"
	NetworkList          Name = "network.list"
	VolumeList           Name = "volume.list"
	VolumeCreate         Name = "volume.create"
	VolumeDelete         Name = "volume.delete"
)

// Steps of other operations, for faults and call logs.
const (
	ClientLogin     Name = "client.login"      // a driver logs in or renews its session
	ClientNextEvent Name = "client.next-event" // a watch waits for events
)
