package cim

import (
	"errors"
	"fmt"
)

// Kind is the class of an error, the same for both transports. The driver
// maps it to the kinds of package hypervisor.
type Kind uint8

const (
	Unknown Kind = iota
	NotFound
	Exists
	InvalidArgument
	InvalidState
	Unsupported
	Busy
	Unauthenticated
	Permission
	Exhausted
	Unavailable
	Timeout
)

// HRESULTs that the code tests for by name. Source: "WMI Error Constants" of
// the WMI documentation, and winerror.h.
const (
	WBEMNotFound         = 0x80041002
	WBEMAccessDenied     = 0x80041003
	WBEMInvalidNamespace = 0x8004100E
	WBEMInvalidClass     = 0x80041010
	WBEMInvalidQuery     = 0x80041017
	WBEMInvalidMethod    = 0x8004102E
	WBEMTimedOut         = 0x80043001
	RPCUnavailable       = 0x800706BA
)

// Return values of Hyper-V methods that the code tests for by name.
const (
	ReturnJobStarted = 4096
	// ReturnInUse means that the system is in use.
	ReturnInUse = 32774
	// ReturnInvalidState is also Hyper-V's answer when an object is in the
	// requested state already.
	ReturnInvalidState = 32775
)

// Error is a refusal by the server: a WMI error (HResult), a fault of the
// WS-Management service (Fault), a method's return value (Return) or a failed
// job (Job). Exactly one of the four is set.
type Error struct {
	Op      string
	HResult uint32
	Fault   string // subcode of a SOAP fault without a WMI error in it
	Return  uint32
	Job     *JobFailure
	Detail  string
}

func (e *Error) Error() string {
	var s string
	switch {
	case e.HResult != 0:
		s = fmt.Sprintf("WMI error 0x%08X", e.HResult)
		if c, ok := hresults[e.HResult]; ok {
			s += " (" + c.text + ")"
		}
	case e.Fault != "":
		s = "WS-Management fault " + e.Fault
	case e.Return != 0:
		s = fmt.Sprintf("method returned %d", e.Return)
		if c, ok := returns[e.Return]; ok {
			s += " (" + c.text + ")"
		}
	case e.Job != nil:
		s = e.Job.String()
	default:
		s = "failed"
	}
	if e.Op != "" {
		s = e.Op + ": " + s
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Kind classifies the error by the tables below.
func (e *Error) Kind() Kind {
	switch {
	case e.HResult != 0:
		return hresults[e.HResult].kind
	case e.Fault != "":
		return faults[e.Fault]
	case e.Return != 0:
		return returns[e.Return].kind
	case e.Job != nil:
		return e.Job.Kind()
	}
	return Unknown
}

// ErrConnection is within every error of a connection that could not be made
// or broke. ErrLost is within those of a call whose answer did not arrive
// after it was sent: the server may have done the work or not.
var (
	ErrConnection = errors.New("no connection")
	ErrLost       = errors.New("the answer was lost")
)

// Is recognizes failed remote procedure calls of COM as ErrConnection, and as
// ErrLost those that may have been executed (winerror.h: RPC_S_CALL_FAILED,
// RPC_E_DISCONNECTED).
func (e *Error) Is(target error) bool {
	sent := e.HResult == 0x800706BE || e.HResult == 0x80010108
	return target == ErrLost && sent || target == ErrConnection && (sent || e.HResult == RPCUnavailable)
}

// KindOf returns the kind of the *Error within err.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind()
	}
	return Unknown
}

// ReturnOf returns the method return value within err, or 0.
func ReturnOf(err error) uint32 {
	var e *Error
	if errors.As(err, &e) {
		return e.Return
	}
	return 0
}

type code struct {
	kind Kind
	text string
}

