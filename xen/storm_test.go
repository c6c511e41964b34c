package xen

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/hostile"
	"github.com/anyvisor/anyvisor/internal/silence"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func TestStorm(t *testing.T) {
	w := newWorld(t, xapisim.Config{Hosts: 2})
	r := silence.Start(t, strings.TrimPrefix(w.sim.URL(), "https://"))
	hostile.Storm(t, hostile.World{
		Open: func(ctx context.Context) (*hypervisor.Client, error) {
			cfg := config(w.sim)
			cfg.Host = r.Addr
			return Open(ctx, cfg, nil)
		},
		Strike: func(n *rand.Rand) {
			if n.IntN(10) == 0 {
				w.sim.ExpireSessions()
			}
			r.Cut()
		},
		Calm:   func() {},
		Spec:   hypervisor.VMSpec{CPUs: 1, MemoryBytes: 64 * hypervisor.MiB, Disks: []hypervisor.DiskSpec{{SizeBytes: 64 * hypervisor.MiB}}},
		Images: backend{w.sim}.images,
	})
}
