package hyperv

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// Path is the object path of a WMI instance:
// `\\HV01\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="…",Name="…"`.
type Path string

// Session runs WQL queries and methods on one host, for what the API doesn't
// cover. It uses the Client's connection to the host, reconnects after a
// break, and ends with the Client. It is safe for concurrent use.
type Session struct {
	d *driver
	h *host
}

// Object is an instance that the host sent, or the output of a method. WMI's
// names are not case-sensitive. They are spelt as the host wrote them.
type Object struct {
	Class string
	// Values are the properties that have a value, as text: one element, or
	// those of an array. A reference is its object path.
	Values map[string][]string
	// Objects are the properties that hold instances.
	Objects map[string][]*Object
}

// Get returns a property's value, the first one of an array, or "" if there
// is none.
func (o *Object) Get(name string) string {
	for n, v := range o.Values {
		if strings.EqualFold(n, name) && len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

// Arg is an argument of a method. Value is a bool, string, fixed-size
// integer, time.Duration or Path, or a slice []string, []uint16, []uint32 or
// []Path. An instance is passed as its CIM-XML text, as in WMI's
// documentation of embedded instances. A nil Value leaves the argument out.
type Arg struct {
	Name  string
	Value any
}

// Query runs a WQL statement in a namespace such as "root/virtualization/v2"
// and yields the rows as they arrive. After an error the sequence ends.
func (s *Session) Query(ctx context.Context, namespace, wql string) iter.Seq2[*Object, error] {
	return func(yield func(*Object, error) bool) {
		cs, err := s.connect(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		for i, err := range cs.Query(ctx, namespace, wql) {
			if err != nil {
				yield(nil, s.d.classed(s.h, err))
				return
			}
			if !yield(objectOf(i), nil) {
				return
			}
		}
	}
}

// Invoke calls a method of an instance, with the arguments in the order of
// the method's declaration. It returns the method's return value and its
// output. A return value that means a failure is not an error here: most
// methods return 0 for success, and those of Hyper-V 4096 if they started a
// job, whose path is the output Job. A call whose answer was lost is not sent
// again: the error is ErrUnavailable, and the host may have done the work.
func (s *Session) Invoke(ctx context.Context, object Path, method string, args ...Arg) (uint32, *Object, error) {
	ref, err := cim.ParsePath(string(object))
	if err != nil {
		return 0, nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, s.h.id.Ref(), "%w", err)
	}
	var in []cim.Arg
	for _, a := range args {
		v, err := argument(a)
		if err != nil {
			return 0, nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, s.h.id.Ref(), "argument %s: %w", a.Name, err)
		}
		in = append(in, cim.Arg{Name: a.Name, Value: v})
	}
	cs, err := s.connect(ctx)
	if err != nil {
		return 0, nil, err
	}
	r, err := cs.Invoke(ctx, ref, method, in...)
	if err != nil {
		return 0, nil, s.d.classed(s.h, err)
	}
	return r.Return, objectOf(&r.Out), nil
}

func (s *Session) connect(ctx context.Context) (cim.Session, error) {
	if s.d.closed.Err() != nil {
		return nil, hypervisor.Errorf(hypervisor.ErrClosed, s.h.id.Ref(), "%w", hypervisor.ErrClosed)
	}
	cs, err := s.h.session(ctx)
	return cs, s.d.classed(s.h, err)
}

// classed gives an error its kind and host. Errors of contexts stay
// unchanged.
func (d *driver) classed(h *host, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &hypervisor.Error{Object: h.id.Ref(), Kind: d.ErrorKind(err), Err: err}
}

func argument(a Arg) (any, error) {
	switch v := a.Value.(type) {
	case nil, bool, string, uint8, uint16, uint32, uint64, int8, int16, int32, int64, time.Duration, []string, []uint16, []uint32:
		return v, nil
	case Path:
		return cim.ParsePath(string(v))
	case []Path:
		var refs []cim.Ref
		for _, p := range v {
			r, err := cim.ParsePath(string(p))
			if err != nil {
				return nil, err
			}
			refs = append(refs, r)
		}
		return refs, nil
	}
	return nil, fmt.Errorf("a value of type %T can't be sent", a.Value)
}

func objectOf(i *cim.Instance) *Object {
	o := &Object{Class: i.Class, Values: map[string][]string{}, Objects: map[string][]*Object{}}
	for _, p := range i.Props {
		v := p.Value
		switch texts := v.Strings(); {
		case texts != nil:
			o.Values[p.Name] = texts
		case len(v.Refs()) > 0:
			for _, r := range v.Refs() {
				o.Values[p.Name] = append(o.Values[p.Name], r.Path())
			}
		default:
			for _, in := range v.Instances() {
				o.Objects[p.Name] = append(o.Objects[p.Name], objectOf(in))
			}
		}
	}
	return o
}

// As implements hypervisor.Driver. The package documentation lists the types.
func (d *driver) As(ctx context.Context, on hypervisor.Ref, target any) error {
	switch t := target.(type) {
	case **Session:
		h, err := d.hostOf(ctx, on)
		if err != nil {
			return err
		}
		if h != nil {
			*t = &Session{d, h}
			return nil
		}
	case *Path:
		switch on.Kind {
		case hypervisor.ObjectVM, hypervisor.ObjectTemplate:
			m, err := d.machine(ctx, hypervisor.VMID(on.ID))
			if err == nil {
				*t = Path(m.ref().Path())
			}
			return err
		case hypervisor.ObjectSnapshot:
			_, ref, err := d.snapshotAnywhere(ctx, hypervisor.SnapshotID(on.ID))
			if err == nil {
				*t = Path(ref.Path())
			}
			return err
		}
	}
	return hypervisor.NoNative(on, target)
}

// hostOf returns the host that an object is on, or nil for objects of other
// kinds. The host has answered.
func (d *driver) hostOf(ctx context.Context, on hypervisor.Ref) (*host, error) {
	switch on.Kind {
	case hypervisor.ObjectVM, hypervisor.ObjectTemplate:
		m, err := d.machine(ctx, hypervisor.VMID(on.ID))
		if err != nil {
			return nil, err
		}
		return m.h, nil
	case hypervisor.ObjectSnapshot:
		h, _, err := d.snapshotAnywhere(ctx, hypervisor.SnapshotID(on.ID))
		return h, err
	case hypervisor.ObjectHost:
		h, err := d.host(hypervisor.HostID(on.ID))
		if err != nil {
			return nil, err
		}
		_, err = h.session(ctx)
		return h, err
	case "":
		if len(d.hosts) > 1 {
			return nil, hypervisor.Errorf(hypervisor.ErrUnsupported, on, "this Client has %d sessions: ask for the one of a Host", len(d.hosts))
		}
		_, err := d.hosts[0].session(ctx)
		return d.hosts[0], err
	}
	return nil, nil
}

// snapshotAnywhere looks for a snapshot without knowing its machine.
func (d *driver) snapshotAnywhere(ctx context.Context, id hypervisor.SnapshotID) (*host, cim.Ref, error) {
	missing := hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no snapshot with this ID on %s", strings.Join(d.cfg.Hosts, ", "))
	if !guid.MatchString(string(id)) {
		return nil, cim.Ref{}, missing
	}
	for _, h := range d.hosts {
		s, err := h.session(ctx)
		if err != nil {
			return nil, cim.Ref{}, fmt.Errorf("host %s: %w", h.id, err)
		}
		ref := h.settingRef("Msvm_VirtualSystemSettingData", "Microsoft:"+strings.ToUpper(string(id)))
		i, err := cim.Read(ctx, s, ref)
		switch {
		case err == nil && len(userSnapshots([]*cim.Instance{i})) > 0:
			return h, ref, nil
		case err != nil && d.ErrorKind(err) != hypervisor.ErrNotFound:
			return nil, cim.Ref{}, err
		}
	}
	return nil, cim.Ref{}, missing
}
