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
// Emulated Xen is slow: by itself it runs the areas that take minutes, not
// tens of minutes. ANYVISOR_AREAS=power,clones runs others, ANYVISOR_AREAS=all
// every one.
func TestConformance(t *testing.T) {
	l := theLab(t)
	h := hypervisortest.Harness{Driver: "libxl", Rung: hypervisortest.Real, Limit: 15 * time.Minute, Repeat: 2,
		New: func(hypervisortest.T) *hypervisortest.Backend { return backend(t, l) },
		Unproven: map[hypervisor.Capability]string{
			hypervisor.MigrateCross: "both hosts are one Client here: TestGuests shows it with two",
		}}
	switch only := os.Getenv("ANYVISOR_AREAS"); only {
	case "all":
	case "":
		h.Only = []string{"inventory", "input", "power", "disks", "templates", "migration", "labels", "concurrency", "close"}
	default:
		h.Only = strings.Split(only, ",")
	}
	hypervisortest.Run(t, h)
}
