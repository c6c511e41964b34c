package main

import (
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
)

func TestTable(t *testing.T) {
	row := func(o string, l hypervisor.Level, r hypervisor.ReasonCode, why string) hypervisortest.Result {
		res := hypervisortest.Result{Driver: "kvm", Rung: hypervisortest.Real}
		for _, k := range hypervisor.Capabilities() {
			res.Rows = append(res.Rows, hypervisortest.Row{Capability: k, Outcome: o, Why: why,
				Support: hypervisor.Support{Level: l, Reason: r, Detail: "a sentence"}})
		}
		return res
	}
	for _, c := range []struct {
		res  hypervisortest.Result
		want []string
	}{
		{row("pass", hypervisor.Yes, "", ""), []string{"| `vm.create` | pass |"}},
		{row("pass", hypervisor.Partial, hypervisor.ReasonEmulated, ""), []string{"| partial (emulated) |", "`vm.create`: a sentence — kvm × real"}},
		{row("refused", hypervisor.No, hypervisor.ReasonEdition, ""), []string{"| no (edition) |", "a sentence"}},
		{row("unproven", hypervisor.Yes, "", "no device"), []string{"| unproven |", "no device"}},
		{row("fail", hypervisor.Yes, "", ""), []string{"| fail |"}},
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
