package hyperv

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

const defaultEventInterval = 2 * time.Second

// Watch implements hypervisor.Watcher. Over COM an event query reports when
// to read the host. Over WS-Management each host is read every EventInterval.
// The events come from comparing readings, so both transports report the
// same, and nothing is lost in between. Past events are not available: a
// token only yields a Resync.
func (d *driver) Watch(ctx context.Context, token string) iter.Seq2[hypervisor.Event, error] {
	return func(yield func(hypervisor.Event, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(d.closed, cancel)()
		old, err := d.glance(ctx)
		if err != nil {
			yield(hypervisor.Event{}, err)
			return
		}
		if token != "" && !yield(hypervisor.Event{Type: hypervisor.EventResync, Time: time.Now(), Token: token}, nil) {
			return
		}
		wake := make(chan struct{}, 1)
		var wg sync.WaitGroup
		for _, h := range d.hosts {
			wg.Go(func() { d.listen(ctx, h, wake) })
		}
		defer wg.Wait()
		defer cancel()
		every := d.cfg.EventInterval
		if every <= 0 {
			every = defaultEventInterval
		}
		tick := time.NewTicker(every)
		defer tick.Stop()
		broken := false
		for {
			select {
			case <-ctx.Done():
				if d.closed.Err() != nil {
					yield(hypervisor.Event{}, hypervisor.Errorf(hypervisor.ErrClosed, hypervisor.Ref{}, "%w", hypervisor.ErrClosed))
					return
				}
				yield(hypervisor.Event{}, ctx.Err())
				return
			case <-tick.C:
			case <-wake:
			}
			now, err := d.glance(ctx)
			switch {
			case err != nil && !broken && ctx.Err() == nil:
				broken = true // tried once more at the next tick
				continue
			case d.closed.Err() != nil:
				yield(hypervisor.Event{}, hypervisor.Errorf(hypervisor.ErrClosed, hypervisor.Ref{}, "%w", hypervisor.ErrClosed))
				return
			case err != nil:
				yield(hypervisor.Event{}, err)
				return
			}
			broken = false
			for _, e := range differences(old, now) {
				if !yield(e, nil) {
					return
				}
			}
			old = now
		}
	}
}

// listen wakes the watcher on each change that the host reports. It ends at
// once on a transport without events.
func (d *driver) listen(ctx context.Context, h *host, wake chan<- struct{}) {
	s, err := h.session(ctx)
	if err != nil {
		return // the ticker continues
	}
	const wql = "SELECT * FROM __InstanceOperationEvent WITHIN 1 WHERE TargetInstance ISA 'Msvm_ComputerSystem'"
	for _, err := range s.Subscribe(ctx, cim.Virtualization, wql) {
		if err != nil {
			return // the ticker continues beside it, and reports if the host is gone
		}
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// seen is what the watcher knows about a machine.
type seen struct {
	name  string
	notes string
	state hypervisor.PowerState
	host  hypervisor.HostID
	snaps map[string]string
}

// glance reads the minimum that shows changes: two queries per host.
func (d *driver) glance(ctx context.Context) (map[string]seen, error) {
	var mu sync.Mutex
	out := map[string]seen{}
	err := d.each(ctx, d.hosts, func(ctx context.Context, _ int, h *host, s cim.Session) error {
		inv, err := readInventory(ctx, h, s, []int{rowSettings, rowSystems}, nil)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, id := range inv.machines() {
			r := inv.byID[id]
			n := parseNotes(r.settings.Strs("Notes"))
			if n.Unfinished || r.settings.Str("VirtualSystemType") == typePlanned && !n.Template {
				continue
			}
			v := seen{name: r.settings.Str("ElementName"), notes: r.settings.Str("Notes"), state: state(r.system), host: h.id, snaps: map[string]string{}}
			for _, sn := range userSnapshots(inv.snapshot[id]) {
				v.snaps[ownerOf(sn.Str("InstanceID"))] = sn.Str("ElementName")
			}
			out[id] = v
		}
		return nil
	})
	return out, err
}

func differences(old, now map[string]seen) []hypervisor.Event {
	var out []hypervisor.Event
	at := time.Now()
	tell := func(t hypervisor.EventType, r hypervisor.Ref, s hypervisor.PowerState) {
		out = append(out, hypervisor.Event{Type: t, Object: r, State: s, Time: at, Token: at.UTC().Format(time.RFC3339Nano)})
	}
	for id, v := range now {
		ref := hypervisor.VMID(id).Ref()
		ref.Name = v.name
		o, known := old[id]
		if !known {
			tell(hypervisor.EventVMCreated, ref, v.state)
			continue
		}
		if o.host != v.host {
			tell(hypervisor.EventVMMigrated, ref, v.state)
		}
		if o.state != v.state {
			tell(hypervisor.EventVMState, ref, v.state)
		}
		if o.name != v.name || o.notes != v.notes {
			tell(hypervisor.EventVMChanged, ref, v.state)
		}
		for s, n := range v.snaps {
			if _, had := o.snaps[s]; !had {
				r := hypervisor.SnapshotID(s).Ref()
				r.Name = n
				tell(hypervisor.EventSnapshotCreated, r, "")
			}
		}
		for s, n := range o.snaps {
			if _, has := v.snaps[s]; !has {
				r := hypervisor.SnapshotID(s).Ref()
				r.Name = n
				tell(hypervisor.EventSnapshotDeleted, r, "")
			}
		}
	}
	for id, v := range old {
		if _, has := now[id]; !has {
			ref := hypervisor.VMID(id).Ref()
			ref.Name = v.name
			tell(hypervisor.EventVMDeleted, ref, "")
		}
	}
	return out
}
