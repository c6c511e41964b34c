package dbosfleet_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/anyvisor/anyvisor/hypervisor/fleet/dbosfleet"
	"github.com/anyvisor/anyvisor/hypervisor/fleet/fleettest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("FLEET_TEST_WORKER") != "" {
		worker()
		return
	}
	goleak.VerifyTestMain(m)
}

func openEngine(t *testing.T, url string) *dbosfleet.Engine {
	t.Helper()
	e, err := dbosfleet.Open(t.Context(), dbosfleet.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func TestSQLite(t *testing.T) {
	fleettest.Run(t, fleettest.Harness{Machines: 300, New: func(t *testing.T) func() fleet.Engine {
		url := "sqlite:" + filepath.Join(t.TempDir(), "fleet.db")
		return func() fleet.Engine { return openEngine(t, url) }
	}})
}
