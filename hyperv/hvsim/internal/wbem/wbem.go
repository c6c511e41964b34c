// Package wbem is the interface of the simulated host for its transports: queries, objects, methods, WBEM errors.
package wbem

import (
	"fmt"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wql"
)

// Server is one host's WMI service.
type Server interface {
	// Query runs a data query.
	Query(namespace, query string) (*Result, error)
	// Get reads one instance; the reference's keys must be exactly the class's keys.
	Get(namespace string, ref cimx.Ref) (*cimx.Instance, error)
	// Class describes a class.
	Class(namespace, name string) (*schema.Class, error)
	// Invoke calls a method; args are raw values by parameter name.
	Invoke(namespace string, ref cimx.Ref, method string, args map[string]any) (*Output, error)
	// Put writes the changed properties of an existing instance.
	Put(namespace string, ref cimx.Ref, props map[string]any) error
	// Open checks that a namespace can be connected to.
	Open(namespace string) error
	// Login checks a user of the host.
	Login(user, password string) bool
	// Host is the computer name.
	Host() string
}

// Result is the answer to a query. Instances are copies.
type Result struct {
	Query     *wql.Query
	Instances []*cimx.Instance
}

// Output is the answer of a method.
type Output struct {
	Method *schema.Method
	Return uint32
	Values map[string]any
}

// Error is a refusal with its HRESULT.
type Error struct {
	Code uint32
	Text string
}

// Error returns the code and the text.
func (e *Error) Error() string { return fmt.Sprintf("0x%08X %s", e.Code, e.Text) }

// WBEM error codes [D: "WMI Error Constants"].
const (
	Failed            = 0x80041001
	NotFound          = 0x80041002
	AccessDenied      = 0x80041003
	ProviderFailure   = 0x80041004
	TypeMismatch      = 0x80041005
	InvalidParameter  = 0x80041008
	NotAvailable      = 0x80041009
	NotSupported      = 0x8004100C
	InvalidNamespace  = 0x8004100E
	InvalidObject     = 0x8004100F
	InvalidClass      = 0x80041010
	InvalidQuery      = 0x80041017
	InvalidProperty   = 0x80041031
	InvalidMethod     = 0x8004102E
	InvalidMethodArgs = 0x8004102F
	InvalidObjectPath = 0x8004103A
	ReadOnly          = 0x80041024
	QuotaViolation    = 0x80041048
	NotImplemented    = 0x80041055
	RPCUnavailable    = 0x800706BA
	RPCFailed         = 0x800706BE // the call may have been executed [D: winerror.h]
)

var texts = map[uint32]string{Failed: "Generic failure", NotFound: "Not found", AccessDenied: "Access denied", ProviderFailure: "Provider failure",
	TypeMismatch: "Type mismatch", InvalidParameter: "Invalid parameter", NotAvailable: "Not available", NotSupported: "Not supported",
	InvalidNamespace: "Invalid namespace", InvalidObject: "Invalid object", InvalidClass: "Invalid class", InvalidQuery: "Invalid query",
	InvalidProperty: "Invalid property", InvalidMethod: "Invalid method", InvalidMethodArgs: "Invalid method Parameter(s)",
	InvalidObjectPath: "Invalid object path", ReadOnly: "Read-only", QuotaViolation: "Quota violation", NotImplemented: "Provider is not capable of the attempted operation",
	RPCUnavailable: "The RPC server is unavailable.", RPCFailed: "The remote procedure call failed."}

// Errorf makes an Error. The text starts with WMI's own sentence for the code.
func Errorf(code uint32, format string, args ...any) *Error {
	t := texts[code]
	if d := fmt.Sprintf(format, args...); d != "" {
		if t != "" {
			t += ": "
		}
		t += d
	}
	return &Error{code, t}
}

// Dropped is the error of a call whose connection breaks: over HTTP there is no answer, on COM the call fails.
func Dropped() *Error { return Errorf(RPCFailed, "") }
