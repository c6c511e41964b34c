// Package silence provides servers that accept connections and never answer.
// They are for the conformance area contexts, and for tests of what that area
// doesn't cover, such as a login that is not answered. Every call must return
// when its context ends, and Close within its five seconds, whatever other
// calls are waiting for.
package silence

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

// Relay passes connections on to a server, except between Mute and Speak.
type Relay struct {
	Addr string

	target string
	l      net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	mute  bool
	conns []net.Conn
}

// Start listens on a port of this machine. A Relay without a target is mute
// from the beginning. It ends with the test.
func Start(t hypervisortest.T, target string) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("%v", err)
	}
	r := &Relay{Addr: l.Addr().String(), target: target, l: l, mute: target == ""}
	r.wg.Go(r.accept)
	t.Cleanup(r.Close)
	return r
}

// Close ends all connections.
func (r *Relay) Close() {
	r.l.Close()
	r.Cut()
	r.wg.Wait()
}

// Cut ends the existing connections.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut()
}

func (r *Relay) cut() {
	for _, c := range r.conns {
		c.Close()
	}
	r.conns = nil
}

// Mute makes the server silent: it keeps reading and answers nothing.
func (r *Relay) Mute() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mute = true
}

// Speak ends Mute, and the connections that were silent. It reports whether
// the Relay was mute.
func (r *Relay) Speak() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.mute
	if was {
		r.cut()
		r.mute = false
	}
	return was
}

// Breaker makes relays, which stand before all servers of a Client, silent
// together. It breaks no calls.
func Breaker(all ...*Relay) *hypervisortest.Breaker {
	return &hypervisortest.Breaker{
		Silence: func(cut bool) {
			for _, r := range all {
				r.Mute()
				if cut {
					r.Cut()
				}
			}
		},
		Heal: func() (was bool) {
			for _, r := range all {
				was = r.Speak() || was
			}
			return was
		},
	}
}

// Behind makes open, which goes through the relays, open a backend's Clients.
// The backend's previous Client remains for access behind the API, and ends
// with the test.
func Behind(t hypervisortest.T, b *hypervisortest.Backend, open func(context.Context) (*hypervisor.Client, error), all ...*Relay) {
	t.Helper()
	old := b.Client
	t.Cleanup(func() { _ = old.Close() })
	c, err := open(t.Context())
	if err != nil {
		t.Fatalf("open through the relay: %v", err)
	}
	b.Client, b.Reopen, b.Open, b.Break = c, open, nil, Breaker(all...)
}

func (r *Relay) muted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mute
}

func (r *Relay) keep(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, c)
}

func (r *Relay) accept() {
	for {
		c, err := r.l.Accept()
		if err != nil {
			return
		}
		r.keep(c)
		if r.muted() {
			r.wg.Go(func() { _, _ = io.Copy(io.Discard, c) })
			continue
		}
		s, err := net.Dial("tcp", r.target)
		if err != nil {
			c.Close()
			continue
		}
		r.keep(s)
		r.wg.Go(func() { r.pass(s, c) })
		r.wg.Go(func() { r.pass(c, s) })
	}
}

// pass copies bytes from one side to the other.
func (r *Relay) pass(to, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if !r.muted() && n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if !r.muted() {
				to.Close()
			}
			return
		}
	}
}

const (
	patience = 200 * time.Millisecond // of a call's context
	slack    = time.Second            // in which the call must have returned
	// closeLimit is the limit of Client.Close, and a little more for a busy
	// machine.
	closeLimit = 5*time.Second + 100*time.Millisecond
)

