package xen

import (
	"net/url"
	"os"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestRealHost runs the suite on the pool of ANYVISOR_XAPI_URL, which is as for
// hypervisor.Open. It changes only machines that it makes, whose names begin
// with "av-". Without a URL it tries itself on the simulator.
func TestRealHost(t *testing.T) {
	lent := hypervisortest.Lent{Driver: "xapi", URL: os.Getenv("ANYVISOR_XAPI_URL"), AbsentVM: "00000000-0000-4000-8000-000000000000"}
	if lent.URL == "" {
		sim, err := xapisim.Start(xapisim.Config{Hosts: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(sim.Close)
		at, err := url.Parse(sim.URL())
		if err != nil {
			t.Fatal(err)
		}
		u := url.URL{Scheme: "xapi", User: url.UserPassword(sim.User(), sim.Password()), Host: at.Host, RawQuery: "insecure=1"}
		lent.URL, lent.Areas, lent.Trial, lent.Spec = u.String(), []string{"labels"}, true, spec
	}
	hypervisortest.RunLent(t, lent)
}
