//go:build cgo

package libxl

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// TestConformance runs the suite on two real Xen hosts, with PVH guests.
// ANYVISOR_AREAS=power,clones runs some areas only.
func TestConformance(t *testing.T) {
	l := theLab(t)
	h := hypervisortest.Harness{Driver: "libxl", Rung: hypervisortest.Real, Limit: 15 * time.Minute, Repeat: 2,
		New: func(hypervisortest.T) *hypervisortest.Backend { return backend(t, l) },
		Unproven: map[hypervisor.Capability]string{
			hypervisor.DevicePCI:     "the suite's machines are PVH, which takes no devices: TestPassthrough shows it with PV machines",
			hypervisor.DevicePrepare: "no device of the lab is free from the start: TestPassthrough shows it",
			hypervisor.MigrateCross:  "both hosts are one Client here: TestGuests shows it with two",
		}}
	if only := os.Getenv("ANYVISOR_AREAS"); only != "" {
		h.Only = strings.Split(only, ",")
	}
	hypervisortest.Run(t, h)
}
