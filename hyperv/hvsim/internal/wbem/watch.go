package wbem

import (
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wql"
)

// Event is an intrinsic event.
type Event struct {
	Class            string // __InstanceCreationEvent, __InstanceModificationEvent, __InstanceDeletionEvent
	Target, Previous *cimx.Instance
}

// Watcher finds intrinsic events by comparing states, as WMI does for a query with WITHIN [D: "WITHIN Clause"].
type Watcher struct {
	wmi     Server
	ns      string
	kinds   map[string]bool
	class   string
	every   time.Duration
	where   wql.Expr
	last    map[string]*cimx.Instance
	order   []string
	pending []*Event
}

var eventKinds = map[string][]string{
	"__instancecreationevent":     {"__InstanceCreationEvent"},
	"__instancemodificationevent": {"__InstanceModificationEvent"},
	"__instancedeletionevent":     {"__InstanceDeletionEvent"},
	"__instanceoperationevent":    {"__InstanceCreationEvent", "__InstanceModificationEvent", "__InstanceDeletionEvent"},
}

// Watch starts an event query: SELECT … FROM __InstanceModificationEvent WITHIN n WHERE TargetInstance ISA 'class' AND ….
func Watch(wmi Server, ns, query string) (*Watcher, error) {
	q, err := wql.Parse(query)
	if err != nil || q.Kind != wql.Select {
		return nil, Errorf(InvalidQuery, "")
	}
	kinds := eventKinds[strings.ToLower(q.Class)]
	class := target(q.Where)
	if kinds == nil || class == "" || q.Within < 0 {
		return nil, Errorf(InvalidQuery, "")
	}
	if _, err := wmi.Class(ns, class); err != nil {
		return nil, err
	}
	w := &Watcher{wmi: wmi, ns: ns, class: class, where: q.Where, kinds: map[string]bool{}, every: time.Duration(q.Within * float64(time.Second))}
	for _, k := range kinds {
		w.kinds[k] = true
	}
	w.last, w.order, err = w.state()
	return w, err
}

// target finds the class of TargetInstance ISA 'class' among the conditions that must hold.
func target(e wql.Expr) string {
	switch x := e.(type) {
	case wql.And:
		if c := target(x.L); c != "" {
			return c
		}
		return target(x.R)
	case wql.Compare:
		if c, ok := x.Value.(string); ok && x.Op == "ISA" && strings.EqualFold(x.Name, "TargetInstance") {
			return c
		}
	}
	return ""
}

func (w *Watcher) state() (map[string]*cimx.Instance, []string, error) {
	r, err := w.wmi.Query(w.ns, "SELECT * FROM "+w.class)
	if err != nil {
		return nil, nil, err
	}
	m := make(map[string]*cimx.Instance, len(r.Instances))
	var order []string
	for _, i := range r.Instances {
		k := i.Class.Name + "\x00" + i.Ref().Key()
		m[k] = i
		order = append(order, k)
	}
	return m, order, nil
}

// poll compares the state with the last one.
func (w *Watcher) poll() error {
	now, order, err := w.state()
	if err != nil {
		return err
	}
	emit := func(e *Event) {
		if w.kinds[e.Class] && wql.Match(w.where, e.field) {
			w.pending = append(w.pending, e)
		}
	}
	for _, k := range w.order {
		if now[k] == nil {
			emit(&Event{Class: "__InstanceDeletionEvent", Target: w.last[k]})
		}
	}
	for _, k := range order {
		switch old := w.last[k]; {
		case old == nil:
			emit(&Event{Class: "__InstanceCreationEvent", Target: now[k]})
		case !same(old, now[k]):
			emit(&Event{Class: "__InstanceModificationEvent", Target: now[k], Previous: old})
		}
	}
	w.last, w.order = now, order
	return nil
}

// same compares instances. A changed up time of a running machine does not count.
func same(a, b *cimx.Instance) bool {
	x, y := a.Copy(), b.Copy()
	for _, p := range []string{"OnTimeInMilliseconds", "UpTime", "LocalDateTime"} {
		if x.Class.Prop(p) >= 0 {
			x.Set(p, nil)
			y.Set(p, nil)
		}
	}
	return cimx.Format(x) == cimx.Format(y)
}

// field returns TargetInstance, PreviousInstance or a property of theirs.
func (e *Event) field(name string) any {
	head, prop, dotted := strings.Cut(name, ".")
	i := e.Target
	if strings.EqualFold(head, "PreviousInstance") {
		i = e.Previous
	} else if !strings.EqualFold(head, "TargetInstance") {
		return nil
	}
	if i == nil {
		return nil
	}
	if !dotted {
		return i
	}
	return i.Get(prop)
}

// Next returns the next event, or nil when wait is over. A negative wait is endless.
func (w *Watcher) Next(wait time.Duration) (*Event, error) {
	end := time.Now().Add(wait)
	pause := min(max(w.every, time.Millisecond), 20*time.Millisecond)
	for {
		if len(w.pending) == 0 {
			if err := w.poll(); err != nil {
				return nil, err
			}
		}
		if len(w.pending) > 0 {
			e := w.pending[0]
			w.pending = w.pending[1:]
			return e, nil
		}
		if wait >= 0 && !time.Now().Before(end) {
			return nil, nil
		}
		time.Sleep(pause)
	}
}
