//go:build cgo

package kvm

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
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
// ANYVISOR_AREAS=power,snapshots/tree runs some areas and rows only.
func TestConformance(t *testing.T) {
	l := theLab(t)
	h := hypervisortest.Harness{Driver: "kvm", Rung: hypervisortest.Real, Limit: 15 * time.Minute, AtOnce: 6,
		Empty: untold, Refused: unheard, NotYet: notYet,
		New: func(st hypervisortest.T) *hypervisortest.Backend { return backend(st.Context(), t, l, l.Hosts...) },
		Unproven: map[capability.Name]string{
			capability.MigrateCross: "needs two Clients: TestConformanceAcross shows it",
		}}
	if only := os.Getenv("ANYVISOR_AREAS"); only != "" {
		h.Only = strings.Split(only, ",")
	}
	hypervisortest.Run(t, h)
}

// TestConformanceAcross runs the suite's migrations between two Clients of one
// host each.
func TestConformanceAcross(t *testing.T) {
	l := theLab(t)
	hypervisortest.Run(t, hypervisortest.Harness{Driver: "kvm", Rung: hypervisortest.Real, Label: "one host", Limit: 15 * time.Minute,
		Only: []string{"migration", "hosts", "refusals"},
		New: func(st hypervisortest.T) *hypervisortest.Backend {
			b := backend(st.Context(), t, l, l.Hosts[0])
			other, err := Open(t.Context(), config(l.Hosts[1]), nil)
			if err != nil {
				t.Fatal(err)
			}
			st.Cleanup(func() {
				if err := other.Close(); err != nil {
					t.Error(err)
				}
			})
			b.Other = other
			return b
		}})
}
