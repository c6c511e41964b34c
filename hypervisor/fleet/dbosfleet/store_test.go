package dbosfleet_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/anyvisor/anyvisor/hypervisor/fleet/dbosfleet"
	"github.com/anyvisor/anyvisor/hypervisor/fleet/fleettest"
)

func TestStoreThatIsReadOnly(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "fleet.db")
	for range 2 { // before and after it has its tables
		_, err := dbosfleet.Open(t.Context(), dbosfleet.Config{URL: url + "?_pragma=query_only(1)"})
		var se *fleet.StoreError
		if !errors.As(err, &se) || !se.ReadOnly || se.Newer {
			t.Errorf("Open of a read-only store: %v", err)
		}
		openEngine(t, url)
	}
}

func TestStoreOfANewerVersion(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fleet.db")
	openEngine(t, "sqlite:"+file)
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("UPDATE dbos_migrations SET version = version + 1000"); err != nil {
		t.Fatal(err)
	}
	_, err = dbosfleet.Open(t.Context(), dbosfleet.Config{URL: "sqlite:" + file})
	var se *fleet.StoreError
	if !errors.As(err, &se) || !se.Newer {
		t.Errorf("Open of a newer store: %v", err)
	}
}

func TestURLsThatAreRefused(t *testing.T) {
	for _, url := range []string{"", "fleet.db", "sqlite::memory:", "mysql://u:p@h/d"} {
		if _, err := dbosfleet.Open(t.Context(), dbosfleet.Config{URL: url}); err == nil || strings.Contains(err.Error(), "u:p") {
			t.Errorf("Open of %q: %v", url, err)
		}
	}
}

func TestEnvironmentThatDividesWorkers(t *testing.T) {
	t.Setenv("DBOS__VMID", "other")
	e := openEngine(t, "sqlite:"+filepath.Join(t.TempDir(), "fleet.db"))
	if err := e.Work(t.Context()); err == nil || !strings.Contains(err.Error(), "DBOS__VMID") {
		t.Errorf("Work: %v", err)
	}
}

func planOf(t *testing.T, id string, n int, do func(context.Context, *hypervisor.VM, *fleet.Attempt) error) *fleet.Plan {
	t.Helper()
	c, err := fake.New(fake.Config{Seed: 5}).Open(t.Context(), nil)
	if err == nil {
		err = fleettest.Machines(t.Context(), c, n)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &fleet.Plan{ID: id, Clients: map[string]*hypervisor.Client{"dc": c}, Labels: map[string]string{"fleet": "yes"}, Steps: []fleet.Step{{Name: "step", Do: do}}}
}

// TestTwoWorkers has one worker at a time: the second one takes over. It is
// controlled and watched by a third engine, which doesn't work.
func TestTwoWorkers(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "fleet.db")
	first, second, user := openEngine(t, url), openEngine(t, url), openEngine(t, url)
	by := make(chan int, 1000)
	plan := func(who int) *fleet.Plan {
		return planOf(t, "two", 20, func(ctx context.Context, _ *hypervisor.VM, _ *fleet.Attempt) error {
			by <- who
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
			return ctx.Err()
		})
	}
	one := plan(1)
	one.Limits.Total = 2
	two := plan(2)
	two.Limits.Total = 2
	if _, err := user.Start(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	r, err := user.Find(t.Context(), "two")
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan int)
	go func() {
		n := 0
		for e, err := range r.Events(t.Context()) {
			if err == nil && e.Kind == fleet.EventTargetEnded {
				n++
			}
		}
		events <- n
	}()
	time.Sleep(100 * time.Millisecond) // the reader has begun
	ctx1, stop1 := context.WithCancel(t.Context())
	ctx2, stop2 := context.WithCancel(t.Context())
	defer stop2()
	ended := make(chan error, 2)
	go func() { ended <- first.Work(ctx1, one) }()
	for range 4 {
		if who := <-by; who != 1 {
			t.Fatalf("worker %d works", who)
		}
	}
	go func() { ended <- second.Work(ctx2, two) }()
	time.Sleep(100 * time.Millisecond)
	for len(by) > 0 {
		if who := <-by; who != 1 {
			t.Errorf("worker %d works beside worker 1", who)
		}
	}
	stop1()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Work: %v", err)
	}
	s, err := r.Wait(t.Context())
	if err != nil || s.Done != 20 {
		t.Errorf("the run ended with %+v, %v", s, err)
	}
	stop2()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Work: %v", err)
	}
	if n := <-events; n != 20 {
		t.Errorf("%d events of 20 targets", n)
	}
	last := 0
	for len(by) > 0 {
		last = <-by
	}
	if last != 2 {
		t.Error("the second worker has done nothing")
	}
}

// BenchmarkStep measures what the engine adds to a step that does nothing.
func BenchmarkStep(b *testing.B) {
	e, err := dbosfleet.Open(b.Context(), dbosfleet.Config{URL: "sqlite:" + filepath.Join(b.TempDir(), "fleet.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	c, err := fake.New(fake.Config{Seed: 5}).Open(b.Context(), nil)
	if err == nil {
		err = fleettest.Machines(b.Context(), c, b.N)
	}
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	nothing := func(context.Context, *hypervisor.VM, *fleet.Attempt) error { return nil }
	p := &fleet.Plan{ID: "bench", Clients: map[string]*hypervisor.Client{"dc": c}, Labels: map[string]string{"fleet": "yes"}}
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		p.Steps = append(p.Steps, fleet.Step{Name: n, Do: nothing})
	}
	r, err := e.Start(b.Context(), p)
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	b.ResetTimer()
	go func() { ended <- e.Work(ctx) }()
	if _, err := r.Wait(ctx); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(5*b.N), "µs/step")
	stop()
	<-ended
}
