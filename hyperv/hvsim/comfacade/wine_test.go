//go:build !windows

package comfacade

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/winelab"
)

func TestNoCOMHere(t *testing.T) {
	if _, err := Register(nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Fatal(err)
	}
}

// TestUnderWine runs this package's Windows tests: unmodified microsoft/wmi code against the facade.
func TestUnderWine(t *testing.T) {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Minute)
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
	t.Setenv("GODEBUG", "gcshrinkstackoff=1") // see the package
	r, err := l.Test(ctx, ".", "-test.v", "-test.timeout", "4m")
	t.Log(r.Output)
	if err != nil || r.Code != 0 {
		t.Fatalf("%v: exit code %d", err, r.Code)
	}
	for _, must := range []string{"--- PASS: TestMicrosoftWMI", "--- PASS: TestEvents", "--- PASS: TestLogins", "--- PASS: TestCollector"} {
		if !strings.Contains(r.Output, must) {
			t.Errorf("no %q", must)
		}
	}
}
