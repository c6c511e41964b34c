//go:build cgo

package libxl

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/lab/rpcproxy"
)

// TestFaults does work on machines that are off with the answer to one of its
// requests lost, for each request that changes something. A guest's boot takes
// too long here, and KVM's TestFaults has the rest: both drivers share the
// code.
func TestFaults(t *testing.T) {
	l := theLab(t)
	only := []string{"vm.create", "vm.clone-linked", "vm.reconfigure-name", "template.delete", "vm.migrate-cold", "vm.migrate-storage"}
	for i, name := range only {
		only[i] = "faults/" + name
	}
	hypervisortest.Run(t, hypervisortest.Harness{Driver: "libxl", Rung: hypervisortest.Real, Label: "faults", Only: only, Limit: 20 * time.Minute,
		New: func(st hypervisortest.T) *hypervisortest.Backend {
			b := backend(t, l)
			direct := b.Client
			st.Cleanup(func() { _ = direct.Close() })
			cfg := Config{Peers: map[string]Peer{}}
			var proxies []*rpcproxy.Proxy
			for _, h := range l.Hosts {
				p := throughProxy(t, h)
				cfg.Hosts, proxies = append(cfg.Hosts, proxyURI(p)), append(proxies, p)
				cfg.Peers[proxyURI(p)] = Peer{Migrate: h.MigrateURI}
			}
			c, err := Open(st.Context(), cfg, nil)
			if err != nil {
				st.Fatalf("open through the proxies: %v", err)
			}
			first, err := direct.FindHost(st.Context(), l.Hosts[0].Name)
			if err != nil {
				st.Fatalf("%v", err)
			}
			make := b.Spec
			b.Spec = func(name string) hypervisor.VMSpec {
				s := make(name)
				s.Placement.Host = first.ID() // so that each try asks the same hosts
				return s
			}
			b.Client, b.Break = c, rpcproxy.Breaker(1, proxies...)
			b.Break.NoBoot, b.Break.Limit = true, 2*time.Minute
			b.Break.Machines = func(ctx context.Context) (n int, err error) {
				for _, h := range l.Hosts {
					all, err := h.Virsh(ctx, "list", "--all", "--uuid")
					if err != nil {
						return 0, fmt.Errorf("%s: %w", h.Name, err)
					}
					n += len(strings.Fields(all))
				}
				return n, nil
			}
			return b
		}})
}
