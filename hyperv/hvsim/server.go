package hvsim

import (
	"errors"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wbem"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wql"
)

// provider is the WMI interface of a host. It is separate from Host so that users do not see it.
type provider struct {
	h      *Host
	rights Rights
}

func init() { wbem.Of = func(host any) wbem.Server { return provider{h: host.(*Host)} } }

// Host implements wbem.Server.
func (p provider) Host() string { return p.h.cfg.Name }

// enter locks the simulation, brings it up to date and applies faults.
func (p provider) enter(op, namespace, what string) (*space, func(), error) {
	s := p.h.sim
	s.mu.Lock()
	s.tick()
	s.count(op, what)
	if err := s.fault(p.h, op, what); err != nil {
		s.mu.Unlock()
		return nil, nil, err
	}
	sp := p.h.space(namespace)
	if p.rights == HyperVOnly || p.blind(sp) && (op == "Invoke" || op == "Put") {
		s.mu.Unlock()
		return nil, nil, wbem.Errorf(wbem.AccessDenied, "")
	}
	if sp == nil {
		s.mu.Unlock()
		return nil, nil, wbem.Errorf(wbem.InvalidNamespace, "")
	}
	return sp, s.mu.Unlock, nil
}

// blind reports whether the account sees no instances of Hyper-V's classes.
func (p provider) blind(sp *space) bool {
	return p.rights == RemoteOnly && sp != nil && (sp == p.h.virt || sp == p.h.clus)
}

// lose drops or delays the answer of a call that has been done or refused, if a fault requires it. The caller holds the lock, which is not held
// while the answer is late.
func (p provider) lose(op, what string, err *error) {
	s := p.h.sim
	f := s.strike(p.h, op, what, func(f *Fault) bool { return (f.Drop || f.Late != nil) && f.Op == op })
	switch {
	case f == nil:
	case f.Late != nil:
		s.mu.Unlock()
		f.Late()
		s.mu.Lock()
	default:
		*err = wbem.Dropped()
	}
}

// Open implements wbem.Server. COM connects to a namespace before its first request.
func (p provider) Open(namespace string) error {
	_, leave, err := p.enter("Connect", namespace, namespace)
	if err == nil {
		leave()
	}
	return err
}

// PullFault makes a fault strike between the pages of an enumeration.
func (p provider) PullFault() error {
	s := p.h.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault(p.h, "Pull", "")
}

// Login implements wbem.Server.
func (p provider) Login(user, password string) bool { return p.h.known(user, password) }

// Class implements wbem.Server.
func (p provider) Class(namespace, name string) (*schema.Class, error) {
	sp, leave, err := p.enter("Class", namespace, name)
	if err != nil {
		return nil, err
	}
	defer leave()
	if c := sp.ns.Class(name); c != nil {
		return c, nil
	}
	return nil, wbem.Errorf(wbem.InvalidClass, "")
}

// Query implements wbem.Server.
func (p provider) Query(namespace, query string) (_ *wbem.Result, err error) {
	q, perr := wql.Parse(query)
	what := "?"
	if perr == nil {
		what = q.Class
		if q.Kind != wql.Select {
			what = strings.TrimSpace(q.AssocClass + " " + q.ResultClass)
		}
	}
	sp, leave, err := p.enter("Query", namespace, what)
	if err != nil {
		return nil, err
	}
	defer leave()
	defer p.lose("Query", what, &err)
	if perr != nil {
		return nil, wbem.Errorf(wbem.InvalidQuery, "")
	}
	p.h.os.Set("FreePhysicalMemory", p.h.freeMemory()*1024) // the machines' memory is not the parent partition's, believed
	r := &wbem.Result{Query: q}
	var found []*cimx.Instance
	if q.Kind == wql.Select {
		c := sp.ns.Class(q.Class)
		if c == nil {
			return nil, wbem.Errorf(wbem.InvalidClass, "")
		}
		if err := wql.Check(q, c); err != nil || q.Within >= 0 {
			return nil, wbem.Errorf(wbem.InvalidQuery, "")
		}
		if c.Association() {
			for _, a := range p.h.allLinks(sp, c) {
				if wql.MatchInstance(q.Where, a) {
					found = append(found, a)
				}
			}
		} else {
			found = sp.find(c, q.Where)
		}
	} else {
		if found, err = p.h.related(sp, q); err != nil {
			return nil, err
		}
	}
	if p.blind(sp) {
		found = nil
	}
	r.Instances = make([]*cimx.Instance, len(found))
	for n, i := range found {
		r.Instances[n] = p.h.present(i)
	}
	return r, nil
}

