package hypervisortest

import (
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// changeRows: fields of Changes, of a machine that is off.
func changeRows() []row {
	type changes = hypervisor.Changes
	type info = hypervisor.VMInfo
	text := "changed"
	var rows []row
	for _, f := range []struct {
		name string
		ch   changes
		see  func(info) any
		want any
		need caps
	}{
		{"Name", changes{Name: "av-new-name"}, func(i info) any { return i.Name }, "av-new-name", nil},
		{"Description", changes{Description: &text}, func(i info) any { return i.Description }, text, nil},
		{"CPUs", changes{CPUs: 3}, func(i info) any { return i.CPUs }, 3, nil},
		{"MemoryBytes", changes{MemoryBytes: 384 * hypervisor.MiB}, func(i info) any { return i.MemoryBytes }, 384 * hypervisor.MiB, nil},
		{"DynamicMemory.MinBytes", changes{MemoryBytes: 512 * hypervisor.MiB, DynamicMemory: dynamicRange()}, func(i info) any { return i.DynamicMemory }, dynamicRange(), caps{capability.MemoryDynamic}},
		{"DynamicMemory.MaxBytes", changes{MemoryBytes: 512 * hypervisor.MiB, DynamicMemory: dynamicRange()}, func(i info) any { return i.DynamicMemory }, dynamicRange(), caps{capability.MemoryDynamic}},
	} {
		rows = append(rows, row{name: "Changes." + f.name, run: func(e *env) {
			vm := e.create("vm")
			_, err := vm.Reconfigure(e.ctx, f.ch).Wait(e.ctx)
			if e.honoured(err, f.need...) {
				e.same(f.see(e.info(vm)), f.want, "%s", f.name)
			}
		}})
	}
	rows = append(rows, limitRows("Changes", func(e *env, change func(*hypervisor.VMSpec)) (*hypervisor.VM, error) {
		vm := e.create("vm")
		s := hypervisor.VMSpec{CPUs: 2, MemoryBytes: limitBelow}
		change(&s)
		_, err := vm.Reconfigure(e.ctx, changes{CPUs: s.CPUs, MaxCPUs: s.MaxCPUs, MemoryBytes: s.MemoryBytes, MaxMemoryBytes: s.MaxMemoryBytes}).Wait(e.ctx)
		return vm, err
	})...)
	rows = append(rows, row{name: "Changes.NextStart", run: func(e *env) {
		vm := e.create("vm")
		e.start(vm)
		ch := changes{CPUs: e.info(vm).CPUs + 1, NextStart: true} // more than the machine was made for
		_, err := vm.Reconfigure(e.ctx, ch).Wait(e.ctx)
		if !e.honoured(err) {
			if !strings.Contains(err.Error(), "next start") { // it is that of a request without NextStart
				e.Errorf("the refusal does not say what becomes of changes for the next start: %v", err)
			}
			return
		}
		e.off(vm)
		e.start(vm)
		e.same(e.info(vm).CPUs, ch.CPUs, "CPUs after the next start")
	}})
	for i := range rows {
		rows[i].needs = caps{capability.Reconfigure}
	}
	return rows
}
