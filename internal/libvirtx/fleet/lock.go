//go:build cgo

package fleet

import (
	"context"
	"sync"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Lock is the work that is allowed on a machine while other work is under
// way.
type Lock uint8

const (
	ShortWork Lock = iota // others wait
	DiskWork              // short, and no other process may work on the disks
	LongWork              // others get ErrBusy, including those in other processes
	Reading               // long, and others may read too, for example to clone the same source
)

// locks serialize long work on one machine in this process. A lease does this
// between processes.
type locks struct {
	mu   sync.Mutex
	held map[hypervisor.VMID]*holder
}

type holder struct {
	what    string
	mode    Lock
	readers int
	freed   chan struct{}
}

// Take locks a machine. If long work holds the machine, it returns ErrBusy at
// once. It waits for short work.
func (f *Fleet) Take(ctx context.Context, id hypervisor.VMID, what string, mode Lock) (release func(), err error) {
	l := &f.locks
	for {
		l.mu.Lock()
		if l.held == nil {
			l.held = map[hypervisor.VMID]*holder{}
		}
		k := l.held[id]
		if k == nil {
			k = &holder{what: what, mode: mode, freed: make(chan struct{})}
			l.held[id] = k
		} else if mode != Reading || k.readers == 0 {
			l.mu.Unlock()
			if k.mode == LongWork || k.mode == Reading {
				return nil, hypervisor.Errorf(hypervisor.ErrBusy, id.Ref(), "%s is under way: wait for it, or cancel its task", k.what)
			}
			select {
			case <-k.freed:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if mode == Reading {
			k.readers++
		}
		l.mu.Unlock()
		return sync.OnceFunc(func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if k.readers--; k.readers > 0 {
				return
			}
			delete(l.held, id)
			close(k.freed)
		}), nil
	}
}
