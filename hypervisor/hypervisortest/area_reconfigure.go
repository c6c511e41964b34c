package hypervisortest

import (
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// reconfigure: sizes, names, hot-plug, dynamic memory.
var reconfigure = area{"reconfigure", []row{
	{name: "while-off", proves: caps{capability.Reconfigure}, run: reconfigureOff},
	{name: "too-much", proves: caps{capability.Reconfigure}, run: reconfigureTooMuch},
	{name: "absent", run: reconfigureAbsent},
	{name: "dynamic-memory", proves: caps{capability.MemoryDynamic}, run: reconfigureDynamic},
	{name: "hot-add-cpu", proves: caps{capability.CPUHotAdd}, run: reconfigureHotCPU},
	{name: "hot-add-memory", proves: caps{capability.MemoryHotAdd}, run: reconfigureHotMemory},
}}

func reconfigureOff(e *env) {
	vm := e.create("vm")
	i := e.info(vm)
	more, text, name := i.MemoryBytes+64*hypervisor.MiB, "new <text> & \"more\"", e.name("renamed")
	must(e, vm.Reconfigure(e.ctx, hypervisor.Changes{CPUs: 2, MemoryBytes: more, Name: name, Description: &text}), "Reconfigure of a machine that is off")
	n := e.info(vm)
	if n.CPUs != 2 || n.MemoryBytes != more || n.Name != name || n.Description != text {
		e.Errorf("after Reconfigure: %d CPUs, %d bytes, %q, %q; want 2, %d, %q, %q", n.CPUs, n.MemoryBytes, n.Name, n.Description, more, name, text)
	}
	if len(n.Disks) != len(i.Disks) || len(n.NICs) != len(i.NICs) {
		e.Errorf("Reconfigure changed disks or NICs: %+v", n)
	}
	must(e, vm.Reconfigure(e.ctx, hypervisor.Changes{CPUs: 1, MemoryBytes: i.MemoryBytes}), "Reconfigure back")
}

func reconfigureTooMuch(e *env) {
	vm := e.create("vm")
	i := e.info(vm)
	e.oneOf(errOf(e, vm.Reconfigure(e.ctx, hypervisor.Changes{CPUs: 100000})), "Reconfigure to 100,000 CPUs", hypervisor.ErrInvalidArgument, hypervisor.ErrExhausted)
	e.oneOf(errOf(e, vm.Reconfigure(e.ctx, hypervisor.Changes{MemoryBytes: 1 << 60})), "Reconfigure to 1 EiB", hypervisor.ErrInvalidArgument, hypervisor.ErrExhausted)
	if n := e.info(vm); n.CPUs != i.CPUs || n.MemoryBytes != i.MemoryBytes {
		e.Errorf("refused changes were made: %d CPUs, %d bytes", n.CPUs, n.MemoryBytes)
	}
}

func reconfigureAbsent(e *env) {
	err := errOf(e, e.c.VM(e.AbsentVM).Reconfigure(e.ctx, hypervisor.Changes{CPUs: 1}))
	e.oneOf(err, "Reconfigure of an absent ID", hypervisor.ErrNotFound, hypervisor.ErrUnsupported)
}

func reconfigureDynamic(e *env) {
	m := e.Spec("x").MemoryBytes
	r := &hypervisor.MemoryRange{MinBytes: m / 2 / hypervisor.MiB * hypervisor.MiB, MaxBytes: m}
	vm := e.create("dynamic", func(s *hypervisor.VMSpec) { s.DynamicMemory = r })
	if n := e.info(vm); n.DynamicMemory == nil || *n.DynamicMemory != *r {
		e.Errorf("the memory range is %+v, asked for %+v", n.DynamicMemory, *r)
	}
}

// growing returns a running machine that has room for more CPUs and memory.
func growing(e *env) *hypervisor.VM {
	return e.running(func(s *hypervisor.VMSpec) {
		if e.has(capability.CPUHotAdd) {
			s.MaxCPUs = 2
		}
		if e.has(capability.MemoryHotAdd) {
			s.MaxMemoryBytes = s.MemoryBytes + 256*hypervisor.MiB
		}
	})
}

func reconfigureHotCPU(e *env) {
	vm := growing(e)
	must(e, vm.Reconfigure(e.ctx, hypervisor.Changes{CPUs: 2}), "hot add of a CPU")
	if n := e.info(vm); n.CPUs != 2 {
		e.Errorf("after hot add the machine has %d CPUs, want 2", n.CPUs)
	}
	e.state(vm, hypervisor.StateRunning, "hot add")
}

func reconfigureHotMemory(e *env) {
	vm := growing(e)
	want := e.info(vm).MemoryBytes + 128*hypervisor.MiB
	must(e, vm.Reconfigure(e.ctx, hypervisor.Changes{MemoryBytes: want}), "hot add of memory")
	if n := e.info(vm); n.MemoryBytes != want {
		e.Errorf("after hot add the machine has %d bytes, want %d", n.MemoryBytes, want)
	}
	e.state(vm, hypervisor.StateRunning, "hot add")
}
