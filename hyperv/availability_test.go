package hyperv

import (
	"errors"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// TestRoles: a priority makes the machine a role of the cluster, which goes
// with the machine; one that the cluster could not start elsewhere, or not
// tell from another, is refused before anything is done.
func TestRoles(t *testing.T) {
	s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{}, {}}, Cluster: &hvsim.ClusterConfig{Name: "CL1", Volumes: []string{"Volume1"}}})
	c := openSite(t, s)
	ctx := t.Context()
	pools, err := hypervisor.Collect(c.HA(ctx))
	if err != nil || len(pools) != 1 || pools[0].Pool != "CL1" || !pools[0].Enabled {
		t.Fatalf("%+v, %v", pools, err)
	}
	machine := func(name, store string) *hypervisor.VM {
		spec := small(name)
		spec.Placement = hypervisor.Placement{Host: hypervisor.HostID(s.config.Hosts[0]), Datastore: hypervisor.DatastoreID(store)}
		return create(t, c, spec)
	}
	set := func(vm *hypervisor.VM, p hypervisor.RestartPriority) error {
		_, err := vm.SetRestartPriority(ctx, p).Wait(ctx)
		return err
	}
	roles := func(want ...string) {
		t.Helper()
		got := s.sim.Roles()
		if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
			t.Errorf("roles %q, want %q", got, want)
		}
	}
	vm := machine("it's <a role>", sharedStore)
	if err := set(vm, hypervisor.RestartNever); err != nil {
		t.Error(err)
	}
	roles()
	s.sim.Inject(hvsim.Fault{Op: "Put", HRESULT: 0x80041003})
	if err := set(vm, hypervisor.RestartLow); !errors.Is(err, hypervisor.ErrPermission) {
		t.Errorf("a priority that may not be set: %v", err)
	}
	roles() // the half-made role is gone
	if err := set(vm, hypervisor.RestartHigh); err != nil {
		t.Fatal(err)
	}
	roles("it's <a role>")
	if _, err := vm.MarkTemplate(ctx).Wait(ctx); !errors.Is(err, hypervisor.ErrInvalidState) {
		t.Errorf("a role as a template: %v", err)
	}
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if a, err := vm.Availability(ctx); err != nil || a != (hypervisor.Availability{Priority: hypervisor.RestartHigh, Protected: true}) {
		t.Errorf("%+v, %v", a, err)
	}
	if err := set(machine("local", ""), hypervisor.RestartHigh); !errors.Is(err, hypervisor.ErrIncompatible) {
		t.Errorf("a disk of the host's own: %v", err)
	}
	twin := machine("twin", sharedStore)
	machine("twin", sharedStore)
	if err := set(twin, hypervisor.RestartHigh); !errors.Is(err, hypervisor.ErrAmbiguous) {
		t.Errorf("two of one name: %v", err)
	}
	if err := set(twin, hypervisor.RestartBestEffort); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("best effort: %v", err)
	}
	// A role of the same name on another node is another machine's.
	spec := small("it's <a role>")
	spec.Placement = hypervisor.Placement{Host: hypervisor.HostID(s.config.Hosts[1]), Datastore: sharedStore}
	namesake := create(t, c, spec)
	if a, err := namesake.Availability(ctx); err != nil || a.Priority != hypervisor.RestartNever {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := namesake.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
		t.Error(err)
	}
	// And on the same node it can't be told.
	near := machine("it's <a role>", sharedStore)
	if _, err := near.Availability(ctx); !errors.Is(err, hypervisor.ErrAmbiguous) {
		t.Errorf("two of one name, one of them a role: %v", err)
	}
	if _, err := near.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); !errors.Is(err, hypervisor.ErrAmbiguous) {
		t.Errorf("two of one name, one of them a role: %v", err)
	}
	roles("it's <a role>")
	if _, err := near.Reconfigure(ctx, hypervisor.Changes{Name: "another"}).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	roles()
}

func TestNoCluster(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c := openSite(t, s)
	vm := create(t, c, small("alone"))
	for name, call := range map[string]func() error{
		"Availability": func() error { _, err := vm.Availability(t.Context()); return err },
		"SetRestartPriority": func() error {
			_, err := vm.SetRestartPriority(t.Context(), hypervisor.RestartHigh).Wait(t.Context())
			return err
		},
	} {
		var u *hypervisor.UnsupportedError
		if err := call(); !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonConfig {
			t.Errorf("%s: %v", name, err)
		}
	}
	if pools, err := hypervisor.Collect(c.HA(t.Context())); err != nil || len(pools) != 0 {
		t.Errorf("%+v, %v", pools, err)
	}
	if sup, err := c.Supports(t.Context(), capability.HighAvailability, hypervisor.Ref{}); err != nil || sup.Level != hypervisor.LevelNo || sup.Reason != hypervisor.ReasonConfig {
		t.Errorf("%+v, %v", sup, err)
	}
}
