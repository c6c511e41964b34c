package hypervisor

import (
	"fmt"
	"path"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// Operation describes one operation of this package. It is a row of the table
// from which everything with operation names is derived.
type Operation struct {
	Name op.Name
	// Method is the exported method that performs it: "VM.Clone". It is empty
	// for a step of other operations.
	Method string
	// Capabilities are those that a call may need. The first one is that of a
	// call without options. Empty for what every driver supports.
	Capabilities []capability.Name
	// Request is the zero value of the options, specification or request that
	// the caller gives, or nil if there is none.
	Request any
	// Result is the zero value of what the operation reads or makes, or nil
	// if it returns nothing but an error.
	Result any
	// Task is true for work that returns a Task.
	Task bool
}

var (
	clones = []capability.Name{capability.CloneFull, capability.CloneLinked, capability.CloneInstant, capability.CloneRunning, capability.CloneFromSnapshot, capability.CloneCustomize}
	moves  = []capability.Name{capability.MigrateLive, capability.MigrateCold, capability.MigrateStorage, capability.MigrateLiveStorage, capability.MigrateBoth,
		capability.MigrateCross, capability.MigratePostCopy, capability.MigrateTuning}
)

func need(k ...capability.Name) []capability.Name { return k }

var operations = []Operation{
	{Name: op.ClientOpen, Method: "Open", Request: Options{}},
	{Name: op.ClientClose, Method: "Client.Close"},
	{Name: op.ClientSupports, Method: "Client.Supports", Result: Support{}},
	{Name: op.ClientWatch, Method: "Client.Watch", Capabilities: need(capability.WatchEvents, capability.WatchResume), Result: Event{}},
	{Name: op.ClientPlace, Method: "Client.Place", Capabilities: need(capability.HostList, capability.PlacementNative), Request: PlaceRequest{}, Result: Recommendation{}},
	{Name: op.ClientBalance, Method: "Client.PlanBalance", Capabilities: need(capability.MigrateLive, capability.PlacementNative), Request: BalanceOptions{}, Result: Move{}},
	{Name: op.ClientAs, Method: "As"},
	{Name: op.TaskFind, Method: "Client.Task", Capabilities: need(capability.TaskResume), Result: TaskState{}},
	{Name: op.TaskCancel, Method: "Task.Cancel", Capabilities: need(capability.TaskCancel)},

	{Name: op.VMList, Method: "Client.VMs", Request: ListOptions{}, Result: VMInfo{}},
	{Name: op.VMFind, Method: "Client.FindVM"},
	{Name: op.VMInfo, Method: "VM.Info", Result: VMInfo{}},
	{Name: op.VMCreate, Method: "Client.CreateVM", Capabilities: need(capability.VMCreate, capability.BootDirect, capability.Labels, capability.MemoryDynamic), Request: VMSpec{}, Task: true},
	{Name: op.VMDelete, Method: "VM.Delete", Capabilities: need(capability.VMDelete), Request: DeleteOptions{}, Task: true},
	{Name: op.VMClone, Method: "VM.Clone", Capabilities: clones, Request: CloneOptions{}, Task: true},
	{Name: op.VMReconfigure, Method: "VM.Reconfigure", Capabilities: need(capability.Reconfigure, capability.CPUHotAdd, capability.MemoryHotAdd, capability.MemoryDynamic), Request: Changes{}, Task: true},
	{Name: op.VMSetLabels, Method: "VM.SetLabels", Capabilities: need(capability.Labels)},
	{Name: op.VMDependencies, Method: "VM.Dependencies", Capabilities: need(capability.CloneLinked), Result: Dependencies{}},
	{Name: op.VMStart, Method: "VM.Start", Capabilities: need(capability.VMStart), Task: true},
	{Name: op.VMShutdown, Method: "VM.Shutdown", Capabilities: need(capability.PowerShutdown), Request: ShutdownOptions{}, Task: true},
	{Name: op.VMPowerOff, Method: "VM.PowerOff", Capabilities: need(capability.VMStart), Task: true},
	{Name: op.VMReset, Method: "VM.Reset", Capabilities: need(capability.PowerReset), Task: true},
	{Name: op.VMReboot, Method: "VM.Reboot", Capabilities: need(capability.PowerShutdown), Request: ShutdownOptions{}, Task: true},
	{Name: op.VMPause, Method: "VM.Pause", Capabilities: need(capability.PowerPause), Task: true},
	{Name: op.VMSuspend, Method: "VM.Suspend", Capabilities: need(capability.PowerSuspend), Task: true},
	{Name: op.VMResume, Method: "VM.Resume", Capabilities: need(capability.VMStart), Task: true},
	{Name: op.VMCheckMigrate, Method: "VM.CheckMigrate", Capabilities: moves, Request: MigrateOptions{}, Result: MigrateReport{}},
	{Name: op.VMMigrate, Method: "VM.Migrate", Capabilities: moves, Request: MigrateOptions{}, Result: MigrateResult{}, Task: true},
	{Name: op.VMMarkTemplate, Method: "VM.MarkTemplate", Capabilities: need(capability.Templates), Task: true},
	{Name: op.VMAvailability, Method: "VM.Availability", Capabilities: need(capability.HighAvailability), Result: Availability{}},
	{Name: op.VMSetRestartPriority, Method: "VM.SetRestartPriority", Capabilities: need(capability.HighAvailability), Task: true},
	{Name: op.VMReplication, Method: "VM.Replication", Capabilities: need(capability.ReplicationRead), Result: ReplicationInfo{}},

	{Name: op.DiskAttach, Method: "VM.AttachDisk", Capabilities: need(capability.DiskAttach, capability.DiskHotplug), Request: DiskSpec{}, Result: DiskInfo{}, Task: true},
	{Name: op.DiskDetach, Method: "VM.DetachDisk", Capabilities: need(capability.DiskAttach, capability.DiskHotplug), Task: true},
	{Name: op.DiskGrow, Method: "VM.GrowDisk", Capabilities: need(capability.DiskGrow, capability.DiskGrowLive), Task: true},
	{Name: op.NICAttach, Method: "VM.AttachNIC", Capabilities: need(capability.NICAttach, capability.NICHotplug), Request: NICSpec{}, Result: NICInfo{}, Task: true},
	{Name: op.NICDetach, Method: "VM.DetachNIC", Capabilities: need(capability.NICAttach, capability.NICHotplug), Task: true},
	{Name: op.SnapshotList, Method: "VM.Snapshots", Capabilities: need(capability.SnapshotDisk), Result: SnapshotInfo{}},
	{Name: op.SnapshotFind, Method: "VM.FindSnapshot", Capabilities: need(capability.SnapshotDisk)},
	{Name: op.SnapshotInfo, Method: "Snapshot.Info", Capabilities: need(capability.SnapshotDisk), Result: SnapshotInfo{}},
	{Name: op.SnapshotCreate, Method: "VM.CreateSnapshot", Capabilities: need(capability.SnapshotDisk, capability.SnapshotMemory, capability.SnapshotQuiesce), Request: SnapshotOptions{}, Task: true},
	{Name: op.SnapshotRevert, Method: "Snapshot.Revert", Capabilities: need(capability.SnapshotDisk), Request: RevertOptions{}, Task: true},
	{Name: op.SnapshotDelete, Method: "Snapshot.Delete", Capabilities: need(capability.SnapshotDisk), Request: DeleteSnapshotOptions{}, Task: true},
	{Name: op.GuestInfo, Method: "VM.Guest", Capabilities: need(capability.GuestFacts), Result: GuestInfo{}},
	{Name: op.GuestExec, Method: "VM.Exec", Capabilities: need(capability.GuestExec), Request: ExecRequest{}, Result: ExecResult{}},
	{Name: op.GuestClock, Method: "VM.Clock", Capabilities: need(capability.GuestClock), Result: ClockReading{}},
	{Name: op.GuestSetClock, Method: "VM.SetClock", Capabilities: need(capability.GuestClock)},
	{Name: op.GuestFreeze, Method: "VM.Freeze", Capabilities: need(capability.GuestFreeze)},
	{Name: op.GuestThaw, Method: "VM.Thaw", Capabilities: need(capability.GuestFreeze)},

	{Name: op.TemplateList, Method: "Client.Templates", Result: TemplateInfo{}},
	{Name: op.TemplateFind, Method: "Client.FindTemplate"},
	{Name: op.TemplateInfo, Method: "Template.Info", Result: TemplateInfo{}},
	{Name: op.TemplateDeploy, Method: "Template.Deploy", Capabilities: clones, Request: CloneOptions{}, Task: true},
	{Name: op.TemplateDelete, Method: "Template.Delete", Capabilities: need(capability.VMDelete), Task: true},
	{Name: op.TemplateMarkVM, Method: "Template.MarkVM", Capabilities: need(capability.Templates), Request: Placement{}, Task: true},
	{Name: op.TemplateSetLabels, Method: "Template.SetLabels", Capabilities: need(capability.Labels)},

	{Name: op.HostList, Method: "Client.Hosts", Capabilities: need(capability.HostList), Result: HostInfo{}},
	{Name: op.HostFind, Method: "Client.FindHost", Capabilities: need(capability.HostList)},
	{Name: op.HostInfo, Method: "Host.Info", Capabilities: need(capability.HostList), Result: HostInfo{}},
	{Name: op.HostEvacuate, Method: "Host.Evacuate", Capabilities: need(capability.MigrateLive), Request: EvacuateOptions{}, Result: EvacuateResult{}, Task: true},
	{Name: op.HostEnterMaintenance, Method: "Host.EnterMaintenance", Capabilities: need(capability.HostMaintenance), Request: MaintenanceOptions{}, Task: true},
	{Name: op.HostExitMaintenance, Method: "Host.ExitMaintenance", Capabilities: need(capability.HostMaintenance), Task: true},
	{Name: op.HAList, Method: "Client.HA", Capabilities: need(capability.HighAvailability), Result: HAInfo{}},
	{Name: op.DeviceList, Method: "Client.Devices", Capabilities: need(capability.DevicePCI), Request: DeviceFilter{}, Result: DeviceInfo{}},
	{Name: op.DeviceAttach, Method: "VM.AttachDevice", Capabilities: need(capability.DevicePCI, capability.DeviceVF, capability.DeviceVGPU, capability.DeviceHotplug), Request: DeviceRequest{}, Result: AttachedDevice{}, Task: true},
	{Name: op.DeviceDetach, Method: "VM.DetachDevice", Capabilities: need(capability.DevicePCI, capability.DeviceHotplug), Task: true},
	{Name: op.DevicePrepare, Method: "Client.PrepareDevice", Capabilities: need(capability.DevicePrepare), Request: DevicePreparation{}, Task: true},
	{Name: op.DatastoreList, Method: "Client.Datastores", Capabilities: need(capability.DatastoreList), Result: DatastoreInfo{}},
	{Name: op.NetworkList, Method: "Client.Networks", Capabilities: need(capability.NetworkList), Result: NetworkInfo{}},
	{Name: op.VolumeList, Method: "Client.Volumes", Capabilities: need(capability.VolumeManage), Result: VolumeInfo{}},
	{Name: op.VolumeCreate, Method: "Client.CreateVolume", Capabilities: need(capability.VolumeManage), Request: VolumeSpec{}, Task: true},
	{Name: op.VolumeDelete, Method: "Client.DeleteVolume", Capabilities: need(capability.VolumeManage), Task: true},

	{Name: op.ClientLogin},
	{Name: op.ClientNextEvent},
}

// Operations returns every operation of this package, in the order of the
// tables in the documentation.
func Operations() []Operation { return slices.Clone(operations) }

// MatchOperations returns the names that a pattern of package path matches:
// "vm.clone", "vm.*", "*". A pattern that matches no operation is
// ErrInvalidArgument, so that a misspelt name is noticed where it is given.
func MatchOperations(pattern op.Name) ([]op.Name, error) {
	var out []op.Name
	for _, o := range operations {
		ok, err := path.Match(string(pattern), string(o.Name))
		if err != nil {
			return nil, &Error{Kind: ErrInvalidArgument, Unsent: true, Err: fmt.Errorf("operation %q: %w", pattern, err)}
		}
		if ok {
			out = append(out, o.Name)
		}
	}
	if len(out) == 0 {
		return nil, &Error{Kind: ErrInvalidArgument, Unsent: true,
			Err: fmt.Errorf("no operation is named %q: package hypervisor/op lists the names, such as %q", pattern, op.VMMigrate)}
	}
	return out, nil
}
