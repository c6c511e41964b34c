//go:build cgo

package fleet

import (
	"context"
	"sync"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Lock says what else may be done on a machine while work is under way.
type Lock uint8

const (
	Unlocked  Lock = iota
	ShortWork      // others wait
	LongWork       // others are told that it is busy
	Reading        // long, and others may read too, such as clones of one source
)

// locks keeps long work on one machine apart, in this process. libvirt itself
// keeps others apart, call by call.
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

// Take locks a machine. If long work holds it the answer is KindBusy at once;
// short work is waited for.
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
			if k.mode != ShortWork {
				return nil, hypervisor.Errorf(hypervisor.KindBusy, id.Ref(), "%s is under way: wait for it, or cancel its task", k.what)
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
