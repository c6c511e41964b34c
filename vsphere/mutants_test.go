//go:build mutants

package vsphere

import (
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestFieldMutants(t *testing.T) {
	t.Run("vCenter", func(t *testing.T) { fieldMutants(t, vspheresim.VCenter, nil, nil) })
	t.Run("ESXi", func(t *testing.T) { fieldMutants(t, vspheresim.ESXi, untoldESXi, unheardESXi) })
}

func fieldMutants(t *testing.T, m vspheresim.Model, untoldHere, unheardHere map[string]string) {
	type pair struct{ sim, other *vspheresim.Sim }
	idle := make(chan pair, 64)
	hypervisortest.Mutants(t, hypervisortest.Harness{
		Driver: "vsphere", Rung: hypervisortest.Simulator, Empty: and(untold, untoldHere), Refused: and(unheard, unheardHere), Limit: 20 * time.Second,
		New: func(ht hypervisortest.T) *hypervisortest.Backend {
			var p pair
			select {
			case p = <-idle:
			default:
				p.sim = startSim(t, simConfig(m))
				if m == vspheresim.VCenter {
					p.other = startSim(t, simConfig(m))
					setHA(ht, p.sim, haOn(1))
				}
			}
			ht.Cleanup(func() { idle <- p })
			return simBackend(ht, p.sim, p.other)
		},
	})
}
