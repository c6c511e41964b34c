package hypervisor

import (
	"context"
	"iter"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// EventType is the kind of a change.
type EventType string

const (
	EventVMCreated       EventType = "vm.created"
	EventVMDeleted       EventType = "vm.deleted"
	EventVMState         EventType = "vm.state" // Event.State is the new one
	EventVMChanged       EventType = "vm.changed"
	EventVMMigrated      EventType = "vm.migrated"
	EventSnapshotCreated EventType = "snapshot.created"
	EventSnapshotDeleted EventType = "snapshot.deleted"
	EventTaskChanged     EventType = "task.changed"
	EventHostChanged     EventType = "host.changed"
	EventDeviceChanged   EventType = "device.changed"
	// EventResync reports that events may have been lost: list again.
	EventResync EventType = "resync"
)

// Event is one change.
type Event struct {
	Type   EventType  `json:"type"`
	Object Ref        `json:"object"`
	State  PowerState `json:"state,omitempty"`
	Detail string     `json:"detail,omitempty"` // in the platform's words
	Time   time.Time  `json:"time"`
	// Token resumes after this event, where the platform supports it.
	Token string `json:"token,omitempty"`
}

// PollInterval is the time between listings in Watch where a platform has no
// events.
const PollInterval = 5 * time.Second

// Watch yields changes after a token, which is empty or from an earlier
// event, until ctx ends or the loop stops. The end of ctx is not an error.
// Where the platform can't resume, or lost events, Watch yields an
// EventResync: list again then. Where the platform has no events at all, Watch lists every
// PollInterval and reports the differences.
func (c *Client) Watch(ctx context.Context, token string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		ctx, sp, err := c.begin(ctx, op.ClientWatch, Ref{})
		if err != nil {
			yield(Event{}, err)
			return
		}
		w, ok := Ability[Watcher](c.d)
		if !ok {
			err = c.poll(ctx, token, yield)
			if err != nil && ctx.Err() == nil {
				yield(Event{}, c.wrap(op.ClientWatch, Ref{}, err))
			}
			_ = sp.end(nil)
			return
		}
		for e, err := range w.Watch(ctx, token) {
			if err != nil && ctx.Err() != nil {
				break
			}
			if err != nil {
				yield(Event{}, sp.end(c.wrap(op.ClientWatch, Ref{}, err)))
				return
			}
			if !yield(e, nil) {
				break
			}
		}
		_ = sp.end(nil)
	}
}

// poll compares listings. It returns nil when the consumer has stopped.
func (c *Client) poll(ctx context.Context, token string, yield func(Event, error) bool) error {
	list := func() (map[VMID]VMInfo, error) {
		out := map[VMID]VMInfo{}
		for _, templates := range []bool{false, true} {
			q := VMQuery{Templates: templates}
			for {
				p, err := retryRead(ctx, c, func() (VMPage, error) { return c.d.ListVMs(ctx, q) })
				if err != nil {
					return nil, err
				}
				for _, v := range p.VMs {
					out[v.ID] = v
				}
				if q.Page = p.Next; q.Page == "" {
					break
				}
			}
		}
		return out, nil
	}
	old, err := list()
	if err != nil {
		return err
	}
	if token != "" && !yield(Event{Type: EventResync, Time: time.Now()}, nil) {
		return nil
	}
	tick := time.NewTicker(PollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now, err := list()
		if err != nil {
			return err
		}
		for _, e := range compare(old, now) {
			if !yield(e, nil) {
				return nil
			}
		}
		old = now
	}
}

// compare returns the changes between two listings.
func compare(old, now map[VMID]VMInfo) []Event {
	var out []Event
	for id, v := range now {
		e := Event{Object: Ref{Kind: ObjectVM, ID: string(id), Name: v.Name}, State: v.State, Time: v.ReadAt}
		o, ok := old[id]
		switch {
		case !ok:
			e.Type = EventVMCreated
		case o.Host != v.Host && o.Host != "" && v.Host != "":
			e.Type = EventVMMigrated
		case o.State != v.State:
			e.Type = EventVMState
		case changed(o, v):
			e.Type = EventVMChanged
		default:
			continue
		}
		out = append(out, e)
	}
	for id, v := range old {
		if _, ok := now[id]; !ok {
			out = append(out, Event{Type: EventVMDeleted, Object: Ref{Kind: ObjectVM, ID: string(id), Name: v.Name}, Time: time.Now()})
		}
	}
	return out
}

func changed(a, b VMInfo) bool {
	return a.Name != b.Name || a.Template != b.Template || a.CPUs != b.CPUs || a.MemoryBytes != b.MemoryBytes ||
		len(a.Disks) != len(b.Disks) || len(a.NICs) != len(b.NICs) || len(a.Devices) != len(b.Devices) ||
		a.Snapshots != b.Snapshots || a.CurrentSnapshot != b.CurrentSnapshot || a.Description != b.Description
}
