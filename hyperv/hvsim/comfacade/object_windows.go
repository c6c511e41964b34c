package comfacade

import (
	"errors"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wbem"
	ole "github.com/go-ole/go-ole"
)

// instance is SWbemObjectEx: a client's own copy of an instance, or a class.
type instance struct {
	s       *services
	i       *cimx.Instance
	class   bool
	changed map[string]any
}

func (o *instance) interfaces() []*ole.GUID { return []*ole.GUID{iidObject, iidObjectEx} }

func (o *instance) has(name string) bool {
	return o.i.Class.Prop(name) >= 0 || o.i.Class.Method(name) != nil || o.members().member(name) != nil
}

func (o *instance) invoke(name string, flags int, args []any) (any, error) {
	if n := o.i.Class.Prop(name); n >= 0 {
		if flags&invokePut != 0 {
			return nil, o.write(o.i.Class.Props[n].Name, args[0])
		}
		return o.s.shown(o.i.At(n)), nil
	}
	if m := o.i.Class.Method(name); m != nil && flags&invokePut == 0 {
		// A method called by its name receives its in parameters in order and returns its return value.
		p := &params{s: o.s, method: m, vals: map[string]any{}}
		n := 0
		for _, d := range m.Params {
			if d.In && n < len(args) {
				if err := p.write(d.Name, args[n]); err != nil {
					return nil, err
				}
				n++
			}
		}
		r, err := o.s.exec(o.i.Ref(), m.Name, p)
		if err != nil {
			return nil, err
		}
		return r.(*params).vals["ReturnValue"], nil
	}
	return o.members().invoke(name, flags, args)
}

func (o *instance) write(name string, v any) error {
	if err := o.i.Put(name, v); err != nil {
		if errors.Is(err, cimx.ErrType) {
			return wbem.Errorf(wbem.TypeMismatch, "")
		}
		return wbem.Errorf(wbem.NotFound, "")
	}
	if o.changed == nil {
		o.changed = map[string]any{}
	}
	o.changed[name] = o.i.Get(name)
	return nil
}

// path is empty where the keys are not known.
func (o *instance) path() (cimx.Ref, bool) {
	if o.class {
		return cimx.Ref{Host: o.i.Host, Namespace: o.i.Class.Namespace, Class: o.i.Class.Name}, true
	}
	for _, k := range o.i.Class.Keys {
		if o.i.At(k) == nil {
			return cimx.Ref{}, false
		}
	}
	return o.i.Ref(), len(o.i.Class.Keys) > 0
}

func (o *instance) members() *bag {
	return &bag{get: map[string]member{
		"Properties_":       func([]any) (any, error) { return o.properties(), nil },
		"SystemProperties_": func([]any) (any, error) { return o.system(), nil },
		"Methods_":          func([]any) (any, error) { return o.methods(), nil },
		"Path_":             func([]any) (any, error) { return o.pathObject(), nil },
		"Derivation_": func([]any) (any, error) {
			l := []any{}
			for c := o.i.Class.Super; c != nil; c = c.Super {
				l = append(l, c.Name)
			}
			return l, nil
		},
		"GetText_":       func([]any) (any, error) { return cimx.Format(o.i), nil },
		"GetObjectText_": func([]any) (any, error) { return mof(o.i), nil },
		"Clone_": func([]any) (any, error) {
			return &instance{s: o.s, i: o.i.Copy(), class: o.class}, nil
		},
		"SpawnInstance_": func([]any) (any, error) {
			return &instance{s: o.s, i: cimx.New(o.i.Class, o.i.Host)}, nil
		},
		"Refresh_": func([]any) (any, error) {
			r, ok := o.path()
			if !ok || o.class {
				return nil, wbem.Errorf(wbem.InvalidObject, "")
			}
			i, err := o.s.wmi.Get(o.i.Class.Namespace, r)
			if err == nil {
				o.i, o.changed = i, nil
			}
			return nil, err
		},
		"Put_": func([]any) (any, error) {
			r, ok := o.path()
			if !ok || o.class {
				return nil, wbem.Errorf(wbem.NotSupported, "")
			}
			if err := o.s.wmi.Put(o.i.Class.Namespace, r, o.changed); err != nil {
				return nil, err
			}
			o.changed = nil
			return o.pathObject(), nil
		},
		"Delete_": func([]any) (any, error) { return nil, wbem.Errorf(wbem.NotSupported, "") },
		"CompareTo_": func(a []any) (any, error) {
			x, ok := a[0].(*instance)
			return ok && cimx.Format(x.i) == cimx.Format(o.i), nil
		},
		"ExecMethod_": func(a []any) (any, error) {
			r, ok := o.path()
			if !ok {
				return nil, wbem.Errorf(wbem.InvalidObject, "")
			}
			var in any
			if len(a) > 1 {
				in = a[1]
			}
			return o.s.exec(r, text(a, 0), in)
		},
		"Associators_": func(a []any) (any, error) { return o.relatives(associators, a) },
		"References_":  func(a []any) (any, error) { return o.relatives(references, a) },
	}}
}

