//go:build !cgo

package xen

import (
	"context"
	"errors"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestPlainXenWithoutCgo demands the reason; some of XAPI's own tests run
// in such a build too.
func TestPlainXenWithoutCgo(t *testing.T) {
	_, err := OpenLibxl(context.Background(), LibxlConfig{Hosts: []string{"xen:///system"}}, nil)
	_, uerr := hypervisor.Open(context.Background(), "xen+tcp://h1,h2/", nil)
	for _, err := range []error{err, uerr} {
		var u *hypervisor.UnsupportedError
		if !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonBuild {
			t.Errorf("without cgo: %v, want Unsupported with reason %q", err, hypervisor.ReasonBuild)
		}
	}
}
