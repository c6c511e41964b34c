package xen

import (
	"context"
	"encoding/json"
	"iter"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// knownVM is what the last event or listing told of a machine, so that a
// change of state can be told from other changes and a deletion, which comes
// without the record, can be named.
type knownVM struct {
	uuid, name, power string
	host              xapi.Ref
	template          bool
	snapshot          bool
	control           bool
}

func known(v vmRec) knownVM {
	return knownVM{uuid: v.UUID, name: v.Name, power: v.PowerState, host: v.ResidentOn, template: v.Template, snapshot: v.IsSnapshot, control: v.ControlDomain}
}

// watchWait is how long one event.from waits.
const watchWait = 30 * time.Second

// Watch follows classes VM and host by event.from. Its token is the event's
// own; tokens live as long as the server remembers (EVENTS_LOST).
func (d *driver) Watch(ctx context.Context, token string) iter.Seq2[hypervisor.Event, error] {
	return func(yield func(hypervisor.Event, error) bool) {
		resumed := token != ""
		lost := "" // why the listing must be read again
		for {
			wait := watchWait
			if token == "" {
				wait = 0 // the whole inventory comes at once
			}
			e, err := d.c.From(ctx, []string{"VM", "host"}, token, wait)
			switch xapi.Code(err) {
			case "EVENTS_LOST", "EVENT_FROM_TOKEN_PARSE_FAILURE":
				token, lost = "", err.Error()
				continue
			}
			if err != nil {
				if ctx.Err() == nil && kindOf(err) != hypervisor.KindClosed {
					yield(hypervisor.Event{}, err)
				}
				return
			}
			silent := token == "" // what is there already is no news
			token = e.Token
			if lost != "" {
				// Told now, so that whoever lists again misses nothing in between.
				if !yield(hypervisor.Event{Type: hypervisor.Resync, Time: time.Now(), Token: token, Detail: lost}, nil) {
					return
				}
				lost, resumed = "", false
			}
			for _, x := range e.Events {
				ev, ok := d.event(x, resumed)
				if !ok || silent {
					continue
				}
				ev.Token = token
				if !yield(ev, nil) {
					return
				}
			}
		}
	}
}

// event makes the portable event and remembers the object. ok is false for
// what is no news.
func (d *driver) event(x xapi.Event, resumed bool) (hypervisor.Event, bool) {
	ev := hypervisor.Event{Time: time.Now(), Detail: x.Class + " " + x.Operation}
	if x.Class == "host" {
		var h hostRec
		if x.Operation != "mod" || json.Unmarshal(x.Snapshot, &h) != nil {
			return ev, false
		}
		ev.Type, ev.Object = hypervisor.HostChanged, hypervisor.Ref{Kind: hypervisor.KindOfHost, ID: h.UUID, Name: h.Name}
		return ev, true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	old, had := d.known[x.Ref]
	if x.Operation == "del" {
		// The entry stays, for a watch that resumes before this.
		if !had { // from before this Client: which one it was can't be said
			ev.Type = hypervisor.Resync
			return ev, true
		}
		ev.Type, ev.Object = hypervisor.VMDeleted, hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: old.uuid, Name: old.name}
		if old.snapshot {
			ev.Type, ev.Object.Kind = hypervisor.SnapshotDeleted, hypervisor.KindOfSnapshot
		}
		return ev, true
	}
	var v vmRec
	if json.Unmarshal(x.Snapshot, &v) != nil {
		return ev, false
	}
	now := known(v)
	d.known[x.Ref] = now
	if now.control {
		return ev, false
	}
	ev.Object = hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	ev.State = state(v.PowerState)
	switch {
	case now.snapshot:
		ev.Object.Kind, ev.Type = hypervisor.KindOfSnapshot, hypervisor.SnapshotCreated
		return ev, x.Operation == "add"
	case x.Operation == "add" && !(resumed && had):
		ev.Type = hypervisor.VMCreated
	case !had || old.power != now.power:
		ev.Type = hypervisor.VMState
	case old.host != now.host && !old.host.IsNull() && !now.host.IsNull():
		ev.Type = hypervisor.VMMigrated
	default:
		ev.Type = hypervisor.VMChanged
	}
	return ev, true
}
