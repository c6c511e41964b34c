package xen

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// knownVM is what the last event or listing reported of a machine. It
// distinguishes a change of state from other changes, and provides the name
// for a deletion, which comes without the record.
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

// watchWait is the time that one event.from waits.
const watchWait = 30 * time.Second

// event.from remembers only the latest deletions of a class, from 256 on, and
// reports none of the others, without an error (Table in xen-api's
// ocaml/database/db_cache_types.ml). They show in valid_ref_counts alone, the
// number of objects of each class. So a watch keeps the references that it
// knows, and a token carries their number.

// A token is valid only for the master that gave it: another one counts from
// elsewhere, and reports too little without an error.

// view is what a watch knows of the pool at a token of event.from.
type view struct {
	d      *driver
	token  string
	master xapi.Ref // that gave the token
	logins int64    // when master was read
	vms    map[xapi.Ref]knownVM
	hosts  map[xapi.Ref]bool
}

// position is the token of an event: event.from's, the numbers of machines and
// hosts that are known there, and the master.
func (w *view) position() string {
	return fmt.Sprintf("%s;%d,%d;%s", w.token, len(w.vms), len(w.hosts), w.master)
}

// from calls event.from. EVENTS_LOST means that the token is from another
// master.
func (w *view) from(ctx context.Context, token string, wait time.Duration) (xapi.Events, error) {
	e, err := w.d.c.From(ctx, []string{"VM", "host"}, token, wait)
	if err != nil || w.d.c.Logins() == w.logins {
		return e, err
	}
	now := &view{d: w.d}
	if err := now.find(ctx); err != nil {
		return e, err
	}
	if w.logins = now.logins; now.master != w.master {
		return e, &xapi.Error{Code: "EVENTS_LOST"}
	}
	return e, nil
}

// find reads which host is the master.
func (w *view) find(ctx context.Context) error {
	w.logins = w.d.c.Logins()
	p, _, err := w.d.pool(ctx)
	w.master = p.Master
	return err
}

// Watch follows classes VM and host with event.from.
func (d *driver) Watch(ctx context.Context, token string) iter.Seq2[hypervisor.Event, error] {
	return func(yield func(hypervisor.Event, error) bool) {
		w := &view{d: d}
		defer w.keep()
		if err := w.follow(ctx, token, yield); err != nil && ctx.Err() == nil && kindOf(err) != hypervisor.ErrClosed {
			yield(hypervisor.Event{}, err)
		}
	}
}

// follow returns nil when the consumer has stopped.
func (w *view) follow(ctx context.Context, token string, yield func(hypervisor.Event, error) bool) error {
	err := w.load(ctx)
	if err == nil && token != "" {
		var more bool
		if more, err = w.resume(ctx, token, yield); !more {
			return err
		}
	}
	for err == nil {
		var e xapi.Events
		e, err = w.from(ctx, w.token, watchWait)
		if lostEvents(err) {
			why := err.Error()
			if err = w.load(ctx); err == nil && !yield(w.resync(why), nil) {
				return nil
			}
			continue
		}
		if err != nil {
			break
		}
		events, _ := w.events(e.Events, true)
		if !w.tell(events, e.Token, yield) {
			return nil
		}
		if agrees(e.Counts, len(w.vms), len(w.hosts)) {
			continue
		}
		var more bool
		if more, err = w.catchUp(ctx, e.Counts, yield); !more {
			return err
		}
	}
	return err
}

// load reads all machines and hosts, of which nothing is reported.
func (w *view) load(ctx context.Context) error {
	var e xapi.Events
	for try := 1; ; try++ {
		err := w.find(ctx)
		if err == nil {
			e, err = w.from(ctx, "", 0)
		}
		if err == nil {
			break
		}
		if !lostEvents(err) || try == 3 { // the master changed meanwhile
			return err
		}
	}
	w.vms, w.hosts, w.token = map[xapi.Ref]knownVM{}, map[xapi.Ref]bool{}, e.Token
	events, _ := w.events(e.Events, true)
	for _, ev := range events {
		w.apply(ev)
	}
	return nil
}

