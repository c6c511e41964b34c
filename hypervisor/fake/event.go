package fake

import (
	"context"
	"fmt"
	"iter"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// emit records a change of a machine.
func (b *Backend) emit(t hypervisor.EventType, m *vm, detail string) {
	e := hypervisor.Event{Type: t, Object: hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: string(m.ID), Name: m.Name}, Detail: detail}
	if t == hypervisor.EventVMState || t == hypervisor.EventVMCreated {
		e.State = m.State
	}
	b.tell(e)
}

func (b *Backend) emitTask(t *task) {
	detail := string(t.w.op) + " " + t.state.Phase
	if t.state.Err != nil {
		detail = string(t.w.op) + " failed"
	}
	b.tell(hypervisor.Event{Type: hypervisor.EventTaskChanged, Object: t.id.Ref(), Detail: detail})
}

func (b *Backend) tell(e hypervisor.Event) {
	b.st.Events++
	e.Time, e.Token = b.now(), b.token(b.st.Events)
	b.events = append(b.events, e)
	if len(b.events) > 2*b.cfg.EventLog { // trimmed by halves: cheap on average
		b.events = append(b.events[:0], b.events[len(b.events)-b.cfg.EventLog:]...)
	}
	if b.waiting != nil {
		close(b.waiting)
		b.waiting = nil
	}
}

func (b *Backend) token(n uint64) string { return fmt.Sprintf("%d-%d", b.cfg.Seed, n) }

// TrimEvents forgets all events, so that a Watch with an older token gets a
// Resync.
func (b *Backend) TrimEvents() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = nil
}

// position finds the number of the event that a token means.
func (b *Backend) position(token string) (uint64, bool) {
	var seed, n uint64
	if _, err := fmt.Sscanf(token, "%d-%d", &seed, &n); err != nil || b.token(n) != token {
		return 0, false
	}
	return n, n <= b.st.Events && n+uint64(len(b.events)) >= b.st.Events
}

// Watch yields the changes after a token.
func (d *Driver) Watch(ctx context.Context, token string) iter.Seq2[hypervisor.Event, error] {
	return func(yield func(hypervisor.Event, error) bool) {
		on := hypervisor.Ref{Kind: hypervisor.ObjectClient, ID: d.b.cfg.Name}
		if err := d.read(ctx, op.ClientWatch, on); err != nil {
			yield(hypervisor.Event{}, err)
			return
		}
		b := d.b
		b.mu.Lock()
		if err := b.require(capability.WatchEvents, hypervisor.Ref{}, on); err != nil {
			b.mu.Unlock()
			yield(hypervisor.Event{}, err)
			return
		}
		at, ok := b.st.Events, true
		if token != "" {
			var n uint64
			if n, ok = b.position(token); ok && b.supports(capability.WatchResume, hypervisor.Ref{}).Level != hypervisor.LevelNo {
				at = n
			} else {
				ok = false
			}
		}
		b.mu.Unlock()
		broken := 0
		for {
			if !ok {
				b.mu.Lock()
				at = b.st.Events
				e := hypervisor.Event{Type: hypervisor.EventResync, Time: b.now(), Token: b.token(at), Object: on,
					Detail: "events may have been lost: list again"}
				b.mu.Unlock()
				if !yield(e, nil) {
					return
				}
			}
			b.mu.Lock()
			behind := b.st.Events - at
			if ok = behind <= uint64(len(b.events)); !ok {
				b.mu.Unlock()
				continue
			}
			news := append([]hypervisor.Event(nil), b.events[len(b.events)-int(behind):]...)
			at = b.st.Events
			if b.waiting == nil {
				b.waiting = make(chan struct{})
			}
			ch := b.waiting
			f := b.strike(op.ClientNextEvent, on)
			b.mu.Unlock()
			if f != nil {
				if broken++; broken > 1 || f.Lost == 0 {
					err := f.Err
					if err == nil {
						err = unavailable(on, false)
					}
					yield(hypervisor.Event{}, err)
					return
				}
			}
			for _, e := range news {
				broken = 0
				if !yield(e, nil) {
					return
				}
			}
			if len(news) > 0 {
				continue
			}
			select {
			case <-ch:
			case <-ctx.Done():
				yield(hypervisor.Event{}, ctx.Err())
				return
			case <-d.done:
				yield(hypervisor.Event{}, hypervisor.Errorf(hypervisor.ErrClosed, on, "%w", hypervisor.ErrClosed))
				return
			}
		}
	}
}
