package fleet

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Memory is an engine that keeps its runs in this process. It is for scripts
// and tests, and works under testing/synctest. It starts no goroutines but
// those of Work.
type Memory struct {
	mu    sync.Mutex
	runs  map[string]*memoryRun
	order []*memoryRun
	added chan struct{} // closed at the next Start
}

type memoryRun struct {
	plan  *Plan
	store *memoryStore
}

// NewMemory makes an engine without runs.
func NewMemory() *Memory {
	return &Memory{runs: map[string]*memoryRun{}, added: make(chan struct{})}
}

// Start records a run of the plan.
func (m *Memory) Start(_ context.Context, p *Plan) (*Run, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.runs[p.ID]; ok {
		return nil, Taken(p, old.plan.Shape())
	}
	q := *p
	r := &memoryRun{&q, newMemoryStore()}
	m.runs[p.ID] = r
	m.order = append(m.order, r)
	close(m.added)
	m.added = make(chan struct{})
	return NewRun(p.ID, r.store), nil
}

// Taken returns the error of Engine.Start for an ID that has a run with a plan
// of this shape. It is for authors of engines.
func Taken(p *Plan, shape string) error {
	if now := p.Shape(); now != shape {
		return &PlanChangedError{ID: p.ID, Began: shape, Now: now}
	}
	return &RunExistsError{p.ID}
}

// Find returns a run.
func (m *Memory) Find(_ context.Context, id string) (*Run, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.runs[id]
	if !ok {
		return nil, ErrNoRun
	}
	return NewRun(id, r.store), nil
}

// Work continues all runs. One call of Work at a time continues a run.
func (m *Memory) Work(ctx context.Context, plans ...*Plan) error {
	m.mu.Lock()
	for _, p := range plans {
		r, ok := m.runs[p.ID]
		if !ok {
			continue
		}
		if began, now := r.plan.Shape(), p.Shape(); began != now {
			m.mu.Unlock()
			return &PlanChangedError{ID: p.ID, Began: began, Now: now}
		}
	}
	m.mu.Unlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	for begun := 0; ; {
		m.mu.Lock()
		runs, added := slices.Clone(m.order[begun:]), m.added
		m.mu.Unlock()
		for _, r := range runs {
			wg.Go(func() {
				select {
				case r.store.turn <- struct{}{}:
					// It can fail only because ctx has ended.
					_ = Drive(ctx, r.plan, r.store)
					<-r.store.turn
				case <-ctx.Done():
				}
			})
		}
		begun += len(runs)
		select {
		case <-added:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type memoryStore struct {
	Hub
	turn chan struct{} // held by the worker

	mu      sync.Mutex
	targets []Target
	chosen  bool
	control Control
	results []Result
	begun   map[string]*memoryJournal
	changed chan struct{}
}

func newMemoryStore() *memoryStore {
	return &memoryStore{turn: make(chan struct{}, 1), begun: map[string]*memoryJournal{}, changed: make(chan struct{})}
}

func (s *memoryStore) Targets(ctx context.Context, choose func(context.Context) ([]Target, error)) ([]Target, error) {
	s.mu.Lock()
	targets, chosen := s.targets, s.chosen
	s.mu.Unlock()
	if chosen || choose == nil {
		return targets, nil
	}
	targets, err := choose(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.targets, s.chosen = targets, true
	return targets, nil
}

func (s *memoryStore) Results(context.Context) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		s.mu.Lock()
		all := s.results // only appended to
		s.mu.Unlock()
		for _, r := range all {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (s *memoryStore) Begun(context.Context) (map[string]bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]bool{}
	for k := range s.begun {
		out[k] = true
	}
	return out, nil
}

func (s *memoryStore) Control(context.Context) (Control, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.control, s.changed, nil
}

func (s *memoryStore) Signal(_ context.Context, sig Signal) error {
	s.change(func(c *Control) {
		if c.Summary == nil {
			c.Apply(sig)
		}
	})
	return nil
}

func (s *memoryStore) End(_ context.Context, sum Summary) error {
	s.change(func(c *Control) { c.Summary = &sum })
	return nil
}

func (s *memoryStore) change(f func(*Control)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.control)
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *memoryStore) Execute(ctx context.Context, t Target, body func(context.Context, Journal) (Result, error)) (Result, error) {
	s.mu.Lock()
	j := s.begun[t.Key()]
	if j == nil {
		j = &memoryJournal{fresh: true, steps: map[string]Outcome{}, tasks: map[string]hypervisor.TaskID{}}
		s.begun[t.Key()] = j
	}
	s.mu.Unlock()
	r, err := body(ctx, j)
	j.fresh = false
	if err != nil {
		return r, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results = append(s.results, r)
	delete(s.begun, t.Key())
	return r, nil
}

// memoryJournal is used by one goroutine at a time, but for SaveTask.
type memoryJournal struct {
	fresh bool
	steps map[string]Outcome
	mu    sync.Mutex
	tasks map[string]hypervisor.TaskID
}

func (j *memoryJournal) Fresh() bool { return j.fresh }

func (j *memoryJournal) Step(ctx context.Context, name string, do func(context.Context) Outcome) (Outcome, error) {
	if o, ok := j.steps[name]; ok {
		return o, nil
	}
	o := do(ctx)
	if o.Failure != nil && ctx.Err() != nil {
		return o, errors.Join(ctx.Err(), o.Failure)
	}
	j.steps[name] = o
	return o, nil
}

func (j *memoryJournal) Task(_ context.Context, step string) (hypervisor.TaskID, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tasks[step], nil
}

func (j *memoryJournal) SaveTask(_ context.Context, step string, id hypervisor.TaskID) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.tasks[step] = id
	return nil
}
