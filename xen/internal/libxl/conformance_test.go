//go:build cgo

package libxl

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/lab/xenlab"
)

// TestConformance runs the suite on two real Xen hosts, with PVH machines, and
// PV machines where devices are concerned. ANYVISOR_AREAS=power,snapshots/tree
// runs some areas and rows only.
func TestConformance(t *testing.T) {
	l := theLab(t)
	h := hypervisortest.Harness{Driver: "libxl", Rung: hypervisortest.Real, Limit: 15 * time.Minute, Repeat: 2, AtOnce: 4,
		Empty: untold, Refused: unheard, NotYet: notYet,
		New: func(hypervisortest.T) *hypervisortest.Backend { return backend(t, l) },
		Unproven: map[capability.Name]string{
			capability.MigrateCross: "both hosts are one Client here: TestGuests shows it with two",
		}}
	if only := os.Getenv("ANYVISOR_AREAS"); only != "" {
		h.Only = strings.Split(only, ",")
	}
	device := "pci_" + strings.NewReplacer(":", "_", ".", "_").Replace(xenlab.RNG)
	virsh := func(command string) {
		if _, err := l.Hosts[0].Virsh(context.Background(), command, device); err != nil {
			t.Fatal(err)
		}
	}
	virsh("nodedev-detach")
	defer virsh("nodedev-reattach")
	hypervisortest.Run(t, h)
}
