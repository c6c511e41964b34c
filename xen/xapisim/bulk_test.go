package xapisim_test

import (
	"testing"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func TestBulk(t *testing.T) {
	sim, c := start(t, xapisim.Config{Hosts: 2})
	n := 10000
	if testing.Short() {
		n = 500
	}
	refs, err := sim.AddVMs(xapisim.Bulk{Count: n, Running: n / 2})
	if err != nil || len(refs) != n {
		t.Fatal(len(refs), err)
	}
	sim.ResetCalls()
	all := c.must("VM.get_all_records").(map[string]any)
	if len(all) != n+4 { // two control domains, two templates
		t.Errorf("%d records", len(all))
	}
	if r := all[refs[0]].(map[string]any); r["power_state"] != "Running" || len(r["VBDs"].([]any)) != 1 || len(r["VIFs"].([]any)) != 1 {
		t.Errorf("%v", r)
	}
	if sim.TotalCalls() != 1 {
		t.Errorf("%d calls", sim.TotalCalls())
	}
	c.must("VM.hard_shutdown", refs[0])
}

func BenchmarkGetAllRecords(b *testing.B) {
	sim, err := xapisim.Start(xapisim.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer sim.Close()
	if _, err := sim.AddVMs(xapisim.Bulk{Count: 10000}); err != nil {
		b.Fatal(err)
	}
	c := benchClient(b, sim)
	for b.Loop() {
		c("VM.get_all_records")
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		sim, err := xapisim.Start(xapisim.Config{})
		if err != nil {
			b.Fatal(err)
		}
		sim.Close()
	}
}
