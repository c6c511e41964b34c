package dbosfleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/anyvisor/anyvisor/hypervisor/fleet/dbosfleet"
	"github.com/anyvisor/anyvisor/hypervisor/fleet/fleettest"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

const (
	machines = 1000
	seed     = 11 // the fakes of all processes give machines the same IDs
)

// request asks the platform for the effect of a step.
type request struct {
	Step, VM, Token string
	Process         int
}

// effect is what a step does.
type effect struct {
	done chan struct{} // closed when it is there
	err  error
}

// platform is the fake that outlives the workers. It knows the tokens of calls
// as hypervisors do: a call that is sent again waits for the first one.
type platform struct {
	c       *hypervisor.Client
	b       *fake.Backend
	mu      sync.Mutex
	effects map[string]*effect // by token
	calls   int
	last    int           // process that called last
	called  chan struct{} // gets one for each call
	hosts   map[string]string
	now     map[string]int
	most    map[string]int
}

func backend(ctx context.Context, o *hypervisor.Options) (*fake.Backend, *hypervisor.Client, error) {
	b := fake.New(fake.Config{Hosts: fake.DefaultHosts(10), Seed: seed, CallLog: 100000})
	c, err := b.Open(ctx, o)
	if err == nil {
		err = fleettest.Machines(ctx, c, machines)
	}
	return b, c, err
}

var counted = []op.Name{op.SnapshotCreate, op.VMReset, op.SnapshotDelete}

func newPlatform(t *testing.T) *platform {
	p := &platform{effects: map[string]*effect{}, called: make(chan struct{}, 100000), hosts: map[string]string{}, now: map[string]int{}, most: map[string]int{}}
	var err error
	p.b, p.c, err = backend(t.Context(), &hypervisor.Options{Observer: func(ctx context.Context, c hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
		id, _ := ctx.Value(vmKey{}).(string)
		if !slices.Contains(counted, c.Name) || id == "" {
			return ctx, func(hypervisor.CallEnd) {}
		}
		p.count(id, 1)
		return ctx, func(hypervisor.CallEnd) { p.count(id, -1) }
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.c.Close() })
	for v, err := range p.c.VMs(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		p.hosts[string(v.ID)] = string(v.Host)
	}
	for _, o := range counted {
		p.b.SetDelay(o, 4*time.Millisecond)
	}
	p.b.ForgetCalls()
	return p
}

type vmKey struct{}

func (p *platform) count(vm string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range []string{"all", p.hosts[vm]} {
		p.now[k] += n
		p.most[k] = max(p.most[k], p.now[k])
	}
}

// serve answers workers until the listener is closed.
func (p *platform) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			var r request
			if json.NewDecoder(c).Decode(&r) != nil {
				return
			}
			text := ""
			e := p.effect(r)
			if <-e.done; e.err != nil {
				text = e.err.Error()
			}
			_ = json.NewEncoder(c).Encode(text) // the worker may be dead
		}()
	}
}

func (p *platform) effect(r request) *effect {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	p.last = r.Process
	p.called <- struct{}{}
	e := p.effects[r.Token]
	if e == nil {
		e = &effect{done: make(chan struct{})}
		p.effects[r.Token] = e
		go func() {
			e.err = p.act(r)
			close(e.done)
		}()
	}
	return e
}

// caller returns the process that called last.
func (p *platform) caller() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *platform) act(r request) error {
	ctx := context.WithValue(context.Background(), vmKey{}, r.VM)
	vm := p.c.VM(hypervisor.VMID(r.VM))
	switch r.Step {
	case "snapshot":
		_, err := vm.CreateSnapshot(ctx, "before", nil).Wait(ctx)
		return err
	case "restart":
		_, err := vm.Reset(ctx).Wait(ctx)
		return err
	case "check":
		_, err := vm.FindSnapshot(ctx, "before")
		return err
	case "drop":
		s, err := vm.FindSnapshot(ctx, "before")
		if err != nil {
			return err
		}
		_, err = s.Delete(ctx, nil).Wait(ctx)
		return err
	}
	return errors.New("no such step")
}

