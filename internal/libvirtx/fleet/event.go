//go:build cgo

package fleet

import (
	"context"
	"iter"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

const (
	// queued events beyond this are dropped and a Resync is sent.
	maxQueued = 10000
	// If the only host does not come back within this time, the Watch ends.
	rewatch = 30 * time.Second
)

// Watch implements hypervisor.Watcher.
func (f *Fleet) Watch(ctx context.Context, token string) iter.Seq2[hypervisor.Event, error] {
	return func(yield func(hypervisor.Event, error) bool) {
		ctx, stop := context.WithCancel(ctx)
		w := &watch{fleet: f, wake: make(chan struct{}, 1)}
		for _, h := range f.Members {
			w.wg.Go(func() { w.follow(ctx, h) })
		}
		defer w.wg.Wait()
		defer stop()
		if token != "" && !yield(hypervisor.Event{Type: hypervisor.EventResync, Time: time.Now(), Detail: "libvirt keeps no events to resume from"}, nil) {
			return
		}
		for {
			for {
				e, err, ok := w.next()
				if !ok {
					break
				}
				if !yield(e, err) || err != nil {
					return
				}
			}
			select {
			case <-w.wake:
			case <-ctx.Done():
				return
			case <-f.done:
				yield(hypervisor.Event{}, hypervisor.Errorf(hypervisor.ErrClosed, hypervisor.Ref{Kind: hypervisor.ObjectClient}, "%w", hypervisor.ErrClosed))
				return
			}
		}
	}
}

// watch is one Watch call: hosts send events, the consumer receives them.
type watch struct {
	fleet *Fleet
	wg    sync.WaitGroup
	wake  chan struct{}

	mu    sync.Mutex
	queue []hypervisor.Event
	gone  int // hosts that are given up
	err   error
}

func (w *watch) put(e hypervisor.Event) {
	w.mu.Lock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if len(w.queue) >= maxQueued {
		w.queue = []hypervisor.Event{{Type: hypervisor.EventResync, Time: e.Time, Detail: "events came faster than they were taken"}}
	}
	w.queue = append(w.queue, e)
	w.mu.Unlock()
	w.rouse()
}

func (w *watch) rouse() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watch) next() (hypervisor.Event, error, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) > 0 {
		e := w.queue[0]
		w.queue = w.queue[1:]
		return e, nil, true
	}
	if w.err != nil && w.gone == len(w.fleet.Members) {
		return hypervisor.Event{}, w.err, true
	}
	return hypervisor.Event{}, nil, false
}

// follow watches one host until ctx ends or the driver is closed.
func (w *watch) follow(ctx context.Context, h *Host) {
	f := &follower{w: w, h: h, making: map[string]bool{}}
	first := true
	var down time.Time
	for {
		raw := make(chan libvirtx.RawEvent, 1024)
		var dropped sync.Once
		unsubscribe, lost, err := libvirtx.Subscribe(ctx, h.Conn, func(e libvirtx.RawEvent) {
			select {
			case raw <- e:
			default:
				dropped.Do(func() {
					w.put(hypervisor.Event{Type: hypervisor.EventResync, Detail: "events came faster than they were taken"})
				})
			}
		})
		if err == nil {
			if !first {
				w.put(hypervisor.Event{Type: hypervisor.EventResync, Object: h.ID().Ref(), Detail: "the connection to the host was renewed"})
			}
			first, down = false, time.Time{}
			end := f.run(ctx, raw, lost)
			unsubscribe()
			if end {
				return
			}
			w.put(hypervisor.Event{Type: hypervisor.EventHostChanged, Object: h.ID().Ref(), Detail: "the connection was lost"})
			continue
		}
		if down.IsZero() {
			down = time.Now()
		}
		if ctx.Err() != nil || hypervisor.KindOf(err) == hypervisor.ErrClosed {
			return
		}
		if time.Since(down) > rewatch {
			w.mu.Lock()
			w.gone++
			w.err = err
			w.mu.Unlock()
			w.rouse()
			return
		}
		first = false
		select {
		case <-time.After(PollEvery):
		case <-ctx.Done():
			return
		case <-w.fleet.done:
			return
		}
	}
}

// follower turns one host's events into portable ones.
type follower struct {
	w      *watch
	h      *Host
	making map[string]bool // machines that are not finished
}

