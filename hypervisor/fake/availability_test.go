package fake_test

import (
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

// A host dies: HA restarts its machines elsewhere, the urgent ones first, as
// far as there is room, and they boot anew.
func TestFailover(t *testing.T) {
	hosts := fake.DefaultHosts(2)
	hosts[0].MemoryBytes, hosts[1].MemoryBytes = 64*hypervisor.GiB, 20*hypervisor.GiB
	b := fake.New(fake.Config{HA: true, Hosts: hosts})
	c := open(t, b)
	ctx := t.Context()
	vms := map[hypervisor.RestartPriority]*hypervisor.VM{}
	for _, p := range []hypervisor.RestartPriority{hypervisor.RestartNever, hypervisor.RestartLow, hypervisor.RestartHigh} {
		vm := create(t, c, string(p), func(s *hypervisor.VMSpec) {
			s.Start, s.Placement.Host, s.MemoryBytes = true, "host-1", 16*hypervisor.GiB
		})
		wait(t, vm.SetRestartPriority(ctx, p))
		if err := b.WriteMemory(vm.ID(), "work"); err != nil {
			t.Fatal(err)
		}
		vms[p] = vm
	}
	if err := b.SetHostState("host-1", hypervisor.HostDown); err != nil {
		t.Fatal(err)
	}
	high, err := vms[hypervisor.RestartHigh].Info(ctx)
	if err != nil || high.Host != "host-2" || high.State != hypervisor.StateRunning {
		t.Errorf("the urgent machine is %s on %s (%v), want running on host-2", high.State, high.Host, err)
	}
	if ram, err := b.ReadMemory(high.ID); ram != "" || err != nil {
		t.Errorf("its memory holds %q (%v), want that of a new boot", ram, err)
	}
	for _, p := range []hypervisor.RestartPriority{hypervisor.RestartNever, hypervisor.RestartLow} {
		if i, err := vms[p].Info(ctx); err != nil || i.State != hypervisor.StateUnknown || i.Host != "host-1" {
			t.Errorf("priority %s: the machine is %s on %s (%v), want unknown on host-1: host-2 has room for one", p, i.State, i.Host, err)
		}
	}
}

// What holds a machine to its host: a device, or a disk that no other reaches.
func TestFailoverHeld(t *testing.T) {
	b := fake.New(fake.Config{HA: true})
	c := open(t, b)
	ctx := t.Context()
	gpu := create(t, c, "gpu", func(s *hypervisor.VMSpec) { s.Placement.Host = "host-1" })
	wait(t, gpu.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "10de", Product: "2330"}))
	wait(t, gpu.Start(ctx))
	at, err := gpu.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var local hypervisor.DatastoreID
	for d, err := range c.Datastores(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Hosts) == 1 && d.Hosts[0] == at.Host {
			local = d.ID
		}
	}
	disk := create(t, c, "local", func(s *hypervisor.VMSpec) {
		s.Start, s.Placement = true, hypervisor.Placement{Host: at.Host, Datastore: local}
	})
	if err := b.SetHostState(at.Host, hypervisor.HostDown); err != nil {
		t.Fatal(err)
	}
	for _, vm := range []*hypervisor.VM{gpu, disk} {
		if i, err := vm.Info(ctx); err != nil || i.Host != at.Host || i.State != hypervisor.StateUnknown {
			t.Errorf("%s is %s on %s (%v), want it held on %s", i.Name, i.State, i.Host, err, at.Host)
		}
	}
}