// Open checks that opening a Client ends with its context.
func Open(t *testing.T, open func(context.Context) (*hypervisor.Client, error)) {
	t.Helper()
	ends(t, "Open", true, func(ctx context.Context) error {
		c, err := open(ctx)
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

// Client checks a Client whose servers are silent, closes it, and returns the
// error of Close. It makes calls while another one, without an end, waits for
// the server as well.
func Client(t *testing.T, c *hypervisor.Client, vm hypervisor.VMID) error {
	t.Helper()
	waiting := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { _, err := c.VM(vm).Info(ctx); waiting <- err }()
	time.Sleep(patience / 4) // it is probably under way by then
	calls(t, c, vm)
	return closed(t, c, waiting)
}

// Close closes a Client whose servers are silent, while a call waits for them,
// and returns the error of Close.
func Close(t *testing.T, c *hypervisor.Client, vm hypervisor.VMID) error {
	t.Helper()
	waiting := make(chan error, 1)
	go func() { _, err := c.VM(vm).Info(context.WithoutCancel(t.Context())); waiting <- err }()
	time.Sleep(patience / 4)
	return closed(t, c, waiting)
}

func closed(t *testing.T, c *hypervisor.Client, waiting <-chan error) error {
	t.Helper()
	select {
	case err := <-waiting:
		t.Errorf("the call that was to wait has returned: %v", err)
		return c.Close()
	default:
	}
	began := time.Now()
	err := c.Close()
	if d := time.Since(began); d > closeLimit {
		t.Errorf("Close took %v", d)
	}
	if err != nil && !errors.Is(err, hypervisor.ErrTimeout) {
		t.Errorf("Close: %v", err)
	}
	select {
	case err := <-waiting:
		if !errors.Is(err, hypervisor.ErrClosed) {
			t.Errorf("the call under way at Close returned %v", err)
		}
	case <-time.After(slack):
		t.Errorf("a call is still waiting %v after Close", slack)
	}
	return err
}

// Unfinished checks that Close's error names a task that it left as it was.
func Unfinished(t *testing.T, err error, id hypervisor.TaskID) {
	t.Helper()
	var e *hypervisor.Error
	if !errors.As(err, &e) || e.Kind != hypervisor.ErrTimeout || !slices.Contains(e.Leftover, id.Ref()) {
		t.Errorf("Close does not name the task %s that it left: %v", id, err)
	}
}

// calls checks one call of each kind.
func calls(t *testing.T, c *hypervisor.Client, id hypervisor.VMID) {
	t.Helper()
	vm := c.VM(id)
	ends(t, "Describe", false, func(context.Context) error { c.Describe(); return nil })
	ends(t, "Info", true, func(ctx context.Context) error { _, err := vm.Info(ctx); return err })
	ends(t, "VMs", true, func(ctx context.Context) error { _, err := hypervisor.Collect(c.VMs(ctx, nil)); return err })
	ends(t, "Supports", false, func(ctx context.Context) error {
		_, err := vm.Supports(ctx, capability.SnapshotMemory)
		return err
	})
	ends(t, "Hosts", false, func(ctx context.Context) error { _, err := hypervisor.Collect(c.Hosts(ctx)); return err })
	ends(t, "Watch", false, func(ctx context.Context) error {
		for _, err := range c.Watch(ctx, "") {
			if err != nil {
				return err
			}
		}
		return ctx.Err()
	})
	ends(t, "Start", true, func(ctx context.Context) error { _, err := vm.Start(ctx).Wait(ctx); return err })
	ends(t, "CreateSnapshot", true, func(ctx context.Context) error {
		_, err := vm.CreateSnapshot(ctx, "late", nil).Wait(ctx)
		return err
	})
}

// ends checks that a call returns soon after the end of its context, with its
// error if fails is set.
func ends(t *testing.T, name string, fails bool, f func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		switch d := time.Since(began); {
		case d > slack:
			t.Errorf("%s returned %v after a start with a context of %v: %v", name, d, patience, err)
		case fails && !errors.Is(err, context.DeadlineExceeded):
			t.Errorf("%s: %v", name, err)
		}
	case <-time.After(10 * slack):
		t.Errorf("%s has not returned %v after a start with a context of %v", name, 10*slack, patience)
	}
}