// run returns true when the watch is over, and false when the connection is
// lost.
func (f *follower) run(ctx context.Context, raw <-chan libvirtx.RawEvent, lost <-chan struct{}) bool {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case e := <-raw:
			f.tell(ctx, e)
		case <-lost:
			return false
		case <-tick.C:
			// Nobody else may be talking to this host, so check that it is
			// still there.
			if c := f.h.Conn.Native(); c != nil {
				if ok, err := c.IsAlive(); err == nil && !ok {
					return false
				}
			}
		case <-ctx.Done():
			return true
		case <-f.w.fleet.done:
			return true
		}
	}
}

func (f *follower) tell(ctx context.Context, r libvirtx.RawEvent) {
	if !libvirtx.IsMachine(r.UUID, r.Name) {
		return
	}
	e := hypervisor.Event{Type: hypervisor.EventVMChanged, Object: hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: r.UUID, Name: r.Name}}
	switch r.Kind {
	case libvirtx.Metadata:
		if f.making[r.UUID] {
			return
		}
		e.Detail = "metadata"
	case libvirtx.DeviceAdded, libvirtx.DeviceRemoved:
		e.Detail = "devices"
	case libvirtx.JobCompleted:
		e.Type, e.Detail = hypervisor.EventTaskChanged, "the domain's job ended"
	case libvirtx.Lifecycle:
		if !f.lifecycle(ctx, r, &e) {
			return
		}
	}
	f.w.put(e)
}

// lifecycle maps virDomainEventType and its details. It returns false for
// events that mean nothing to a user of the portable API.
func (f *follower) lifecycle(ctx context.Context, r libvirtx.RawEvent, e *hypervisor.Event) bool {
	state := func(s hypervisor.PowerState) bool {
		e.Type, e.State = hypervisor.EventVMState, s
		return true
	}
	switch libvirt.DomainEventType(r.Event) {
	case libvirt.DOMAIN_EVENT_DEFINED:
		mark, err := OnHost(ctx, f.h, hypervisor.VMID(r.UUID), 1, func(_ *Host, _ *libvirt.Connect, dom *libvirt.Domain) (libvirtx.Mark, error) {
			_, m, err := libvirtx.Parse(dom, 0)
			return m, err
		})
		if err == nil && mark.Role != "" {
			f.making[r.UUID] = true
			return false
		}
		if f.making[r.UUID] || r.Detail == int(libvirt.DOMAIN_EVENT_DEFINED_ADDED) {
			delete(f.making, r.UUID)
			e.Type, e.State = hypervisor.EventVMCreated, hypervisor.StateOff
		}
		return true
	case libvirt.DOMAIN_EVENT_UNDEFINED:
		if f.making[r.UUID] {
			delete(f.making, r.UUID)
			return false
		}
		e.Type = hypervisor.EventVMDeleted
		if len(f.w.fleet.Members) > 1 {
			if _, err := f.w.fleet.Locate(ctx, hypervisor.VMID(r.UUID)); err == nil {
				e.Type, e.Detail = hypervisor.EventVMMigrated, "moved away from host "+string(f.h.ID())
			}
		}
		return true
	case libvirt.DOMAIN_EVENT_STARTED, libvirt.DOMAIN_EVENT_RESUMED:
		if r.Event == int(libvirt.DOMAIN_EVENT_RESUMED) && r.Detail == int(libvirt.DOMAIN_EVENT_RESUMED_MIGRATED) {
			e.Type, e.State, e.Detail = hypervisor.EventVMMigrated, hypervisor.StateRunning, "runs on host "+string(f.h.ID())
			return true
		}
		if r.Event == int(libvirt.DOMAIN_EVENT_STARTED) && r.Detail == int(libvirt.DOMAIN_EVENT_STARTED_MIGRATED) {
			return false // it does not run yet
		}
		return state(hypervisor.StateRunning)
	case libvirt.DOMAIN_EVENT_SUSPENDED:
		if r.Detail == int(libvirt.DOMAIN_EVENT_SUSPENDED_MIGRATED) {
			return false
		}
		return state(hypervisor.StatePaused)
	case libvirt.DOMAIN_EVENT_STOPPED:
		switch r.Detail {
		case int(libvirt.DOMAIN_EVENT_STOPPED_MIGRATED):
			return false
		case int(libvirt.DOMAIN_EVENT_STOPPED_SAVED):
			return state(hypervisor.StateSuspended)
		}
		return state(hypervisor.StateOff)
	case libvirt.DOMAIN_EVENT_CRASHED:
		e.Detail = "crashed"
		return state(hypervisor.StateOff)
	}
	return false
}
