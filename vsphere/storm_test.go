package vsphere

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/hostile"
	"github.com/anyvisor/anyvisor/internal/silence"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestStorm(t *testing.T) {
	sim := startSim(t, vspheresim.Config{VMs: 1, TaskDelay: vspheresim.Immediate})
	r := silence.Start(t, sim.URL().Host)
	hostile.Storm(t, hostile.World{
		Open: func(ctx context.Context) (*hypervisor.Client, error) {
			return Open(ctx, Config{Host: r.Addr, Username: "user", Password: simLogin(sim.URL()).Password, PlainHTTP: true}, nil)
		},
		Strike: func(n *rand.Rand) {
			if n.IntN(10) == 0 {
				sim.DropSessions()
			}
			r.Cut()
		},
		Calm:   func() {},
		Spec:   spec(""),
		Images: func(context.Context) ([]string, error) { return images(sim) },
	})
}
