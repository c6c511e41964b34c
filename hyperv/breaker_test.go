package hyperv

import (
	"context"
	"crypto/tls"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/silence"
)

// reads are the methods that change nothing.
var reads = map[string]bool{"Invoke Msvm_ImageManagementService.GetVirtualHardDiskSettingData": true, "Invoke Win32_PnPEntity.GetDeviceProperties": true,
	"Invoke Msvm_VirtualSystemMigrationService.CheckVirtualSystemIsMigratable": true}

// noReturn are the calls after which there is no way back: they are broken for
// longer than it takes to look what became of them, too.
var noReturn = map[string]bool{"Invoke Msvm_VirtualSystemManagementService.DestroySystem": true, "Invoke Msvm_VirtualSystemManagementService.ImportSystemDefinition": true,
	"Invoke Msvm_VirtualSystemManagementService.RealizePlannedSystem": true, "Invoke Msvm_VirtualSystemManagementService.RemoveResourceSettings": true,
	"Invoke Msvm_VirtualSystemSnapshotService.ApplySnapshot": true, "Invoke Msvm_VirtualSystemMigrationService.MigrateVirtualSystemToHost": true,
	"Invoke Msvm_AssignableDeviceService.DismountAssignableDevice": true}

// breaker breaks calls with the simulator's faults.
func breaker(sim *hvsim.Sim) *hypervisortest.Breaker {
	heal, answer, struck := func() {}, func() {}, 0
	return &hypervisortest.Breaker{
		Late: true,
		Calls: func() (out []string) {
			all := sim.Calls()
			for _, m := range slices.Sorted(maps.Keys(all)) {
				out = append(out, slices.Repeat([]string{m}, all[m])...)
			}
			sim.ResetCalls()
			return out
		},
		Break: func(call string, nth int, b hypervisortest.Breakage) {
			f := hvsim.Fault{Skip: nth - 1, DropBefore: b.How == hypervisortest.Before, Drop: b.How == hypervisortest.After}
			f.Op, f.Target, _ = strings.Cut(call, " ")
			if b.How == hypervisortest.Late {
				healed := make(chan struct{})
				answer = sync.OnceFunc(func() { close(healed) })
				f.Late = func() { b.Acted(); <-healed }
			}
			if b.Then != 0 {
				f.Next = &hvsim.Fault{DropBefore: true, Times: b.Then}
			}
			struck = sim.Struck()
			heal = sim.Inject(f)
		},
		Heal: func() bool {
			answer()
			heal()
			n := sim.Struck() - struck
			struck += n
			return n > 0
		},
		Ways: ways,
		Reads: func(call string) int {
			switch {
			case strings.HasPrefix(call, "Get ") && strings.HasSuffix(call, "Job"):
				return 20
			case strings.HasPrefix(call, "Query ") || strings.HasPrefix(call, "Get ") || reads[call]:
				return 1
			}
			return 0
		},
		Settle: func(context.Context) error { sim.Advance(time.Minute); return nil },
	}
}

// ways has calls break before and after they arrive, and then for a while or
// for as long as the operation lasts.
func ways(call string, nth int) []hypervisortest.Breakage {
	before, after := hypervisortest.Breakage{How: hypervisortest.Before}, hypervisortest.Breakage{How: hypervisortest.After}
	then := func(b hypervisortest.Breakage, n int) hypervisortest.Breakage { b.Then = n; return b }
	what, _, _ := strings.Cut(call, " ")
	switch {
	case nth > 2 || testing.Short() && nth > 1:
		return nil
	case what == "Get" && strings.HasSuffix(call, "Job"):
		if nth == 1 { // waiting takes as many calls as it takes
			return []hypervisortest.Breakage{before, then(after, 2), then(after, -1)}
		}
		return nil
	case what == "Query" || what == "Get" || reads[call]:
		if nth == 1 {
			return []hypervisortest.Breakage{before}
		}
		return nil
	case what != "Put" && what != "Invoke":
		return nil
	case nth > 1:
		return []hypervisortest.Breakage{then(after, -1)}
	}
	out := []hypervisortest.Breakage{before, after, then(after, 2), then(after, -1), {How: hypervisortest.Late}}
	if noReturn[call] {
		out = append(out, then(before, 4), then(before, -1), then(after, 4), then(after, 6))
	}
	return out
}

// TestContexts has both hosts fall silent.
func TestContexts(t *testing.T) {
	hypervisortest.Run(t, hypervisortest.Harness{Driver: "hyperv", Rung: hypervisortest.Simulator, Label: "contexts", Only: []string{"contexts"}, Worlds: 4,
		New: func(t hypervisortest.T) *hypervisortest.Backend {
			s := startSite(t, conformanceSite())
			s.config.Hosts = s.config.Hosts[:2]
			s.config.tls.CurvePreferences = []tls.CurveID{tls.X25519} // the quickest
			var relays []*silence.Relay
			for i, h := range s.config.Hosts { // a host's ID has its address
				r := silence.Start(t, h)
				s.config.Hosts[i], relays = r.Addr, append(relays, r)
			}
			c, err := s.open(t.Context())
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			if err := dismountAll(t.Context(), c, "25b6"); err != nil {
				t.Fatalf("%v", err)
			}
			b := s.backend(t, c)
			b.Break = silence.Breaker(relays...)
			return b
		}})
}

// TestFaults breaks each call of each operation. Every method that may start a
// job starts one, so that most calls that are cut off continue behind the
// client's back.
func TestFaults(t *testing.T) {
	hypervisortest.Run(t, hypervisortest.Harness{Driver: "hyperv", Rung: hypervisortest.Simulator, Label: "faults", Only: []string{"faults"}, Worlds: 4, Limit: 10 * time.Minute,
		New: func(t hypervisortest.T) *hypervisortest.Backend {
			cfg := faultSite()
			cfg.AllJobs = true
			s := startSite(t, cfg)
			s.clock.slow(time.Millisecond) // jobs, that is
			s.config.PollLast, s.config.Connections = 2*time.Millisecond, 2
			s.config.tls.CurvePreferences = []tls.CurveID{tls.X25519} // the quickest
			c, err := s.open(t.Context())
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			if err := dismountAll(t.Context(), c, "25b6"); err != nil {
				t.Fatalf("%v", err)
			}
			b := s.backend(t, c)
			b.Break = breaker(s.sim)
			return b
		}})
}

// faultSite is a cluster of two hosts, with devices.
func faultSite() hvsim.Config {
	gpu := func(name string, product uint16, counts ...uint16) hvsim.GPU {
		return hvsim.GPU{Device: hvsim.Device{Name: name, Vendor: 0x10DE, Product: product}, PartitionCounts: counts}
	}
	return hvsim.Config{Hosts: []hvsim.HostConfig{{GPUs: []hvsim.GPU{gpu("NVIDIA A2", 0x25B6), gpu("NVIDIA A16", 0x2236, 1, 2, 4)}, Switches: []hvsim.Switch{{Name: "External", IOV: true}}}, {}},
		Cluster: &hvsim.ClusterConfig{Volumes: []string{"Volume1"}}}
}
