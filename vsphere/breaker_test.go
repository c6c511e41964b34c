package vsphere

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/silence"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// broken has the methods of which a call was broken.
type broken struct {
	mu   sync.Mutex
	seen map[string]bool
}

// breaker breaks calls with the simulator's faults and cuts.
func (n *broken) breaker(sim *vspheresim.Sim) *hypervisortest.Breaker {
	armed, nth := "", 0
	heal := func() {}
	return &hypervisortest.Breaker{
		Limit: hang,
		Late:  true,
		Calls: func() []string {
			defer sim.ResetCalls()
			return sim.CallLog()
		},
		Break: func(call string, n int, b hypervisortest.Breakage) {
			armed, nth = call, n
			sim.ResetCalls()
			for range n - 1 { // that pass
				sim.Cut(call, 0)
				sim.Fault(call, nil)
			}
			switch b.How {
			case hypervisortest.Before:
				sim.Cut(call, vspheresim.CutBefore)
			case hypervisortest.Inside:
				sim.Cut(call, vspheresim.CutInside)
			case hypervisortest.After:
				sim.Cut(call, vspheresim.CutAfter)
			case hypervisortest.Late:
				healed := make(chan struct{})
				heal = sync.OnceFunc(func() { close(healed) })
				sim.HoldAnswer(call, func() { b.Acted(); <-healed })
			case hypervisortest.Expire:
				sim.Fault(call, &types.NotAuthenticated{})
			case hypervisortest.Refuse:
				sim.Fault(call, map[hypervisor.Kind]types.BaseMethodFault{
					hypervisor.ErrBusy:       &types.TaskInProgress{Task: ref{Type: "Task", Value: "task-1"}},
					hypervisor.ErrPermission: &types.NoPermission{},
				}[b.Kind])
			}
		},
		Heal: func() bool {
			heal()
			sim.ClearFaults()
			struck := armed != "" && sim.Calls()[armed] >= nth
			if struck {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.seen[armed] = true
			}
			armed = ""
			return struck
		},
		Ways: func(call string, nth int) []hypervisortest.Breakage {
			if nth > 1 {
				return nil
			}
			out := []hypervisortest.Breakage{{How: hypervisortest.Expire}, {How: hypervisortest.Before}, {How: hypervisortest.Inside}, {How: hypervisortest.After}}
			if !reads.MatchString(call) {
				out = append(out, hypervisortest.Breakage{How: hypervisortest.Late})
			}
			if !slices.Contains(waits, call) { // nothing to be busy or forbidden
				out = append(out, hypervisortest.Breakage{How: hypervisortest.Refuse, Kind: hypervisor.ErrBusy},
					hypervisortest.Breakage{How: hypervisortest.Refuse, Kind: hypervisor.ErrPermission})
			}
			return out
		},
	}
}

// reads matches the methods that change nothing but the session.
var reads = regexp.MustCompile(`^(Retrieve|Continue|Query|Find|Search|Check|Recommend|Refresh|Wait|List|Get|Login|Create(Filter|PropertyCollector|ContainerView)|Destroy(PropertyCollector|View))`)

// unbroken are the calls that TestFaults need not break.
var unbroken = map[string]string{
	"CreateContainerView":         "TestSessionEnds: views go with their session",
	"FindByUuid":                  "asked of the other vCenter: TestFaultAtDestination",
	"GetCurrentTime":              "a part of the recovery from a call that was cut",
	"LoginExtensionByCertificate": "TestLogins",
	"Logout":                      "its failure is not told: the session ends by itself",
	"UnregisterVM":                "TestLostMachine: of machines that can't be reached",
	"TerminateProcessInGuest":     "its failure is not told: the program's time is over",
}

// sent finds the SOAP methods that this package sends, in its source.
func sent(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "methods" {
					out[s.Sel.Name] = true
				}
			}
			return true
		})
	}
	if len(out) < 40 {
		t.Fatalf("the source sends %v alone", slices.Sorted(maps.Keys(out)))
	}
	return out
}

// TestContexts has a vCenter fall silent.
func TestContexts(t *testing.T) {
	hypervisortest.Run(t, hypervisortest.Harness{Driver: "vsphere", Rung: hypervisortest.Simulator, Label: "contexts", Only: []string{"contexts"}, Worlds: 4,
		New: func(st hypervisortest.T) *hypervisortest.Backend {
			sim := startSim(st, simConfig(vspheresim.VCenter))
			b := simBackend(st, sim, nil)
			b.Images = func(context.Context) ([]string, error) { return images(sim) }
			u := *sim.URL()
			r := silence.Start(st, u.Host)
			u.Host = r.Addr
			silence.Behind(st, b, func(ctx context.Context) (*hypervisor.Client, error) { return openSim(ctx, &u) }, r)
			return b
		}})
}

// TestFaults breaks each call of each operation, and demands that each method
// which the source sends is among them.
func TestFaults(t *testing.T) {
	cfg := simConfig(vspheresim.VCenter)
	cfg.TaskDelay = 5 * time.Millisecond // so that long polls are among the calls
	n := &broken{seen: map[string]bool{}}
	hypervisortest.Run(t, hypervisortest.Harness{Driver: "vsphere", Rung: hypervisortest.Simulator, Label: "faults", Only: []string{"faults"}, Worlds: 4, Limit: 10 * time.Minute,
		New: func(st hypervisortest.T) *hypervisortest.Backend {
			sim := startSim(t, cfg)
			b := simBackend(st, sim, nil)
			b.Break = n.breaker(sim)
			b.Images = func(context.Context) ([]string, error) { return images(sim) }
			return b
		}})
	for m := range sent(t) {
		if _, except := unbroken[m]; !n.seen[m] && !except {
			t.Errorf("%s is never broken", m)
		}
	}
}

// images lists the disk images in the simulator's own folders.
func images(sim *vspheresim.Sim) ([]string, error) {
	var out []string
	for _, e := range sim.Registry().All("Datastore") {
		ds := e.(*simulator.Datastore)
		err := filepath.WalkDir(ds.Summary.Url, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".vmdk") && !strings.HasSuffix(path, "-flat.vmdk") {
				rel, _ := filepath.Rel(ds.Summary.Url, path)
				out = append(out, ds.Self.Value+"/"+filepath.ToSlash(rel))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
