package fake

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// steps is how often a task that takes time reports its progress.
const steps = 10

// work is what a task does. Its functions run with the backend locked.
type work struct {
	op     op.Name
	on     hypervisor.Ref
	result hypervisor.Ref
	excl   []hypervisor.Ref // held exclusively
	shared []hypervisor.Ref // held against exclusive holders
	phases []string         // each takes an equal part of the time
	bytes  int64
	notes  []string
	token  string
	pause  time.Duration  // of the guest
	takes  *time.Duration // instead of the configured delay
	// made names what exists before the end, and undo removes it.
	made func() []hypervisor.Ref
	undo func()
	// finish makes the change. Its error is the task's error, and s.Leftover
	// is what it left.
	finish func(s *hypervisor.TaskState) error
	also   *Backend // locked too while finish, undo and made run
	// fixed is the fraction from which the work can't be cancelled any more.
	fixed float64
}

type task struct {
	b       *Backend
	id      hypervisor.TaskID
	w       work
	fault   *Fault
	started time.Time
	delay   time.Duration
	step    int
	state   hypervisor.TaskState
	version int
	lost    int // number of broken connections of watchers
	seen    bool
	changed chan struct{} // closed at the next change; nil if nobody waits
}

// taskRecord is a task in JSON.
type taskRecord struct {
	ID       hypervisor.TaskID
	Op       op.Name
	On       hypervisor.Ref
	Result   hypervisor.Ref
	Error    string          `json:",omitempty"`
	Kind     hypervisor.Kind `json:",omitempty"`
	Leftover []hypervisor.Ref
	Notes    []string
	Migrated *hypervisor.MigrateResult `json:",omitempty"`
}

// hold records who works on an object.
type hold struct {
	excl   *task
	shared []*task
}

func (b *Backend) acquire(t *task) error {
	for _, r := range t.w.excl {
		if err := b.free(r, false); err != nil {
			return err
		}
	}
	for _, r := range t.w.shared {
		if err := b.free(r, true); err != nil {
			return err
		}
	}
	get := func(r hypervisor.Ref) *hold {
		r.Name = ""
		h := b.holds[r]
		if h == nil {
			h = &hold{}
			b.holds[r] = h
		}
		return h
	}
	for _, r := range t.w.excl {
		get(r).excl = t
	}
	for _, r := range t.w.shared {
		h := get(r)
		h.shared = append(h.shared, t)
	}
	return nil
}

// free checks whether an object may be worked on (shared: together with
// others).
func (b *Backend) free(r hypervisor.Ref, shared bool) error {
	key := r
	key.Name = ""
	h := b.holds[key]
	if h == nil || shared && h.excl == nil {
		return nil
	}
	t := h.excl
	if t == nil {
		t = h.shared[0]
	}
	return hypervisor.Errorf(hypervisor.ErrBusy, r, "task %s (%s) works on it: wait for its end", t.id, t.w.op)
}

func (b *Backend) release(t *task) {
	for _, r := range t.w.excl {
		r.Name = ""
		if h := b.holds[r]; h != nil && h.excl == t {
			delete(b.holds, r)
		}
	}
	for _, r := range t.w.shared {
		r.Name = ""
		if h := b.holds[r]; h != nil {
			if i := slices.Index(h.shared, t); i >= 0 {
				h.shared = slices.Delete(h.shared, i, i+1)
			}
			if len(h.shared) == 0 && h.excl == nil {
				delete(b.holds, r)
			}
		}
	}
}

// vmKey is the object that tasks on a machine or template hold.
func vmKey(id hypervisor.VMID) hypervisor.Ref { return id.Ref() }

