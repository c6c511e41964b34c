package fleet

import (
	"context"
	"fmt"
	"math"
	"time"
)

// Drive continues a run until it has ended or ctx ends. It is for authors of
// engines, who call it in one process at a time for each run. The store must
// have been made for a plan of the same shape. The error is ctx's or the
// store's.
func Drive(ctx context.Context, p *Plan, s Store) error {
	d := &drive{p: p, s: s, slots: newSlots(p.Limits), states: map[string]State{}, ended: make(chan ending)}
	err := d.run(ctx)
	for d.running > 0 { // a store's error ended the loop early
		d.end(<-d.ended, nil)
	}
	return err
}

// drive is the loop of one run. Its fields belong to the loop's goroutine, but
// for those of gatekeeper.
type drive struct {
	gatekeeper
	p     *Plan
	s     Store
	slots *slots

	targets []Target
	begun   map[string]bool  // by target key, of those that an earlier worker began
	states  map[string]State // by target key, of those that have ended
	failed  int
	running int
	ended   chan ending
	last    time.Time // when the last target began
	stopped Stop
	detail  string
}

// ending is a target that has left its goroutine.
type ending struct {
	w      waiting
	places []string
	again  bool // it is somewhere else than it was: it waits again
	result Result
	err    error // the worker or the store stops
}

func (d *drive) run(ctx context.Context) error {
	ctl, _, err := d.s.Control(ctx)
	if err != nil || ctl.Summary != nil {
		return err
	}
	d.targets, err = d.s.Targets(ctx, d.p.choose)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		d.stopped, d.detail = StopTargets, err.Error()
		return d.finish(ctx)
	}
	for r, err := range d.s.Results(ctx) {
		if err != nil {
			return err
		}
		d.note(r)
	}
	if d.begun, err = d.s.Begun(ctx); err != nil {
		return err
	}
	sizes := d.p.sizes(len(d.targets))
	first := 0
	for i, n := range sizes {
		if err := d.wave(ctx, i, first, n); err != nil {
			return err
		}
		if d.stopped == "" && i < len(sizes)-1 && i < len(d.p.Waves) {
			if err := d.gate(ctx, i, d.targets[first:first+n]); err != nil {
				return err
			}
		}
		first += n
		if d.stopped != "" {
			break
		}
	}
	return d.finish(ctx)
}

func (d *drive) note(r Result) {
	d.states[r.Target.Key()] = r.State
	if r.State == StateFailed {
		d.failed++
	}
}

func (d *drive) finish(ctx context.Context) error {
	sum := Summary{Stopped: d.stopped, Detail: d.detail, Ended: time.Now(), Failed: d.failed}
	for _, s := range d.states {
		if s == StateDone {
			sum.Done++
		}
	}
	sum.Left = len(d.targets) - sum.Done - sum.Failed
	if err := d.s.End(ctx, sum); err != nil {
		return err
	}
	d.s.Emit(Event{Kind: EventEnded, Summary: &sum})
	return nil
}

