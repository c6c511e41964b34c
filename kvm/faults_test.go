//go:build cgo

package kvm

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/lab/rpcproxy"
)

// lossy are the operations that TestFaults runs by default, each in one of the
// forms that send different requests. All of them take half an hour.
var lossy = strings.Fields(`vm.create vm.clone-linked vm.clone-running vm.clone-running-linked
	snapshot.create-memory snapshot.revert snapshot.delete-running vm.mark-template disk.attach disk.grow
	vm.reconfigure vm.start vm.delete vm.migrate vm.migrate-live-storage`)

// TestFaults does operations with the answer to one of their requests lost,
// for the first request of each kind that changes something.
// ANYVISOR_FAULTS=vm.clone,vm.start selects operations, ANYVISOR_FAULTS=all all
// of them, with the first two requests of each kind, and with answers that are late.
func TestFaults(t *testing.T) {
	l := theLab(t)
	names, only, most := lossy, []string{"faults"}, 1
	if some := os.Getenv("ANYVISOR_FAULTS"); some != "" {
		names, most = strings.Split(some, ","), 2
	}
	if names[0] != "all" {
		only = nil
		for _, name := range names {
			only = append(only, "faults/"+name)
		}
	}
	hypervisortest.Run(t, hypervisortest.Harness{Driver: "kvm", Rung: hypervisortest.Real, Label: "faults", Only: only, Limit: 20 * time.Minute,
		New: func(st hypervisortest.T) *hypervisortest.Backend {
			b := backend(st.Context(), t, l, l.Hosts...)
			direct := b.Client
			st.Cleanup(func() { _ = direct.Close() })
			cfg, proxies := proxied(t, l)
			c, err := Open(st.Context(), cfg, nil)
			if err != nil {
				st.Fatalf("open through the proxies: %v", err)
			}
			make := b.Spec
			b.Spec = func(name string) hypervisor.VMSpec {
				s := make(name)
				s.Placement.Host = hypervisor.HostID(l.Hosts[0].UUID) // so that each try asks the same hosts
				return s
			}
			b.Client, b.Break = c, rpcproxy.Breaker(most, proxies...)
			b.Break.NoBoot, b.Break.Limit = true, 2*time.Minute
			b.Break.Machines = func(ctx context.Context) (n int, err error) {
				for _, h := range l.Hosts {
					all, err := h.Virsh(ctx, "list", "--all", "--uuid")
					if err != nil {
						return 0, err
					}
					n += len(strings.Fields(all))
				}
				return n, nil
			}
			return b
		}})
}
