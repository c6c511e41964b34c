package fleet_test

import (
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/anyvisor/anyvisor/hypervisor/fleet/fleettest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	fleettest.Run(t, fleettest.Harness{Synctest: true, New: func(*testing.T) func() fleet.Engine {
		e := fleet.NewMemory()
		return func() fleet.Engine { return e }
	}})
}

// TestMemoryInRealTime runs the same without a bubble, as programs do.
func TestMemoryInRealTime(t *testing.T) {
	fleettest.Run(t, fleettest.Harness{Machines: 200, New: func(*testing.T) func() fleet.Engine {
		e := fleet.NewMemory()
		return func() fleet.Engine { return e }
	}})
}
