package hyperv

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/hostile"
	"github.com/anyvisor/anyvisor/internal/silence"
)

func TestStorm(t *testing.T) {
	s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{}}})
	r := silence.Start(t, s.config.Hosts[0])
	s.config.Hosts = []string{r.Addr}
	hostile.Storm(t, hostile.World{
		Open:   func(ctx context.Context) (*hypervisor.Client, error) { return Open(ctx, s.config, nil) },
		Strike: func(*rand.Rand) { r.Cut() },
		Calm:   func() {},
		Spec:   hypervisor.VMSpec{CPUs: 1, MemoryBytes: 64 * hypervisor.MiB, Disks: []hypervisor.DiskSpec{{SizeBytes: 64 * hypervisor.MiB}}},
	})
}
