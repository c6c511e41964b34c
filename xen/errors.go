package xen

import (
	"errors"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// codeKinds puts XAPI's error codes (xen-api's
// ocaml/xapi-consts/api_errors.ml) into classes. Codes that are not here are
// classed by their endings in kindOfCode.
var codeKinds = map[string]hypervisor.Kind{
	"HANDLE_INVALID": hypervisor.KindNotFound, "UUID_INVALID": hypervisor.KindNotFound, "VDI_MISSING": hypervisor.KindNotFound,

	"VM_BAD_POWER_STATE": hypervisor.KindInvalidState, "VM_IS_TEMPLATE": hypervisor.KindInvalidState, "VM_IS_SNAPSHOT": hypervisor.KindInvalidState,
	"REVERT_ONLY_ALLOWED_ON_SNAPSHOT": hypervisor.KindInvalidState, "VM_NO_SUSPEND_SR": hypervisor.KindInvalidState, "SR_NO_PBDS": hypervisor.KindInvalidState,
	"VBD_IS_EMPTY": hypervisor.KindInvalidState, "VBD_NOT_UNPLUGGABLE": hypervisor.KindInvalidState, "HA_NOT_ENABLED": hypervisor.KindInvalidState,
	"HA_IS_ENABLED": hypervisor.KindInvalidState, "VM_IS_PROTECTED": hypervisor.KindInvalidState, "HOST_EVACUATE_VM_NOT_HA_PROTECTED": hypervisor.KindInvalidState,
	"HOST_NOT_DISABLED": hypervisor.KindInvalidState, "HOST_DISABLED": hypervisor.KindInvalidState, "VM_NOT_RESIDENT_HERE": hypervisor.KindInvalidState,
	"OPERATION_NOT_ALLOWED": hypervisor.KindInvalidState, "DEVICE_ALREADY_ATTACHED": hypervisor.KindInvalidState, "DEVICE_ALREADY_DETACHED": hypervisor.KindInvalidState,
	"ONLY_ALLOWED_ON_OEM_EDITION": hypervisor.KindLicense, "ONLY_PROVISION_TEMPLATE": hypervisor.KindInvalidState, "ONLY_REVERT_SNAPSHOT": hypervisor.KindInvalidState,
	"PROVISION_ONLY_ALLOWED_ON_TEMPLATE": hypervisor.KindInvalidState, "OPERATION_BLOCKED": hypervisor.KindInvalidState,
	"VM_HAS_PCI_ATTACHED": hypervisor.KindIncompatible, "VM_HAS_VGPU": hypervisor.KindIncompatible, "VM_IS_IMMOBILE": hypervisor.KindIncompatible,
	"VM_HAS_SRIOV_VIF": hypervisor.KindIncompatible, "VM_HAS_VUSBS": hypervisor.KindIncompatible,

	"OTHER_OPERATION_IN_PROGRESS": hypervisor.KindBusy, "VDI_IN_USE": hypervisor.KindBusy, "SR_IN_USE": hypervisor.KindBusy, "TOO_BUSY": hypervisor.KindBusy,
	"PGPU_IN_USE_BY_VM": hypervisor.KindBusy, "TOO_MANY_PENDING_TASKS": hypervisor.KindBusy, "TOO_MANY_STORAGE_MIGRATES": hypervisor.KindBusy, "HOST_IN_USE": hypervisor.KindBusy,
	"DUPLICATE_VM": hypervisor.KindExists, "DEVICE_ALREADY_EXISTS": hypervisor.KindExists, "MAP_DUPLICATE_KEY": hypervisor.KindExists,
	"UNIQUENESS_CONSTRAINT_VIOLATION": hypervisor.KindExists, "MAC_STILL_EXISTS": hypervisor.KindExists,

	"LICENCE_RESTRICTION": hypervisor.KindLicense, "FEATURE_RESTRICTED": hypervisor.KindLicense, "LICENSE_EXPIRED": hypervisor.KindLicense,
	"SESSION_AUTHENTICATION_FAILED": hypervisor.KindUnauthenticated, "SESSION_INVALID": hypervisor.KindUnauthenticated, "SESSION_NOT_REGISTERED": hypervisor.KindUnauthenticated,
	"RBAC_PERMISSION_DENIED": hypervisor.KindPermission, "PERMISSION_DENIED": hypervisor.KindPermission, "USER_IS_NOT_LOCAL_SUPERUSER": hypervisor.KindPermission,

	"HOST_NOT_ENOUGH_FREE_MEMORY": hypervisor.KindExhausted, "NO_HOSTS_AVAILABLE": hypervisor.KindExhausted, "SR_FULL": hypervisor.KindExhausted, "SR_BACKEND_FAILURE_44": hypervisor.KindExhausted, // SM's SRNoSpace

	"VM_PCI_BUS_FULL": hypervisor.KindExhausted, "VM_REQUIRES_VGPU": hypervisor.KindExhausted, "VM_REQUIRES_GPU": hypervisor.KindExhausted,
	"PGPU_INSUFFICIENT_CAPACITY_FOR_VGPU": hypervisor.KindExhausted, "HOST_NOT_ENOUGH_PCPUS": hypervisor.KindExhausted, "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN": hypervisor.KindExhausted,
	"VGPU_TYPE_NOT_COMPATIBLE_WITH_RUNNING_TYPE": hypervisor.KindExhausted, "SNAPSHOT_CHAIN_TOO_LONG": hypervisor.KindExhausted, "NETWORK_SRIOV_INSUFFICIENT_CAPACITY": hypervisor.KindExhausted, "DISK_VBD_TOO_MANY": hypervisor.KindExhausted,

	"VALUE_NOT_SUPPORTED": hypervisor.KindInvalidArgument, "INVALID_VALUE": hypervisor.KindInvalidArgument, "FIELD_TYPE_ERROR": hypervisor.KindInvalidArgument,
	"MEMORY_CONSTRAINT_VIOLATION": hypervisor.KindInvalidArgument, "MEMORY_CONSTRAINT_VIOLATION_ORDER": hypervisor.KindInvalidArgument,
	"MEMORY_CONSTRAINT_VIOLATION_MAXPIN": hypervisor.KindInvalidArgument, "VBD_CDS_MUST_BE_READONLY": hypervisor.KindInvalidArgument,
	"SR_BACKEND_FAILURE_79": hypervisor.KindInvalidArgument, // SM's VDISize
	"MAC_INVALID":           hypervisor.KindInvalidArgument, "VDI_TOO_SMALL": hypervisor.KindInvalidArgument, "INVALID_DEVICE": hypervisor.KindInvalidArgument, "VDI_COPY_FAILED": hypervisor.KindUnknown,
	"MESSAGE_PARAMETER_COUNT_MISMATCH": hypervisor.KindUnsupported, "MESSAGE_METHOD_UNKNOWN": hypervisor.KindUnsupported, "NOT_IMPLEMENTED": hypervisor.KindUnsupported,
	"MESSAGE_REMOVED": hypervisor.KindUnsupported, "VM_MISSING_PV_DRIVERS": hypervisor.KindUnsupported, "VDI_IS_A_PHYSICAL_DEVICE": hypervisor.KindUnsupported,
	"BOOT_DEVICE_PASSTHROUGH_DISALLOWED": hypervisor.KindUnsupported, "WLB_NOT_INITIALIZED": hypervisor.KindUnsupported, "WLB_DISABLED": hypervisor.KindUnsupported,
	"NOT_SUPPORTED_DURING_UPGRADE": hypervisor.KindUnsupported, "SR_OPERATION_NOT_SUPPORTED": hypervisor.KindUnsupported, "VM_LACKS_FEATURE": hypervisor.KindUnsupported,
	"VM_NON_SUSPENDABLE": hypervisor.KindUnsupported, "VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED": hypervisor.KindUnsupported, "VM_HVM_REQUIRED": hypervisor.KindUnsupported,

	"CANNOT_EVACUATE_HOST": hypervisor.KindIncompatible, "HOST_CANNOT_ATTACH_NETWORK": hypervisor.KindIncompatible, "INTERFACE_HAS_NO_IP": hypervisor.KindIncompatible,
	"HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED": hypervisor.KindIncompatible, "HA_CONSTRAINT_VIOLATION_NETWORK_NOT_SHARED": hypervisor.KindIncompatible,
	"FEATURE_REQUIRES_HVM": hypervisor.KindIncompatible, "VDI_IS_SHARABLE": hypervisor.KindIncompatible, "VM_IS_USING_NESTED_VIRT": hypervisor.KindIncompatible,
	"VGPU_TYPE_NOT_SUPPORTED": hypervisor.KindIncompatible, "VGPU_TYPE_NOT_ENABLED": hypervisor.KindIncompatible,
	"VM_HOST_INCOMPATIBLE_VERSION": hypervisor.KindIncompatible, "VM_HOST_INCOMPATIBLE_VERSION_MIGRATE": hypervisor.KindIncompatible,
	"VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION": hypervisor.KindIncompatible, "VM_INCOMPATIBLE_WITH_THIS_HOST": hypervisor.KindIncompatible,
	"VM_REQUIRES_SR": hypervisor.KindIncompatible, "VM_REQUIRES_NETWORK": hypervisor.KindIncompatible, "VM_REQUIRES_IOMMU": hypervisor.KindIncompatible,
	"SR_DOES_NOT_SUPPORT_MIGRATION": hypervisor.KindIncompatible, "VDI_NOT_IN_MAP": hypervisor.KindIncompatible, "VIF_NOT_IN_MAP": hypervisor.KindIncompatible,
	"VDI_CBT_ENABLED": hypervisor.KindIncompatible, "VDI_IS_ENCRYPTED": hypervisor.KindIncompatible, "VDI_INCOMPATIBLE_TYPE": hypervisor.KindIncompatible,
	"VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION": hypervisor.KindIncompatible, "VGPU_TYPE_NOT_COMPATIBLE": hypervisor.KindIncompatible,
	"VGPU_DESTINATION_INCOMPATIBLE": hypervisor.KindIncompatible, "SUSPEND_IMAGE_NOT_ACCESSIBLE": hypervisor.KindIncompatible,

	"VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT": hypervisor.KindTimeout,
	"TASK_CANCELLED":                    hypervisor.KindCanceled, "TASK_CANCELED": hypervisor.KindCanceled,
	"HOST_OFFLINE": hypervisor.KindUnavailable, "HOST_IS_SLAVE": hypervisor.KindUnavailable, "HOST_STILL_BOOTING": hypervisor.KindUnavailable,
	"WLB_CONNECTION_REFUSED": hypervisor.KindUnavailable, "WLB_CONNECTION_RESET": hypervisor.KindUnavailable, "WLB_TIMEOUT": hypervisor.KindUnavailable,
	"CANNOT_CONTACT_HOST": hypervisor.KindUnavailable, "HOST_NOT_LIVE": hypervisor.KindUnavailable, "HOST_HAS_NO_MANAGEMENT_IP": hypervisor.KindUnavailable,
}

// ErrorKind puts API errors and broken connections into classes.
func (d *driver) ErrorKind(err error) hypervisor.Kind { return kindOf(err) }

func kindOf(err error) hypervisor.Kind {
	var e *xapi.Error
	var t *xapi.TransportError
	switch {
	case errors.As(err, &e):
		return kindOfCode(e.Code)
	case errors.As(err, &t):
		return hypervisor.KindUnavailable
	case errors.Is(err, hypervisor.ErrClosed):
		return hypervisor.KindClosed
	}
	return hypervisor.KindUnknown
}

func kindOfCode(code string) hypervisor.Kind {
	if k, ok := codeKinds[code]; ok {
		return k
	}
	switch {
	case strings.HasSuffix(code, "_NOT_FOUND"):
		return hypervisor.KindNotFound
	case strings.HasSuffix(code, "_ALREADY_EXISTS"):
		return hypervisor.KindExists
	case strings.HasSuffix(code, "_IN_PROGRESS"), strings.HasSuffix(code, "_IN_USE"):
		return hypervisor.KindBusy
	case strings.HasSuffix(code, "_INVALID"):
		return hypervisor.KindInvalidArgument
	}
	return hypervisor.KindUnknown
}

// native makes an API error an *Error that says what can be done about it.
// Where Supports would have denied the call, the reason is the same.
func native(object hypervisor.Ref, k hypervisor.Capability, err error) error {
	switch xapi.Code(err) {
	case "VM_LACKS_FEATURE", "VM_NON_SUSPENDABLE", "VM_MISSING_PV_DRIVERS":
		u := hypervisor.Unsupported(object, k, hypervisor.ReasonToolsMissing, toolsDetail)
		return &hypervisor.Error{Kind: u.Kind, Object: object, Unsent: true, Err: errors.Join(u.Err, err)}
	case "LICENCE_RESTRICTION", "FEATURE_RESTRICTED":
		u := hypervisor.Unsupported(object, k, hypervisor.ReasonEdition, "the pool's licence forbids it")
		return &hypervisor.Error{Kind: u.Kind, Object: object, Unsent: true, Err: errors.Join(u.Err, err)}
	}
	var t *xapi.TransportError
	if errors.As(err, &t) && t.Unsent {
		return &hypervisor.Error{Kind: hypervisor.KindUnavailable, Object: object, Unsent: true, Err: err}
	}
	return err
}

const toolsDetail = "the guest has no XenServer VM Tools running; install them, or wait until they have started"

func notFound(r hypervisor.Ref, what string) error {
	return hypervisor.Errorf(hypervisor.KindNotFound, r, "no such %s in this pool", what)
}