// worker is the program that is killed.
func worker() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	_, c, err := backend(ctx, nil)
	fail(err)
	ask := func(ctx context.Context, vm *hypervisor.VM, a *fleet.Attempt) error {
		s, err := net.Dial("unix", os.Getenv("FLEET_TEST_SOCKET"))
		if err != nil {
			return err
		}
		defer s.Close()
		if err := json.NewEncoder(s).Encode(request{a.Step, string(vm.ID()), a.Token, os.Getpid()}); err != nil {
			return err
		}
		var text string
		if err := json.NewDecoder(s).Decode(&text); err != nil {
			return err
		}
		if text != "" {
			return errors.New(text)
		}
		return nil
	}
	p := &fleet.Plan{ID: "rolling", Clients: map[string]*hypervisor.Client{"dc": c}, Labels: map[string]string{"fleet": "yes"},
		Steps:  []fleet.Step{{Name: "snapshot", Do: ask}, {Name: "restart", Do: ask}, {Name: "check", Do: ask}, {Name: "drop", Do: ask}},
		Limits: fleet.Limits{Total: 30, PerHost: 4}, Waves: []fleet.Wave{{Count: 1}, {Percent: 10}, {}}}
	fmt.Println("opening")
	e, err := dbosfleet.Open(ctx, dbosfleet.Config{URL: os.Getenv("FLEET_TEST_WORKER")})
	fail(err)
	var exists *fleet.RunExistsError
	if _, err = e.Start(ctx, p); !errors.As(err, &exists) {
		fail(err)
	}
	r, err := e.Find(ctx, p.ID)
	fail(err)
	go func() {
		s, err := r.Wait(ctx)
		fail(err)
		fail(s.Err())
		cancel()
	}()
	if err := e.Work(ctx, p); !errors.Is(err, context.Canceled) {
		fail(err)
	}
}

// life is one worker process.
type life struct {
	cmd    *exec.Cmd
	opened chan struct{} // closed when it opens the store
	stderr strings.Builder
}

func spawn(t *testing.T, url, socket string) *life {
	t.Helper()
	l := &life{cmd: exec.Command(os.Args[0]), opened: make(chan struct{})}
	l.cmd.Env = append(os.Environ(), "FLEET_TEST_WORKER="+url, "FLEET_TEST_SOCKET="+socket)
	l.cmd.Stderr = &l.stderr
	out, err := l.cmd.StdoutPipe()
	if err == nil {
		err = l.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = out.Read(make([]byte, 16))
		close(l.opened)
	}()
	return l
}

// TestKilledWorkers kills the worker ten times with SIGKILL in the middle of a
// rolling plan on 1,000 machines. The backend sees each effect once, and never
// more at a time than the limits allow.
func TestKilledWorkers(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	url := "sqlite:" + filepath.Join(dir, "fleet.db")
	p := newPlatform(t)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go p.serve(l)
	const kills = 10
	var resumed []time.Duration
	for i := range kills {
		w := spawn(t, url, socket)
		<-w.opened
		begin := time.Now()
		for n := 1 + rand.IntN(2*4*machines/(kills+4)); n > 0; n-- {
			select {
			case <-p.called:
			case <-time.After(30 * time.Second):
				t.Fatalf("life %d of the worker: no call for 30 s: %s", i, w.stderr.String())
			}
			if begin != (time.Time{}) {
				resumed = append(resumed, time.Since(begin))
				begin = time.Time{}
			}
		}
		if err := w.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = w.cmd.Wait() // killed
		for len(p.called) > 0 {
			<-p.called
		}
		if w.stderr.Len() > 0 {
			t.Errorf("life %d of the worker: %s", i, w.stderr.String())
		}
	}
	last := spawn(t, url, socket)
	if err := last.cmd.Wait(); err != nil {
		t.Fatalf("the last worker: %v: %s", err, last.stderr.String())
	}
	p.verify(t)
	slices.Sort(resumed)
	t.Logf("from the opening of the store to the first step: median %v, at most %v", resumed[len(resumed)/2], resumed[len(resumed)-1])
	// It is under a second on a machine that does nothing else.
	if resumed[0] > 10*time.Second {
		t.Errorf("the quickest worker took %v to resume", resumed[0])
	}
}

func (p *platform) verify(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := map[string]int{}
	total := 0
	for _, c := range p.b.Calls() {
		if slices.Contains(counted, c.Op) {
			seen[string(c.Op)]++
			total++
		}
	}
	for _, o := range counted {
		if seen[string(o)] != machines {
			t.Errorf("the backend saw %s %d times, want %d", o, seen[string(o)], machines)
		}
	}
	if len(p.effects) != 4*machines {
		t.Errorf("%d effects, want %d", len(p.effects), 4*machines)
	}
	for k, n := range p.most {
		if limit := map[bool]int{true: 30, false: 4}[k == "all"]; n > limit {
			t.Errorf("%s: %d machines were at work at a time, the limit is %d", k, n, limit)
		}
	}
	for v, err := range p.c.VMs(t.Context(), nil) {
		if boots, berr := p.b.Boots(v.ID); err != nil || berr != nil || boots != 2 || v.Snapshots != 0 {
			t.Fatalf("%s has booted %d times and has %d snapshots (%v)", v.Name, boots, v.Snapshots, errors.Join(err, berr))
		}
	}
	t.Logf("%d calls for %d effects: %d steps ran again", p.calls, len(p.effects), p.calls-len(p.effects))
}
