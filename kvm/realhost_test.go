//go:build cgo && realhost

package kvm

import (
	"os"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// TestRealHost runs the suite on the hosts of ANYVISOR_KVM_URL, which is as for
// hypervisor.Open. It changes only machines that it makes, whose names begin
// with "av-". There is no simulator of KVM, so the test is there with the
// build tag realhost alone:
//
//	ANYVISOR_KVM_URL=… go test -tags realhost ./kvm -run TestRealHost
func TestRealHost(t *testing.T) {
	at := os.Getenv("ANYVISOR_KVM_URL")
	if at == "" {
		t.Fatal("ANYVISOR_KVM_URL is empty: set it to the hosts' URL")
	}
	hypervisortest.RunLent(t, hypervisortest.Lent{Driver: "kvm", URL: at})
}
