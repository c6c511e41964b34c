//go:build cgo

package libvirtx

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/silence"
)

// TestSilentPort: a port accepts connections and answers nothing, to any
// transport.
func TestSilentPort(t *testing.T) {
	mute := silence.Start(t, "")
	for _, uri := range []string{"qemu+tcp://%/system", "qemu+tls://%/system", "qemu://%/system", "qemu+ssh://%/system", "xen+tcp://%/"} {
		h, err := NewConn(strings.Replace(uri, "%", mute.Addr, 1), nil)
		if err != nil {
			t.Fatal(err)
		}
		// Several callers at once, of whom the first waits longest.
		var wg sync.WaitGroup
		for _, d := range []time.Duration{time.Hour, 100 * time.Millisecond, 200 * time.Millisecond} {
			wg.Go(func() {
				ctx, stop := context.WithTimeout(t.Context(), d)
				defer stop()
				began := time.Now()
				_, err := Do(ctx, h, 1, func(*libvirt.Connect) (int, error) { return 0, nil })
				switch {
				case d == time.Hour && !errors.Is(err, hypervisor.ErrClosed):
					t.Errorf("%s: the caller that waits until Close: %v", uri, err)
				case d != time.Hour && (!errors.Is(err, context.DeadlineExceeded) || time.Since(began) > d+time.Second):
					t.Errorf("%s: %v after %v with a context of %v", uri, err, time.Since(began), d)
				}
			})
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(400 * time.Millisecond)
		began := time.Now()
		if err := h.Close(); err != nil || time.Since(began) > time.Second {
			t.Errorf("%s: Close: %v after %v", uri, err, time.Since(began))
		}
		wg.Wait()
	}
}

// TestSilentPortIsTold: who waits long enough learns what is wrong.
func TestSilentPortIsTold(t *testing.T) {
	mute := silence.Start(t, "")
	u, err := url.Parse("qemu+tcp://" + mute.Addr + "/system")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := answers(t.Context(), u); err == nil || !strings.Contains(err.Error(), "does not answer") || time.Since(began) > answerLimit+time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

// TestCloseLeavesHangingCalls: a call that hangs in libvirt keeps neither its
// caller nor Close, and is cleaned up after when it returns.
func TestCloseLeavesHangingCalls(t *testing.T) {
	h, err := NewConn("test:///default", nil)
	if err != nil {
		t.Fatal(err)
	}
	hold, entered, waited := make(chan struct{}), make(chan *libvirt.Connect, 1), make(chan error, 1)
	go func() {
		_, err := do(t.Context(), h, 1, func(c *libvirt.Connect) (int, error) { entered <- c; <-hold; return 7, nil },
			func(n int) { entered <- nil })
		waited <- err
	}()
	c := <-entered
	began := time.Now()
	if err := h.Close(); err != nil || time.Since(began) > closeLimit+time.Second {
		t.Errorf("Close: %v after %v", err, time.Since(began))
	}
	if err := <-waited; !errors.Is(err, hypervisor.ErrClosed) || time.Since(began) > closeLimit+time.Second {
		t.Errorf("the caller: %v after %v", err, time.Since(began))
	}
	if ok, err := c.IsAlive(); err != nil || !ok {
		t.Errorf("the connection is gone under the call: %v, %v", ok, err)
	}
	close(hold)
	if <-entered != nil { // what came too late was taken back
		t.Error("unreachable")
	}
	h.calls.Wait()
	loop.Lock()
	defer loop.Unlock()
	for end := time.Now().Add(5 * time.Second); loop.users > 0 && time.Now().Before(end); {
		loop.Unlock()
		time.Sleep(time.Millisecond)
		loop.Lock()
	}
	if loop.users != 0 {
		t.Errorf("the event loop has %d users after the last call", loop.users)
	}
}

// TestHalfSilentPort: a server says its first word and nothing more. libvirt's
// call that waits for more can't be interrupted; it ends with the server.
func TestHalfSilentPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			_, _ = c.Write([]byte{0})
		}
	}()
	h, err := NewConn("qemu+tcp://"+l.Addr().String()+"/system", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second joins the first one's attempt
		ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
		began := time.Now()
		if _, err := Do(ctx, h, 1, func(*libvirt.Connect) (int, error) { return 0, nil }); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		stop()
	}
	began := time.Now()
	if err := h.Close(); err != nil || time.Since(began) > closeLimit+time.Second {
		t.Errorf("Close: %v after %v", err, time.Since(began))
	}
	l.Close()
	mu.Lock()
	if len(conns) != 2 {
		t.Errorf("%d connections, want one to see that somebody answers, and libvirt's", len(conns))
	}
	for _, c := range conns {
		c.Close()
	}
	mu.Unlock()
	done := make(chan struct{})
	go func() { h.calls.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("libvirt's call continues without its server")
	}
}

// TestAnswers: the first word of each transport's server is an answer.
func TestAnswers(t *testing.T) {
	secure := httptest.NewTLSServer(nil)
	defer secure.Close()
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	go func() {
		for {
			c, err := plain.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("SSH-2.0-x\r\n"))
			defer c.Close()
		}
	}()
	for scheme, at := range map[string]string{"qemu+tls": secure.Listener.Addr().String(), "qemu": secure.Listener.Addr().String(),
		"qemu+ssh": plain.Addr().String(), "qemu+tcp": plain.Addr().String(), "qemu+unix": "nowhere.invalid"} {
		began := time.Now()
		if err := answers(t.Context(), &url.URL{Scheme: scheme, Host: at}); err != nil || time.Since(began) > time.Second {
			t.Errorf("%s: %v after %v", scheme, err, time.Since(began))
		}
	}
	if err := answers(t.Context(), &url.URL{Scheme: "qemu+tcp", Host: "127.0.0.1:1"}); err == nil {
		t.Error("nobody answers")
	}
}
