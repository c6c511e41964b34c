package hyperv

import (
	"context"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/hostile"
)

func TestHostileServer(t *testing.T) {
	hostile.Open(t, func(ctx context.Context, at string) (*hypervisor.Client, error) {
		return Open(ctx, Config{Hosts: []string{at}, Auth: AuthBasic, Username: "user", Password: "pass", Insecure: true}, nil)
	})
}

func TestServerTurnsHostile(t *testing.T) {
	s := startSite(t, hvsim.Config{Users: map[string]string{"Administrator": hostile.Password}, Hosts: []hvsim.HostConfig{{}}})
	s.config.Password = hostile.Password
	c := openSite(t, s)
	if _, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "one", CPUs: 1, MemoryBytes: 256 * hypervisor.MiB}).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	hostile.Turned(t, s.config.Hosts[0], false, func(ctx context.Context, at string) (*hypervisor.Client, error) {
		return Open(ctx, Config{Hosts: []string{at}, Auth: AuthBasic, Username: "Administrator", Password: hostile.Password, Insecure: true}, nil)
	})
}
