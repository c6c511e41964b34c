//go:build cgo && linux

package libvirtx

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"libvirt.org/go/libvirt"
)

// TestHostilePort: servers send what is no answer of libvirt's, or one that
// claims to be too long. Each call ends soon after its context, Close within
// its time, and libvirt's own memory, which Go doesn't count, stays small.
func TestHostilePort(t *testing.T) {
	length := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	for name, parts := range map[string][2][]byte{ // what is sent once, and what then without end
		"nothing but zeros":                 {nil, make([]byte, 1<<16)},
		"2 GiB announced":                   {length(1<<31 - 1), bytes.Repeat([]byte("x"), 1<<16)},
		"4 GiB announced":                   {length(1<<32 - 1), bytes.Repeat([]byte("x"), 1<<16)},
		"as long as is allowed, and silent": {length(16 << 20), nil},
		"too short":                         {length(1), nil},
		"of another program":                {append(append(length(28), "\x12\x34\x56\x78\x00\x00\x00\x01"...), make([]byte, 16)...), nil},
		"a web page":                        {[]byte("HTTP/1.1 200 OK\r\n\r\n<html>"), []byte("<p>")},
		"broken TLS":                        {[]byte("\x16\x03\x01\xff\xff\x02"), bytes.Repeat([]byte{0xff}, 1<<16)},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			end := make(chan struct{})
			wg.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					wg.Go(func() {
						defer c.Close()
						_, err := c.Write(parts[0])
						for err == nil && len(parts[1]) > 0 {
							_ = c.SetWriteDeadline(time.Now().Add(time.Second))
							_, err = c.Write(parts[1])
						}
						<-end
					})
				}
			})
			defer wg.Wait()
			defer l.Close()
			defer close(end)
			before := resident(t)
			for _, uri := range []string{"qemu+tcp://%/system", "qemu+tls://%/system"} {
				h, err := NewConn(strings.Replace(uri, "%", l.Addr().String(), 1), nil)
				if err != nil {
					t.Fatal(err)
				}
				const limit = 300 * time.Millisecond
				ctx, stop := context.WithTimeout(t.Context(), limit)
				began := time.Now()
				_, err = Do(ctx, h, 1, func(*libvirt.Connect) (int, error) { return 0, nil })
				stop()
				if d := time.Since(began); err == nil || d > limit+2*time.Second {
					t.Errorf("%s: %v after %v", uri, err, d)
				}
				began = time.Now()
				if err := h.Close(); err != nil || time.Since(began) > closeLimit+time.Second {
					t.Errorf("%s: Close: %v after %v", uri, err, time.Since(began))
				}
			}
			if n := resident(t) - before; n > 300<<20 {
				t.Errorf("%d MiB of memory were taken", n>>20)
			}
		})
	}
}

// resident returns how much memory the process has.
func resident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
