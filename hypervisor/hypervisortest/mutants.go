package hypervisortest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Mutants checks that no field goes unnoticed. For each field of a request it
// runs the field's row against a driver that does not see the field, and for
// each field of a result against one that leaves it empty. The row must fail.
// It has a sub-test for each field, named "VMSpec.CPUs". They run in
// parallel: New must return a backend that is not shared with another.
//
// The Harness is as for Run, and its functions pass the drivers that they
// open to Wrap. Fields whose row does not apply to this driver are logged.
func Mutants(t *testing.T, h Harness) {
	for name, list := range map[string][]field{"fields": requestFields(), "results": resultFields()} {
		for _, f := range list {
			t.Run(f.String(), func(t *testing.T) {
				t.Parallel()
				f.mutants(t, name+"/"+f.String(), h)
			})
		}
	}
}

type mutationKey struct{}

// Wrap returns the driver to make a Client of: d itself or, for Mutants, one
// around it. ctx is the one that the harness was called with.
func Wrap(ctx context.Context, d hypervisor.Driver) hypervisor.Driver {
	if m, ok := ctx.Value(mutationKey{}).(*mutation); ok {
		return m.wrap(d)
	}
	return d
}

func (f field) mutants(t *testing.T, row string, h Harness) {
	m := &mutation{field: f}
	ctx := context.WithValue(t.Context(), mutationKey{}, m)
	h.Only = []string{row}
	found, test := one(ctx, h, nil)
	switch {
	case h.Known[row] != "":
		t.Logf("no mutant: a known failure: %s", h.Known[row])
		return
	case len(found) > 0:
		t.Errorf("the row fails without a mutant: %v", found)
		return
	case h.Empty[f.String()] != "":
		t.Logf("no mutant: empty here: %s", h.Empty[f.String()])
		return
	case test.Outcome != pass:
		t.Logf("no mutant: %s: %s", test.Outcome, test.Why)
		return
	}
	if f.String() == "TaskState.Done" { // the task would have no end
		h.Limit = min(h.Limit, 2*time.Second)
	}
	m.whole = test.Why != "" && f.inPart() // refused as a part
	switch found, _ = one(ctx, h, m); {
	case len(found) > 0 && strings.HasPrefix(found[0].Text, "panic"):
		t.Errorf("%v", found[0])
	case len(found) > 0:
		t.Logf("found: %v", found[0])
	case m.absent.Load():
		t.Logf("no mutant: the driver lacks the operation, and the row sees it refused")
	case m.hits.Load() == 0:
		t.Errorf("SURVIVED: the field never passed")
	default:
		t.Errorf("SURVIVED: the row passes with the field gone")
	}
}

// one runs the one row that the Harness selects, with or without the
// mutation.
func one(ctx context.Context, h Harness, m *mutation) ([]Finding, Test) {
	s := newSuite(h)
	s.mutation = m
	s.parallel = true
	f := &finder{ctx: ctx}
	f.do(func() { s.run(f) })
	if len(s.tests) == 0 {
		return f.found, Test{}
	}
	return f.found, s.tests[0]
}
