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
	"time"

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
	last   uint32         // the procedure after which nothing is passed on; 0 is none
	held   bool           // it was seen
	passed chan struct{}  // closed when it was passed on
	lose   uint32         // the procedure of which an answer is lost; 0 is none
	skip   int            // after this many
	late   bool           // the host gets the request when the sender has asked again
	seen   []uint32       // the procedures of all requests
	coming sync.WaitGroup // requests that are late
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

// loseAnswer breaks the connection of a request of a procedure, after skip
// others: the host does it, and the sender never hears.
func (p *proxy) loseAnswer(procedure uint32, skip int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose, p.skip, p.late = procedure, skip, false
}

// delay is loseAnswer for a request that is long on its way: the host gets it
// after one more of its kind has come by another way.
func (p *proxy) delay(procedure uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose, p.skip, p.late = procedure, 0, true
}

// struck reports whether the answer was lost that was to be. The host has the
// request by then.
func (p *proxy) struck() bool {
	p.coming.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lose == 0
}

// procedures are those of the requests since it was last asked.
func (p *proxy) procedures() []uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = nil
	return seen
}

// What becomes of a request.
type fate int

const (
	pass fate = iota
	passLast
	drop
	lose
	loseLate
)

// admit says what becomes of a request.
func (p *proxy) admit(procedure uint32) fate {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, procedure)
	switch {
	case p.held:
		return drop
	case p.last != 0 && procedure == p.last:
		p.held = true
		return passLast
	case p.lose == 0 || procedure != p.lose:
	case p.skip > 0:
		p.skip--
	default:
		p.lose = 0
		if p.late {
			p.coming.Add(1)
			return loseLate
		}
		return lose
	}
	return pass
}

// again waits until a procedure was asked for once more, or nobody does.
func (p *proxy) again(procedure uint32) {
	before := p.times(procedure)
	for range 100 {
		time.Sleep(20 * time.Millisecond)
		if p.times(procedure) > before {
			time.Sleep(200 * time.Millisecond) // it is done by now
			return
		}
	}
}

func (p *proxy) times(procedure uint32) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seen {
		if s == procedure {
			n++
		}
	}
	return n
}

// Packets are: length, program, version, procedure, type, serial, status,
// content (libvirt.org/kbase/internals/rpc.html). Type 0 is a call and 1 its
// reply; the program 0x6b656570 is keepalive.
type packet []byte

func (k packet) word(n int) uint32 { return binary.BigEndian.Uint32(k[4*n:]) }
func (k packet) call() bool        { return k.word(1) != 0x6b656570 && k.word(4) == 0 }
func (k packet) reply() bool       { return k.word(1) != 0x6b656570 && k.word(4) == 1 }

func readPacket(from io.Reader) (packet, error) {
	k := make(packet, 28)
	if _, err := io.ReadFull(from, k); err != nil {
		return nil, err
	}
	k = append(k, make(packet, k.word(0)-28)...)
	_, err := io.ReadFull(from, k[28:])
	return k, err
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
	var lost atomic.Int64 // the serial of the request whose answer is lost, plus 1
	var wg sync.WaitGroup
	wg.Go(func() {
		defer c.Close()
		for {
			k, err := readPacket(s)
			if err != nil {
				return
			}
			if k.reply() && lost.Load() == int64(k.word(5))+1 {
				s.Close()
				return
			}
			if _, err := c.Write(k); err != nil {
				io.Copy(io.Discard, s) // nobody hears it
				return
			}
		}
	})
	late := p.requests(c, s, &lost)
	if lost.Load() == 0 {
		s.Close()
	}
	wg.Wait()
	s.Close()
	if late {
		p.coming.Done()
	}
}

// requests passes a client's packets on until one end is closed. It reports
// whether the last one was late.
func (p *proxy) requests(from net.Conn, to io.Writer, lost *atomic.Int64) (late bool) {
	for {
		k, err := readPacket(from)
		if err != nil {
			return late
		}
		what := pass
		if k.call() {
			what = p.admit(k.word(3))
			p.calls.Add(1)
		}
		switch what {
		case drop:
			io.Copy(io.Discard, from) // until the client is gone
			return late
		case lose, loseLate:
			lost.Store(int64(k.word(5)) + 1)
		}
		if what == loseLate {
			from.Close()
			p.again(k.word(3))
			late = true
		}
		if _, err := to.Write(k); err != nil {
			return late
		}
		if what == passLast {
			close(p.passed)
		}
		if late {
			return late
		}
	}
}

// during counts the requests of f.
func (p *proxy) during(f func()) int64 {
	before := p.calls.Load()
	f()
	return p.calls.Load() - before
}