// run starts work. The backend is locked.
func (d *Driver) run(f *Fault, w work) (hypervisor.DriverTask, error) {
	b := d.b
	t := &task{b: b, w: w, fault: f, started: b.now()}
	if err := b.acquire(t); err != nil {
		if w.undo != nil {
			b.withAlso(w.also, w.undo)
		}
		return nil, err
	}
	t.id = hypervisor.TaskID(b.number("task"))
	t.delay = b.delay(w.op)
	if w.takes != nil {
		t.delay = *w.takes
	}
	t.state = hypervisor.TaskState{Op: w.op, Object: w.on, Started: t.started, Phase: t.phase(0), BytesTotal: w.bytes, ExpectedDowntime: w.pause, Notes: w.notes}
	b.tasks[t.id] = t
	if w.token != "" {
		b.made[w.token] = t
	}
	if t.delay <= 0 {
		t.advance(steps)
	} else {
		b.emitTask(t)
		time.AfterFunc(t.delay/steps, t.tick)
	}
	if f != nil && f.Lost == AfterSend {
		return nil, unavailable(w.on, false)
	}
	out := &watch{d: d, t: t, seen: -1, lost: 0}
	if f != nil && f.Lost == LateAnswer {
		out.late = b.silence()
	}
	return out, nil
}

func (t *task) phase(f float64) string {
	if len(t.w.phases) == 0 {
		return "working"
	}
	return t.w.phases[min(int(f*float64(len(t.w.phases))), len(t.w.phases)-1)]
}

func (t *task) tick() {
	t.b.mu.Lock()
	defer t.b.mu.Unlock()
	if t.state.Done {
		return
	}
	if t.advance(t.step + 1); !t.state.Done {
		time.AfterFunc(t.delay/steps, t.tick)
	}
}

// advance proceeds to a step. Faults strike on the way.
func (t *task) advance(step int) {
	t.step = step
	f := float64(step) / steps
	if x := t.fault; x != nil && x.After <= f {
		switch {
		case x.Lost == Watching:
			t.lost++
			t.fault = nil
		case x.Err != nil || x.Leftover:
			t.state.Fraction = max(x.After, 0)
			err := x.Err
			if err == nil {
				err = errCrash
			}
			t.fail(err, x.Leftover)
			return
		}
	}
	if step >= steps {
		t.complete()
		return
	}
	t.state.Fraction, t.state.Phase = f, t.phase(f)
	t.state.BytesDone = int64(f * float64(t.w.bytes))
	t.bump()
}

var errCrash error = &NativeError{Kind: hypervisor.ErrUnavailable, Text: "the host crashed in the middle of the task"}

func (b *Backend) withAlso(o *Backend, f func()) {
	if o == nil || o == b {
		f()
		return
	}
	b.lockSecond(o)
	defer o.mu.Unlock()
	f()
}

// lockSecond locks another backend while this one is locked. It keeps to the
// order of their numbers, so that two migrations in opposite directions don't
// deadlock.
func (b *Backend) lockSecond(o *Backend) {
	if o.serial > b.serial {
		o.mu.Lock()
		return
	}
	b.mu.Unlock()
	o.mu.Lock()
	b.mu.Lock()
}

func (t *task) complete() {
	t.b.withAlso(t.w.also, func() {
		if t.state.Done { // while lockSecond had released the lock
			return
		}
		s := t.state
		s.Result = t.w.result
		if t.w.finish != nil {
			s.Err = t.w.finish(&s)
		}
		if s.Err != nil && len(s.Leftover) == 0 && t.w.undo != nil {
			t.w.undo()
		}
		t.end(s)
	})
}

func (t *task) fail(err error, leave bool) {
	t.b.withAlso(t.w.also, func() {
		if t.state.Done {
			return
		}
		s := t.state
		s.Err = err
		if leave && t.w.made != nil {
			s.Leftover = t.w.made()
		} else if t.w.undo != nil {
			t.w.undo()
		}
		t.end(s)
	})
}

// end records the final state.
func (t *task) end(s hypervisor.TaskState) {
	b := t.b
	s.Done = true
	if s.Err == nil {
		s.Fraction, s.BytesDone, s.Phase = 1, s.BytesTotal, "done"
	}
	t.state = s
	b.release(t)
	if t.w.token != "" && b.made[t.w.token] == t {
		delete(b.made, t.w.token)
	}
	b.ended = append(b.ended, t.id)
	for len(b.ended) > b.cfg.TaskLog {
		delete(b.tasks, b.ended[0])
		b.ended = b.ended[1:]
	}
	t.w.finish, t.w.undo, t.w.made, t.w.also = nil, nil, nil, nil
	t.bump()
	b.emitTask(t)
}

