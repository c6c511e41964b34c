package hyperv

import (
	"errors"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestReplicationStates: each state that Hyper-V Replica documents has a
// portable one, and a value that is newer than the table is no health.
func TestReplicationStates(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c := openSite(t, s)
	vm := create(t, c, small("replicated"))
	last := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	want := []hypervisor.ReplicationState{hypervisor.ReplicationOff, hypervisor.ReplicationInitial, hypervisor.ReplicationInitial, hypervisor.ReplicationActive, hypervisor.ReplicationFailingOver,
		hypervisor.ReplicationFailedOver, hypervisor.ReplicationFailedOver, hypervisor.ReplicationSuspended, hypervisor.ReplicationError, hypervisor.ReplicationResync, hypervisor.ReplicationResync,
		hypervisor.ReplicationSuspended, hypervisor.ReplicationFailingOver, hypervisor.ReplicationFailingOver, hypervisor.ReplicationFailedOver, hypervisor.ReplicationActive, hypervisor.ReplicationError,
		hypervisor.ReplicationError, hypervisor.ReplicationFailingOver, hypervisor.ReplicationFailingOver, hypervisor.ReplicationFailingOver, hypervisor.ReplicationActive, hypervisor.ReplicationError}
	for n, state := range want {
		if err := s.sim.SetReplication(string(vm.ID()), hvsim.Replication{State: uint16(n), Health: 1, Mode: 2, Last: last}); err != nil {
			t.Fatal(err)
		}
		got, err := vm.Replication(t.Context())
		if err != nil || got.State != state || n > 0 && (got.Role != hypervisor.RoleReplica || got.Health != hypervisor.HealthOK || got.Detail == "" || !got.LastAt.Equal(last)) {
			t.Errorf("state %d: %+v, %v", n, got, err)
		}
	}
	tpl, err := vm.MarkTemplate(t.Context()).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.VM(hypervisor.VMID(tpl.ID())).Replication(t.Context()); err != nil || got != (hypervisor.ReplicationInfo{}) {
		t.Errorf("a template: %+v, %v", got, err)
	}
}

func TestReplicationEdition(t *testing.T) {
	s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{Edition: hvsim.WindowsPro}}})
	c := openSite(t, s)
	_, err := create(t, c, small("pro")).Replication(t.Context())
	var u *hypervisor.UnsupportedError
	if !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonEdition {
		t.Errorf("on Windows Pro: %v", err)
	}
}

// TestDeleteBusy: while the host is at work on a machine, deleting it says so
// and leaves the work alone.
func TestDeleteBusy(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c := openSite(t, s)
	vm := create(t, c, small("busy"))
	remove := s.sim.Inject(hvsim.Fault{Op: "Job", Target: "ExportSystemDefinition", Stall: true})
	clone := vm.Clone(t.Context(), "copy", nil)
	if err := clone.Err(); err != nil {
		t.Fatal(err)
	}
	for s.sim.Calls()["Invoke Msvm_VirtualSystemManagementService.ExportSystemDefinition"] == 0 {
		time.Sleep(time.Millisecond)
	}
	if _, err := vm.Delete(t.Context(), hypervisor.DeleteDisks, nil).Wait(t.Context()); !errors.Is(err, hypervisor.ErrBusy) {
		t.Errorf("during an export: %v", err)
	}
	remove()
	if err := clone.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := clone.Wait(t.Context()); !errors.Is(err, hypervisor.ErrCanceled) {
		t.Errorf("the clone: %v", err)
	}
	if _, err := vm.Delete(t.Context(), hypervisor.DeleteDisks, nil).Wait(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
