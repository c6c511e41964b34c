package main

import (
	"os"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

func TestTable(t *testing.T) {
	row := func(o string, l hypervisor.Level, r hypervisor.ReasonCode, why string) hypervisortest.Result {
		res := hypervisortest.Result{Driver: "kvm", Rung: hypervisortest.Real}
		for _, k := range capability.All() {
			res.Rows = append(res.Rows, hypervisortest.Row{Capability: k, Outcome: o, Why: why,
				Support: hypervisor.Support{Level: l, Reason: r, Detail: "a sentence"}})
		}
		return res
	}
	known := row("fail", hypervisor.LevelYes, "", "clones/linked")
	known.Tests = []hypervisortest.Test{{Name: "clones/linked", Outcome: "known failure", Why: "the disks are copied"}, {Name: "clones/full", Outcome: "pass"}}
	for _, c := range []struct {
		res  hypervisortest.Result
		want []string
	}{
		{row("pass", hypervisor.LevelYes, "", ""), []string{"| `vm.create` | pass |"}},
		{row("pass", hypervisor.LevelPartial, hypervisor.ReasonEmulated, ""), []string{"| partial (emulated) |", "`vm.create`: a sentence — kvm × real"}},
		{row("refused", hypervisor.LevelNo, hypervisor.ReasonEdition, ""), []string{"| no (edition) |", "a sentence"}},
		{row("unproven", hypervisor.LevelYes, "", "no device"), []string{"| unproven |", "no device"}},
		{row("fail", hypervisor.LevelYes, "", "clones/linked"), []string{"| fail |", "`vm.create`: clones/linked — kvm × real"}},
		{known, []string{"## Known failures", "- `clones/linked`: the disks are copied — kvm × real"}},
	} {
		var b strings.Builder
		write(&b, []hypervisortest.Result{c.res})
		for _, w := range c.want {
			if !strings.Contains(b.String(), w) {
				t.Errorf("outcome %s: the table lacks %q", c.res.Rows[0].Outcome, w)
			}
		}
	}
}

// TestOperationsPage: docs/operations.md is the table of this code.
func TestOperationsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var now strings.Builder
	writeOperations(&now, nil)
	if string(page) != now.String() {
		t.Error("docs/operations.md is out of date: run make docs")
	}
}
