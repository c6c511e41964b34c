//go:build !cgo

package kvm

import (
	"errors"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestWithoutCgo demands the reason.
func TestWithoutCgo(t *testing.T) {
	_, err := Open(t.Context(), Config{Hosts: []string{"qemu:///system"}}, nil)
	_, uerr := hypervisor.Open(t.Context(), "kvm:///system", nil)
	for _, err := range []error{err, uerr} {
		var u *hypervisor.UnsupportedError
		if !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonBuild {
			t.Errorf("without cgo: %v, want Unsupported with reason %q", err, hypervisor.ReasonBuild)
		}
	}
}
