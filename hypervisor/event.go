package hypervisor

import (
	"context"
	"iter"
	"time"
)

// EventType is what happened.
type EventType string

const (
	VMCreated       EventType = "vm.created"
	VMDeleted       EventType = "vm.deleted"
	VMState         EventType = "vm.state" // Event.State is the new one
	VMChanged       EventType = "vm.changed"
	VMMigrated      EventType = "vm.migrated"
	SnapshotCreated EventType = "snapshot.created"
	SnapshotDeleted EventType = "snapshot.deleted"
	TaskChanged     EventType = "task.changed"
	HostChanged     EventType = "host.changed"
	DeviceChanged   EventType = "device.changed"
	// Resync says that events may have been lost: list again.
	Resync EventType = "resync"
)

// Event is one change.
type Event struct {
	Type   EventType  `json:"type"`
	Object Ref        `json:"object"`
	State  PowerState `json:"state,omitempty"`
	Detail string     `json:"detail,omitempty"` // the platform's words
	Time   time.Time  `json:"time"`
	// Token resumes after this event where the platform can.
	Token string `json:"token,omitempty"`
}

// PollInterval is how often Watch lists where a platform has no events.
const PollInterval = 5 * time.Second

// Watch yields changes after a token, which is empty or from an earlier
// event, until ctx ends or the loop stops. The end of ctx is no error. Where
// the platform can't resume or lost events it yields a Resync: list again
// then. Where it has no events at all, Watch lists every PollInterval and
// tells the differences.
func (c *Client) Watch(ctx context.Context, token string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		ctx, sp, err := c.begin(ctx, "watch", Ref{})
		if err != nil {
			yield(Event{}, err)
			return
		}
		w, ok := c.d.(Watcher)
		if !ok {
			err = c.poll(ctx, token, yield)
			if err != nil && ctx.Err() == nil {
				yield(Event{}, c.wrap("watch", Ref{}, err))
			}
			_ = sp.end(nil)
			return
		}
		for e, err := range w.Watch(ctx, token) {
			if err != nil && ctx.Err() != nil {
				break
			}
			if err != nil {
				yield(Event{}, sp.end(c.wrap("watch", Ref{}, err)))
				return
			}
			if !yield(e, nil) {
				break
			}
		}
		_ = sp.end(nil)
	}
}

// poll compares listings. It returns nil when the consumer stopped.
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
	if token != "" && !yield(Event{Type: Resync, Time: time.Now()}, nil) {
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

// compare tells what happened between two listings.
func compare(old, now map[VMID]VMInfo) []Event {
	var out []Event
	for id, v := range now {
		e := Event{Object: Ref{Kind: KindOfVM, ID: string(id), Name: v.Name}, State: v.State, Time: v.ReadAt}
		o, ok := old[id]
		switch {
		case !ok:
			e.Type = VMCreated
		case o.Host != v.Host && o.Host != "" && v.Host != "":
			e.Type = VMMigrated
		case o.State != v.State:
			e.Type = VMState
		case changed(o, v):
			e.Type = VMChanged
		default:
			continue
		}
		out = append(out, e)
	}
	for id, v := range old {
		if _, ok := now[id]; !ok {
			out = append(out, Event{Type: VMDeleted, Object: Ref{Kind: KindOfVM, ID: string(id), Name: v.Name}, Time: time.Now()})
		}
	}
	return out
}

func changed(a, b VMInfo) bool {
	return a.Name != b.Name || a.Template != b.Template || a.CPUs != b.CPUs || a.MemoryBytes != b.MemoryBytes ||
		len(a.Disks) != len(b.Disks) || len(a.NICs) != len(b.NICs) || len(a.Devices) != len(b.Devices) ||
		a.Snapshots != b.Snapshots || a.CurrentSnapshot != b.CurrentSnapshot || a.Description != b.Description
}
