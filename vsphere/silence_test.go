package vsphere

import (
	"context"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/silence"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestSilentServer opens a Client on a server that accepts connections and
// answers nothing, not even TLS, which the suite goes without.
func TestSilentServer(t *testing.T) {
	cfg := Config{Host: silence.Start(t, "").Addr, Username: "user", Password: "pass", Insecure: true}
	silence.Open(t, func(ctx context.Context) (*hypervisor.Client, error) { return Open(ctx, cfg, nil) })
}

// TestServerFallsSilent: a server that was there stops answering, in the middle
// of work that would have to be undone.
func TestServerFallsSilent(t *testing.T) {
	sim := startSim(t, vspheresim.Config{})
	r := silence.Start(t, sim.URL().Host)
	c, err := Open(t.Context(), Config{Host: r.Addr, Username: "user", Password: simLogin(sim.URL()).Password, PlainHTTP: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "mute", CPUs: 1, MemoryBytes: hypervisor.GiB}).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sim.SetTaskDelay("PowerOnVM_Task", time.Hour)
	task := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "half", CPUs: 1, MemoryBytes: hypervisor.GiB, Start: true})
	begun(t, sim, "PowerOnVM_Task")
	r.Mute()
	silence.Unfinished(t, silence.Close(t, c, vm.ID()), task.ID())
	if _, err := task.Wait(t.Context()); hypervisor.KindOf(err) != hypervisor.ErrClosed {
		t.Errorf("the task that was under way: %v", err)
	}
}

// TestSilentLogin: the session has ended, and the login that every call needs
// is not answered.
func TestSilentLogin(t *testing.T) {
	sim := startSim(t, vspheresim.Config{})
	c, err := Open(t.Context(), Config{Host: sim.URL().Host, Username: "user", Password: simLogin(sim.URL()).Password, PlainHTTP: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "mute", CPUs: 1, MemoryBytes: hypervisor.GiB}).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sim.Delay("Login", 10*time.Second)
	sim.DropSessions()
	if err := silence.Client(t, c, vm.ID()); err != nil {
		t.Errorf("Close: %v", err)
	}
	sim.ClearFaults()
}
