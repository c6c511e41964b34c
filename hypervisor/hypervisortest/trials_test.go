package hypervisortest

import (
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// TestEveryOperationHasATrial: each operation of the table is called by the
// areas faults and contexts, and each that changes something is broken.
func TestEveryOperationHasATrial(t *testing.T) {
	tried := map[op.Name]bool{}
	for _, x := range trials() {
		tried[x.op] = true
		if x.do == nil && changing[x.op] == nil {
			t.Errorf("%s does nothing", x.name())
		}
	}
	silent := map[string]bool{string(op.ClientAs): true}
	for _, r := range contexts.rows {
		silent[r.name] = true
	}
	for _, o := range hypervisor.Operations() {
		if o.Method == "" { // a step of others
			continue
		}
		_, reads := reading[o.Name]
		_, changes := changing[o.Name]
		_, none := unsent[o.Name]
		if !silent[string(o.Name)] {
			t.Errorf("%s has no row in contexts", o.Name)
		}
		switch {
		case !reads && !changes && !none:
			t.Errorf("%s is neither in reading nor in changing nor in unsent", o.Name)
		case o.Task && !changes:
			t.Errorf("%s has a task and is not in changing", o.Name)
		case changes != tried[o.Name]:
			t.Errorf("%s: in changing %t, with a trial %t", o.Name, changes, tried[o.Name])
		}
	}
}
