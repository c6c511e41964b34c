package xen

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/silence"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// breaker breaks calls with the simulator's faults.
func breaker(sim *xapisim.Sim) *hypervisortest.Breaker {
	heal := func() int { return 0 }
	answer := func() {}
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
			f := xapisim.Fault{Method: call, Skip: nth - 1}
			switch b.How {
			case hypervisortest.Before:
				f.Drop = true
			case hypervisortest.After:
				f.DropAfter = true
			case hypervisortest.Late:
				healed := make(chan struct{})
				answer = sync.OnceFunc(func() { close(healed) })
				f.Late = func() { b.Acted(); <-healed }
			case hypervisortest.Expire:
				f.Err = &xapisim.Failure{Code: "SESSION_INVALID", Params: []string{"OpaqueRef:x"}}
			}
			heal = sim.Fault(f)
		},
		Heal: func() bool { answer(); return heal() > 0 },
		Ways: func(call string, nth int) []hypervisortest.Breakage {
			read := strings.Contains(call, ".get_")
			switch {
			case nth > 2, nth > 1 && (read || testing.Short()):
				return nil
			case read: // one that is not answered may as well not have arrived
				return []hypervisortest.Breakage{{How: hypervisortest.After}}
			}
			out := []hypervisortest.Breakage{{How: hypervisortest.Before}, {How: hypervisortest.After}, {How: hypervisortest.Expire}}
			if nth == 1 {
				out = append(out, hypervisortest.Breakage{How: hypervisortest.Late})
			}
			return out
		},
	}
}

// TestContexts has the pool fall silent.
func TestContexts(t *testing.T) {
	hypervisortest.Run(t, hypervisortest.Harness{Driver: "xapi", Rung: hypervisortest.Simulator, Label: "contexts", Only: []string{"contexts"}, Worlds: 4,
		New: func(t hypervisortest.T) *hypervisortest.Backend {
			hb, sim := newBackend(t, faultPool, false)
			connectWLB(t.Context(), t, sim, hb.Client)
			r := silence.Start(t, strings.TrimPrefix(sim.URL(), "https://"))
			silence.Behind(t, hb, func(ctx context.Context) (*hypervisor.Client, error) {
				cfg := config(sim)
				cfg.Host = r.Addr
				return openConfig(ctx, cfg, &hypervisor.Options{})
			}, r)
			return hb
		}})
}

// TestFaults breaks each call of each operation.
func TestFaults(t *testing.T) {
	hypervisortest.Run(t, hypervisortest.Harness{Driver: "xapi", Rung: hypervisortest.Simulator, Label: "faults", Only: []string{"faults"}, Worlds: 4, Limit: 10 * time.Minute,
		New: func(t hypervisortest.T) *hypervisortest.Backend {
			hb, sim := newBackend(t, faultPool, false)
			hb.Break = breaker(sim)
			return hb
		}})
}
