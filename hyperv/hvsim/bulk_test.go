package hvsim_test

import (
	"fmt"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

func tenThousand(t testing.TB) *hvsim.Sim {
	sim := start(t, hvsim.Config{Hosts: []hvsim.HostConfig{{MemoryMB: 1 << 30}}})
	l := make([]hvsim.Machine, 10000)
	for n := range l {
		l[n] = hvsim.Machine{Name: fmt.Sprintf("vm%05d", n), Disks: []string{fmt.Sprintf(`C:\vm\%d.vhdx`, n)}, Switch: "External", Running: n%2 == 0}
	}
	if _, err := sim.Host(0).Add(l...); err != nil {
		t.Fatal(err)
	}
	return sim
}

func TestTenThousandMachines(t *testing.T) {
	sim := tenThousand(t)
	c := dial(t, sim, 0)
	sim.ResetCalls()
	l := c.query("SELECT Name, ElementName, EnabledState FROM Msvm_ComputerSystem WHERE Caption = 'Virtual Machine'")
	if len(l) != 10000 {
		t.Fatalf("%d", len(l))
	}
	running := 0
	for _, o := range l {
		if o.get("EnabledState") == "2" {
			running++
		}
	}
	if n := sim.Calls(); running != 5000 || n["Query Msvm_ComputerSystem"] != 1 || n["HTTP Enumerate"] != 1 || n["HTTP Pull"] != 99 {
		t.Fatalf("%d running, %v", running, n)
	}
	id := l[77].get("Name")
	if l := c.query("SELECT * FROM CIM_ResourceAllocationSettingData WHERE InstanceID LIKE 'Microsoft:" + id + "%'"); len(l) < 10 {
		t.Fatalf("%d settings", len(l))
	}
	if _, err := sim.Host(0).Add(hvsim.Machine{Name: "x", Switch: "none"}); err == nil {
		t.Fatal("a switch that is not there is taken")
	}
	if n := len(sim.Machines()); n != 10000 {
		t.Fatalf("%d machines after a refused one", n)
	}
}

// BenchmarkListPage lists 10,000 machines through the wire, and, for comparison, asks for the settings of one machine.
func BenchmarkList(b *testing.B) {
	sim := tenThousand(b)
	c := dial(b, sim, 0)
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			if l := c.query("SELECT Name, ElementName, EnabledState FROM Msvm_ComputerSystem"); len(l) != 10001 {
				b.Fatal(len(l))
			}
		}
	})
	id := sim.Machines()[5000].ID
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			if l := c.query("SELECT * FROM Msvm_MemorySettingData WHERE InstanceID LIKE 'Microsoft:" + id + "%'"); len(l) != 1 {
				b.Fatal(len(l))
			}
		}
	})
}
