package hyperv

import (
	"context"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/silence"
)

// TestSilentHost opens a Client on hosts that accept connections and answer
// nothing, with another login than the suite's.
func TestSilentHost(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	s.config.Hosts, s.config.Auth = []string{silence.Start(t, "").Addr}, AuthBasic
	silence.Open(t, s.open)
}

// TestSilentSecondHost: one of two hosts never answered, and is dialled again
// by each call.
func TestSilentSecondHost(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	mute := silence.Start(t, "")
	s.config.Hosts = append(s.config.Hosts, mute.Addr)
	ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer stop()
	c, err := s.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := silence.Client(t, c, "00000000-0000-4000-8000-000000000000"); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// TestHostFallsSilent: a host stops answering in the middle of work.
func TestHostFallsSilent(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	r := silence.Start(t, s.config.Hosts[0])
	s.config.Hosts = []string{r.Addr}
	c := openSite(t, s)
	vm := create(t, c, small("mute"))
	// Work that is under way when the host falls silent can't be undone.
	s.clock.slow(time.Hour)
	task := c.CreateVM(t.Context(), small("half"))
	for st, err := range task.Progress(t.Context()) {
		if err != nil || st.Done {
			t.Fatalf("%+v, %v", st, err)
		}
		if st.Phase != "" {
			break
		}
	}
	r.Mute()
	silence.Unfinished(t, silence.Close(t, c, vm.ID()), task.ID())
	if _, err := task.Wait(t.Context()); hypervisor.KindOf(err) != hypervisor.ErrClosed {
		t.Errorf("the task that was under way: %v", err)
	}
}
