//go:build mutants

package hyperv

import (
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

func TestFieldMutants(t *testing.T) {
	h := harness("WS-Man", func(t hypervisortest.T, c hvsim.Config) *site { return startSite(t, c) })
	h.Limit = 20 * time.Second
	hypervisortest.Mutants(t, h)
}
