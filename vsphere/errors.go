package vsphere

import (
	"context"
	"errors"
	"reflect"

	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// faultOf returns the vSphere fault inside an error, or nil.
func faultOf(err error) types.BaseMethodFault {
	var f interface {
		error
		Fault() types.BaseMethodFault
	}
	if errors.As(err, &f) {
		return f.Fault()
	}
	return nil
}

// taskFailure returns the error of a task, with a text even where the server
// sends none.
func taskFailure(f *types.LocalizedMethodFault) error {
	if f == nil {
		return errors.New("the task failed and the server does not report the reason")
	}
	out := *f
	if out.LocalizedMessage == "" {
		out.LocalizedMessage = faultName(f.Fault)
	}
	return task.Error{LocalizedMethodFault: &out}
}

func faultName(f types.BaseMethodFault) string {
	if f == nil {
		return "unknown fault"
	}
	t := reflect.TypeOf(f)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Name()
}

func kindOf(err error) hypervisor.Kind {
	if k := hypervisor.KindOf(err); k != hypervisor.ErrUnknown {
		return k
	}
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return hypervisor.ErrUnknown
	}
	if f := faultOf(err); f != nil {
		return kindOfFault(f)
	}
	if soap.IsSoapFault(err) {
		return hypervisor.ErrUnknown
	}
	return kindOf(transportError(err))
}

// kindOfFault maps the faults of the Web Services API (vSphere API reference,
// "Faults") to classes. Families come after their members that differ.
func kindOfFault(f types.BaseMethodFault) hypervisor.Kind {
	switch f.(type) {
	case *types.ManagedObjectNotFound, *types.NotFound, *types.FileNotFound, *types.UserNotFound:
		return hypervisor.ErrNotFound
	case *types.DuplicateName, *types.AlreadyExists, *types.FileAlreadyExists, *types.VmAlreadyExistsInDatacenter:
		return hypervisor.ErrExists
	case *types.NotAuthenticated, *types.InvalidLogin, *types.NoClientCertificate, *types.PasswordExpired:
		return hypervisor.ErrUnauthenticated
	case *types.RestrictedVersion, *types.RestrictedByAdministrator:
		return hypervisor.ErrLicense
	case types.BaseNotEnoughLicenses, *types.InvalidLicense, *types.LicenseRestricted, *types.LicenseExpired:
		return hypervisor.ErrLicense
	case types.BaseNoPermission:
		return hypervisor.ErrPermission
	case *types.TaskInProgress, *types.VAppTaskInProgress, *types.ResourceInUse, *types.FileLocked, *types.ConcurrentAccess,
		*types.ToolsInstallationInProgress, *types.SnapshotLocked, *types.AdminDisabled, *types.MethodDisabled:
		return hypervisor.ErrBusy
	case *types.RequestCanceled:
		return hypervisor.ErrCanceled
	case *types.Timedout:
		return hypervisor.ErrTimeout
	case types.BaseInsufficientResourcesFault, *types.NoDiskSpace, *types.InsufficientStorageSpace, types.BaseNotEnoughCpus,
		*types.TooManyDevices, *types.TooManySnapshotLevels, *types.DiskHasPartitions, *types.MemorySizeNotSupported, *types.MemorySizeNotSupportedByDatastore,
		*types.TooManyDisksOnLegacyHost, *types.StorageVmotionIncompatible:
		return hypervisor.ErrExhausted
	case *types.ToolsUnavailable, *types.CpuHotPlugNotSupported, *types.MemoryHotPlugNotSupported, *types.HotSnapshotMoveNotSupported,
		*types.MemorySnapshotOnIndependentDisk, *types.QuiesceDatastoreIOForHAFailed, *types.SnapshotNoChange:
		return hypervisor.ErrUnsupported
	case *types.SnapshotCopyNotSupported, types.BaseMigrationFault, types.BaseCannotAccessVmComponent, types.BaseVirtualHardwareCompatibilityIssue, *types.InvalidHostState:
		return hypervisor.ErrIncompatible
	case *types.InvalidName, *types.InvalidDatastorePath, types.BaseInvalidArgument, *types.InvalidRequest, *types.InvalidType,
		*types.FileTooLarge, types.BaseInvalidDeviceSpec, *types.CannotAddHostWithFTVmAsStandalone, *types.FileNameTooLong:
		return hypervisor.ErrInvalidArgument
	case types.BaseInvalidState:
		return hypervisor.ErrInvalidState
	case types.BaseHostCommunication, *types.HostCommunication:
		return hypervisor.ErrUnavailable
	case types.BaseNotSupported, *types.NotImplemented, *types.MethodNotFound, *types.InvalidVmConfig:
		return hypervisor.ErrUnsupported
	case types.BaseVmConfigFault, types.BaseFileFault, types.BaseSnapshotFault:
		return hypervisor.ErrInvalidState
	}
	return hypervisor.ErrUnknown
}

func isNotFound(err error) bool { return kindOf(err) == hypervisor.ErrNotFound }

// invalidArgument refuses what the platform can't accept, before anything is
// touched.
func invalidArgument(on hypervisor.Ref, format string, args ...any) error {
	e := hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, format, args...)
	e.Unsent = true
	return e
}

func invalidState(on hypervisor.Ref, format string, args ...any) error {
	e := hypervisor.Errorf(hypervisor.ErrInvalidState, on, format, args...)
	e.Unsent = true
	return e
}

func notFound(on hypervisor.Ref) error {
	return hypervisor.Errorf(hypervisor.ErrNotFound, on, "no such %s", on.Kind)
}
