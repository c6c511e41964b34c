package vsphere

import (
	"context"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/hostile"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestHostileServer(t *testing.T) {
	hostile.Open(t, func(ctx context.Context, at string) (*hypervisor.Client, error) {
		return Open(ctx, Config{Host: at, Username: "user", Password: "pass", Insecure: true, MaxAnswer: hostile.Limit}, nil)
	})
}

func TestServerTurnsHostile(t *testing.T) {
	sim := startSim(t, vspheresim.Config{VMs: 2, User: "user", Password: hostile.Password})
	hostile.Turned(t, sim.URL().Host, true, func(ctx context.Context, at string) (*hypervisor.Client, error) {
		return Open(ctx, Config{Host: at, Username: "user", Password: hostile.Password, PlainHTTP: true}, nil)
	})
}