// wave carries out n targets from the first one on.
func (d *drive) wave(ctx context.Context, i, first, n int) error {
	// Targets that an earlier worker has begun come first, and continue in
	// a run that stops too.
	q, resumed := newQueue(), newQueue()
	for k := range n {
		t := d.targets[first+k]
		switch key := t.Key(); {
		case d.states[key] != "":
		case d.begun[key]:
			resumed.push(d.slots, waiting{first + k, true, t})
		default:
			q.push(d.slots, waiting{first + k, false, t})
		}
	}
	if q.n+resumed.n == 0 {
		return nil
	}
	d.s.Emit(Event{Kind: EventWaveBegan, Wave: i})
	for {
		ctl, changed, err := d.s.Control(ctx)
		if err != nil {
			return err
		}
		d.decide(d.s, ctl)
		switch {
		case ctl.Canceled:
			d.stopped = StopCanceled
		case d.stopped == "" && d.p.StopAfter > 0 && d.failed >= d.p.StopAfter:
			d.stopped = StopFailures
		}
		timer := time.NewTimer(math.MaxInt64)
		if !ctl.Paused || ctl.Canceled {
			d.fill(ctx, i, resumed)
			if wait := d.begin(ctx, i, q); wait > 0 {
				timer.Reset(wait)
			}
		}
		if d.running == 0 && resumed.n == 0 && (q.n == 0 || d.stopped != "") {
			timer.Stop()
			d.s.Emit(Event{Kind: EventWaveEnded, Wave: i})
			return nil
		}
		select {
		case e := <-d.ended:
			if e.w.begun {
				err = d.end(e, resumed)
			} else {
				err = d.end(e, q)
			}
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
		timer.Stop()
		if err != nil {
			return err
		}
	}
}

// begin lets targets begin as far as limits, window and rate allow. It returns
// the time after which it should be called again, or 0.
func (d *drive) begin(ctx context.Context, wave int, q *queue) time.Duration {
	for q.n > 0 && d.stopped == "" && d.slots.total < d.slots.limits.Total {
		now := time.Now()
		if w := d.p.Window; w != nil {
			wait := w.Wait(now)
			if wait < 0 {
				d.stopped, d.detail = StopWindow, "the window never opens"
				return 0
			}
			if wait > 0 {
				return wait
			}
		}
		if r := d.p.Rate; r.N > 0 && !d.last.IsZero() {
			if wait := d.last.Add(r.Per / time.Duration(r.N)).Sub(now); wait > 0 {
				return wait
			}
		}
		if !d.next(ctx, wave, q) {
			return 0
		}
		d.last = now
	}
	return 0
}

// fill lets targets that have begun before continue, as far as limits allow.
func (d *drive) fill(ctx context.Context, wave int, q *queue) {
	for q.n > 0 && d.slots.total < d.slots.limits.Total && d.next(ctx, wave, q) {
	}
}

// next takes the next target whose places are free to work, in a goroutine.
func (d *drive) next(ctx context.Context, wave int, q *queue) bool {
	w, places, ok := q.pop(d.slots)
	if !ok {
		return false
	}
	d.slots.take(places)
	d.running++
	go func() {
		e := d.execute(ctx, wave, w)
		e.places = places
		d.ended <- e
	}()
	return true
}

// end takes a target back from its goroutine.
func (d *drive) end(e ending, q *queue) error {
	d.running--
	d.slots.give(e.places)
	switch {
	case e.err != nil:
		return e.err
	case e.again && q != nil:
		q.push(d.slots, e.w)
	case !e.again:
		d.note(e.result)
	}
	return nil
}

// gate waits and asks the gate after a wave.
func (d *drive) gate(ctx context.Context, i int, targets []Target) error {
	w := d.p.Waves[i]
	res := WaveResult{Wave: i}
	for _, t := range targets {
		switch d.states[t.Key()] {
		case StateDone:
			res.Done++
		case StateFailed:
			res.Failed++
		}
	}
	asked, stop := context.WithCancel(ctx)
	defer stop()
	answer := make(chan error, 1)
	begun := false
	for {
		ctl, changed, err := d.s.Control(ctx)
		if err != nil {
			return err
		}
		d.decide(d.s, ctl)
		if ctl.Canceled {
			d.stopped = StopCanceled
			if stop(); begun {
				<-answer
			}
			return nil
		}
		if ctl.Passed > i {
			return nil
		}
		if !begun {
			begun = true
			go func() { answer <- ask(asked, w, res) }()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			<-answer
			return ctx.Err()
		case err := <-answer:
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				d.stopped, d.detail = StopGate, err.Error()
				return nil
			}
			d.s.Emit(Event{Kind: EventGatePassed, Wave: i})
			return d.s.Signal(ctx, SignalPass)
		}
	}
}

func ask(ctx context.Context, w Wave, r WaveResult) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the gate panicked: %v", p)
		}
	}()
	if err := sleep(ctx, w.Wait); err != nil || w.Gate == nil {
		return err
	}
	return w.Gate(ctx, r)
}
