package xen

import (
	"errors"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/guard"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// codeKinds maps XAPI's error codes (xen-api's
// ocaml/xapi-consts/api_errors.ml) to classes. kindOfCode classifies other
// codes by their endings.
var codeKinds = map[string]hypervisor.Kind{
	"HANDLE_INVALID": hypervisor.ErrNotFound, "UUID_INVALID": hypervisor.ErrNotFound, "VDI_MISSING": hypervisor.ErrNotFound,

	"VM_BAD_POWER_STATE": hypervisor.ErrInvalidState, "VM_IS_TEMPLATE": hypervisor.ErrInvalidState, "VM_IS_SNAPSHOT": hypervisor.ErrInvalidState,
	"REVERT_ONLY_ALLOWED_ON_SNAPSHOT": hypervisor.ErrInvalidState, "VM_NO_SUSPEND_SR": hypervisor.ErrInvalidState, "SR_NO_PBDS": hypervisor.ErrInvalidState, "SR_HAS_NO_PBDS": hypervisor.ErrInvalidState,
	"VBD_IS_EMPTY": hypervisor.ErrInvalidState, "VBD_NOT_UNPLUGGABLE": hypervisor.ErrInvalidState, "HA_NOT_ENABLED": hypervisor.ErrInvalidState,
	"HA_IS_ENABLED": hypervisor.ErrInvalidState, "VM_IS_PROTECTED": hypervisor.ErrInvalidState, "HOST_EVACUATE_VM_NOT_HA_PROTECTED": hypervisor.ErrInvalidState,
	"HOST_NOT_DISABLED": hypervisor.ErrInvalidState, "HOST_DISABLED": hypervisor.ErrInvalidState, "VM_NOT_RESIDENT_HERE": hypervisor.ErrInvalidState,
	"OPERATION_NOT_ALLOWED": hypervisor.ErrInvalidState, "DEVICE_ALREADY_ATTACHED": hypervisor.ErrInvalidState, "DEVICE_ALREADY_DETACHED": hypervisor.ErrInvalidState,
	"ONLY_ALLOWED_ON_OEM_EDITION": hypervisor.ErrLicense, "ONLY_PROVISION_TEMPLATE": hypervisor.ErrInvalidState, "ONLY_REVERT_SNAPSHOT": hypervisor.ErrInvalidState,
	"PROVISION_ONLY_ALLOWED_ON_TEMPLATE": hypervisor.ErrInvalidState, "OPERATION_BLOCKED": hypervisor.ErrInvalidState,
	"VM_HAS_PCI_ATTACHED": hypervisor.ErrIncompatible, "VM_HAS_VGPU": hypervisor.ErrIncompatible, "VM_IS_IMMOBILE": hypervisor.ErrIncompatible,
	"VM_HAS_SRIOV_VIF": hypervisor.ErrIncompatible, "VM_HAS_VUSBS": hypervisor.ErrIncompatible,

	"OTHER_OPERATION_IN_PROGRESS": hypervisor.ErrBusy, "VDI_IN_USE": hypervisor.ErrBusy, "SR_IN_USE": hypervisor.ErrBusy, "TOO_BUSY": hypervisor.ErrBusy,
	"PGPU_IN_USE_BY_VM": hypervisor.ErrBusy, "TOO_MANY_PENDING_TASKS": hypervisor.ErrBusy, "TOO_MANY_STORAGE_MIGRATES": hypervisor.ErrBusy, "HOST_IN_USE": hypervisor.ErrBusy,
	"DUPLICATE_VM": hypervisor.ErrExists, "DEVICE_ALREADY_EXISTS": hypervisor.ErrExists, "MAP_DUPLICATE_KEY": hypervisor.ErrExists,
	"UNIQUENESS_CONSTRAINT_VIOLATION": hypervisor.ErrExists, "MAC_STILL_EXISTS": hypervisor.ErrExists,

	"LICENCE_RESTRICTION": hypervisor.ErrLicense, "FEATURE_RESTRICTED": hypervisor.ErrLicense, "LICENSE_EXPIRED": hypervisor.ErrLicense,
	"SESSION_AUTHENTICATION_FAILED": hypervisor.ErrUnauthenticated, "SESSION_INVALID": hypervisor.ErrUnauthenticated, "SESSION_NOT_REGISTERED": hypervisor.ErrUnauthenticated,
	"RBAC_PERMISSION_DENIED": hypervisor.ErrPermission, "PERMISSION_DENIED": hypervisor.ErrPermission, "USER_IS_NOT_LOCAL_SUPERUSER": hypervisor.ErrPermission,

	"HOST_NOT_ENOUGH_FREE_MEMORY": hypervisor.ErrExhausted, "NO_HOSTS_AVAILABLE": hypervisor.ErrExhausted, "SR_FULL": hypervisor.ErrExhausted, "SR_BACKEND_FAILURE_44": hypervisor.ErrExhausted, // SM's SRNoSpace

	"VM_PCI_BUS_FULL": hypervisor.ErrExhausted, "VM_REQUIRES_VGPU": hypervisor.ErrExhausted, "VM_REQUIRES_GPU": hypervisor.ErrExhausted,
	"PGPU_INSUFFICIENT_CAPACITY_FOR_VGPU": hypervisor.ErrExhausted, "HOST_NOT_ENOUGH_PCPUS": hypervisor.ErrExhausted, "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN": hypervisor.ErrExhausted,
	"VGPU_TYPE_NOT_COMPATIBLE_WITH_RUNNING_TYPE": hypervisor.ErrExhausted, "SNAPSHOT_CHAIN_TOO_LONG": hypervisor.ErrExhausted, "NETWORK_SRIOV_INSUFFICIENT_CAPACITY": hypervisor.ErrExhausted, "DISK_VBD_TOO_MANY": hypervisor.ErrExhausted,

	"VALUE_NOT_SUPPORTED": hypervisor.ErrInvalidArgument, "INVALID_VALUE": hypervisor.ErrInvalidArgument, "FIELD_TYPE_ERROR": hypervisor.ErrInvalidArgument,
	"MEMORY_CONSTRAINT_VIOLATION": hypervisor.ErrInvalidArgument, "MEMORY_CONSTRAINT_VIOLATION_ORDER": hypervisor.ErrInvalidArgument,
	"MEMORY_CONSTRAINT_VIOLATION_MAXPIN": hypervisor.ErrInvalidArgument, "VBD_CDS_MUST_BE_READONLY": hypervisor.ErrInvalidArgument,
	"SR_BACKEND_FAILURE_79": hypervisor.ErrInvalidArgument, // SM's VDISize
	"MAC_INVALID":           hypervisor.ErrInvalidArgument, "VDI_TOO_SMALL": hypervisor.ErrInvalidArgument, "INVALID_DEVICE": hypervisor.ErrInvalidArgument, "VDI_COPY_FAILED": hypervisor.ErrUnknown,
	"VM_MISSING_PV_DRIVERS": hypervisor.ErrUnsupported, "VDI_IS_A_PHYSICAL_DEVICE": hypervisor.ErrUnsupported,
	"BOOT_DEVICE_PASSTHROUGH_DISALLOWED": hypervisor.ErrUnsupported, "WLB_NOT_INITIALIZED": hypervisor.ErrUnsupported, "WLB_DISABLED": hypervisor.ErrUnsupported,
	"NOT_SUPPORTED_DURING_UPGRADE": hypervisor.ErrUnsupported, "SR_OPERATION_NOT_SUPPORTED": hypervisor.ErrUnsupported, "VM_LACKS_FEATURE": hypervisor.ErrUnsupported,
	"VM_NON_SUSPENDABLE": hypervisor.ErrUnsupported, "VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED": hypervisor.ErrUnsupported, "VM_HVM_REQUIRED": hypervisor.ErrUnsupported,

	"CANNOT_EVACUATE_HOST": hypervisor.ErrIncompatible, "HOST_CANNOT_ATTACH_NETWORK": hypervisor.ErrIncompatible, "INTERFACE_HAS_NO_IP": hypervisor.ErrIncompatible,
	"PIF_HAS_NO_NETWORK_CONFIGURATION":      hypervisor.ErrIncompatible,
	"HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED": hypervisor.ErrIncompatible, "HA_CONSTRAINT_VIOLATION_NETWORK_NOT_SHARED": hypervisor.ErrIncompatible,
	"FEATURE_REQUIRES_HVM": hypervisor.ErrIncompatible, "VDI_IS_SHARABLE": hypervisor.ErrIncompatible, "VM_IS_USING_NESTED_VIRT": hypervisor.ErrIncompatible,
	"VGPU_TYPE_NOT_SUPPORTED": hypervisor.ErrIncompatible, "VGPU_TYPE_NOT_ENABLED": hypervisor.ErrIncompatible,
	"VM_HOST_INCOMPATIBLE_VERSION": hypervisor.ErrIncompatible, "VM_HOST_INCOMPATIBLE_VERSION_MIGRATE": hypervisor.ErrIncompatible,
	"VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION": hypervisor.ErrIncompatible, "VM_INCOMPATIBLE_WITH_THIS_HOST": hypervisor.ErrIncompatible,
	"VM_REQUIRES_SR": hypervisor.ErrIncompatible, "VM_REQUIRES_NETWORK": hypervisor.ErrIncompatible, "VM_REQUIRES_IOMMU": hypervisor.ErrIncompatible,
	"SR_DOES_NOT_SUPPORT_MIGRATION": hypervisor.ErrIncompatible, "VDI_NOT_IN_MAP": hypervisor.ErrIncompatible, "VIF_NOT_IN_MAP": hypervisor.ErrIncompatible,
	"VDI_CBT_ENABLED": hypervisor.ErrIncompatible, "VDI_IS_ENCRYPTED": hypervisor.ErrIncompatible, "VDI_INCOMPATIBLE_TYPE": hypervisor.ErrIncompatible,
	"VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION": hypervisor.ErrIncompatible, "VGPU_TYPE_NOT_COMPATIBLE": hypervisor.ErrIncompatible,
	"VGPU_DESTINATION_INCOMPATIBLE": hypervisor.ErrIncompatible, "SUSPEND_IMAGE_NOT_ACCESSIBLE": hypervisor.ErrIncompatible,

	"VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT": hypervisor.ErrTimeout,
	"TASK_CANCELLED":                    hypervisor.ErrCanceled, "TASK_CANCELED": hypervisor.ErrCanceled,
	"HOST_OFFLINE": hypervisor.ErrUnavailable, "HOST_IS_SLAVE": hypervisor.ErrUnavailable, "HOST_STILL_BOOTING": hypervisor.ErrUnavailable,
	"WLB_CONNECTION_REFUSED": hypervisor.ErrUnavailable, "WLB_CONNECTION_RESET": hypervisor.ErrUnavailable, "WLB_TIMEOUT": hypervisor.ErrUnavailable,
	"CANNOT_CONTACT_HOST": hypervisor.ErrUnavailable, "HOST_NOT_LIVE": hypervisor.ErrUnavailable, "HOST_HAS_NO_MANAGEMENT_IP": hypervisor.ErrUnavailable,
}

// ErrorKind classifies API errors and broken connections.
func (d *driver) ErrorKind(err error) hypervisor.Kind { return kindOf(err) }

func kindOf(err error) hypervisor.Kind {
	var e *xapi.Error
	var t *xapi.TransportError
	var over *guard.LimitError
	switch {
	case errors.As(err, &over):
		return hypervisor.ErrExhausted
	case errors.As(err, &e) && e.TooOld() != "":
		return hypervisor.ErrUnsupported
	case errors.As(err, &e) && e.Code == "SR_BACKEND_FAILURE" && len(e.Params) > 0 && e.Params[0] == "Disk too small":
		return hypervisor.ErrInvalidArgument
	case errors.As(err, &e):
		return kindOfCode(e.Code)
	case errors.As(err, &t):
		return hypervisor.ErrUnavailable
	case errors.Is(err, hypervisor.ErrClosed):
		return hypervisor.ErrClosed
	}
	return hypervisor.ErrUnknown
}

func kindOfCode(code string) hypervisor.Kind {
	if k, ok := codeKinds[code]; ok {
		return k
	}
	switch {
	case strings.HasSuffix(code, "_NOT_FOUND"):
		return hypervisor.ErrNotFound
	case strings.HasSuffix(code, "_ALREADY_EXISTS"):
		return hypervisor.ErrExists
	case strings.HasSuffix(code, "_IN_PROGRESS"), strings.HasSuffix(code, "_IN_USE"):
		return hypervisor.ErrBusy
	case strings.HasSuffix(code, "_INVALID"):
		return hypervisor.ErrInvalidArgument
	}
	return hypervisor.ErrUnknown
}

// native turns an API error into an *Error that names a remedy. Where
// Supports would have denied the call, the reason is the same.
func native(object hypervisor.Ref, k capability.Name, err error) error {
	if hypervisor.KindOf(err) != hypervisor.ErrUnknown {
		return err // it has the remedy already
	}
	switch xapi.Code(err) {
	case "VM_LACKS_FEATURE", "VM_NON_SUSPENDABLE", "VM_MISSING_PV_DRIVERS":
		u := hypervisor.Unsupported(object, k, hypervisor.ReasonToolsMissing, toolsDetail)
		return &hypervisor.Error{Kind: u.Kind, Object: object, Unsent: true, Err: errors.Join(u.Err, err)}
	case "LICENCE_RESTRICTION", "FEATURE_RESTRICTED":
		u := hypervisor.Unsupported(object, k, hypervisor.ReasonEdition, "the pool's licence forbids it")
		return &hypervisor.Error{Kind: u.Kind, Object: object, Unsent: true, Err: errors.Join(u.Err, err)}
	}
	var e *xapi.Error
	if errors.As(err, &e) && e.TooOld() != "" {
		u := hypervisor.Unsupported(object, k, hypervisor.ReasonAPIVersion, e.TooOld())
		return &hypervisor.Error{Kind: u.Kind, Object: object, Err: errors.Join(u.Err, err)}
	}
	var t *xapi.TransportError
	if errors.As(err, &t) && t.Unsent {
		return &hypervisor.Error{Kind: hypervisor.ErrUnavailable, Object: object, Unsent: true, Err: err}
	}
	return err
}

const toolsDetail = "the guest has no XenServer VM Tools running; install them, or wait until they have started"

func notFound(r hypervisor.Ref, what string) error {
	return hypervisor.Errorf(hypervisor.ErrNotFound, r, "no such %s in this pool", what)
}
