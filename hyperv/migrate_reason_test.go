package hyperv

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// mover makes a running machine on the first of two hosts, with its disk on a
// volume of both.
func mover(t *testing.T, cfg hvsim.Config) (*site, *hypervisor.VM, hypervisor.MigrateOptions) {
	t.Helper()
	cfg.Cluster = &hvsim.ClusterConfig{Volumes: []string{"Volume1"}}
	s := startSite(t, cfg)
	c := openSite(t, s)
	spec := small("mover")
	spec.Placement = hypervisor.Placement{Host: hypervisor.HostID(s.config.Hosts[0]), Datastore: sharedStore}
	spec.Start = true
	return s, create(t, c, spec), hypervisor.MigrateOptions{Host: hypervisor.HostID(s.config.Hosts[1]), Mode: hypervisor.MigrateModeLive}
}

// TestMigrationReasonsByCode: the host's own check reports its reasons by
// number, in whatever language its texts are.
func TestMigrationReasonsByCode(t *testing.T) {
	for name, k := range map[string]struct {
		hosts [2]hvsim.HostConfig
		want  hypervisor.ReasonCode
		text  string
	}{
		"processor":   {[2]hvsim.HostConfig{{Japanese: true}, {CPU: hvsim.CPU{Vendor: "AuthenticAMD"}}}, hypervisor.ReasonCPU, ""},
		"version":     {[2]hvsim.HostConfig{{Japanese: true, Build: 26100}, {Build: 14393}}, hypervisor.ReasonVersion, ""},
		"credentials": {[2]hvsim.HostConfig{{Japanese: true, NoDelegation: true}, {}}, hypervisor.ReasonConfig, "delegation"},
		"english":     {[2]hvsim.HostConfig{{}, {CPU: hvsim.CPU{Vendor: "AuthenticAMD"}}}, hypervisor.ReasonCPU, "processor"},
	} {
		t.Run(name, func(t *testing.T) {
			_, vm, o := mover(t, hvsim.Config{Hosts: k.hosts[:]})
			r, err := vm.CheckMigrate(t.Context(), o)
			if err != nil || len(r.Blockers) != 1 || r.Blockers[0].Reason != k.want || !strings.Contains(r.Blockers[0].Detail, k.text) {
				t.Errorf("%+v, %v, want %s", r.Blockers, err, k.want)
			}
		})
	}
}

// TestMigrationNeedsDelegation: a source host that takes the caller's own
// credentials gets none over the network, and CheckMigrate says what to set.
func TestMigrationNeedsDelegation(t *testing.T) {
	_, vm, o := mover(t, hvsim.Config{Hosts: []hvsim.HostConfig{{MigrationCredSSP: true}, {}}})
	r, err := vm.CheckMigrate(t.Context(), o)
	if err != nil || len(r.Blockers) != 1 || r.Blockers[0].Reason != hypervisor.ReasonConfig || !strings.Contains(r.Blockers[0].Detail, "CredSSP") || !strings.Contains(r.Blockers[0].Detail, "VirtualMachineMigrationAuthenticationType Kerberos") {
		t.Errorf("%+v, %v", r.Blockers, err)
	}
	if _, err := vm.Migrate(t.Context(), o).Wait(t.Context()); !errors.Is(err, hypervisor.ErrIncompatible) {
		t.Errorf("Migrate: %v", err)
	}
}

// TestMigrationNamesAddresses: the request to the source host names the
// addresses at which the target takes migrations, as the requests of os-win and
// Microsoft's sample do.
func TestMigrationNamesAddresses(t *testing.T) {
	s, vm, o := mover(t, hvsim.Config{Hosts: []hvsim.HostConfig{{}, {MigrationAddr: "192.0.2.7"}}})
	if _, err := vm.Migrate(t.Context(), o).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.sim.MovedThrough(string(vm.ID())); !slices.Equal(got, []string{"192.0.2.7"}) {
		t.Errorf("moved through %v", got)
	}
}

// TestMigrationWithoutListeners: a target that takes migrations on no address
// is refused before anything moves.
func TestMigrationWithoutListeners(t *testing.T) {
	_, vm, o := mover(t, hvsim.Config{Hosts: []hvsim.HostConfig{{}, {NoListeners: true}}})
	r, err := vm.CheckMigrate(t.Context(), o)
	if err != nil || len(r.Blockers) != 1 || r.Blockers[0].Reason != hypervisor.ReasonConfig || !strings.Contains(r.Blockers[0].Detail, "Add-VMMigrationNetwork") {
		t.Errorf("%+v, %v", r.Blockers, err)
	}
}

// TestMigrationFindsSwitchesWithoutCase: Windows compares names so.
func TestMigrationFindsSwitchesWithoutCase(t *testing.T) {
	s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{Switches: []hvsim.Switch{{Name: "Blue"}}}, {Switches: []hvsim.Switch{{Name: "BLUE"}}}}, Cluster: &hvsim.ClusterConfig{Volumes: []string{"Volume1"}}})
	c := openSite(t, s)
	spec := small("mover")
	spec.Placement = hypervisor.Placement{Host: hypervisor.HostID(s.config.Hosts[0]), Datastore: sharedStore}
	nets, err := hypervisor.Collect(c.Networks(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nets {
		if n.Name == "Blue" {
			spec.NICs = []hypervisor.NICSpec{{Network: n.ID}}
		}
	}
	vm := create(t, c, spec)
	r, err := vm.CheckMigrate(t.Context(), hypervisor.MigrateOptions{Host: hypervisor.HostID(s.config.Hosts[1])})
	if err != nil || len(r.Blockers) > 0 {
		t.Errorf("%+v, %v", r.Blockers, err)
	}
}
