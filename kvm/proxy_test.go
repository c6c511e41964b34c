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

// Procedures of libvirt's src/remote/remote_protocol.x.
const (
	procDefine           = 11  // REMOTE_PROC_DOMAIN_DEFINE_XML
	procVolumeCreateFrom = 125 // REMOTE_PROC_STORAGE_VOL_CREATE_XML_FROM
	procSnapshotCreate   = 185 // REMOTE_PROC_DOMAIN_SNAPSHOT_CREATE_XML
	procUndefine         = 231 // REMOTE_PROC_DOMAIN_UNDEFINE_FLAGS
	procBlockJobAbort    = 237 // REMOTE_PROC_DOMAIN_BLOCK_JOB_ABORT
	procBlockCommit      = 290 // REMOTE_PROC_DOMAIN_BLOCK_COMMIT
)

// proxy stands between libvirt's client library and a host's socket. It counts
// the requests of libvirt's wire protocol, can cut the connections, and can
// hold a client at a certain request.
type proxy struct {
	ln    net.Listener
	to    string
	calls atomic.Int64
	wg    sync.WaitGroup
	done  chan struct{} // closed at the end of the test

	mu     sync.Mutex
	conns  map[net.Conn]bool
	shut   bool
	last   uint32        // the procedure after which nothing is passed on; 0 is none
	held   bool          // it was seen
	passed chan struct{} // closed when it was passed on
	mute   uint32        // the procedure whose next answer is lost; 0 is none
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
	p := &proxy{ln: ln, to: h.Socket, conns: map[net.Conn]bool{}, done: make(chan struct{}), passed: make(chan struct{})}
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
		close(p.done)
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

// holdAfter passes requests on up to the first of a procedure, and none after
// it: its sender gets no further, however fast the machine is. The channel is
// closed when the host has that request.
func (p *proxy) holdAfter(procedure uint32) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = procedure
	return p.passed
}

// loseAnswer breaks the connection of the next request of a procedure: the
// host gets it and does it, and the sender never hears.
func (p *proxy) loseAnswer(procedure uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = procedure
}

// What becomes of a request.
const (
	pass = iota
	passLast
	drop
	passMute
)

// admit says what becomes of a request.
func (p *proxy) admit(procedure uint32) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.held:
		return drop
	case p.last != 0 && procedure == p.last:
		p.held = true
		return passLast
	case p.mute != 0 && procedure == p.mute:
		p.mute = 0
		return passMute
	}
	return pass
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
	if p.count(c, s) == passMute {
		wg.Wait() // the host has answered, to nobody
	}
	s.Close()
	wg.Wait()
}

// count passes packets on: length, then program, version, procedure, type,
// serial, status (libvirt.org/kbase/internals/rpc.html). Type 0 is a call;
// the program 0x6b656570 is keepalive.
func (p *proxy) count(from net.Conn, to io.Writer) (fate int) {
	head := make([]byte, 28)
	for {
		if _, err := io.ReadFull(from, head); err != nil {
			return pass
		}
		n := int64(binary.BigEndian.Uint32(head))
		fate = pass
		if binary.BigEndian.Uint32(head[16:]) == 0 && binary.BigEndian.Uint32(head[4:]) != 0x6b656570 {
			if fate = p.admit(binary.BigEndian.Uint32(head[12:])); fate == drop {
				io.Copy(io.Discard, from) // until the client is gone
				return drop
			}
			p.calls.Add(1)
		}
		body := make([]byte, n-28)
		if _, err := io.ReadFull(from, body); err != nil {
			return pass
		}
		if fate == passMute {
			from.Close()
		}
		if _, err := to.Write(append(head, body...)); err != nil {
			return pass
		}
		switch fate {
		case passLast:
			close(p.passed)
		case passMute:
			return passMute
		}
	}
}

// during counts the requests of f.
func (p *proxy) during(f func()) int64 {
	before := p.calls.Load()
	f()
	return p.calls.Load() - before
}
