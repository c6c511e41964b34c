package xen

import (
	"context"
	"errors"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Ref is a reference of XAPI, "OpaqueRef:…". It is valid in the pool that
// returned it, until that pool's database is restored.
type Ref = xapi.Ref

// Error is an error of XAPI: a Code such as "VM_BAD_POWER_STATE" and its
// Params. errors.As finds it in the errors of this package.
type Error = xapi.Error

// Session sends messages of XAPI that the API doesn't cover, in the session
// of a Client. It ends with the Client, renews an expired session, and finds
// the pool's master when that changes. It is safe for concurrent use.
type Session struct{ c *xapi.Client }

// Call sends a message such as "VM.get_record". The session is added as its
// first argument. Arguments and result are encoded like by encoding/json;
// result may be nil. A message whose answer was lost is sent again only if it
// only reads. The error wraps an *Error if the pool refuses.
func (s *Session) Call(ctx context.Context, result any, method string, args ...any) error {
	return classed(s.c.Call(ctx, result, method, args...))
}

// classed gives an error its kind. Errors of contexts stay unchanged.
func classed(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &hypervisor.Error{Kind: kindOf(err), Unsent: xapi.Unsent(err), Err: err}
}

// As implements hypervisor.Driver. It returns the session for the Client, and
// the references of objects.
func (d *driver) As(ctx context.Context, on hypervisor.Ref, target any) error {
	switch t := target.(type) {
	case **Session:
		if on == (hypervisor.Ref{}) {
			*t = &Session{d.c}
			return nil
		}
	case *Ref:
		if find := d.finder(on); find != nil {
			ref, err := find(ctx)
			if err == nil {
				*t = ref
			}
			return err
		}
	}
	return hypervisor.NoNative(on, target)
}

// classes are the classes of objects whose IDs are uuids. Machines, templates
// and snapshots share one class, and their records distinguish them.
var classes = map[hypervisor.ObjectKind]string{
	hypervisor.ObjectHost: "host", hypervisor.ObjectDatastore: "SR", hypervisor.ObjectNetwork: "network", hypervisor.ObjectVolume: "VDI",
	hypervisor.ObjectDisk: "VBD", hypervisor.ObjectNIC: "VIF", hypervisor.ObjectDevice: "PCI",
}

// finder returns the function that looks up an object's reference, or nil
// where XAPI has no such object.
func (d *driver) finder(on hypervisor.Ref) func(context.Context) (Ref, error) {
	class, ok := classes[on.Kind]
	switch {
	case ok && on.ID != "":
		return func(ctx context.Context) (Ref, error) { return d.byUUID(ctx, class, on.ID) }
	case on.Kind == hypervisor.ObjectVM, on.Kind == hypervisor.ObjectTemplate:
		return func(ctx context.Context) (Ref, error) {
			ref, _, err := d.vm(ctx, hypervisor.VMID(on.ID))
			return ref, err
		}
	case on.Kind == hypervisor.ObjectSnapshot:
		return func(ctx context.Context) (Ref, error) {
			ref, v, err := d.anyVM(ctx, hypervisor.VMID(on.ID))
			if err == nil && !v.IsSnapshot {
				err = notFound(on, "snapshot")
			}
			return ref, err
		}
	case on.Kind == hypervisor.ObjectTask && strings.HasPrefix(on.ID, "OpaqueRef:"):
		return func(ctx context.Context) (Ref, error) {
			var uuid string
			return Ref(on.ID), d.c.Call(ctx, &uuid, "task.get_uuid", on.ID)
		}
	}
	return nil
}
