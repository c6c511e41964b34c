// Package vcsim tests the driver on govmomi's own simulator, as far as that does what a real server does. It is a package
// of its own since that simulator has data races (its createVM writes a machine while its property collector reads it,
// v0.55.0): this one test runs without the race detector. Package vspheresim has closed them.
package vcsim

import (
	"context"
	"net/url"
	"testing"

	"github.com/vmware/govmomi/simulator"
	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	_ "github.com/anyvisor/anyvisor/vsphere"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(ctx context.Context, u *url.URL) (*hypervisor.Client, error) {
	at := url.URL{Scheme: "vsphere", Host: u.Host, User: u.User, RawQuery: "plainhttp=true"}
	return hypervisor.Open(ctx, at.String(), nil)
}

func spec(name string) hypervisor.VMSpec {
	return hypervisor.VMSpec{Name: name, CPUs: 1, MemoryBytes: 256 * hypervisor.MiB,
		Disks: []hypervisor.DiskSpec{{SizeBytes: 64 * hypervisor.MiB}}, NICs: []hypervisor.NICSpec{{}}}
}

// TestConformance runs the areas in which govmomi's own simulator does what a
// real server does. Left out are those that it answers untruly (it takes any
// size, reverts nothing, makes no linked disks, deletes detached ones with the
// machine's folder, works on after a cancel, and leaves hosts' lists of
// machines as they were) or dies of (concurrent snapshots).
func TestConformance(t *testing.T) {
	m := simulator.VPX()
	m.Machine = 0
	if err := m.Create(); err != nil {
		t.Fatal(err)
	}
	m.Service.RegisterEndpoints = true
	s := m.Service.NewServer()
	t.Cleanup(func() { s.Close(); m.Remove() })
	hypervisortest.Run(t, hypervisortest.Harness{
		Driver: "vsphere", Rung: hypervisortest.Simulator, Label: "vcsim",
		Only: []string{"inventory", "power", "disks", "devices", "labels", "tasks", "events", "guest", "refusals"},
		New: func(t hypervisortest.T) *hypervisortest.Backend {
			c, err := open(t.Context(), s.URL)
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			return &hypervisortest.Backend{Client: c, Spec: spec, AbsentVM: "vm-999999",
				Reopen: func(ctx context.Context) (*hypervisor.Client, error) { return open(ctx, s.URL) }}
		},
	})
}
