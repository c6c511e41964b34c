//go:build cgo && mutants

package kvm

import (
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// TestFieldMutants has one lab, so that one field follows the other.
func TestFieldMutants(t *testing.T) {
	l := theLab(t)
	hypervisortest.Mutants(t, hypervisortest.Harness{
		Driver: "kvm", Rung: hypervisortest.Real, Limit: 5 * time.Minute, Empty: untold, Refused: unheard,
		New: func(st hypervisortest.T) *hypervisortest.Backend { return backend(st.Context(), t, l, l.Hosts...) },
	})
}