// resume reports what happened since an earlier token, or a Resync if that
// can't be known. The view was read after that token. more is false when the
// consumer has stopped.
func (w *view) resume(ctx context.Context, token string, yield func(hypervisor.Event, error) bool) (more bool, err error) {
	from, numbers, _ := strings.Cut(token, ";")
	numbers, master, _ := strings.Cut(numbers, ";")
	var vms, hosts int
	_, bad := fmt.Sscanf(numbers, "%d,%d", &vms, &hosts)
	if xapi.Ref(master) != w.master {
		return yield(w.resync("the token is not from the pool's present master"), nil), nil
	}
	e, err := w.from(ctx, from, 0)
	if lostEvents(err) {
		why := err.Error()
		err = w.load(ctx)
		return err == nil && yield(w.resync(why), nil), err
	}
	if err != nil {
		return false, err
	}
	for _, x := range e.Events {
		n := map[string]int{"add": 1, "del": -1}[x.Operation]
		switch x.Class {
		case "vm":
			vms += n
		case "host":
			hosts += n
		}
	}
	events, unknown := w.events(e.Events, false)
	if bad != nil || unknown > 0 || !agrees(e.Counts, vms, hosts) {
		for _, ev := range events {
			w.apply(ev)
		}
		w.token = e.Token
		return yield(w.resync("machines or hosts were removed that the pool no longer remembers"), nil), nil
	}
	return w.tellFrom(token, events, e.Token, yield), nil
}

func (w *view) resync(why string) hypervisor.Event {
	return hypervisor.Event{Type: hypervisor.EventResync, Time: time.Now(), Token: w.position(), Detail: why}
}

// told is an event of the pool, and what it makes known.
type told struct {
	hypervisor.Event
	silent bool // there is nothing to report
	class  string
	ref    xapi.Ref
	gone   bool
	vm     knownVM // as it is, or was
}

// events makes the portable events, and counts deletions of machines that
// are not known. compare is false where the view is newer than the events.
func (w *view) events(xs []xapi.Event, compare bool) (out []told, unknown int) {
	for _, x := range xs {
		old, had := w.vms[x.Ref]
		if !compare {
			if old, had = w.d.remembered(x.Ref); x.Operation != "del" {
				old, had = knownVM{}, false
			}
		}
		t := told{class: x.Class, ref: x.Ref, gone: x.Operation == "del"}
		t.Event = hypervisor.Event{Time: time.Now(), Detail: x.Class + " " + x.Operation}
		switch {
		case x.Class == "host":
			t.silent = !hostEvent(&t, x)
		case x.Class != "vm":
			t.silent = true
		case t.gone && !had: // told already by catchUp, or unknown
			t.silent = true
			unknown++
		case t.gone:
			t.deletion(old)
		default:
			var v vmRec
			if err := json.Unmarshal(x.Snapshot, &v); err != nil {
				t.silent, t.class = true, "" // nothing is known of it
				break
			}
			t.vm = known(v)
			t.silent = !vmEvent(&t, x.Operation, old, had)
		}
		out = append(out, t)
	}
	return out, unknown
}

func hostEvent(t *told, x xapi.Event) bool {
	var h hostRec
	if x.Operation != "mod" || json.Unmarshal(x.Snapshot, &h) != nil {
		return false
	}
	t.Type, t.Object = hypervisor.EventHostChanged, hypervisor.Ref{Kind: hypervisor.ObjectHost, ID: h.UUID, Name: h.Name}
	return true
}

func (t *told) deletion(old knownVM) {
	t.gone, t.silent, t.vm = true, old.control, old
	t.Type, t.Object = hypervisor.EventVMDeleted, hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: old.uuid, Name: old.name}
	if old.snapshot {
		t.Type, t.Object.Kind = hypervisor.EventSnapshotDeleted, hypervisor.ObjectSnapshot
	}
}

