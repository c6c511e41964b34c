package dbosfleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/dbos-inc/dbos-transact-golang/dbos"
)

// refresh is how old a reading of what users decided may be.
const refresh = 100 * time.Millisecond

// page is the number of workflows in one reading.
const page = 1000

// store is a fleet.Store on DBOS. What users decide is in the attributes of
// the run's workflow.
type store struct {
	e  *Engine
	id string

	mu      sync.Mutex
	ctl     fleet.Control
	readAt  time.Time
	changed chan struct{}

	hub   *fleet.Hub
	run   dbos.Context // of the run's workflow, while a worker of this engine works on it
	begun map[string]bool
	turns map[string]*turn
	waits map[string]chan struct{} // of targets that wait for their turn
}

// turn is a target that may work now.
type turn struct {
	body   func(context.Context, fleet.Journal) (fleet.Result, error)
	fresh  bool
	taken  bool
	result fleet.Result
	ended  chan error
}

func newStore(e *Engine, id string) *store {
	return &store{e: e, id: id, hub: &fleet.Hub{}, turns: map[string]*turn{}, waits: map[string]chan struct{}{}}
}

// reset prepares the store for a worker.
func (s *store) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run, s.begun = nil, nil
	s.turns, s.waits = map[string]*turn{}, map[string]chan struct{}{}
}

// enter is called when the workflow of the run begins, and with nil when it
// ends.
func (s *store) enter(run dbos.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run = run
}

func (s *store) prefix() string             { return runID(s.id) + "/" }
func (s *store) targetID(key string) string { return s.prefix() + key }

