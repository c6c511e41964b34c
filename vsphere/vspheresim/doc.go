// Package vspheresim is govmomi's vCenter and ESXi simulator made strict, for tests of code that manages vSphere.
//
//	sim, err := vspheresim.Start(vspheresim.Config{VMs: 4})
//	defer sim.Close()
//	c, err := govmomi.NewClient(ctx, sim.URL(), true)
//
// The example of [github.com/anyvisor/anyvisor/vsphere.Open] opens this
// module's driver on it.
//
// govmomi's simulator (package simulator of github.com/vmware/govmomi) accepts much that a real system refuses, and
// leaves out much that a real system does. This package runs it unchanged, in the process of the test, and answers the
// calls below itself, over the same objects. A test can also simulate a bad network ([Sim.Fault], [Sim.Cut], [Sim.Delay],
// [Sim.SetRoundTrip], [Sim.DropSessions]), take time ([Sim.SetTaskDelay]) and count calls ([Sim.Calls]).
//
// # Corrections
//
// The source of each is the vSphere Web Services API reference unless something else is named, by method and fault. The
// functions cite it. What no public document settles is marked "believed", here and in the functions.
//
// Tasks:
//   - A second task on a machine that has one fails with TaskInProgress (all methods of VirtualMachine that return a Task).
//     Clones share their source (believed).
//   - Task.CancelTask ends a task before it has an effect, with RequestCanceled; InvalidState when it is over, NotSupported
//     for power-off, reset, suspend, reconfiguration, removal of snapshots and deletion (which ones: believed).
//   - The duration of tasks can be set, and they report progress. Faults of an operation are faults of its task; those of a reference
//     that does not exist are faults of the call.
//   - Every task posts a TaskEvent, and machines post events for their changes.
//
// References: a call that names something that does not exist fails with ManagedObjectNotFound (RuntimeFault). Nothing that a
// client sends ends the process.
//
// Sessions: properties cannot be read without one (NotAuthenticated). Sessions end when idle for Config.SessionTTL. The token service issues tokens for the
// user's password and for known certificates, and LoginByToken and LoginExtensionByCertificate accept only those (InvalidLogin). A message with a holder-of-key token
// must be signed. Extensions log in through [Sim.Tunnel].
//
// Property collector (PropertyCollector.WaitForUpdatesEx): sessions do not take each other's updates away; every change is reported;
// InvalidCollectorVersion for a version that is not the last; the last answer is repeated to a client that lost it; a call whose client
// has gone ends.
//
// Power: NotSupported for a template, InvalidPowerState, InvalidState on a host in maintenance mode, HostNotConnected, NotEnoughLogicalCpus,
// InsufficientMemoryResourcesFault and InsufficientCpuResourcesFault by reservation, NoDiskSpace for the swap file, FileLocked for a disk that
// another running machine writes (PowerOnVM_Task). ToolsUnavailable where Tools do not run (ShutdownGuest, RebootGuest, StandbyGuest).
// TerminateVM exists.
//
// Snapshots:
//   - CreateSnapshot_Task gives every disk a child file and keeps the configuration; InvalidName, TooManySnapshotLevels over 32 in a chain (vSphere
//     documentation), NotSupported for a template (believed), SnapshotIncompatibleDeviceInVm for memory with a passed-through device. quiesce
//     is ignored without Tools or with memory.
//   - RevertToSnapshot_Task and RevertToCurrentSnapshot_Task restore configuration, disks and power state; suppressPowerOn is honoured. The name stays (believed).
//   - RemoveSnapshot_Task, RemoveAllSnapshots_Task and ConsolidateVMDisks_Task merge disks, or leave consolidationNeeded; RenameSnapshot exists.
//   - layoutEx has the files of each snapshot with their sizes. The sizes themselves are made up.
//   - contentId of a disk identifies its content: it changes when a guest runs on it, and a revert restores it.
//   - [Sim.ReadDisk], [Sim.WriteDisk], [Sim.Memory] and [Sim.SetMemory] show the content of disks and RAM throughout, including clones and migrations.
//
// Clones (CloneVM_Task, InstantClone_Task): diskMoveType is honoured, so that a linked clone is a child of its base; place, snapshot, template, powerOn,
// configuration and customization too; DuplicateName, InvalidName, InvalidFolder, InvalidArgument, InvalidDatastore, NoDiskSpace; MAC addresses are new.
// Destroy_Task keeps files that other machines share (vSphere programming guide, "Removing Snapshots and Deleting Linked Virtual Machines");
// DeleteVirtualDisk_Task, DeleteDatastoreFile_Task and the removal of a device with its file return FileLocked for them (believed for machines that are off).
//
// Templates: MarkAsTemplate and MarkAsVirtualMachine change the lists of the resource pool and report that to those who watch; a template accepts only a name and
// notes (ReconfigVM_Task, NotSupported; github.com/vmware/govmomi, pull request 1431), and its snapshots are neither made nor removed (NotSupported; believed).
//
// Configuration (CreateVM_Task, ReconfigVM_Task): InvalidArgument for numbers of CPUs, sizes of memory, guest IDs and reservations that cannot be;
// CpuHotPlugNotSupported and MemoryHotPlugNotSupported without the flag, InvalidPowerState for the flag itself; ConcurrentAccess for an old changeVersion,
// which is new after each change of the configuration: snapshots, reverts and marks included;
// DuplicateName; InvalidController, InvalidDeviceSpec, InvalidDeviceBacking, InvalidDeviceOperation, TooManyDevices, DeviceHotPlugNotSupported,
// InvalidDatastore, FileNotFound, NoDiskSpace. A configuration that is refused changes nothing. Maximums are those of vSphere 8. Names are escaped as vCenter
// does (ManagedEntity.name).
//
// Migration (RelocateVM_Task, MigrateVM_Task, between two simulators of a process too): hosts, pools, datastores, files and back-references move; InvalidState
// for a host in maintenance mode, HostNotConnected, DisallowedMigrationDeviceAttached, FeatureRequirementsNotMet, CannotAccessVmDisk, CannotAccessVmConfig,
// CannotAccessNetwork, InsufficientMemoryResourcesFault, NoCompatibleHost. VirtualMachineProvisioningChecker (CheckMigrate_Task, CheckRelocate_Task, CheckClone_Task,
// CheckInstantClone_Task, QueryVMotionCompatibilityEx_Task) and VirtualMachineCompatibilityChecker report every blocker.
//
// Hosts: EnterMaintenanceMode_Task evacuates by DRS and waits for the rest, until its timeout (Timedout) or its cancel; RebootHost_Task and ShutdownHost_Task;
// machines of a host that is gone are disconnected; hardware, NUMA nodes, capabilities and maximums are those of an ESXi 8 host.
//
// Devices: HostPciPassthruSystem.UpdatePassthruConfig, HostGraphicsManager, EnvironmentBrowser.QueryConfigTarget with devices for passthrough, vGPU profiles and SR-IOV.
// A fixed or dynamic passthrough device and a vGPU are taken from the host at power-on: GenericVmConfigFault without all memory reserved, ResourceInUse,
// InsufficientGraphicsResourcesFault (kinds: believed). One GPU holds vGPUs of one type (NVIDIA documentation, equal-size mode).
//
// Clusters: RefreshRecommendation, RecommendHostsForVm, ApplyRecommendation and PlaceVm; how DRS weighs hosts is not documented, this one compares the memory of
// running machines. HA keeps its settings and overrides, reports which machines it protects, and refuses a power-on without room for the failures that
// it must tolerate (InsufficientFailoverResourcesFault); no host fails. Licences: the edition determines HA, DRS, SR-IOV, vGPU and storage vMotion, with RestrictedVersion (believed) or InvalidState.
//
// Guests: the managers of guest operations work with a guest that [Guest] describes; InvalidGuestLogin, GuestOperationsUnavailable.
//
// Stand-alone host ([ESXi]): CloneVM_Task, InstantClone_Task, RelocateVM_Task, MigrateVM_Task, MarkAsTemplate and CustomizeVM_Task are NotSupported.
//
// Versions: [Config.Version] is one of 6.5 to 8.0. A property path that it lacks, or that no version has, is InvalidProperty, a method MethodNotFound, an
// element of a call InvalidRequest. Whole objects are not thinned out, and maximums are those of vSphere 8 on all.
//
// Datastores: those of two datacenters may have one name, and have files of their own; Rename_Task and RenameDatastore change the paths of all files on them
// (DuplicateName, InvalidName). A requested instance UUID is assigned unless a machine has it.
//
// # What is not corrected
//
// MoveVirtualDisk_Task, CopyDatastoreFile_Task and MoveDatastoreFile_Task carry files without what [Sim.WriteDisk] wrote to them. ExportVm, QueryChangedDiskAreas, AnswerVM, PutUsbScanCodes, fault tolerance, vApps, and the events and task history of the ESXi model are as in govmomi's simulator.
package vspheresim
