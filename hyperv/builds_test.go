package hyperv

import (
	"fmt"
	"slices"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// builds are Windows Server 2016, 2019, 2022 and 2025.
var builds = []int{14393, 17763, 20348, 26100}

// TestBuilds: what most programs do works on each build, whatever classes and
// properties it lacks.
func TestBuilds(t *testing.T) {
	for n, b := range append(builds, builds[0]) {
		t.Run(fmt.Sprint(b), func(t *testing.T) {
			t.Parallel()
			s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{Build: b}}, OldFaults: n == len(builds)})
			c, ctx := openSite(t, s), t.Context()
			spec := small("machine")
			spec.Disks = []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}
			vm := create(t, c, spec)
			snap, err := vm.CreateSnapshot(ctx, "before", nil).Wait(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range []*hypervisor.CloneOptions{{}, {Mode: hypervisor.CloneModeLinked}, {From: snap.ID()}} {
				copied, err := vm.Clone(ctx, "copy", o).Wait(ctx)
				if err != nil {
					t.Fatalf("%+v: %v", o, err)
				}
				if _, err := copied.Info(ctx); err != nil {
					t.Error(err)
				}
				if _, err := copied.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
					t.Error(err)
				}
			}
			for _, o := range []*hypervisor.ListOptions{nil, {Detail: hypervisor.DetailBrief}} {
				if all, err := hypervisor.Collect(c.VMs(ctx, o)); err != nil || len(all) != 1 {
					t.Errorf("%+v: %v, %v", o, all, err)
				}
			}
			if _, err := hypervisor.Collect(c.Devices(ctx, nil)); err != nil {
				t.Error(err)
			}
			if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
				t.Error(err)
			}
			if f := s.sim.Host(0).Files(); len(f) > 0 {
				t.Errorf("files that stay: %v", f)
			}
		})
	}
}

// TestConformanceBuilds runs some areas on the builds that TestConformance
// doesn't have.
func TestConformanceBuilds(t *testing.T) {
	for _, b := range builds {
		if b == conformanceSite().Hosts[0].Build {
			continue
		}
		t.Run(fmt.Sprint(b), func(t *testing.T) {
			h := harness(fmt.Sprintf("build %d", b), func(t hypervisortest.T, c hvsim.Config) *site {
				c.Hosts = slices.Clone(c.Hosts)
				for i := range c.Hosts {
					c.Hosts[i].Build = b
				}
				return startSite(t, c)
			})
			h.Only = []string{"inventory", "lifecycle", "snapshots", "clones"}
			if b != 17763 { // where a partition does not name its GPU
				h.Only = append(h.Only, "devices")
			}
			hypervisortest.Run(t, h)
		})
	}
}