// turn waits for the turn of a target.
func (s *store) turn(ctx context.Context, key string) (*turn, error) {
	for {
		s.mu.Lock()
		if t := s.turns[key]; t != nil {
			t.taken = true
			delete(s.turns, key)
			s.mu.Unlock()
			return t, nil
		}
		w := s.waits[key]
		if w == nil {
			w = make(chan struct{})
			s.waits[key] = w
		}
		s.mu.Unlock()
		select {
		case <-w:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *store) Execute(ctx context.Context, t fleet.Target, body func(context.Context, fleet.Journal) (fleet.Result, error)) (fleet.Result, error) {
	key := t.Key()
	s.mu.Lock()
	fresh := !s.begun[key]
	n := &turn{body: body, fresh: fresh, ended: make(chan error, 1)}
	s.turns[key] = n
	if w := s.waits[key]; w != nil {
		close(w)
		delete(s.waits, key)
	}
	s.mu.Unlock()
	s.e.mu.Lock()
	root := s.e.root
	s.e.mu.Unlock()
	var h dbos.WorkflowHandle[string]
	var err error
	if fresh {
		data, merr := json.Marshal(targetInput{s.id, t})
		if merr != nil {
			return fleet.Result{}, merr
		}
		h, err = dbos.RunWorkflow(root, s.e.target, string(data), dbos.WithWorkflowID(s.targetID(key)))
	} else {
		h, err = dbos.RetrieveWorkflow[string](root, s.targetID(key))
	}
	if err != nil {
		return fleet.Result{}, err
	}
	select {
	case err = <-n.ended:
	case <-ctx.Done():
		s.mu.Lock()
		taken := n.taken
		delete(s.turns, key)
		s.mu.Unlock()
		if !taken {
			return fleet.Result{}, ctx.Err()
		}
		err = <-n.ended
	}
	if err != nil {
		return fleet.Result{}, err
	}
	// Now it is recorded, or the next worker gets the same result from the
	// steps.
	if _, err := h.GetResult(dbos.WithHandlePollingInterval(20 * time.Millisecond)); err != nil {
		return fleet.Result{}, err
	}
	return n.result, nil
}

func (s *store) Targets(ctx context.Context, choose func(context.Context) ([]fleet.Target, error)) ([]fleet.Target, error) {
	s.mu.Lock()
	run := s.run
	s.mu.Unlock()
	var out []fleet.Target
	if choose != nil && run != nil {
		text, err := dbos.RunAsStep(run, func(ctx context.Context) (string, error) {
			targets, err := choose(ctx)
			if err != nil {
				return "", err
			}
			data, err := json.Marshal(targets)
			return string(data), err
		}, dbos.WithStepName("targets"))
		if err != nil {
			return nil, err
		}
		return out, json.Unmarshal([]byte(text), &out)
	}
	steps, err := dbos.GetWorkflowSteps(s.e.client, runID(s.id), dbos.WithStepsLoadOutput(true), dbos.WithStepsLimit(1))
	if err != nil || len(steps) == 0 || steps[0].Error != nil {
		return nil, err
	}
	return out, decode(steps[0].Output, &out)
}

// workflows yields the workflows of this run's targets, the first begun first.
func (s *store) workflows(load bool, status ...dbos.WorkflowStatusType) iter.Seq2[dbos.WorkflowStatus, error] {
	return func(yield func(dbos.WorkflowStatus, error) bool) {
		for at := 0; ; at += page {
			opts := []dbos.ListWorkflowsOption{dbos.WithFilterWorkflowIDPrefix(s.prefix()), dbos.WithFilterName(targetName),
				dbos.WithFilterLoadInput(false), dbos.WithFilterLoadOutput(load), dbos.WithFilterLimit(page), dbos.WithFilterOffset(at)}
			if len(status) > 0 {
				opts = append(opts, dbos.WithFilterStatus(status...))
			}
			list, err := dbos.ListWorkflows(s.e.client, opts...)
			if err != nil {
				yield(dbos.WorkflowStatus{}, err)
				return
			}
			for _, w := range list {
				if strings.HasPrefix(w.ID, s.prefix()) && !yield(w, nil) {
					return
				}
			}
			if len(list) < page {
				return
			}
		}
	}
}

func (s *store) Results(context.Context) iter.Seq2[fleet.Result, error] {
	return func(yield func(fleet.Result, error) bool) {
		for w, err := range s.workflows(true) {
			if err != nil {
				yield(fleet.Result{}, err)
				return
			}
			if w.Status != dbos.WorkflowStatusSuccess {
				continue
			}
			var r fleet.Result
			if err := decode(w.Output, &r); err != nil {
				yield(r, fmt.Errorf("dbosfleet: result of %s: %w", w.ID, err))
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (s *store) Begun(context.Context) (map[string]bool, error) {
	out := map[string]bool{}
	for w, err := range s.workflows(false, dbos.WorkflowStatusPending, dbos.WorkflowStatusEnqueued) {
		if err != nil {
			return nil, err
		}
		out[strings.TrimPrefix(w.ID, s.prefix())] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = out
	return out, nil
}

// read reads what users have decided.
func (s *store) read() (fleet.Control, bool, error) {
	_, w, err := s.e.header(s.id)
	if err != nil {
		return fleet.Control{}, false, err
	}
	var c fleet.Control
	c.Paused, _ = w.Attributes["paused"].(bool)
	c.Canceled, _ = w.Attributes["canceled"].(bool)
	if n, ok := w.Attributes["passed"].(float64); ok {
		c.Passed = int(n)
	}
	if text, ok := w.Attributes["summary"].(string); ok {
		c.Summary = &fleet.Summary{}
		if err := json.Unmarshal([]byte(text), c.Summary); err != nil {
			return c, false, err
		}
	}
	return c, true, nil
}

func (s *store) Control(context.Context) (fleet.Control, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.readAt) >= refresh {
		c, _, err := s.read()
		if err != nil {
			return c, nil, err
		}
		s.ctl, s.readAt = c, time.Now()
	}
	if s.changed == nil {
		ch := make(chan struct{})
		s.changed = ch
		time.AfterFunc(refresh, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.changed == ch {
				s.wake()
			}
		})
	}
	return s.ctl, s.changed, nil
}

// wake closes the channel of Control. The store is locked.
func (s *store) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

func (s *store) Signal(_ context.Context, sig fleet.Signal) error {
	c, _, err := s.read()
	if err != nil || c.Summary != nil {
		return err
	}
	c.Apply(sig)
	change := map[string]any{}
	switch sig {
	case fleet.SignalCancel:
		change["canceled"] = true
	case fleet.SignalPass:
		change["passed"] = c.Passed
	default:
		change["paused"] = c.Paused
	}
	return s.set(change)
}

func (s *store) set(change map[string]any) error {
	err := dbos.SetWorkflowAttributes(s.e.client, runID(s.id), change, dbos.WithMergeAttributes())
	if err != nil {
		return s.e.storeError(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readAt = time.Time{}
	s.wake()
	return nil
}

func (s *store) End(_ context.Context, sum fleet.Summary) error {
	data, err := json.Marshal(sum)
	return errors.Join(err, s.set(map[string]any{"summary": string(data)}))
}

func (s *store) Emit(e fleet.Event) { s.hub.Emit(e) }
