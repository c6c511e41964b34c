package hvsim

import (
	"regexp"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wql"
)

// space is one WMI namespace of one host: its instances by class.
type space struct {
	ns     *schema.Namespace
	host   string
	tables map[*schema.Class]*table
	// virtual classes are computed when they are read.
	virtual map[*schema.Class]virtual
}

// virtual makes the instances of a class on demand; byKey may be nil.
type virtual struct {
	all   func() []*cimx.Instance
	byKey func(r cimx.Ref) *cimx.Instance
	// find answers a WHERE clause without making every instance. It returns false if it cannot.
	find func(where wql.Expr) ([]*cimx.Instance, bool)
}

// table keeps instances in order of creation, with holes where some were removed.
type table struct {
	order  []*cimx.Instance
	at     map[*cimx.Instance]int
	byKey  map[string]*cimx.Instance
	owners map[string][]*cimx.Instance // by the machine or snapshot GUID in the key
	holes  int
}

func newSpace(namespace, host string, build int) *space {
	return &space{ns: schema.Lookup(namespace, build), host: host, tables: map[*schema.Class]*table{}, virtual: map[*schema.Class]virtual{}}
}

// new makes an instance without adding it.
func (s *space) new(class string) *cimx.Instance {
	c := s.ns.Class(class)
	if c == nil {
		panic("hvsim: class " + class)
	}
	return cimx.New(c, s.host)
}

func (s *space) add(i *cimx.Instance) *cimx.Instance {
	if c := s.ns.Class(i.Class.Name); c != i.Class { // it is from a host of another build
		i.Recast(c)
	}
	t := s.tables[i.Class]
	if t == nil {
		t = &table{at: map[*cimx.Instance]int{}, byKey: map[string]*cimx.Instance{}, owners: map[string][]*cimx.Instance{}}
		s.tables[i.Class] = t
	}
	t.at[i] = len(t.order)
	t.order = append(t.order, i)
	t.byKey[i.Ref().Key()] = i
	if o := owner(i); o != "" {
		t.owners[o] = append(t.owners[o], i)
	}
	return i
}

func (s *space) remove(i *cimx.Instance) {
	t := s.tables[i.Class]
	if t == nil {
		return
	}
	n, ok := t.at[i]
	if !ok {
		return
	}
	t.order[n] = nil
	delete(t.at, i)
	delete(t.byKey, i.Ref().Key())
	if o := owner(i); o != "" {
		l := t.owners[o]
		for k := range l {
			if l[k] == i {
				l = append(l[:k:k], l[k+1:]...)
				break
			}
		}
		if len(l) == 0 {
			delete(t.owners, o)
		} else {
			t.owners[o] = l
		}
	}
	if t.holes++; t.holes > 64 && t.holes > len(t.order)/2 {
		var live []*cimx.Instance
		for _, x := range t.order {
			if x != nil {
				t.at[x] = len(live)
				live = append(live, x)
			}
		}
		t.order, t.holes = live, 0
	}
}

var reGUID = regexp.MustCompile(`[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}`)

// ownerProps are the properties whose value starts with, or is, the GUID of a machine or snapshot.
var ownerProps = []string{"InstanceID", "SystemName", "Name"}

func owner(i *cimx.Instance) string {
	for _, p := range ownerProps {
		if s, ok := i.Get(p).(string); ok {
			if g := guidIn(s); g != "" {
				return g
			}
		}
	}
	return ""
}

// guidIn returns the first GUID of a key value, in upper case.
func guidIn(s string) string {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "Microsoft:"), "GuestNetwork\\")
	if len(s) < 36 {
		return ""
	}
	if g := reGUID.FindString(s[:36]); g != "" {
		return strings.ToUpper(g)
	}
	return ""
}

// each visits the instances of a class and of its subclasses. The visit stops when f returns false.
func (s *space) each(c *schema.Class, f func(*cimx.Instance) bool) bool {
	if v, ok := s.virtual[c]; ok {
		for _, i := range v.all() {
			if !f(i) {
				return false
			}
		}
	}
	if t := s.tables[c]; t != nil {
		for _, i := range t.order {
			if i != nil && !f(i) {
				return false
			}
		}
	}
	for _, sub := range c.Subs {
		if !s.each(sub, f) {
			return false
		}
	}
	return true
}

// find returns the instances of a class that match a condition, by an index where there is one.
func (s *space) find(c *schema.Class, where wql.Expr) []*cimx.Instance {
	var out []*cimx.Instance
	own := ownerOf(c, where)
	var walk func(c *schema.Class)
	walk = func(c *schema.Class) {
		keep := func(i *cimx.Instance) {
			if i != nil && wql.MatchInstance(where, i) {
				out = append(out, i)
			}
		}
		if v, ok := s.virtual[c]; ok {
			l, done := []*cimx.Instance(nil), false
			if v.find != nil && where != nil {
				l, done = v.find(where)
			}
			if !done {
				l = v.all()
			}
			for _, i := range l {
				keep(i)
			}
		}
		if t := s.tables[c]; t != nil {
			l := t.order
			if own != "" {
				l = t.owners[own]
			}
			for _, i := range l {
				keep(i)
			}
		}
		for _, sub := range c.Subs {
			walk(sub)
		}
	}
	walk(c)
	return out
}

// ownerOf finds a condition that pins the owner GUID: the property that decides the owner of the class's instances is
// equal to it or LIKE a prefix with it.
func ownerOf(c *schema.Class, e wql.Expr) string {
	switch x := e.(type) {
	case wql.And:
		if o := ownerOf(c, x.L); o != "" {
			return o
		}
		return ownerOf(c, x.R)
	case wql.Compare:
		v, ok := x.Value.(string)
		if !ok || (x.Op != "=" && x.Op != "LIKE") {
			return ""
		}
		for _, p := range ownerProps {
			if c.Prop(p) >= 0 {
				if strings.EqualFold(x.Name, p) {
					return guidIn(v)
				}
				return ""
			}
		}
	}
	return ""
}

// get finds an instance by reference, also through a superclass name.
func (s *space) get(r cimx.Ref) *cimx.Instance {
	c := s.ns.Class(r.Class)
	if c == nil {
		return nil
	}
	return s.getIn(c, r, r.Key())
}

func (s *space) getIn(c *schema.Class, r cimx.Ref, key string) *cimx.Instance {
	if t := s.tables[c]; t != nil {
		if i := t.byKey[key]; i != nil {
			return i
		}
	}
	if v, ok := s.virtual[c]; ok {
		if v.byKey != nil {
			if i := v.byKey(r); i != nil {
				return i
			}
		} else {
			for _, i := range v.all() {
				if i.Ref().Key() == key {
					return i
				}
			}
		}
	}
	for _, sub := range c.Subs {
		if i := s.getIn(sub, r, key); i != nil {
			return i
		}
	}
	return nil
}