// hresults are "WMI Error Constants" (0x8004xxxx) and winerror.h
// (0x8007xxxx).
var hresults = map[uint32]code{
	0x80041001: {Unknown, "call failed"},
	0x80041002: {NotFound, "object not found"},
	0x80041003: {Permission, "access denied"},
	0x80041004: {Unknown, "provider failure"},
	0x80041005: {InvalidArgument, "type mismatch"},
	0x80041006: {Exhausted, "out of memory"},
	0x80041008: {InvalidArgument, "invalid parameter"},
	0x80041009: {Unavailable, "resource not available"},
	0x8004100A: {Unknown, "critical error"},
	0x8004100C: {Unsupported, "not supported"},
	0x8004100E: {Unsupported, "namespace does not exist"},
	0x8004100F: {InvalidArgument, "invalid object"},
	0x80041010: {Unsupported, "class does not exist"},
	0x80041011: {Unavailable, "provider not found"},
	0x80041013: {Unavailable, "provider cannot be loaded"},
	0x80041017: {InvalidArgument, "invalid query"},
	0x80041018: {InvalidArgument, "query language not supported"},
	0x80041019: {Exists, "object exists already"},
	0x80041024: {Unsupported, "provider lacks this ability"},
	0x8004102E: {Unsupported, "method does not exist"},
	0x8004102F: {InvalidArgument, "invalid method parameters"},
	0x80041031: {InvalidArgument, "invalid property"},
	0x80041032: {Unavailable, "call cancelled"},
	0x80041033: {Unavailable, "WMI is shutting down"},
	0x8004103A: {InvalidArgument, "invalid object path"},
	0x80041045: {Unavailable, "transport failure"},
	0x80041048: {Exhausted, "WMI quota violation"},
	0x80041064: {InvalidArgument, "credentials given for a local connection"},
	0x80041069: {Busy, "provider is being unloaded"},
	0x80043001: {Timeout, "timed out"},
	0x80070005: {Permission, "access denied"},
	0x8007000E: {Exhausted, "out of memory"},
	0x80070057: {InvalidArgument, "invalid parameter"},
	0x8007052E: {Unauthenticated, "unknown user name or bad password"},
	0x800706BA: {Unavailable, "RPC server unavailable"},
	0x800706BE: {Unavailable, "remote procedure call failed"},
	0x800706BF: {Unavailable, "remote procedure call failed before it ran"},
	0x80010108: {Unavailable, "object disconnected"},
	0x80338012: {Unavailable, "WinRM cannot connect"},
}

// returns has both ranges of method results. 1 to 6 are the CIM-style list of
// the snapshot and collection methods, 32768 and up that of all others, 32780
// and up those of Msvm_ShutdownComponent (Hyper-V WMI v2 reference, pages of
// the methods).
var returns = map[uint32]code{
	1:     {Unsupported, "not supported"},
	2:     {Unknown, "failed"},
	3:     {Timeout, "timeout"},
	4:     {InvalidArgument, "invalid parameter"},
	5:     {InvalidState, "invalid state"},
	6:     {InvalidArgument, "invalid type"},
	32768: {Unknown, "failed"},
	32769: {Permission, "access denied"},
	32770: {Unsupported, "not supported"},
	32771: {Unknown, "status unknown"},
	32772: {Timeout, "timeout"},
	32773: {InvalidArgument, "invalid parameter"},
	32774: {Busy, "system is in use"},
	32775: {InvalidState, "invalid state for this operation"},
	32776: {InvalidArgument, "incorrect data type"},
	32777: {Unavailable, "system is not available"},
	32778: {Exhausted, "out of memory"},
	32779: {NotFound, "file not found"},
	32780: {InvalidState, "system is not ready"},
	32781: {InvalidState, "machine is locked and cannot be shut down without force"},
	32782: {Busy, "a system shutdown is in progress"},
}

// faults are subcodes of DSP0226 and of the specifications it builds on, for
// faults that carry no WMI error.
var faults = map[string]Kind{
	"AccessDenied":                      Permission,
	"AlreadyExists":                     Exists,
	"CannotProcessFilter":               InvalidArgument,
	"Concurrency":                       Busy,
	"DestinationUnreachable":            NotFound,
	"ActionNotSupported":                Unsupported,
	"EncodingLimit":                     InvalidArgument,
	"FilterDialectRequestedUnavailable": Unsupported,
	"InternalError":                     Unavailable,
	"InvalidEnumerationContext":         Unavailable,
	"InvalidOptions":                    InvalidArgument,
	"InvalidParameter":                  InvalidArgument,
	"InvalidRepresentation":             InvalidArgument,
	"InvalidSelectors":                  NotFound,
	"QuotaLimit":                        Exhausted,
	"SchemaValidationError":             InvalidArgument,
	"TimedOut":                          Timeout,
	"UnsupportedFeature":                Unsupported,
	"EndpointUnavailable":               Unavailable,
}
