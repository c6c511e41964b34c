package xapisim

import (
	"container/list"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
)

// nullRef is the reference that points nowhere (xen-api doc/content/xen-api/wire-protocol.md).
const nullRef = "OpaqueRef:NULL"

// object is one row of the database. Values in v are never changed in place: a set field is replaced by a new slice, so that a record that
// was returned before stays unchanged.
type object struct {
	class             *xapidata.Class
	ref               string
	v                 []any
	created, modified uint64 // generations, which make up event tokens
	recent            *list.Element
	json              []byte       // the record's JSON, until the next change
	hidden            map[int]bool // of the table
	gone              bool
}

// refSet is a set of references that is derived from the other end of a relation, oldest first.
type refSet struct{ refs []string }

// table is all objects of one class.
type table struct {
	class  *xapidata.Class
	byRef  map[string]*object
	byUUID map[string]*object
	recent *list.List   // by modified, oldest first
	hidden map[int]bool // fields that this server's records lack
	// lacking is true for a class that the server does not have.
	lacking bool
	// deleted is what event.from remembers of the objects that are gone.
	deleted []deletion
}

type deletion struct {
	ref            string
	created, stamp uint64
}

// relations lists the pairs (class.field of one reference, class.field of the set at its other end); from the datamodel's
// "relations" (xen-api ocaml/idl/datamodel.ml, all_relations).
var relations = map[string]string{
	"VBD.VM": "VM.VBDs", "VBD.VDI": "VDI.VBDs", "VDI.SR": "SR.VDIs", "PBD.SR": "SR.PBDs", "PBD.host": "host.PBDs",
	"VIF.VM": "VM.VIFs", "VIF.network": "network.VIFs", "PIF.network": "network.PIFs", "PIF.host": "host.PIFs",
	"VM.resident_on": "host.resident_VMs", "VM.snapshot_of": "VM.snapshots", "VM.parent": "VM.children",
	"VDI.snapshot_of": "VDI.snapshots", "console.VM": "VM.consoles", "host_cpu.host": "host.host_CPUs",
	"PCI.host": "host.PCIs", "PGPU.host": "host.PGPUs", "PGPU.GPU_group": "GPU_group.PGPUs",
	"VGPU.GPU_group": "GPU_group.VGPUs", "VGPU.VM": "VM.VGPUs", "VGPU.type": "VGPU_type.VGPUs",
	"VGPU.resident_on": "PGPU.resident_VGPUs", "task.subtask_of": "task.subtasks", "VM.appliance": "VM_appliance.VMs",
	"VTPM.VM": "VM.VTPMs", "VUSB.VM": "VM.VUSBs", "PUSB.host": "host.PUSBs", "PUSB.USB_group": "USB_group.PUSBs",
	"VUSB.USB_group": "USB_group.VUSBs", "network_sriov.physical_PIF": "PIF.sriov_physical_PIF_of",
	"network_sriov.logical_PIF": "PIF.sriov_logical_PIF_of", "VM.snapshot_schedule": "VMSS.VMs", "Feature.host": "host.features",
	"crashdump.VM": "VM.crash_dumps",
}

func randomUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func newRef() string { return "OpaqueRef:" + randomUUID() }

// newObject makes an object with the model's defaults, then the given fields. It is called with s.mu held.
func (s *Sim) newObject(class string, fields map[string]any) *object {
	t := s.tables[class]
	o := &object{class: t.class, hidden: t.hidden, ref: newRef(), v: make([]any, len(t.class.Fields))}
	copy(o.v, s.blank[class])
	if i := t.class.FieldIndex("uuid"); i >= 0 {
		o.v[i] = randomUUID()
	}
	for k, v := range fields {
		i := t.class.FieldIndex(k)
		if i < 0 {
			continue
		}
		o.v[i] = v
	}
	if i := t.class.FieldIndex("uuid"); i >= 0 {
		t.byUUID[o.v[i].(string)] = o
	}
	t.byRef[o.ref] = o
	s.gen++
	o.created, o.modified = s.gen, s.gen
	o.recent = t.recent.PushBack(o)
	for i := range t.class.Fields {
		if other, ok := s.relation[class][i]; ok {
			s.link(o.ref, o.v[i].(string), other)
		}
	}
	s.wake()
	return o
}

// link adds ref to the set field at the other end of a relation.
func (s *Sim) link(ref, target string, end relationEnd) {
	to := s.tables[end.class].byRef[target]
	if to == nil {
		return
	}
	set, _ := to.v[end.field].(*refSet)
	if set == nil {
		set = &refSet{}
		to.v[end.field] = set
	}
	set.refs = append(set.refs, ref)
	s.touch(to)
}

func (s *Sim) unlink(ref, target string, end relationEnd) {
	to := s.tables[end.class].byRef[target]
	if to == nil {
		return
	}
	set, _ := to.v[end.field].(*refSet)
	if set == nil {
		return
	}
	if i := slices.Index(set.refs, ref); i >= 0 {
		set.refs = slices.Delete(set.refs, i, i+1)
		s.touch(to)
	}
}

