//go:build cgo

package libxl

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// counter stands between libvirt's client library and a host, and counts the
// requests of libvirt's wire protocol.
type counter struct {
	ln    net.Listener
	to    string
	calls atomic.Int64
	wg    sync.WaitGroup
}

func newCounter(t *testing.T, uri string) *counter {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &counter{ln: ln, to: u.Host}
	p.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		p.wg.Wait() // the Client is closed by now
	})
	return p
}

func (p *counter) serve(c net.Conn) {
	defer c.Close()
	s, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	p.wg.Go(func() {
		io.Copy(c, s)
		c.Close()
	})
	defer s.Close()
	// A packet is its length, program, version, procedure, type, serial and
	// status, then the payload (libvirt.org/kbase/internals/rpc.html). Type 0
	// is a call; the program 0x6b656570 is keepalive.
	head := make([]byte, 28)
	for {
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		if binary.BigEndian.Uint32(head[16:]) == 0 && binary.BigEndian.Uint32(head[4:]) != 0x6b656570 {
			p.calls.Add(1)
		}
		if _, err := s.Write(head); err != nil {
			return
		}
		if _, err := io.CopyN(s, c, int64(binary.BigEndian.Uint32(head))-28); err != nil {
			return
		}
	}
}

// during counts the requests of f.
func (p *counter) during(f func() error) (int64, error) {
	before := p.calls.Load()
	err := f()
	return p.calls.Load() - before, err
}

// TestCalls pins the number of requests on the wire.
func TestCalls(t *testing.T) {
	w := newWorld(t, false)
	p := newCounter(t, w.l.Hosts[0].URI)
	c, err := Open(w.ctx, Config{Hosts: []string{"xen+tcp://" + p.ln.Addr().String() + "/"}}, nil)
	w.ok(err, "open through the counter")
	defer c.Close()
	w.c.Close() // the machines go through the counter
	w.c = c
	list := func(d hypervisor.Detail) int64 {
		t.Helper()
		n, err := p.during(func() error {
			_, err := hypervisor.Collect(c.VMs(w.ctx, &hypervisor.ListOptions{Detail: d}))
			return err
		})
		w.ok(err, "VMs")
		return n
	}
	var vms []*hypervisor.VM
	add := func() {
		t.Helper()
		vm, err := c.CreateVM(w.ctx, guest(pvh, fmt.Sprintf("calls-%d", len(vms)), w.ds)).Wait(w.ctx)
		w.ok(err, "create")
		vms = append(vms, vm)
	}
	add()
	brief, full := list(hypervisor.Brief), list(hypervisor.Full)
	add()
	add()
	// Three lists of domains, and a definition for each.
	if n := list(hypervisor.Brief); brief != 3+1 || n != 3+3 {
		t.Errorf("a brief listing sends %d requests for one machine, %d for three; want 4 and 6", brief, n)
	}
	// The pools too, and for each machine its definition and its disk's image
	// (pool, volume, description).
	if n := list(hypervisor.Full); n-full != 2*4 || full > 3+5+4 {
		t.Errorf("a full listing sends %d requests for one machine, %d for three; want at most 12, and 4 more for each", full, n)
	}
	for what, f := range map[string]struct {
		most int64
		call func(context.Context) error
	}{
		"Info":                         {14, func(ctx context.Context) error { _, err := vms[0].Info(ctx); return err }},
		"PowerOff of one that is off":  {4, func(ctx context.Context) error { _, err := vms[0].PowerOff(ctx).Wait(ctx); return err }},
		"a handle and its description": {0, func(context.Context) error { c.VM(vms[0].ID()); c.Describe(); return nil }},
	} {
		n, err := p.during(func() error { return f.call(w.ctx) })
		w.ok(err, what)
		if n > f.most {
			t.Errorf("%s sends %d requests, want at most %d", what, n, f.most)
		}
	}
	for _, vm := range vms {
		w.do(vm.Delete(w.ctx, hypervisor.DeleteDisks, nil), "Delete")
	}
}
