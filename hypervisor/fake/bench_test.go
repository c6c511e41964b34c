package fake_test

import (
	"fmt"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// crowd makes a backend with n machines of one disk, one adapter and a label.
func crowd(tb testing.TB, n int) *fake.Backend {
	tb.Helper()
	b := fake.New(fake.Config{CallLog: 10})
	c, err := b.Open(tb.Context(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	for i := range n {
		_, err := c.CreateVM(tb.Context(), hypervisor.VMSpec{Name: fmt.Sprintf("vm-%06d", i), CPUs: 2, MemoryBytes: hypervisor.GiB,
			Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}, NICs: []hypervisor.NICSpec{{}}, Labels: map[string]string{"n": "1"}}).Wait(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
	}
	return b
}

// BenchmarkStart makes an empty platform and opens a Client on it.
func BenchmarkStart(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		c, err := fake.New(fake.Config{}).Open(b.Context(), nil)
		if err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}

// BenchmarkList lists 100,000 machines, as the suite measures every driver.
func BenchmarkList(b *testing.B) {
	p := crowd(b, 100_000)
	h := everything().harness("")
	h.New = func(t hypervisortest.T) *hypervisortest.Backend {
		c, err := p.Open(t.Context(), nil)
		if err != nil {
			t.Fatalf("%v", err)
		}
		return &hypervisortest.Backend{Client: c}
	}
	hypervisortest.RunBenchmarks(b, h)
}

// BenchmarkLayer reads one machine through the Client and from the driver
// itself: the difference is what the portable layer costs.
func BenchmarkLayer(b *testing.B) {
	p := crowd(b, 1)
	c, err := p.Open(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	vm, err := c.FindVM(b.Context(), "vm-000000")
	if err != nil {
		b.Fatal(err)
	}
	d, _ := hypervisor.As[*fake.Driver](b.Context(), c, c)
	b.Run("Client", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := vm.Info(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Driver", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.GetVM(b.Context(), vm.ID()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// The portable layer adds at most two allocations to a call.
func TestLayerAllocations(t *testing.T) {
	p := crowd(t, 1)
	c, err := p.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	vm, err := c.FindVM(t.Context(), "vm-000000")
	if err != nil {
		t.Fatal(err)
	}
	d, _ := hypervisor.As[*fake.Driver](t.Context(), c, c)
	ctx := t.Context()
	for name, f := range map[string][2]func(){
		"Info": {func() { _, _ = vm.Info(ctx) }, func() { _, _ = d.GetVM(ctx, vm.ID()) }},
		"Supports": {func() { _, _ = vm.Supports(ctx, capability.SnapshotMemory) },
			func() { _, _ = d.Supports(ctx, capability.SnapshotMemory, vm.ID().Ref()) }},
		"Snapshots": {func() { _, _ = vm.Snapshots(ctx) }, func() { _, _ = d.Snapshots(ctx, vm.ID()) }},
		"SetLabels": {func() { _ = vm.SetLabels(ctx, nil) }, func() { _ = d.SetLabels(ctx, vm.ID(), nil) }},
	} {
		layered, bare := testing.AllocsPerRun(200, f[0]), testing.AllocsPerRun(200, f[1])
		if layered-bare > 2 {
			t.Errorf("%s allocates %v times through the Client, %v in the driver: more than 2 added", name, layered, bare)
		}
	}
}
