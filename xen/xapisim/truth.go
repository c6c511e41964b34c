package xapisim

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
)

// The true inner state, independent of the API's answers, for tests.

// find returns an object by uuid or reference.
func (s *Sim) find(class, id string) (*object, error) {
	t := s.tables[class]
	if o := t.byUUID[id]; o != nil {
		return o, nil
	}
	if o := t.byRef[id]; o != nil {
		return o, nil
	}
	return nil, fmt.Errorf("xapisim: no %s %s", class, id)
}

// WriteDisk writes one block of a disk (by uuid or reference), as a guest would.
func (s *Sim) WriteDisk(vdi string, block int64, data string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.find("VDI", vdi)
	if err != nil {
		return err
	}
	s.disks[o.ref].blocks[block] = data
	if sr := s.look("SR", o.str("SR")); sr != nil && !thick(sr) {
		s.set(o, "physical_utilisation", s.bytes(o))
		s.account(sr)
	}
	return nil
}

// ReadDisk returns the content of a disk, by block.
func (s *Sim) ReadDisk(vdi string) (map[int64]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.find("VDI", vdi)
	if err != nil {
		return nil, err
	}
	return s.disks[o.ref].content(), nil
}

// DiskID is the same for two disks exactly when they have the same content.
func (s *Sim) DiskID(vdi string) (string, error) {
	m, err := s.ReadDisk(vdi)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(h, "%d=%q;", k, m[k])
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// DiskBases lists the layers of a disk, its own first.
func (s *Sim) DiskBases(vdi string) ([]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.find("VDI", vdi)
	if err != nil {
		return nil, err
	}
	return s.disks[o.ref].bases(), nil
}

// SharesBase reports whether two disks share a layer: after VM.clone and snapshots they do, after VM.copy they don't.
func (s *Sim) SharesBase(a, b string) (bool, error) {
	x, err := s.DiskBases(a)
	if err != nil {
		return false, err
	}
	y, err := s.DiskBases(b)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(x, func(n int) bool { return slices.Contains(y, n) }), nil
}

// Memory returns the content of a running VM's RAM: a new one after each boot, the same after a suspend and resume, a migration, or a
// revert to a checkpoint. It is empty for a VM that has no RAM now; for a suspended one it is the content of the image.
func (s *Sim) Memory(vm string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.find("VM", vm)
	if err != nil {
		return ""
	}
	if m, ok := s.memory[o.ref]; ok {
		return m
	}
	return s.memory[o.str("suspend_VDI")]
}

// SetMemory writes into a running VM's RAM.
func (s *Sim) SetMemory(vm, data string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.find("VM", vm)
	if err != nil {
		return err
	}
	if _, ok := s.memory[o.ref]; !ok {
		return fmt.Errorf("xapisim: VM %s has no RAM now", vm)
	}
	s.memory[o.ref] = data
	return nil
}

// FillSR leaves an SR (by uuid, reference or name) without room until it is called with false.
func (s *Sim) FillSR(sr string, full bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.find("SR", sr)
	for _, x := range s.all("SR") {
		if err != nil && x.str("name_label") == sr {
			o, err = x, nil
		}
	}
	if err != nil {
		return err
	}
	s.full[o.ref] = full
	return nil
}

// Field reads a field of an object (by uuid or reference) as JSON would show it, without a session or a counted call.
func (s *Sim) Field(class, id, field string) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.find(class, id)
	if err != nil {
		return nil, err
	}
	if o.class.Field(field) == nil {
		return nil, fmt.Errorf("xapisim: %s has no field %s", class, field)
	}
	if set, ok := o.val(field).(*refSet); ok {
		return anys(set.refs), nil
	}
	return o.val(field), nil
}

// SetField writes a field without any checks but its type, like an administrator at the host or a guest would.
func (s *Sim) SetField(class, id, field string, value any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.find(class, id)
	if err != nil {
		return err
	}
	f := o.class.Field(field)
	if f == nil {
		return fmt.Errorf("xapisim: %s has no field %s", class, field)
	}
	v, err := s.convert(f.Type, value)
	if name, ok := value.(string); ok && f.Type.Kind == xapidata.Enum {
		v, err = name, nil // a newer server may have values that the data model lacks
	}
	if err != nil {
		return err
	}
	if field == "uuid" {
		t := s.tables[class]
		delete(t.byUUID, o.str("uuid"))
		t.byUUID[v.(string)] = o
	}
	s.set(o, field, v)
	switch class {
	case "VM":
		s.refresh(o)
	case "VM_guest_metrics", "VM_metrics":
		for _, vm := range s.all("VM") {
			if vm.str("guest_metrics") == o.ref || vm.str("metrics") == o.ref {
				s.refresh(vm)
			}
		}
	}
	return nil
}

// Count returns the number of objects of a class.
func (s *Sim) Count(class string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tables[class]; t != nil {
		return len(t.byRef)
	}
	return 0
}

// Refs lists the references of a class, oldest first.
func (s *Sim) Refs(class string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	if s.tables[class] != nil {
		for _, o := range s.all(class) {
			out = append(out, o.ref)
		}
	}
	return out
}

// Crash ends a VM as if its kernel had panicked. HA restarts it if it protects it.
func (s *Sim) Crash(vm string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.find("VM", vm)
	if err == nil {
		s.halt(o)
		s.failOver([]*object{o})
	}
	return err
}