func (t *task) bump() {
	t.version++
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// watch is one watcher's view of a task.
type watch struct {
	d    *Driver
	t    *task
	seen int
	lost int
	late <-chan struct{} // closed when the answer to the start comes
}

func (w *watch) ID() hypervisor.TaskID { return w.t.id }

func (w *watch) Next(ctx context.Context) (hypervisor.TaskState, error) {
	b := w.t.b
	if w.late != nil {
		if err := wait(ctx, w.d, w.late); err != nil {
			return hypervisor.TaskState{}, err
		}
		w.late = nil
	}
	for {
		if err := ctx.Err(); err != nil {
			return hypervisor.TaskState{}, err
		}
		b.mu.Lock()
		t := w.t
		if t.lost > w.lost {
			w.lost = t.lost
			b.mu.Unlock()
			return hypervisor.TaskState{}, unavailable(t.id.Ref(), false)
		}
		if t.version != w.seen || t.state.Done {
			w.seen = t.version
			s := t.state
			s.Notes, s.Leftover = slices.Clone(s.Notes), slices.Clone(s.Leftover)
			t.seen = t.seen || s.Done
			b.mu.Unlock()
			hypervisor.CountCalls(ctx, 1)
			return s, nil
		}
		if t.changed == nil {
			t.changed = make(chan struct{})
		}
		ch := t.changed
		b.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
		case <-w.d.done:
			return hypervisor.TaskState{}, hypervisor.Errorf(hypervisor.ErrClosed, t.id.Ref(), "%w", hypervisor.ErrClosed)
		}
	}
}

func (w *watch) Cancel(ctx context.Context) error {
	if _, err := w.d.enter(ctx, op.TaskCancel, w.t.id.Ref(), nil); err != nil {
		return err
	}
	b := w.t.b
	b.mu.Lock()
	defer b.mu.Unlock()
	t := w.t
	if t.state.Done {
		return nil
	}
	if err := b.require(capability.TaskCancel, hypervisor.Ref{}, t.id.Ref()); err != nil {
		return err
	}
	f := t.state.Fraction
	if slices.Contains(b.cfg.Uncancelable, t.w.op) || t.w.fixed > 0 && f >= t.w.fixed {
		return hypervisor.Unsupported(t.id.Ref(), capability.TaskCancel, hypervisor.ReasonPlatform, string(t.w.op)+" can't be cancelled in this phase")
	}
	t.fail(hypervisor.Errorf(hypervisor.ErrCanceled, t.w.on, "%w at %.0f %%", hypervisor.ErrCanceled, 100*f), false)
	return nil
}

// Task finds work of this Client or another one.
func (d *Driver) Task(ctx context.Context, id hypervisor.TaskID) (hypervisor.DriverTask, error) {
	if _, err := d.enter(ctx, op.TaskFind, id.Ref(), nil); err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.require(capability.TaskResume, hypervisor.Ref{}, id.Ref()); err != nil {
		return nil, err
	}
	t, ok := b.tasks[id]
	if !ok {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such task, or it ended long ago")
	}
	return &watch{d: d, t: t, seen: -1, lost: t.lost}, nil
}

// Unwaited returns the tasks whose end nobody has seen, so that a test can
// require that there are none.
func (b *Backend) Unwaited() []hypervisor.TaskID {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []hypervisor.TaskID
	for id, t := range b.tasks {
		if !t.seen {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Settle waits until no task runs.
func (b *Backend) Settle(ctx context.Context) error {
	for {
		b.mu.Lock()
		var ch chan struct{}
		for _, t := range b.tasks {
			if !t.state.Done {
				if t.changed == nil {
					t.changed = make(chan struct{})
				}
				ch = t.changed
				break
			}
		}
		b.mu.Unlock()
		if ch == nil {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// NativeError represents a platform's own error. ErrorKind returns the class
// that it names.
type NativeError struct {
	Kind hypervisor.Kind
	Text string
}

func (e *NativeError) Error() string { return "fake platform: " + e.Text }

// ErrorKind classifies an error.
func (d *Driver) ErrorKind(err error) hypervisor.Kind {
	var n *NativeError
	if errors.As(err, &n) {
		return n.Kind
	}
	return hypervisor.KindOf(err)
}
