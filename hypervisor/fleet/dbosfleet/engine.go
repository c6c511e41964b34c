package dbosfleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/dbos-inc/dbos-transact-golang/dbos"
)

const (
	application = "anyvisor-fleet"
	appVersion  = "anyvisor-fleet-1"
	executor    = "anyvisor-fleet"
	queueName   = "anyvisor-fleet"
	runName     = "anyvisor.fleet.run"
	targetName  = "anyvisor.fleet.target"

	// format is the version of what runs keep in the store.
	format = 1
)

// Config describes where runs are kept.
type Config struct {
	// URL is "sqlite:/path/to/file", or "postgres://user@host/database". The
	// file is made if it is not there. Two more files beside it, with
	// ".worker" and ".migrate" at the end, are locks.
	URL string
	// Logger gets what DBOS logs; nil means nothing.
	Logger *slog.Logger
}

// Engine is a fleet.Engine on DBOS. Its methods are safe for concurrent use.
type Engine struct {
	cfg    Config
	client dbos.Client

	mu     sync.Mutex
	plans  map[string]*fleet.Plan
	stores map[string]*store
	root   dbos.Context // while Work is called here
	worker dbos.Context // the same, once runs may begin
	failed chan error   // what ends the present worker
}

var _ fleet.Engine = (*Engine)(nil)

// Open opens a store, and makes its tables if they are not there. A store that
// can't be written to, or that a newer version has written, is a
// *fleet.StoreError. ctx is for opening only.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Engine{cfg: cfg, plans: map[string]*fleet.Plan{}, stores: map[string]*store{}}
	if err := e.check(ctx); err != nil {
		return nil, err
	}
	if err := e.migrate(ctx); err != nil {
		return nil, e.storeError(err)
	}
	var err error
	e.client, err = dbos.NewClient(context.WithoutCancel(ctx), dbos.ClientConfig{DatabaseURL: cfg.URL, AppName: application, Logger: cfg.Logger, SystemDBStartupTimeout: 10 * time.Second})
	if err != nil {
		return nil, e.storeError(err)
	}
	if _, err := dbos.RegisterQueue(e.client, queueName, dbos.WithQueueBasePollingInterval(100*time.Millisecond)); err != nil {
		return nil, errors.Join(e.storeError(err), e.Close())
	}
	return e, nil
}

// Close closes the store. Work must have returned.
func (e *Engine) Close() error {
	if e.client == nil {
		return nil
	}
	return dbos.Shutdown(e.client, 5*time.Second)
}

// runInput is the recorded beginning of a run.
type runInput struct {
	ID     string `json:"id"`
	Shape  string `json:"shape"`
	Format int    `json:"format"`
}

func runID(id string) string { return "fleet/" + id }

// Start records a run. If this engine works, it begins at once; a worker in
// another process begins within two seconds.
func (e *Engine) Start(ctx context.Context, p *fleet.Plan) (*fleet.Run, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	in, _, err := e.header(p.ID)
	switch {
	case err == nil:
		return nil, fleet.Taken(p, in.Shape)
	case !errors.Is(err, fleet.ErrNoRun):
		return nil, err
	}
	q := *p
	e.mu.Lock()
	e.plans[p.ID] = &q
	worker := e.worker
	e.mu.Unlock()
	data, err := json.Marshal(runInput{p.ID, p.Shape(), format})
	if err != nil {
		return nil, err
	}
	if worker != nil {
		_, err = dbos.RunWorkflow(worker, e.run, string(data), dbos.WithWorkflowID(runID(p.ID)), dbos.WithWorkflowIDReusePolicy(dbos.WorkflowIDReusePolicyReject))
	} else {
		_, err = dbos.Enqueue[string](e.client, queueName, runName, string(data), dbos.WithEnqueueWorkflowID(runID(p.ID)),
			dbos.WithEnqueueApplicationVersion(appVersion), dbos.WithEnqueueWorkflowIDReusePolicy(dbos.WorkflowIDReusePolicyReject))
	}
	if errors.Is(err, dbos.ErrWorkflowIDInUse) { // another process was faster
		if in, _, err := e.header(p.ID); err == nil {
			return nil, fleet.Taken(p, in.Shape)
		}
	}
	if err != nil {
		return nil, e.storeError(err)
	}
	return fleet.NewRun(p.ID, e.store(p.ID)), nil
}

// Find returns a run that any process has started.
func (e *Engine) Find(_ context.Context, id string) (*fleet.Run, error) {
	if _, _, err := e.header(id); err != nil {
		return nil, err
	}
	return fleet.NewRun(id, e.store(id)), nil
}

func (e *Engine) store(id string) *store {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stores[id]
	if s == nil {
		s = newStore(e, id)
		e.stores[id] = s
	}
	return s
}