// Get implements wbem.Server.
func (p provider) Get(namespace string, ref cimx.Ref) (_ *cimx.Instance, err error) {
	sp, leave, err := p.enter("Get", namespace, ref.Class)
	if err != nil {
		return nil, err
	}
	defer leave()
	defer p.lose("Get", ref.Class, &err)
	if p.blind(sp) {
		return nil, wbem.Errorf(wbem.NotFound, "")
	}
	i, err := p.h.resolve(sp, ref)
	if err != nil {
		return nil, err
	}
	return p.h.present(i), nil
}

// Put implements wbem.Server. Hyper-V's classes are changed through their services; PartitionCount of a partitionable GPU is the
// exception [D: Msvm_PartitionableGpu]. Groups of a cluster are changed with Put [O].
func (p provider) Put(namespace string, ref cimx.Ref, props map[string]any) (err error) {
	sp, leave, err := p.enter("Put", namespace, ref.Class)
	if err != nil {
		return err
	}
	defer leave()
	defer p.lose("Put", ref.Class, &err)
	i, err := p.h.resolve(sp, ref)
	if err != nil {
		return err
	}
	next := i.Copy()
	for n, v := range props {
		if err := next.Put(n, v); err != nil {
			if errors.Is(err, cimx.ErrType) {
				return wbem.Errorf(wbem.TypeMismatch, "%s", n)
			}
			return wbem.Errorf(wbem.InvalidProperty, "%s", n)
		}
	}
	switch i.Class.Name {
	case "Msvm_PartitionableGpu":
		return p.h.setPartitionCount(i, next)
	case "MSCluster_ResourceGroup":
		return p.h.sim.cluster.setGroup(i, props, next)
	}
	return wbem.Errorf(wbem.NotSupported, "")
}

// resolve finds an instance, or returns the same error as WMI.
func (h *Host) resolve(sp *space, ref cimx.Ref) (*cimx.Instance, error) {
	c := sp.ns.Class(ref.Class)
	if c == nil {
		return nil, wbem.Errorf(wbem.InvalidClass, "")
	}
	if len(ref.Keys) != len(c.Keys) {
		// WS-Man reads a singleton without selectors, or by some of its keys [O: libvirt names CreationClassName alone].
		if i := sp.only(c); i != nil && fitsKeys(i, ref) {
			return i, nil
		}
		return nil, wbem.Errorf(wbem.InvalidObjectPath, "")
	}
	for _, k := range ref.Keys {
		if n := c.Prop(k.Name); n < 0 || !c.Props[n].Key {
			return nil, wbem.Errorf(wbem.InvalidObjectPath, "")
		}
	}
	if i := sp.get(ref); i != nil {
		return i, nil
	}
	return nil, wbem.Errorf(wbem.NotFound, "")
}

// only returns the instance of a class that has no other, or nil.
func (s *space) only(c *schema.Class) *cimx.Instance {
	var found []*cimx.Instance
	s.each(c, func(i *cimx.Instance) bool { found = append(found, i); return len(found) < 2 })
	if len(found) == 1 {
		return found[0]
	}
	return nil
}

func fitsKeys(i *cimx.Instance, ref cimx.Ref) bool {
	for _, k := range ref.Keys {
		if n := i.Class.Prop(k.Name); n < 0 || !i.Class.Props[n].Key || !strings.EqualFold(i.Str(k.Name), k.Value) {
			return false
		}
	}
	return true
}

// present returns the copy of an instance that a client sees, with the time-dependent properties up to date.
func (h *Host) present(i *cimx.Instance) *cimx.Instance {
	c := i.Copy()
	switch i.Class.Name {
	case "Msvm_ComputerSystem":
		if m := h.vms[i.Str("Name")]; m != nil && m.cs == i {
			c.Set("OnTimeInMilliseconds", m.uptime())
		}
	case "Msvm_ConcreteJob", "Msvm_MigrationJob", "Msvm_StorageJob":
		if j := h.jobs[i]; j != nil {
			j.show(c)
		}
	case "Win32_OperatingSystem":
		c.Set("LocalDateTime", cimx.Datetime(h.sim.now()))
	}
	return c
}

// call is one method call.
type call struct {
	h      *Host
	sp     *space
	obj    *cimx.Instance
	method *schema.Method
	in     map[string]any
	out    map[string]any
}

// handler performs a method and returns its return value.
type handler func(c *call) uint32

