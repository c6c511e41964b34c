package xen

import (
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestHostFacts compares what is reported of hosts with what they are.
func TestHostFacts(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2, SRIOVNetwork: true, Edition: "enterprise-per-socket"})
	at := ok[hypervisor.VMInfo](t)(w.run.Info(ctx)).Host
	for _, h := range w.hosts(ctx) {
		running := 0
		if h.ID == at {
			running = 1
		}
		if h.CPU.Sockets != 2 || h.CPU.Cores != 8 || h.CPU.Threads != 16 || h.CPU.MHz != 2400 || h.CPU.Vendor != "GenuineIntel" || h.CPU.Model == "" {
			t.Errorf("CPUs: %+v", h.CPU)
		}
		if h.CPU.Virtualization != hypervisor.FactPresent || h.CPU.NestedPaging != hypervisor.FactPresent || h.IOMMU != hypervisor.FactPresent || h.SRIOV != hypervisor.FactPresent {
			t.Errorf("facts: %+v", h)
		}
		if h.MemoryBytes != 64*hypervisor.GiB || h.FreeBytes <= 0 || h.FreeBytes >= h.MemoryBytes || h.Running != running {
			t.Errorf("load: %+v", h)
		}
		if h.Product == "" || h.Version != "8.4.0" || h.Edition != "enterprise-per-socket" || string(h.Pool) != w.text(t, "pool", w.sim.Refs("pool")[0], "uuid") {
			t.Errorf("product: %+v", h)
		}
		if h.Limits.CPUs != 64 || h.Limits.MemoryBytes != 1536*hypervisor.GiB || h.Limits.VMs != 1000 {
			t.Errorf("limits: %+v", h.Limits)
		}
	}
	if err := w.sim.KillHost("host2"); err != nil {
		t.Fatal(err)
	}
	down := 0
	for _, h := range w.hosts(ctx) {
		if h.State == hypervisor.HostDown && h.Detail != "" && h.Name == "host2" {
			down++
		}
	}
	if down != 1 {
		t.Errorf("the host that is down: %+v", w.hosts(ctx))
	}
	plain := newWorld(t, xapisim.Config{NoIOMMU: true, NoHVM: true})
	for _, h := range plain.hosts(ctx) {
		if h.IOMMU != hypervisor.FactAbsent || h.SRIOV != hypervisor.FactAbsent || h.CPU.Virtualization != hypervisor.FactAbsent {
			t.Errorf("%+v", h)
		}
	}
}