func vmEvent(t *told, operation string, old knownVM, had bool) bool {
	now := t.vm
	t.Object = hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: now.uuid, Name: now.name}
	t.State = state(now.power)
	switch {
	case now.control:
		return false
	case now.snapshot:
		t.Object.Kind, t.Type = hypervisor.ObjectSnapshot, hypervisor.EventSnapshotCreated
		return operation == "add"
	case operation == "add" && !had:
		t.Type = hypervisor.EventVMCreated
	case !had || old.power != now.power:
		t.Type = hypervisor.EventVMState
	case old.host != now.host && !old.host.IsNull() && !now.host.IsNull():
		t.Type = hypervisor.EventVMMigrated
	default:
		t.Type = hypervisor.EventVMChanged
	}
	return true
}

// apply brings the view up to an event.
func (w *view) apply(t told) {
	switch {
	case t.class == "host" && t.gone:
		delete(w.hosts, t.ref)
	case t.class == "host":
		w.hosts[t.ref] = true
	case t.class == "vm" && t.gone:
		if t.vm.uuid != "" {
			w.d.deleted(t.ref, t.vm)
		}
		delete(w.vms, t.ref)
	case t.class == "vm":
		w.vms[t.ref] = t.vm
	}
}

// tell reports events that lead to a token of event.from. It returns false
// when the consumer has stopped.
func (w *view) tell(events []told, token string, yield func(hypervisor.Event, error) bool) bool {
	return w.tellFrom(w.position(), events, token, yield)
}

// tellFrom is tell, for events after a position. Only the last event carries
// the position after all of them: a watch that resumes from one of the others
// reports them again.
func (w *view) tellFrom(position string, events []told, token string, yield func(hypervisor.Event, error) bool) bool {
	last := -1
	for i, t := range events {
		w.apply(t)
		if !t.silent {
			last = i
		}
	}
	w.token = token
	for i, t := range events {
		if t.Token = position; i == last {
			t.Token = w.position()
		}
		if !t.silent && !yield(t.Event, nil) {
			return false
		}
	}
	return true
}

// agrees compares the numbers of known machines and hosts with
// valid_ref_counts, where the server has them.
func agrees(counts map[string]int, vms, hosts int) bool {
	v, told := counts["vm"]
	h, too := counts["host"]
	return !told || !too || v == vms && h == hosts
}

// catchUp reports what the pool did without an event. Deleted machines are
// told by their names, and everything else by a Resync. It returns false when
// the consumer has stopped.
func (w *view) catchUp(ctx context.Context, counts map[string]int, yield func(hypervisor.Event, error) bool) (more bool, err error) {
	if counts["host"] != len(w.hosts) || counts["vm"] > len(w.vms) {
		err := w.load(ctx)
		return err == nil && yield(w.resync("the pool has other machines or hosts than it told"), nil), err
	}
	var refs []xapi.Ref
	if err := w.d.c.Call(ctx, &refs, "VM.get_all"); err != nil {
		return false, err
	}
	there := map[xapi.Ref]bool{}
	for _, r := range refs {
		there[r] = true
	}
	var gone []told
	for ref, old := range w.vms {
		if !there[ref] {
			gone = append(gone, told{class: "vm", ref: ref, Event: hypervisor.Event{Time: time.Now(), Detail: "vm del, forgotten"}})
			gone[len(gone)-1].deletion(old)
		}
	}
	return w.tell(gone, w.token, yield), nil
}

// maxGone is the number of deleted machines whose names are kept. No more
// deletions than that are remembered by a pool.
const maxGone = 512

// names are those of machines that watches of this Client knew.
type names struct {
	known map[xapi.Ref]knownVM // when the last watch ended
	gone  map[xapi.Ref]knownVM // of the latest deletions
	order []xapi.Ref           // of gone
}

// keep remembers what the watch knew when it ended.
func (w *view) keep() {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	w.d.names.known = w.vms
}

// deleted remembers the name of a machine that is gone.
func (d *driver) deleted(ref xapi.Ref, v knownVM) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := &d.names
	if n.gone == nil {
		n.gone = map[xapi.Ref]knownVM{}
	}
	n.gone[ref] = v
	if n.order = append(n.order, ref); len(n.order) > maxGone {
		delete(n.gone, n.order[0])
		n.order = n.order[1:]
	}
}

// remembered finds a machine that is gone.
func (d *driver) remembered(ref xapi.Ref) (knownVM, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.names.gone[ref]
	if !ok {
		v, ok = d.names.known[ref]
	}
	return v, ok
}