func (o *instance) relatives(query func(string, []any) string, a []any) (any, error) {
	r, ok := o.path()
	if !ok {
		return nil, wbem.Errorf(wbem.InvalidObject, "")
	}
	return o.s.query(query(r.RelPath(), a))
}

// cimTypes are the numbers of WbemCimtypeEnum [D].
var cimTypes = map[schema.Kind]int32{schema.Sint16: 2, schema.Sint32: 3, schema.Real32: 4, schema.Real64: 5, schema.String: 8, schema.Boolean: 11,
	schema.Object: 13, schema.Sint8: 16, schema.Uint8: 17, schema.Uint16: 18, schema.Uint32: 19, schema.Sint64: 20, schema.Uint64: 21, schema.Datetime: 101, schema.Ref: 102}

// property is SWbemProperty.
func property(name string, t schema.Type, get func() any, put func(any) error) automation {
	b := &bag{get: map[string]member{
		"Name": value(name), "CIMType": value(cimTypes[t.Kind]), "IsArray": value(t.Array), "IsLocal": value(true),
		"Value": func([]any) (any, error) { return get(), nil }, "": func([]any) (any, error) { return get(), nil },
	}, put: map[string]func(any) error{}}
	if put != nil {
		b.put["Value"] = put
	}
	return b
}

// collection is a set whose items have names.
func collection(items []any, byName func(string) (any, bool)) automation {
	b := set(items).(*bag)
	item := func(a []any) (any, error) {
		if v, ok := byName(text(a, 0)); ok {
			return v, nil
		}
		return nil, wbem.Errorf(wbem.NotFound, "")
	}
	b.get["Item"], b.get[""] = item, item
	return b
}

func (o *instance) properties() automation {
	one := func(n int) any {
		p := o.i.Class.Props[n]
		return property(p.Name, p.Type, func() any { return o.s.shown(o.i.At(n)) }, func(v any) error { return o.write(p.Name, v) })
	}
	items := make([]any, len(o.i.Class.Props))
	for n := range items {
		items[n] = one(n)
	}
	return collection(items, func(name string) (any, bool) {
		if n := o.i.Class.Prop(name); n >= 0 {
			return items[n], true
		}
		return nil, false
	})
}

