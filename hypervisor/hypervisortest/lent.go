package hypervisortest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// Lent is a platform that someone lends for a run of the suite, with objects
// of others on it. The suite changes only what it makes itself: machines
// whose names begin with "av-". A call that would change another object is
// refused before it is sent, and is an error of the test.
type Lent struct {
	Driver string
	URL    string // as for hypervisor.Open; the password may be in ANYVISOR_PASSWORD
	// Areas are those to run; nil means LentAreas.
	Areas []string
	// Spec describes a machine that can be made there; nil means one with 512
	// MiB of memory, a disk of 1 GiB and a network adapter, where the driver
	// puts it.
	Spec func(name string) hypervisor.VMSpec
	// AbsentVM is a valid ID that no machine has; "" means a GUID.
	AbsentVM hypervisor.VMID
	// Trial runs the areas without subtests, and keeps no results: for a test
	// of this code on a simulator.
	Trial bool
}

// LentAreas change nothing but the machines that they make.
var LentAreas = []string{"inventory", "lifecycle", "labels", "power", "reconfigure", "disks", "snapshots", "clones", "templates", "tasks"}

// RunLent runs the suite on a lent platform, and checks that what was there
// before is there afterwards, unchanged, and nothing else.
func RunLent(t *testing.T, l Lent) {
	t.Helper()
	ctx := t.Context()
	c, err := hypervisor.Open(ctx, l.URL, nil)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	defer c.Close()
	before, err := lentState(ctx, c)
	if err != nil {
		t.Fatalf("what is there before: %v", err)
	}
	g := &lentGuard{others: before}
	open := func(ctx context.Context) (*hypervisor.Client, error) {
		return hypervisor.Open(ctx, l.URL, &hypervisor.Options{Observer: g.observe})
	}
	h := Harness{Driver: l.Driver, Rung: Real, Only: l.Areas, New: func(t T) *Backend {
		c, err := open(t.Context())
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		return &Backend{Client: c, Reopen: open, Spec: l.Spec, AbsentVM: cmp.Or(l.AbsentVM, "00000000-0000-4000-8000-00000000DEAD")}
	}}
	if l.Areas == nil {
		h.Only = LentAreas
	}
	if l.Spec == nil {
		l.Spec = func(name string) hypervisor.VMSpec {
			return hypervisor.VMSpec{Name: name, CPUs: 1, MemoryBytes: 512 * hypervisor.MiB, Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}, NICs: []hypervisor.NICSpec{{}}}
		}
	}
	if l.Trial {
		for _, f := range Check(ctx, h) {
			t.Error(f)
		}
	} else {
		Run(t, h)
	}
	for _, what := range g.refusals() {
		t.Errorf("the suite was about to change what is not its own: %s", what)
	}
	after, err := lentState(ctx, c)
	if err != nil {
		t.Fatalf("what is there afterwards: %v", err)
	}
	for _, d := range lentChanges(before, after) {
		t.Error(d)
	}
}

// lentState reads the machines and templates, each as a line of what the suite
// could have changed.
func lentState(ctx context.Context, c *hypervisor.Client) (map[hypervisor.Ref]string, error) {
	out := map[hypervisor.Ref]string{}
	for i, err := range c.VMs(ctx, nil) {
		if err != nil {
			return nil, err
		}
		var disks []string
		for _, d := range i.Disks {
			disks = append(disks, fmt.Sprint(d.Volume, " ", d.SizeBytes))
		}
		slices.Sort(disks)
		out[i.ID.Ref()] = fmt.Sprintf("%q, %v, %d CPUs, %d bytes of memory, disks %q", i.Name, i.State, i.CPUs, i.MemoryBytes, disks)
	}
	for i, err := range c.Templates(ctx) {
		if errors.Is(err, hypervisor.ErrUnsupported) {
			break
		}
		if err != nil {
			return nil, err
		}
		out[i.ID.Ref()] = fmt.Sprintf("template %q", i.Name)
	}
	return out, nil
}

func lentChanges(before, after map[hypervisor.Ref]string) []string {
	var out []string
	for on, was := range before {
		if now, ok := after[on]; !ok {
			out = append(out, fmt.Sprintf("%s is gone: %s", on, was))
		} else if now != was {
			out = append(out, fmt.Sprintf("%s was %s, and is %s", on, was, now))
		}
	}
	for on, now := range after {
		if _, ok := before[on]; !ok && strings.Contains(now, `"av-`) {
			out = append(out, fmt.Sprintf("%s is left over: %s", on, now))
		}
	}
	return out
}

// lentGuard refuses calls that would change objects of others.
type lentGuard struct {
	others map[hypervisor.Ref]string

	mu      sync.Mutex
	refused []string
}

func (g *lentGuard) refusals() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}

func (g *lentGuard) observe(ctx context.Context, c hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
	end := func(hypervisor.CallEnd) {}
	if !g.forbidden(c) {
		return ctx, end
	}
	g.mu.Lock()
	g.refused = append(g.refused, fmt.Sprintf("%s of %s", c.Name, c.Object))
	g.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	cancel(errors.New("the object is not one that this test made"))
	return ctx, end
}

// forbidden reports whether a call changes a host, a device, or a machine that
// was there before.
func (g *lentGuard) forbidden(c hypervisor.Call) bool {
	switch {
	case c.Name == op.ClientBalance: // it moves any machine
		return true
	case lentReads(c.Name):
		return false
	}
	switch c.Object.Kind {
	case hypervisor.ObjectHost, hypervisor.ObjectDevice, hypervisor.ObjectDatastore, hypervisor.ObjectNetwork, hypervisor.ObjectPool:
		return true
	}
	_, other := g.others[c.Object]
	return other
}

func lentReads(n op.Name) bool {
	object, verb, _ := strings.Cut(string(n), ".")
	if object == "client" || object == "task" {
		return true
	}
	for _, r := range []string{"list", "find", "info", "check", "dependencies", "replication", "facts"} {
		if verb == r || strings.HasPrefix(verb, r+"-") {
			return true
		}
	}
	return n == op.VMAvailability
}
