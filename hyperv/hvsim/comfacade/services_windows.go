package comfacade

import (
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wbem"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wql"
	ole "github.com/go-ole/go-ole"
)

// member is a method or a readable property.
type member = func(args []any) (any, error)

// bag is an object made of named members; names ignore case, as Automation does.
type bag struct {
	iids []*ole.GUID
	get  map[string]member
	put  map[string]func(v any) error
}

func (b *bag) interfaces() []*ole.GUID { return b.iids }

func (b *bag) member(name string) member {
	for n, f := range b.get {
		if strings.EqualFold(n, name) {
			return f
		}
	}
	return nil
}

func (b *bag) has(name string) bool {
	for n := range b.put {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return b.member(name) != nil
}

func (b *bag) invoke(name string, flags int, args []any) (any, error) {
	if flags&invokePut != 0 {
		for n, f := range b.put {
			if strings.EqualFold(n, name) && len(args) == 1 {
				return nil, f(args[0])
			}
		}
		return nil, wbem.Errorf(wbem.ReadOnly, "%s", name)
	}
	if f := b.member(name); f != nil {
		return f(args)
	}
	return nil, wbem.Errorf(wbem.NotFound, "%s", name)
}

func value(v any) member { return func([]any) (any, error) { return v, nil } }

// text returns an optional string argument.
func text(args []any, n int) string {
	if n < len(args) {
		if s, ok := args[n].(string); ok {
			return s
		}
	}
	return ""
}

// Interface IDs of the scripting library [D: wbemdisp.h].
var (
	iidLocator  = ole.NewGUID("{76A6415B-CB41-11D1-8B02-00600806D9B6}")
	iidServices = ole.NewGUID("{76A6415C-CB41-11D1-8B02-00600806D9B6}")
	iidObject   = ole.NewGUID("{76A6415A-CB41-11D1-8B02-00600806D9B6}")
	iidObjectEx = ole.NewGUID("{269AD56A-8A67-4129-BC8C-0506DCFE9880}")
)

// Errors of logging in [D: WMI Error Constants; System Error Codes].
const (
	localCredentials = 0x80041064
	accessDenied     = 0x80070005
)

// newLocator is SWbemLocator.
func newLocator(sim *hvsim.Sim) automation {
	return &bag{iids: []*ole.GUID{iidLocator}, get: map[string]member{
		"ConnectServer": func(a []any) (any, error) {
			server := strings.Trim(text(a, 0), ".")
			ns := strings.Trim(strings.ReplaceAll(text(a, 1), `\`, "/"), "/")
			user, pass := text(a, 2), text(a, 3)
			hosts := sim.Hosts()
			host := hosts[0]
			local := server == "" || strings.EqualFold(server, host.Name())
			if !local {
				host = nil
				short, _, _ := strings.Cut(server, ".")
				for _, h := range hosts {
					if strings.EqualFold(h.Name(), short) {
						host = h
					}
				}
			}
			if host == nil {
				return nil, wbem.Errorf(wbem.RPCUnavailable, "")
			}
			wmi := wbem.Of(host)
			switch {
			case local && user != "":
				return nil, &wbem.Error{Code: localCredentials, Text: "User credentials cannot be used for local connections"}
			case user != "" && !wmi.Login(user, pass):
				return nil, &wbem.Error{Code: accessDenied, Text: "Access is denied."}
			}
			if err := wmi.Open(ns); err != nil {
				return nil, err
			}
			return newServices(wmi, ns), nil
		},
		"Security_": value(newSecurity()),
	}}
}

func newSecurity() automation {
	var levels [2]any
	levels[0], levels[1] = int32(3), int32(6)
	set := func(n int) func(any) error { return func(v any) error { levels[n] = v; return nil } }
	get := func(n int) member { return func([]any) (any, error) { return levels[n], nil } }
	return &bag{get: map[string]member{"ImpersonationLevel": get(0), "AuthenticationLevel": get(1)},
		put: map[string]func(any) error{"ImpersonationLevel": set(0), "AuthenticationLevel": set(1)}}
}

// services is SWbemServices: one namespace of one host.
type services struct {
	wmi wbem.Server
	ns  string
}

func newServices(wmi wbem.Server, ns string) automation {
	s := &services{wmi, ns}
	return &bag{iids: []*ole.GUID{iidServices}, get: map[string]member{
		"Security_": value(newSecurity()),
		"ExecQuery": func(a []any) (any, error) { return s.query(text(a, 0)) },
		"InstancesOf": func(a []any) (any, error) {
			return s.query("SELECT * FROM " + text(a, 0))
		},
		"Get": func(a []any) (any, error) { return s.get(text(a, 0)) },
		"AssociatorsOf": func(a []any) (any, error) {
			return s.query(associators(text(a, 0), a[min(1, len(a)):]))
		},
		"ReferencesTo": func(a []any) (any, error) {
			return s.query(references(text(a, 0), a[min(1, len(a)):]))
		},
		"ExecMethod": func(a []any) (any, error) {
			r, err := cimx.ParsePath(text(a, 0))
			if err != nil {
				return nil, wbem.Errorf(wbem.InvalidObjectPath, "")
			}
			var in any
			if len(a) > 2 {
				in = a[2]
			}
			return s.exec(r, text(a, 1), in)
		},
		"ExecNotificationQuery": func(a []any) (any, error) { return s.notify(text(a, 0)) },
	}}
}

// associators makes the query of Associators_(assocClass, resultClass, resultRole, role, …).
func associators(path string, a []any) string {
	return related("ASSOCIATORS", path, [][2]string{{"AssocClass", text(a, 0)}, {"ResultClass", text(a, 1)}, {"ResultRole", text(a, 2)}, {"Role", text(a, 3)}})
}

// references makes the query of References_(resultClass, role, …).
func references(path string, a []any) string {
	return related("REFERENCES", path, [][2]string{{"ResultClass", text(a, 0)}, {"Role", text(a, 1)}})
}

func related(kind, path string, clauses [][2]string) string {
	q := kind + " OF {" + path + "}"
	where := " WHERE"
	for _, c := range clauses {
		if c[1] != "" {
			q += where + " " + c[0] + " = " + c[1]
			where = ""
		}
	}
	return q
}

func (s *services) query(q string) (any, error) {
	r, err := s.wmi.Query(s.ns, q)
	if err != nil {
		return nil, err
	}
	items := make([]any, len(r.Instances))
	for n, i := range r.Instances {
		if r.Query.Kind == wql.Select && r.Query.Fields != nil {
			i = project(i, r.Query.Fields)
		}
		items[n] = &instance{s: s, i: i}
	}
	return set(items), nil
}

// project leaves only the selected properties; the others are NULL.
func project(i *cimx.Instance, fields []string) *cimx.Instance {
	out := cimx.New(i.Class, i.Host)
	for _, f := range fields {
		if v := i.Get(f); v != nil {
			out.Set(f, v)
		}
	}
	return out
}

// set is SWbemObjectSet, and the other collections.
func set(items []any) automation {
	return &bag{get: map[string]member{
		"Count":    value(int32(len(items))),
		"_NewEnum": func([]any) (any, error) { return enumOf(items), nil },
		"ItemIndex": func(a []any) (any, error) {
			if n, ok := a[0].(int32); ok && n >= 0 && int(n) < len(items) {
				return items[n], nil
			}
			return nil, wbem.Errorf(wbem.NotFound, "")
		},
	}}
}

func (s *services) get(path string) (any, error) {
	r, err := cimx.ParsePath(path)
	if err != nil {
		return nil, wbem.Errorf(wbem.InvalidObjectPath, "")
	}
	ns := s.ns
	if r.Namespace != "" {
		ns = r.Namespace
	}
	if len(r.Keys) == 0 {
		c, err := s.wmi.Class(ns, r.Class)
		if err != nil {
			return nil, err
		}
		return &instance{s: s, i: cimx.New(c, s.wmi.Host()), class: true}, nil
	}
	i, err := s.wmi.Get(ns, r)
	if err != nil {
		return nil, err
	}
	return &instance{s: s, i: i}, nil
}

// exec calls a method with the properties of an in-parameters object.
func (s *services) exec(r cimx.Ref, method string, in any) (any, error) {
	args := map[string]any{}
	if p, ok := in.(*params); ok {
		for n, v := range p.vals {
			if v != nil {
				args[n] = v
			}
		}
	}
	ns := s.ns
	if r.Namespace != "" {
		ns = r.Namespace
	}
	out, err := s.wmi.Invoke(ns, r, method, args)
	if err != nil {
		return nil, err
	}
	res := &params{s: s, method: out.Method, out: true, vals: map[string]any{"ReturnValue": out.Return}}
	for n, v := range out.Values {
		res.vals[n] = res.s.shown(v)
	}
	return res, nil
}

// shown turns embedded objects into automation objects.
func (s *services) shown(v any) any {
	switch x := v.(type) {
	case *cimx.Instance:
		return &instance{s: s, i: x}
	case []any:
		out := make([]any, len(x))
		for n := range x {
			out[n] = s.shown(x[n])
		}
		return out
	}
	return v
}