// header reads the beginning of a run.
func (e *Engine) header(id string) (runInput, dbos.WorkflowStatus, error) {
	list, err := dbos.ListWorkflows(e.client, dbos.WithFilterWorkflowIDs(runID(id)), dbos.WithFilterLoadInput(true), dbos.WithFilterLoadOutput(false))
	if err != nil {
		return runInput{}, dbos.WorkflowStatus{}, e.storeError(err)
	}
	if len(list) == 0 {
		return runInput{}, dbos.WorkflowStatus{}, fleet.ErrNoRun
	}
	var in runInput
	if err := decode(list[0].Input, &in); err != nil {
		return in, list[0], &fleet.StoreError{Store: e.name(), Err: fmt.Errorf("run %q: %w", id, err)}
	}
	if in.Format > format {
		return in, list[0], &fleet.StoreError{Store: e.name(), Newer: true, Err: fmt.Errorf("run %q has format %d, this version knows %d", id, in.Format, format)}
	}
	return in, list[0], nil
}

// decode reads a text that was recorded as JSON. DBOS returns inputs and
// outputs in its own encoding of the text.
func decode(v, into any) error {
	text, ok := v.(string)
	if !ok {
		return fmt.Errorf("the store has %T in place of a text", v)
	}
	var inner string
	if json.Unmarshal([]byte(text), &inner) == nil {
		text = inner
	}
	return json.Unmarshal([]byte(text), into)
}

// Work waits until no other process works on this store, and then works on
// the runs until ctx ends. If it loses the store, its steps see it in their
// contexts, and it waits again.
func (e *Engine) Work(ctx context.Context, plans ...*fleet.Plan) error {
	for _, v := range []string{"DBOS__APPVERSION", "DBOS__VMID"} {
		if os.Getenv(v) != "" {
			return fmt.Errorf("dbosfleet: the environment variable %s is set: workers would not find each other's work", v)
		}
	}
	for _, p := range plans {
		if err := p.Check(); err != nil {
			return err
		}
		in, _, err := e.header(p.ID)
		if errors.Is(err, fleet.ErrNoRun) {
			continue
		}
		if err != nil {
			return err
		}
		if now := p.Shape(); now != in.Shape {
			return &fleet.PlanChangedError{ID: p.ID, Began: in.Shape, Now: now}
		}
	}
	e.mu.Lock()
	for _, p := range plans {
		q := *p
		e.plans[p.ID] = &q
	}
	e.mu.Unlock()
	for {
		l, err := e.lock(ctx)
		if err != nil {
			return err
		}
		err = e.work(ctx, l.lost)
		l.release()
		if err != nil || ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// work continues runs until ctx ends or the lock is lost.
func (e *Engine) work(ctx context.Context, lost <-chan struct{}) error {
	// DBOS would cancel its workflows for good with ctx; Shutdown leaves them
	// for the next worker.
	d, err := dbos.NewContext(context.WithoutCancel(ctx), dbos.Config{AppName: application, DatabaseURL: e.cfg.URL, Logger: e.cfg.Logger,
		ApplicationVersion: appVersion, ExecutorID: executor, SystemDBStartupTimeout: 10 * time.Second})
	if err != nil {
		return e.storeError(err)
	}
	failed := make(chan error, 1)
	dbos.RegisterWorkflow(d, e.run, dbos.WithWorkflowName(runName), dbos.WithMaxRecoveryAttempts(math.MaxInt32))
	dbos.RegisterWorkflow(d, e.target, dbos.WithWorkflowName(targetName), dbos.WithMaxRecoveryAttempts(math.MaxInt32))
	dbos.ListenQueues(d, queueName)
	e.mu.Lock()
	for _, s := range e.stores {
		s.reset()
	}
	e.root, e.failed = d, failed
	e.mu.Unlock()
	if err := dbos.Launch(d); err != nil {
		return errors.Join(e.storeError(err), dbos.Shutdown(d, 5*time.Second))
	}
	e.mu.Lock()
	e.worker = d
	e.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-lost:
		err = nil
	case err = <-failed:
	}
	e.mu.Lock()
	e.worker = nil
	e.mu.Unlock()
	// The contexts of the steps have ended. Work waits for them however long
	// they take, since two workers must not be at work.
	return errors.Join(err, dbos.Shutdown(d, 24*time.Hour))
}

// name is the store's address without a password.
func (e *Engine) name() string {
	u := e.cfg.URL
	if i := strings.LastIndexByte(u, '@'); i >= 0 {
		if j := strings.Index(u, "://"); j >= 0 && j < i {
			return u[:j+3] + u[i+1:]
		}
	}
	return u
}
