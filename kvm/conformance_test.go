//go:build cgo

package kvm

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

func unjson(s string, v any) error { return json.Unmarshal([]byte(s), v) }

func unbase64(s string) string {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return err.Error() // shows in the number that can't be read
	}
	return string(b)
}

// TestConformance runs the suite on two real hosts with emulated guests.
// ANYVISOR_AREAS=power,snapshots runs some areas only.
func TestConformance(t *testing.T) {
	l := theLab(t)
	h := hypervisortest.Harness{Driver: "kvm", Rung: hypervisortest.Real, Limit: 15 * time.Minute,
		New: func(hypervisortest.T) *hypervisortest.Backend { return backend(t, l, l.Hosts...) }}
	if only := os.Getenv("ANYVISOR_AREAS"); only != "" {
		h.Only = strings.Split(only, ",")
	}
	hypervisortest.Run(t, h)
}
