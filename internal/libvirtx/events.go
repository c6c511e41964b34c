//go:build cgo

package libvirtx

import (
	"context"

	"libvirt.org/go/libvirt"
)

// EventKind is a kind of libvirt event that drivers use.
type EventKind uint8

const (
	Lifecycle EventKind = iota
	Metadata
	DeviceAdded
	DeviceRemoved
	JobCompleted
)

// RawEvent is one libvirt event. It holds no reference to anything.
type RawEvent struct {
	Kind       EventKind
	UUID, Name string
	Event      int // virDomainEventType
	Detail     int // of the event
	Namespace  string
}

// Subscribe registers for domain events. push is called in the event loop and
// must not block or call libvirt. The subscription lives until the returned
// function is called, or lost is closed. The function must be called in both
// cases. It does not wait for the server; Close waits for it.
func Subscribe(ctx context.Context, h *Conn, push func(RawEvent)) (unsubscribe func(), lost <-chan struct{}, err error) {
	type sub struct {
		c   *libvirt.Connect
		ids []int
	}
	undo := func(s sub) {
		for _, id := range s.ids {
			_ = s.c.DomainEventDeregister(id) // fails only with a lost connection
		}
		_, _ = s.c.Close() // releases the reference
		h.calls.Done()
	}
	s, err := do(ctx, h, 5, func(c *libvirt.Connect) (sub, error) {
		var ids []int
		add := func(id int, err error) error {
			if err == nil {
				ids = append(ids, id)
			}
			return err
		}
		send := func(k EventKind, d *libvirt.Domain, event, detail int, ns string) {
			e := RawEvent{Kind: k, Event: event, Detail: detail, Namespace: ns}
			// Both are local. A domain without them can't be reported.
			e.UUID, _ = d.GetUUIDString()
			e.Name, _ = d.GetName()
			push(e)
		}
		err := add(c.DomainEventLifecycleRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventLifecycle) {
			send(Lifecycle, d, int(e.Event), e.Detail, "")
		}))
		if err != nil {
			return sub{}, err
		}
		// Not every libvirt driver has these.
		_ = add(c.DomainEventMetadataChangeRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventMetadataChange) {
			send(Metadata, d, 0, int(e.Type), e.NSURI)
		}))
		_ = add(c.DomainEventDeviceAddedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventDeviceAdded) {
			send(DeviceAdded, d, 0, 0, "")
		}))
		_ = add(c.DomainEventDeviceRemovedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventDeviceRemoved) {
			send(DeviceRemoved, d, 0, 0, "")
		}))
		_ = add(c.DomainEventJobCompletedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventJobCompleted) {
			send(JobCompleted, d, 0, 0, "")
		}))
		h.calls.Add(1) // the call that runs here makes Close wait until then
		if err := c.Ref(); err != nil {
			h.calls.Done()
			return sub{}, err
		}
		return sub{c, ids}, nil
	}, undo)
	if err != nil {
		return nil, nil, err
	}
	_, lost = h.Epoch()
	return func() { go undo(s) }, lost, nil
}
