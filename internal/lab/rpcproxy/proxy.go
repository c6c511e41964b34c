// Package rpcproxy stands between libvirt's client library and a host, so that
// tests can count the requests of libvirt's wire protocol, cut connections,
// hold a client at a certain request, and lose the answer to one.
package rpcproxy

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

	"github.com/anyvisor/anyvisor/internal/lab"
)

// Procedures of libvirt's src/remote/remote_protocol.x.
const (
	Create            = 9
	CreateXML         = 10
	Define            = 11
	Destroy           = 12
	Resume            = 28
	Suspend           = 34
	VolumeCreate      = 93
	VolumeDelete      = 94
	VolumeCreateFrom  = 125
	Attach            = 160
	Detach            = 161
	ManagedSave       = 182
	ManagedSaveRemove = 184
	SnapshotCreate    = 185
	SnapshotDelete    = 193
	CreateWithFlags   = 196
	SetVCPUs          = 199
	SetMemory         = 204
	Undefine          = 231
	Restore           = 233
	BlockJobAbort     = 237
	BlockResize       = 251
	VolumeResize      = 260
	SetMetadata       = 264
	BlockCommit       = 290
	MigratePerform    = 305
	BlockCopy         = 345
	DefineFlags       = 350
	Rename            = 358
)

// Changing are the procedures that change something, with names for tests.
var Changing = map[uint32]string{
	Create: "create", CreateXML: "create-xml", Define: "define", Destroy: "destroy", Resume: "resume", Suspend: "suspend",
	VolumeCreate: "volume-create", VolumeDelete: "volume-delete", VolumeCreateFrom: "volume-create-from",
	Attach: "attach", Detach: "detach", ManagedSave: "managed-save", ManagedSaveRemove: "managed-save-remove",
	SnapshotCreate: "snapshot-create", SnapshotDelete: "snapshot-delete", CreateWithFlags: "create-with-flags",
	SetVCPUs: "set-vcpus", SetMemory: "set-memory", Undefine: "undefine", Restore: "restore",
	BlockJobAbort: "block-job-abort", BlockResize: "block-resize", VolumeResize: "volume-resize", SetMetadata: "set-metadata",
	BlockCommit: "block-commit", MigratePerform: "migrate-perform", BlockCopy: "block-copy", DefineFlags: "define-flags", Rename: "rename",
}

// Proxy is one address in front of a host.
type Proxy struct {
	ln          net.Listener
	network, to string
	calls       atomic.Int64
	wg          sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	shut   bool
	last   uint32         // the procedure after which nothing is passed on; 0 is none
	held   bool           // it was seen
	passed chan struct{}  // closed when it was passed on
	lose   uint32         // the procedure whose answer is lost; 0 is none
	skip   int            // after this many
	late   bool           // the host gets the request after the sender has repeated it
	hold   func()         // called before the answer is passed on, instead of losing it
	seen   []uint32       // the procedures of all requests
	coming sync.WaitGroup // requests that are late
}

// New places a proxy in front of an address until the test ends, on the same kind of network.
func New(t testing.TB, network, address string) *Proxy {
	t.Helper()
	at := "127.0.0.1:0"
	if network == "unix" {
		dir, release, err := lab.TempDir("avp", nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			os.RemoveAll(dir)
			release()
		})
		at = filepath.Join(dir, "s")
	}
	ln, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{ln: ln, network: network, to: address, conns: map[net.Conn]bool{}, passed: make(chan struct{})}
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
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// Addr is the address that the proxy listens on.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Cut ends all connections; new ones work.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	p.conns = map[net.Conn]bool{}
}

// HoldAfter passes requests on up to the first of a procedure, and none after it: its sender
// can't continue, however fast the machine is. The channel is closed when the host has that
// request.
func (p *Proxy) HoldAfter(procedure uint32) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = procedure
	return p.passed
}

// LoseAnswer breaks the connection of a request of a procedure, after skip others: the host does
// the work, and the sender never gets the answer.
func (p *Proxy) LoseAnswer(procedure uint32, skip int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose, p.skip, p.late, p.hold = procedure, skip, false, nil
}

// HoldAnswer calls f when the host has answered a request of a procedure, after skip others, and
// passes the answer on when f returns. Other answers are not held back.
func (p *Proxy) HoldAnswer(procedure uint32, skip int, f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose, p.skip, p.late, p.hold = procedure, skip, false, f
}

// Delay is like LoseAnswer, for a request that takes long to arrive: the host gets it after one
// more of its kind has arrived by another way.
func (p *Proxy) Delay(procedure uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose, p.skip, p.late, p.hold = procedure, 0, true, nil
}

// Struck reports whether the answer that should be lost was lost. The host has the request by
// then.
func (p *Proxy) Struck() bool {
	p.coming.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lose == 0
}

// Heal loses no answer from now on, and reports whether one was lost.
func (p *Proxy) Heal() bool {
	struck := p.Struck()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = 0
	return struck
}

// Procedures returns those of the requests since its last call.
func (p *Proxy) Procedures() []uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = nil
	return seen
}

// The possible fates of a request.
type fate int

const (
	pass fate = iota
	passLast
	drop
	lose
	loseLate
	hold
)

// admit determines the fate of a request.
func (p *Proxy) admit(procedure uint32) fate {
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
		switch {
		case p.hold != nil:
			return hold
		case p.late:
			p.coming.Add(1)
			return loseLate
		}
		return lose
	}
	return pass
}

// again waits until a procedure is requested once more, or for a while.
func (p *Proxy) again(procedure uint32) {
	before := p.times(procedure)
	for range 100 {
		time.Sleep(20 * time.Millisecond)
		if p.times(procedure) > before {
			time.Sleep(200 * time.Millisecond) // it is done by now
			return
		}
	}
}

func (p *Proxy) times(procedure uint32) (n int) {
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

func (p *Proxy) serve(c net.Conn) {
	s, err := net.Dial(p.network, p.to)
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
	var held atomic.Int64 // and of the one whose answer is held back
	var wg sync.WaitGroup
	var write sync.Mutex
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
			if k.reply() && held.Load() == int64(k.word(5))+1 {
				p.mu.Lock()
				f := p.hold
				p.mu.Unlock()
				wg.Go(func() {
					f()
					write.Lock()
					defer write.Unlock()
					_, _ = c.Write(k)
				})
				continue
			}
			write.Lock()
			_, err = c.Write(k)
			write.Unlock()
			if err != nil {
				io.Copy(io.Discard, s) // nobody receives it
				return
			}
		}
	})
	late := p.requests(c, s, &lost, &held)
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
func (p *Proxy) requests(from net.Conn, to io.Writer, lost, held *atomic.Int64) (late bool) {
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
		case hold:
			held.Store(int64(k.word(5)) + 1)
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

// During counts the requests of f.
func (p *Proxy) During(f func()) int64 {
	before := p.calls.Load()
	f()
	return p.calls.Load() - before
}