func (o *instance) system() automation {
	str := schema.Type{Kind: schema.String}
	r, known := o.path()
	vals := map[string]any{"__CLASS": o.i.Class.Name, "__NAMESPACE": strings.ReplaceAll(o.i.Class.Namespace, "/", `\`), "__SERVER": o.i.Host,
		"__PATH": nil, "__RELPATH": nil, "__SUPERCLASS": nil, "__DYNASTY": o.i.Class.Name, "__GENUS": int32(2), "__PROPERTY_COUNT": int32(len(o.i.Class.Props))}
	if known {
		vals["__PATH"], vals["__RELPATH"] = r.Path(), r.RelPath()
	}
	if s := o.i.Class.Super; s != nil {
		vals["__SUPERCLASS"] = s.Name
	}
	if o.class {
		vals["__GENUS"] = int32(1)
	}
	var items []any
	for n, v := range vals {
		items = append(items, property(n, str, func() any { return v }, nil))
	}
	return collection(items, func(name string) (any, bool) {
		v, ok := vals[strings.ToUpper(name)]
		return property(strings.ToUpper(name), str, func() any { return v }, nil), ok
	})
}

func (o *instance) pathObject() automation {
	r, _ := o.path()
	return &bag{get: map[string]member{"Path": value(r.Path()), "RelPath": value(r.RelPath()), "Class": value(o.i.Class.Name), "Server": value(o.i.Host),
		"Namespace": value(strings.ReplaceAll(o.i.Class.Namespace, "/", `\`)), "IsClass": value(o.class), "": value(r.Path())}}
}

func (o *instance) methods() automation {
	one := func(m *schema.Method) any {
		in := func(out bool) member {
			return func([]any) (any, error) {
				for _, p := range m.Params {
					if p.In && !out || p.Out && out {
						return &params{s: o.s, method: m, out: out, vals: map[string]any{}}, nil
					}
				}
				return nil, nil
			}
		}
		return &bag{get: map[string]member{"Name": value(m.Name), "InParameters": in(false), "OutParameters": in(true), "Origin": value(o.i.Class.Name)}}
	}
	var items []any
	for _, m := range o.i.Class.Methods {
		items = append(items, one(m))
	}
	return collection(items, func(name string) (any, bool) {
		if m := o.i.Class.Method(name); m != nil {
			return one(m), true
		}
		return nil, false
	})
}

// mof formats an instance in the manner of GetObjectText_.
func mof(i *cimx.Instance) string {
	var b strings.Builder
	b.WriteString("\ninstance of " + i.Class.Name + "\n{\n")
	quote := func(v any) string {
		if s, ok := v.(string); ok {
			return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
		}
		return strings.ToUpper(cimx.Text(v))
	}
	for n, p := range i.Class.Props {
		switch v := i.At(n).(type) {
		case nil, *cimx.Instance:
		case []any:
			l := make([]string, len(v))
			for k := range v {
				l[k] = quote(v[k])
			}
			b.WriteString("\t" + p.Name + " = {" + strings.Join(l, ", ") + "};\n")
		default:
			b.WriteString("\t" + p.Name + " = " + quote(v) + ";\n")
		}
	}
	b.WriteString("};\n")
	return b.String()
}

// params is the object of in or out parameters.
type params struct {
	s      *services
	method *schema.Method
	out    bool
	vals   map[string]any
}

func (p *params) interfaces() []*ole.GUID { return []*ole.GUID{iidObject, iidObjectEx} }

func (p *params) find(name string) *schema.Param {
	if p.out && strings.EqualFold(name, "ReturnValue") {
		return &schema.Param{Name: "ReturnValue", Type: schema.Type{Kind: schema.Uint32}, Out: true}
	}
	d := p.method.Param(name)
	if d == nil || p.out && !d.Out || !p.out && !d.In {
		return nil
	}
	return d
}

func (p *params) has(name string) bool {
	switch strings.ToLower(name) {
	case "properties_", "spawninstance_", "gettext_":
		return true
	}
	return p.find(name) != nil
}

// write checks and stores an in parameter.
func (p *params) write(name string, v any) error {
	d := p.find(name)
	if d == nil {
		return wbem.Errorf(wbem.NotFound, "")
	}
	if o, ok := v.(*instance); ok {
		v = o.i
	}
	c, err := cimx.Coerce(d.Type, v)
	if err != nil {
		return wbem.Errorf(wbem.TypeMismatch, "")
	}
	p.vals[d.Name] = c
	return nil
}

func (p *params) invoke(name string, flags int, args []any) (any, error) {
	switch strings.ToLower(name) {
	case "spawninstance_":
		return &params{s: p.s, method: p.method, out: p.out, vals: map[string]any{}}, nil
	case "properties_":
		var items []any
		for _, d := range p.method.Params {
			if p.find(d.Name) != nil {
				items = append(items, p.property(d.Name))
			}
		}
		return collection(items, func(n string) (any, bool) {
			if p.find(n) == nil {
				return nil, false
			}
			return p.property(n), true
		}), nil
	}
	d := p.find(name)
	if d == nil {
		return nil, wbem.Errorf(wbem.NotFound, "")
	}
	if flags&invokePut != 0 {
		return nil, p.write(name, args[0])
	}
	return p.vals[d.Name], nil
}

func (p *params) property(name string) automation {
	d := p.find(name)
	return property(d.Name, d.Type, func() any { return p.vals[d.Name] }, func(v any) error { return p.write(name, v) })
}
