// Package fleettest tests engines of package fleet, in the manner of
// testing/fstest. An engine's own test calls Run.
package fleettest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// Harness describes an engine under test.
type Harness struct {
	// New makes an empty store. The function that it returns opens an engine
	// on that store, as another process would; an engine that keeps nothing
	// outside the process returns the same one each time.
	New func(t *testing.T) (open func() fleet.Engine)
	// Synctest runs each row under testing/synctest, so that delays take no
	// time. It is for engines that need no network and no files.
	Synctest bool
	// Machines is the number of machines of the row "many"; 0 means 1000.
	Machines int
}

// world is what a row works with.
type world struct {
	t       *testing.T
	b       *fake.Backend
	c       *hypervisor.Client
	open    func() fleet.Engine
	watched *watcher
}

// rows are the tests, by name.
var rows = []struct {
	name     string
	machines int
	f        func(*world)
}{
	{"many", 0, many},
	{"waves-and-gates", 40, waves},
	{"gate-refuses", 10, gateRefuses},
	{"stop-after-failures", 30, stopAfter},
	{"pause-and-resume", 12, pause},
	{"cancel", 12, cancel},
	{"panic", 6, panics},
	{"vanished", 6, vanished},
	{"undo-and-values", 4, undo},
	{"tries", 3, tries},
	{"worker-stops", 25, workerStops},
	{"task-found-again", 2, taskFound},
	{"paused-before-restart", 4, pausedRestart},
	{"changed-plan", 3, changedPlan},
	{"one-id-twice", 3, twice},
	{"no-such-run", 1, noRun},
	{"events", 5, events},
	{"bad-plan", 1, badPlan},
}

// Run tests an engine.
func Run(t *testing.T, h Harness) {
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			n := r.machines
			if n == 0 {
				n = h.Machines
			}
			if n == 0 {
				n = 1000
			}
			f := func(t *testing.T) { r.f(newWorld(t, h, n)) }
			if h.Synctest {
				synctest.Test(t, f)
			} else {
				f(t)
			}
		})
	}
}

// newWorld makes a platform of ten hosts with n running machines.
func newWorld(t *testing.T, h Harness, n int) *world {
	w := &world{t: t, watched: &watcher{hosts: map[string]string{}, now: map[string]int{}, most: map[string]int{}, effects: map[string]int{}}}
	w.b = fake.New(fake.Config{Hosts: fake.DefaultHosts(10), Seed: 7})
	var err error
	w.c, err = w.b.Open(t.Context(), &hypervisor.Options{Observer: w.watched.observe})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.c.Close() })
	if err := Machines(t.Context(), w.c, n); err != nil {
		t.Fatal(err)
	}
	w.watched.read(t, w.c)
	w.open = h.New(t)
	return w
}

// Machines makes n small running machines named m-0000 and so on, with the
// label fleet=yes, spread over the hosts.
func Machines(ctx context.Context, c *hypervisor.Client, n int) error {
	hosts, err := hypervisor.Collect(c.Hosts(ctx))
	if err != nil {
		return err
	}
	for i := range n {
		_, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: fmt.Sprintf("m-%04d", i), MemoryBytes: hypervisor.MinMemory, Start: true,
			Placement: hypervisor.Placement{Host: hosts[i%len(hosts)].ID}, Labels: map[string]string{"fleet": "yes"}}).Wait(ctx)
		if err != nil {
			return err
		}
	}
	return nil
}

// watcher counts resets of machines that are at work, in all and by host, and
// effects by their names.
type watcher struct {
	mu      sync.Mutex
	hosts   map[string]string // by machine
	now     map[string]int
	most    map[string]int
	effects map[string]int
}

func (w *watcher) read(t *testing.T, c *hypervisor.Client) {
	for v, err := range c.VMs(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		w.hosts[string(v.ID)] = string(v.Host)
	}
}

func (w *watcher) observe(ctx context.Context, c hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
	if c.Name != op.VMReset {
		return ctx, func(hypervisor.CallEnd) {}
	}
	w.add(c.Object.ID, 1)
	return ctx, func(hypervisor.CallEnd) { w.add(c.Object.ID, -1) }
}

func (w *watcher) add(id string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range []string{"all", w.hosts[id]} {
		w.now[k] += n
		w.most[k] = max(w.most[k], w.now[k])
	}
}

// effect counts something that a step did.
func (w *watcher) effect(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.effects[name]++
	return w.effects[name]
}

func (w *watcher) count() (names, total int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.effects {
		total += n
	}
	return len(w.effects), total
}

// plan makes a plan with the steps first and second, which count as effects.
func (w *world) plan(id string) *fleet.Plan {
	step := func(_ context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
		w.watched.effect(a.Step + " " + string(vm.ID()))
		return nil
	}
	return &fleet.Plan{ID: id, Clients: map[string]*hypervisor.Client{"dc": w.c}, Labels: map[string]string{"fleet": "yes"},
		Steps: []fleet.Step{{Name: "first", Do: step}, {Name: "second", Do: step}}}
}

// begin starts a run.
func (w *world) begin(e fleet.Engine, p *fleet.Plan) *fleet.Run {
	w.t.Helper()
	r, err := e.Start(w.t.Context(), p)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// work runs a worker until the function that it returns is called.
func (w *world) work(e fleet.Engine, plans ...*fleet.Plan) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Work(ctx, plans...) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				w.t.Errorf("Work returned %v, want the context's error", err)
			}
		})
	}
	w.t.Cleanup(stop)
	return stop
}

// wait waits for the end of a run and compares it.
func (w *world) wait(r *fleet.Run, done, failed, left int, stopped fleet.Stop) fleet.Summary {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	s, err := r.Wait(ctx)
	if err != nil {
		w.t.Fatalf("waiting for the end of the run: %v", err)
	}
	if s.Done != done || s.Failed != failed || s.Left != left || s.Stopped != stopped {
		w.t.Errorf("the run ended with %d done, %d failed, %d left, stopped %q (%s); want %d, %d, %d, %q", s.Done, s.Failed, s.Left, s.Stopped, s.Detail, done, failed, left, stopped)
	}
	if (s.Err() == nil) != (failed == 0 && left == 0) {
		w.t.Errorf("Summary.Err is %v", s.Err())
	}
	return s
}

// results reads all results by state.
func (w *world) results(r *fleet.Run) map[fleet.State][]fleet.Result {
	w.t.Helper()
	out := map[fleet.State][]fleet.Result{}
	seen := map[string]bool{}
	for v, err := range r.Results(w.t.Context()) {
		if err != nil {
			w.t.Fatal(err)
		}
		if seen[v.Target.Key()] {
			w.t.Errorf("%s has two results", v.Target.Key())
		}
		seen[v.Target.Key()] = true
		out[v.State] = append(out[v.State], v)
	}
	return out
}

// eventually waits until ok returns true.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.t.Fatalf("%s: it took longer than ten seconds", what)
}