// Invoke implements wbem.Server.
func (p provider) Invoke(namespace string, ref cimx.Ref, method string, args map[string]any) (_ *wbem.Output, err error) {
	sp, leave, err := p.enter("Invoke", namespace, ref.Class+"."+method)
	if err != nil {
		return nil, err
	}
	defer leave()
	defer p.lose("Invoke", ref.Class+"."+method, &err)
	if c := sp.ns.Class(ref.Class); c != nil && len(ref.Keys) == 0 && len(c.Keys) > 0 { // it is a call on the class [O: recorded]
		return nil, wbem.Errorf(wbem.InvalidMethodArgs, "")
	}
	obj, err := p.h.resolve(sp, ref)
	if err != nil {
		return nil, err
	}
	m := obj.Class.Method(method)
	if m == nil {
		return nil, wbem.Errorf(wbem.InvalidMethod, "")
	}
	c := &call{h: p.h, sp: sp, obj: obj, method: m, in: map[string]any{}, out: map[string]any{}}
	for n, v := range args {
		d := m.Param(n)
		if d == nil || !d.In {
			return nil, wbem.Errorf(wbem.InvalidMethodArgs, "%s", n)
		}
		val, err := cimx.Coerce(d.Type, v)
		if err != nil {
			return nil, wbem.Errorf(wbem.TypeMismatch, "%s", n)
		}
		if err := p.h.checkRefs(d.Type, val); err != nil {
			return nil, err
		}
		c.in[d.Name] = val
	}
	out := &wbem.Output{Method: m, Values: c.out}
	if rv, ok := p.h.sim.faultReturn(p.h, ref.Class+"."+method); ok {
		out.Return = rv
		return out, nil
	}
	f := handlers[obj.Class.Name+"."+m.Name]
	if f == nil {
		// The class has the method, but the simulator does not implement it.
		return nil, wbem.Errorf(wbem.NotImplemented, "%s.%s is not simulated", obj.Class.Name, m.Name)
	}
	out.Return = f(c)
	p.h.sim.tick()
	return out, nil
}

// checkRefs refuses references to classes that do not exist. The provider judges a reference to another class than declared:
// os-win names the computer system where AddResourceSettings declares settings, and that works [O: vmutils.attach_drive].
func (h *Host) checkRefs(t schema.Type, v any) error {
	if t.Kind != schema.Ref {
		return nil
	}
	refs, ok := v.([]any)
	if !ok {
		refs = []any{v}
	}
	for _, x := range refs {
		r, ok := x.(cimx.Ref)
		if !ok {
			continue
		}
		ns := schema.Lookup(nsVirt, h.cfg.Build)
		if sp := h.space(r.Namespace); sp != nil {
			ns = sp.ns
		}
		if ns.Class(r.Class) == nil {
			return wbem.Errorf(wbem.InvalidClass, "%s", r.Class)
		}
	}
	return nil
}

// Return values [D: every method's page]; methods of the snapshot and collection services also use the CIM list below.
const (
	rvOK            = 0
	rvJob           = 4096
	rvFailed        = 32768
	rvAccessDenied  = 32769
	rvNotSupported  = 32770
	rvInvalidParam  = 32773
	rvInUse         = 32774
	rvInvalidState  = 32775
	rvBadType       = 32776
	rvNotAvailable  = 32777
	rvOutOfMemory   = 32778
	rvFileNotFound  = 32779
	cimNotSupported = 1
	cimFailed       = 2
	cimInvalidParam = 4
	cimInvalidState = 5
)

func (c *call) str(name string) string { s, _ := c.in[name].(string); return s }
func (c *call) flag(name string) bool  { b, _ := c.in[name].(bool); return b }

func (c *call) list(name string) []string {
	a, _ := c.in[name].([]any)
	var out []string
	for _, v := range a {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// target resolves a reference parameter on this host. It returns nil if it is NULL or does not exist.
func (c *call) target(name string) *cimx.Instance {
	r, ok := c.in[name].(cimx.Ref)
	if !ok {
		return nil
	}
	return c.h.lookup(r)
}

func (c *call) targets(name string) (out []*cimx.Instance, given int) {
	a, _ := c.in[name].([]any)
	for _, v := range a {
		given++
		if r, ok := v.(cimx.Ref); ok {
			if i := c.h.lookup(r); i != nil {
				out = append(out, i)
			}
		}
	}
	return out, given
}

// lookup resolves a reference on this host.
func (h *Host) lookup(r cimx.Ref) *cimx.Instance {
	if r.Host != "" && r.Host != "." && h.sim.hostByName(r.Host) != h {
		return nil
	}
	sp := h.virt
	if r.Namespace != "" {
		sp = h.space(r.Namespace)
	}
	if sp == nil {
		return nil
	}
	return sp.get(r)
}

// machine resolves a reference parameter to a machine, or returns nil if it is none.
func (c *call) machine(name string) *machine {
	i := c.target(name)
	if i == nil {
		return nil
	}
	if m := c.h.vms[i.Str("Name")]; m != nil && m.cs == i {
		return m
	}
	return nil
}

// embedded parses an embedded-instance parameter; ok is false if the text is wrong or not of the class.
func (c *call) embedded(text, class string) (*cimx.Instance, bool) {
	i, err := cimx.Parse(c.sp.ns, c.h.cfg.Name, text)
	if err != nil || !i.Class.IsA(class) {
		return nil, false
	}
	return i, true
}

var handlers = map[string]handler{}

func handle(class string, methods map[string]handler) {
	for n, f := range methods {
		handlers[class+"."+n] = f
	}
}
