//go:build mutants

package xen

import (
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func TestFieldMutants(t *testing.T) {
	hypervisortest.Mutants(t, hypervisortest.Harness{
		Driver: "xapi", Rung: hypervisortest.Simulator, Empty: untold, Refused: unheard, Limit: 20 * time.Second,
		New: func(t hypervisortest.T) *hypervisortest.Backend {
			hb, sim := newBackend(t, xapisim.Config{Hosts: 3, GPUs: []xapisim.GPU{{Model: "M60"}}}, true)
			connectWLB(t.Context(), t, sim, hb.Client)
			return hb
		},
	})
}
