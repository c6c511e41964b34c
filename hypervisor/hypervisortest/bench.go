package hypervisortest

import (
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// benchT lets a benchmark serve as the T that the harness needs.
type benchT struct{ *testing.B }

// RunBenchmarks runs the benchmarks for all drivers: listing all machines of
// the backend (brief and full), in machines per second, and reading one.
func RunBenchmarks(b *testing.B, h Harness) {
	be := h.New(benchT{b})
	b.Cleanup(func() { _ = be.Client.Close() })
	ctx := b.Context()
	for name, d := range map[string]hypervisor.Detail{"Brief": hypervisor.DetailBrief, "Full": hypervisor.DetailFull} {
		b.Run("List"+name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n = 0
				for _, err := range be.Client.VMs(ctx, &hypervisor.ListOptions{Detail: d}) {
					if err != nil {
						b.Fatal(err)
					}
					n++
				}
			}
			b.ReportMetric(float64(n), "machines")
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "machines/s")
		})
	}
	b.Run("Info", func(b *testing.B) {
		b.ReportAllocs()
		var vm *hypervisor.VM
		for v, err := range be.Client.VMs(ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief, PageSize: 1}) {
			if err != nil {
				b.Fatal(err)
			}
			vm = be.Client.VM(v.ID)
			break
		}
		if vm == nil {
			b.Skip("no machine to read")
		}
		for b.Loop() {
			if _, err := vm.Info(ctx); err != nil {
				b.Fatal(err)
			}
		}
	})
}
