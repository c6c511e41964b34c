package vsphere

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// watchPaths are the properties whose changes are events.
var watchPaths = []string{"config.changeVersion", "name", "runtime.host", "runtime.powerState", "snapshot", "summary.config.template"}

// seenVM is what a watch knows about a machine.
type seenVM struct {
	name  string
	host  ref
	state hypervisor.PowerState
	snaps map[hypervisor.SnapshotID]bool
}

// Watch follows all machines by long poll of a property collector of its own.
// The collector's versions belong to one session, so after a lost session,
// and for any token, a Resync comes first.
func (d *driver) Watch(ctx context.Context, token string) iter.Seq2[hypervisor.Event, error] {
	return func(yield func(hypervisor.Event, error) bool) {
		if token != "" && !yield(hypervisor.Event{Type: hypervisor.EventResync, Time: time.Now()}, nil) {
			return
		}
		for try := 0; ; try++ {
			gen := d.session.gen.Load()
			began := time.Now()
			err := d.watchOnce(ctx, yield)
			switch {
			case errors.Is(err, errStopped), ctx.Err() != nil:
				return
			case time.Since(began) > time.Minute:
				try = 0
			}
			lost := gen != d.session.gen.Load() || d.viewLost(err, gen) || kindOf(err) == hypervisor.ErrUnavailable
			if try > 0 || !lost || d.ctx.Err() != nil {
				yield(hypervisor.Event{}, err)
				return
			}
			d.dropView("VirtualMachine")
			if !yield(hypervisor.Event{Type: hypervisor.EventResync, Time: time.Now(), Detail: err.Error()}, nil) {
				return
			}
		}
	}
}

var errStopped = errors.New("the consumer stopped")

// watchOnce follows until an error. It returns errStopped when the consumer
// has stopped.
func (d *driver) watchOnce(ctx context.Context, yield func(hypervisor.Event, error) bool) error {
	v, err := d.viewOf(ctx, "VirtualMachine")
	if err != nil {
		return err
	}
	pc, err := d.newCollector(ctx, viewSpec(v.ref, "VirtualMachine", watchPaths))
	if err != nil {
		return err
	}
	defer d.later(func(ctx context.Context) { d.dropCollector(ctx, pc) })
	known := map[ref]*seenVM{}
	version, base := "", true
	for {
		set, err := d.updates(ctx, pc, version, longPoll)
		if err != nil {
			return err
		}
		if set == nil {
			continue
		}
		version = set.Version
		for _, f := range set.FilterSet {
			for _, o := range f.ObjectSet {
				_, seen := known[o.Obj]
				for _, e := range known2events(known, o) {
					// While the first state is read, only changes of machines
					// that were already read are reported.
					if (!base || seen) && !yield(e, nil) {
						return errStopped
					}
				}
			}
		}
		base = base && set.Truncated != nil && *set.Truncated
	}
}

// known2events applies an update to the known state and returns the events.
func known2events(known map[ref]*seenVM, o types.ObjectUpdate) []hypervisor.Event {
	event := func(t hypervisor.EventType, s *seenVM) hypervisor.Event {
		return hypervisor.Event{Type: t, Object: hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: o.Obj.Value, Name: s.name}, State: s.state, Time: time.Now()}
	}
	s, ok := known[o.Obj]
	if o.Kind == types.ObjectUpdateKindLeave {
		delete(known, o.Obj)
		if !ok {
			s = &seenVM{}
		}
		return []hypervisor.Event{event(hypervisor.EventVMDeleted, s)}
	}
	if !ok {
		s = &seenVM{snaps: map[hypervisor.SnapshotID]bool{}}
		known[o.Obj] = s
	}
	old := *s
	var out []hypervisor.Event
	changed := false
	var snaps []hypervisor.Event
	for _, c := range o.ChangeSet {
		switch x := c.Val.(type) {
		case string:
			if c.Name == "name" {
				s.name = unescape(x)
			}
			changed = true
		case bool:
			changed = true
		case ref:
			s.host = x
		case types.VirtualMachinePowerState:
			s.state = stateOf(x)
		case types.VirtualMachineSnapshotInfo:
			snaps = append(snaps, snapshotEvents(o.Obj, s, flatten(x.RootSnapshotList, "", 0))...)
		case nil:
			if c.Name == "snapshot" {
				snaps = append(snaps, snapshotEvents(o.Obj, s, nil)...)
			}
		}
	}
	if !ok {
		return []hypervisor.Event{event(hypervisor.EventVMCreated, s)}
	}
	if old.state != s.state {
		out = append(out, event(hypervisor.EventVMState, s))
	}
	if old.host != s.host && old.host.Value != "" && s.host.Value != "" {
		out = append(out, event(hypervisor.EventVMMigrated, s))
	}
	out = append(out, snaps...)
	if changed && len(out) == 0 {
		out = append(out, event(hypervisor.EventVMChanged, s))
	}
	return out
}

func snapshotEvents(vm ref, s *seenVM, now []hypervisor.SnapshotInfo) []hypervisor.Event {
	var out []hypervisor.Event
	there := map[hypervisor.SnapshotID]bool{}
	for _, i := range now {
		there[i.ID] = true
		if !s.snaps[i.ID] {
			out = append(out, hypervisor.Event{Type: hypervisor.EventSnapshotCreated, Object: hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, ID: string(i.ID), Name: i.Name},
				Detail: "of machine " + vm.Value, Time: time.Now()})
		}
	}
	for id := range s.snaps {
		if !there[id] {
			out = append(out, hypervisor.Event{Type: hypervisor.EventSnapshotDeleted, Object: id.Ref(), Detail: "of machine " + vm.Value, Time: time.Now()})
		}
	}
	s.snaps = there
	return out
}
