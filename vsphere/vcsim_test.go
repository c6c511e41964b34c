package vsphere

import (
	"context"
	"testing"

	"github.com/vmware/govmomi/simulator"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// plainSim runs govmomi's own simulator.
func plainSim(t *testing.T, m *simulator.Model) *simulator.Server {
	t.Helper()
	if err := m.Create(); err != nil {
		t.Fatal(err)
	}
	m.Service.RegisterEndpoints = true
	s := m.Service.NewServer()
	t.Cleanup(func() { s.Close(); m.Remove() })
	return s
}

// TestConformancePlain runs the areas in which govmomi's own simulator does
// what a real server does. Left out are those that it answers untruly (it takes
// any size, reverts nothing, makes no linked disks, deletes detached ones with
// the machine's folder, works on after a cancel, and leaves hosts' lists of machines as they were) or
// dies of (concurrent snapshots).
func TestConformancePlain(t *testing.T) {
	m := simulator.VPX()
	m.Machine = 0
	s := plainSim(t, m)
	hypervisortest.Run(t, hypervisortest.Harness{
		Driver: "vsphere", Rung: hypervisortest.Simulator, Label: "vcsim",
		Only: []string{"inventory", "power", "disks", "devices", "labels", "tasks", "events", "guest", "refusals"},
		New: func(t hypervisortest.T) *hypervisortest.Backend {
			c, err := openSim(t.Context(), s.URL)
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			return &hypervisortest.Backend{Client: c, Spec: spec, AbsentVM: "vm-999999",
				Reopen: func(ctx context.Context) (*hypervisor.Client, error) { return openSim(ctx, s.URL) }}
		},
	})
}
