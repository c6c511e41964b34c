package xapisim

import "slices"

// A VM without VM_metrics can be started, but xapi never sees it run: its event thread fails on the missing row before it writes
// power_state, and does so for each later event. The pool reports Halted for ever: the VM can be started on another host too, cloned, and
// deleted while it runs (recorded from a xapi 24.11). VM.set_is_a_template(true) removes the row, (false) and VM.provision don't restore
// it; VM.revert does, with the snapshot's (xapi_vm_snapshot.ml, update_metrics). A resume is not seen either (believed: the same thread
// writes it).

// seen reports whether the pool can see the VM run.
func (s *Sim) seen(vm *object) bool { return s.look("VM_metrics", vm.str("metrics")) != nil }

// bootUnseen makes a VM without VM_metrics run on a host. Only what is written before the event is seen: its host, and that its devices are
// attached.
func (s *Sim) bootUnseen(vm, host *object) error {
	at := host.str("uuid")
	s.release(vm)
	if slices.Contains(s.unseen[vm.str("uuid")], at) { // xenopsd knows the domain there
		return fail("VM_BAD_POWER_STATE", vm.ref, "Halted", "Running")
	}
	s.unseen[vm.str("uuid")] = append(s.unseen[vm.str("uuid")], at)
	s.set(vm, "resident_on", host.ref)
	s.plugAll(vm, true)
	s.refreshDevices(vm)
	s.refresh(vm)
	return nil
}

// Domains lists the hosts on which a VM (by uuid) truly runs, whatever the pool reports and even if the pool has forgotten it.
func (s *Sim) Domains(uuid string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.unseen[uuid])
	if vm := s.tables["VM"].byUUID[uuid]; vm != nil && (vm.str("power_state") == "Running" || vm.str("power_state") == "Paused") {
		out = append(out, s.look("host", vm.str("resident_on")).str("uuid"))
	}
	return out
}
