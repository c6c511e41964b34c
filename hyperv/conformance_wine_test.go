//go:build !windows

package hyperv

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/winelab"
)

// TestConformanceUnderWine runs the Windows build of this package's tests:
// the driver through github.com/microsoft/wmi and COM.
func TestConformanceUnderWine(t *testing.T) {
	if testing.Short() {
		t.Skip("installs Wine and takes minutes")
	}
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Minute)
	defer stop()
	l, err := winelab.Start(ctx)
	if err != nil {
		lab.Skip(t, err)
	}
	defer func() {
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
	}()
	// The simulated COM server and go-ole hand pointers into goroutines' stacks
	// to each other, which a shrinking stack would leave behind.
	t.Setenv("GODEBUG", "gcshrinkstackoff=1")
	// These depend on the driver and not on the transport, and take minutes here.
	t.Setenv(hypervisortest.WithoutAreas, "foreign,results,concurrency")
	r, err := l.Test(ctx, ".", "-test.v", "-test.timeout", "27m", "-test.run", "COM")
	t.Log(r.Output)
	if err != nil || r.Code != 0 {
		t.Fatalf("%v: exit code %d", err, r.Code)
	}
	for _, must := range []string{"--- PASS: TestConformanceCOM", "--- PASS: TestCOMFaults"} {
		if !strings.Contains(r.Output, must) {
			t.Errorf("no %q", must)
		}
	}
}