type relationEnd struct {
	class string
	field int
}

// touch notes that an object changed.
func (s *Sim) touch(o *object) {
	if o.gone {
		return
	}
	s.gen++
	o.modified = s.gen
	o.json = nil
	s.tables[o.class.Name].recent.MoveToBack(o.recent)
	s.wake()
}

// set stores one field and updates the other end of a relation.
func (s *Sim) set(o *object, field string, v any) {
	if o == nil {
		return
	}
	i := o.class.FieldIndex(field)
	if i < 0 {
		return
	}
	if end, ok := s.relation[o.class.Name][i]; ok {
		old, now := o.v[i].(string), v.(string)
		if old == now {
			return
		}
		s.unlink(o.ref, old, end)
		s.link(o.ref, now, end)
	}
	o.v[i] = v
	s.touch(o)
}

// remove deletes an object and the references to it at the other end of a relation.
func (s *Sim) remove(o *object) {
	if o == nil || o.gone {
		return
	}
	for i := range o.class.Fields {
		if end, ok := s.relation[o.class.Name][i]; ok {
			s.unlink(o.ref, o.v[i].(string), end)
		}
	}
	t := s.tables[o.class.Name]
	delete(t.byRef, o.ref)
	if i := o.class.FieldIndex("uuid"); i >= 0 {
		delete(t.byUUID, o.v[i].(string))
	}
	t.recent.Remove(o.recent)
	o.gone = true
	s.gen++
	t.deleted = append(t.deleted, deletion{o.ref, o.created, s.gen})
	if keep := s.cfg.EventLog; len(t.deleted) >= 2*keep {
		t.deleted = slices.Delete(t.deleted, 0, len(t.deleted)-keep)
	}
	s.wake()
}

// get finds an object by reference, or returns HANDLE_INVALID [class, ref].
func (s *Sim) get(class, ref string) (*object, error) {
	if o := s.tables[class].byRef[ref]; o != nil {
		return o, nil
	}
	return nil, fail("HANDLE_INVALID", class, ref)
}

// look finds an object by reference, or nil.
func (s *Sim) look(class, ref string) *object { return s.tables[class].byRef[ref] }

// all returns every object of a class in a fixed order: by creation.
func (s *Sim) all(class string) []*object {
	t := s.tables[class]
	out := make([]*object, 0, len(t.byRef))
	for _, o := range t.byRef {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b *object) int {
		switch {
		case a.created < b.created:
			return -1
		case a.created > b.created:
			return 1
		}
		return strings.Compare(a.ref, b.ref)
	})
	return out
}

// val reads a field. Like the other readers it treats nil as an object without fields: references may dangle.
func (o *object) val(field string) any {
	if o == nil {
		return nil
	}
	i := o.class.FieldIndex(field)
	if i < 0 {
		return nil
	}
	return o.v[i]
}

func (o *object) str(field string) string {
	v, _ := o.val(field).(string)
	return v
}

func (o *object) num(field string) int64 {
	v, _ := o.val(field).(int64)
	return v
}

func (o *object) is(field string) bool {
	v, _ := o.val(field).(bool)
	return v
}

// dict returns a map field, which must not be changed.
func (o *object) dict(field string) map[string]any {
	v, _ := o.val(field).(map[string]any)
	return v
}

func (o *object) entry(field, key string) string {
	v, _ := o.dict(field)[key].(string)
	return v
}

// refs returns a set of strings, newest first where it is one end of a relation, as xapi lists them.
func (o *object) refs(field string) []string {
	switch v := o.val(field).(type) {
	case *refSet:
		out := slices.Clone(v.refs)
		slices.Reverse(out)
		return out
	case []any:
		out := make([]string, 0, len(v))
		for _, x := range v {
			if t, ok := x.(string); ok {
				out = append(out, t)
			}
		}
		return out
	}
	return nil
}

// put stores a key of a map field.
func (s *Sim) put(o *object, field, key string, v any) {
	m := make(map[string]any, len(o.dict(field))+1)
	for k, x := range o.dict(field) {
		m[k] = x
	}
	m[key] = v
	s.set(o, field, m)
}

// drop removes a key of a map field.
func (s *Sim) drop(o *object, field, key string) {
	if _, ok := o.dict(field)[key]; !ok {
		return
	}
	m := make(map[string]any, len(o.dict(field)))
	for k, x := range o.dict(field) {
		if k != key {
			m[k] = x
		}
	}
	s.set(o, field, m)
}

func anys[T any](in []T) []any {
	out := make([]any, len(in))
	for i, v := range in {
		out[i] = v
	}
	return out
}

func dictOf(kv ...string) map[string]any {
	m := make(map[string]any, len(kv)/2)
	for i := 0; i+1 < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}
