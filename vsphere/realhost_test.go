package vsphere

import (
	"os"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestRealHost runs the suite on the vCenter or host of ANYVISOR_VSPHERE_URL,
// which is as for hypervisor.Open. It changes only machines that it makes,
// whose names begin with "av-". Without a URL it tries itself on the
// simulator.
func TestRealHost(t *testing.T) {
	lent := hypervisortest.Lent{Driver: "vsphere", URL: os.Getenv("ANYVISOR_VSPHERE_URL"), AbsentVM: "vm-999999"}
	if lent.URL == "" {
		lent.URL, lent.Areas, lent.Trial = simURL(startSim(t, simConfig(vspheresim.VCenter)).URL()), []string{"labels"}, true
	}
	hypervisortest.RunLent(t, lent)
}
