package hypervisortest

import (
	"maps"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// labels are set, replaced, listed, and kept exactly.
var labels = area{"labels", []row{
	{name: "made-with", proves: caps{capability.Labels}, run: labelsMadeWith},
	{name: "set-replaces", proves: caps{capability.Labels}, run: labelsSet},
	{name: "listed-by", proves: caps{capability.Labels}, run: labelsListed},
	{name: "absent", needs: caps{capability.Labels}, run: labelsAbsent},
}}

var oddLabels = map[string]string{"app.example/tier": "web", "quote": `' " <&> ]]> %2f`, "empty": "", "uni": "☃ 日本"}

func (e *env) labeled(vm *hypervisor.VM, want map[string]string, after string) {
	e.Helper()
	if got := e.info(vm).Labels; !maps.Equal(got, want) {
		e.Errorf("after %s the labels are %q, want %q", after, got, want)
	}
}

func (e *env) createLabeled() *hypervisor.VM {
	e.Helper()
	return e.create("vm", func(s *hypervisor.VMSpec) { s.Labels = map[string]string{"made": "with"} })
}

func labelsMadeWith(e *env) {
	e.labeled(e.createLabeled(), map[string]string{"made": "with"}, "CreateVM")
}

func labelsSet(e *env) {
	vm := e.createLabeled()
	for range e.site.s.h.Repeat {
		e.ok(vm.SetLabels(e.ctx, oddLabels), "SetLabels")
	}
	e.labeled(vm, oddLabels, "SetLabels")
	e.ok(vm.SetLabels(e.ctx, nil), "SetLabels to none")
	e.labeled(vm, nil, "SetLabels to none")
}

func labelsListed(e *env) {
	vm := e.createLabeled()
	e.ok(vm.SetLabels(e.ctx, oddLabels), "SetLabels")
	found := 0
	for v, err := range e.c.VMs(e.ctx, &hypervisor.ListOptions{Labels: map[string]string{"app.example/tier": "web", "uni": "☃ 日本"}}) {
		e.ok(err, "VMs by label")
		if v.ID == vm.ID() {
			found++
		} else if v.Labels["app.example/tier"] != "web" {
			e.Errorf("VMs by label yields %s with %v", v.ID, v.Labels)
		}
	}
	if found != 1 {
		e.Errorf("VMs by label yields the machine %d times", found)
	}
}

func labelsAbsent(e *env) {
	e.kind(e.c.VM(e.AbsentVM).SetLabels(e.ctx, oddLabels), hypervisor.ErrNotFound, "SetLabels of an absent ID")
}
