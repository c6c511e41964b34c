package xen

import (
	"context"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/hostile"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func TestHostileServer(t *testing.T) {
	hostile.Open(t, func(ctx context.Context, at string) (*hypervisor.Client, error) {
		return Open(ctx, Config{Host: at, Username: "user", Password: "pass", Insecure: true, MaxAnswer: hostile.Limit}, nil)
	})
}

func TestServerTurnsHostile(t *testing.T) {
	w := newWorld(t, xapisim.Config{Password: hostile.Password})
	hostile.Turned(t, strings.TrimPrefix(w.sim.URL(), "https://"), false, func(ctx context.Context, at string) (*hypervisor.Client, error) {
		return Open(ctx, Config{Host: at, Username: w.sim.User(), Password: hostile.Password, Insecure: true}, nil)
	})
}
