//go:build cgo

package kvm

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
)

// proxy stands between libvirt's client library and a host's socket. It counts
// the requests of libvirt's wire protocol and can cut the connections.
type proxy struct {
	ln    net.Listener
	to    string
	calls atomic.Int64
	wg    sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	shut  bool
}

func newProxy(t testing.TB, h *kvmlab.Host) *proxy {
	t.Helper()
	dir, err := os.MkdirTemp("", "avp") // short: socket paths end at 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, to: h.Socket, conns: map[net.Conn]bool{}}
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
		p.mu.Lock()
		p.shut = true
		p.mu.Unlock()
		ln.Close()
		p.cut()
		p.wg.Wait()
		os.RemoveAll(dir)
	})
	return p
}

func (p *proxy) uri() string { return "qemu+unix:///system?socket=" + p.ln.Addr().String() }

// cut ends all connections; new ones work.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	p.conns = map[net.Conn]bool{}
}

func (p *proxy) serve(c net.Conn) {
	s, err := net.Dial("unix", p.to)
	if err != nil {
		c.Close()
		return
	}
	p.mu.Lock()
	p.conns[c], p.conns[s] = true, true
	if p.shut {
		c.Close()
		s.Close()
	}
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() {
		io.Copy(c, s)
		c.Close()
	})
	p.count(c, s)
	s.Close()
	wg.Wait()
}

// count passes packets on: length, then program, version, procedure, type,
// serial, status (libvirt.org/kbase/internals/rpc.html). Type 0 is a call;
// the program 0x6b656570 is keepalive.
func (p *proxy) count(from io.Reader, to io.Writer) {
	head := make([]byte, 28)
	for {
		if _, err := io.ReadFull(from, head); err != nil {
			return
		}
		n := int64(binary.BigEndian.Uint32(head))
		if binary.BigEndian.Uint32(head[16:]) == 0 && binary.BigEndian.Uint32(head[4:]) != 0x6b656570 {
			p.calls.Add(1)
		}
		if _, err := to.Write(head); err != nil {
			return
		}
		if _, err := io.CopyN(to, from, n-28); err != nil {
			return
		}
	}
}

// during counts the requests of f.
func (p *proxy) during(f func()) int64 {
	before := p.calls.Load()
	f()
	return p.calls.Load() - before
}
