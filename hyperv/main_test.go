package hyperv

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The simulator merges at once, or never.
func TestMain(m *testing.M) {
	mergeGrace = 2 * time.Second
	goleak.VerifyTestMain(m)
}
