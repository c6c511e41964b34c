package xen

import (
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/silence"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestPoolFallsSilent: a pool that was there stops answering, in the middle of
// work that would have to be undone.
func TestPoolFallsSilent(t *testing.T) {
	w := newWorld(t, xapisim.Config{})
	r := silence.Start(t, strings.TrimPrefix(w.sim.URL(), "https://"))
	cfg := config(w.sim)
	cfg.Host = r.Addr
	c, err := Open(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.sim.Fault(xapisim.Fault{Method: "VIF.create", Delay: time.Hour})
	task := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "half", CPUs: 1, MemoryBytes: hypervisor.GiB, NICs: []hypervisor.NICSpec{{}}})
	if err := task.Err(); err != nil {
		t.Fatal(err)
	}
	for w.sim.Calls()["VIF.create"] == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	r.Mute()
	silence.Unfinished(t, silence.Close(t, c, w.off.ID()), task.ID())
	if _, err := task.Wait(t.Context()); hypervisor.KindOf(err) != hypervisor.ErrClosed {
		t.Errorf("the task that was under way: %v", err)
	}
}

// TestSilentLogin: the session has expired, and the login that every call needs
// is not answered.
func TestSilentLogin(t *testing.T) {
	w := newWorld(t, xapisim.Config{})
	c, err := Open(t.Context(), config(w.sim), nil)
	if err != nil {
		t.Fatal(err)
	}
	heal := w.sim.Fault(xapisim.Fault{Method: "session.login_with_password", Count: -1, Delay: 20 * time.Second})
	w.sim.ExpireSessions()
	if err := silence.Client(t, c, w.off.ID()); err != nil {
		t.Errorf("Close: %v", err)
	}
	heal()
}
