package hypervisortest

import (
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// refusals: every capability has a level. A call for a denied one is refused
// with the same reason and leaves no trace.
var refusals = area{"refusals", slices.Concat([]row{
	{name: "levels", run: refusalsLevels},
	{name: "unknown-capability", run: refusalsUnknown},
}, refusalRows())}

func refusalsLevels(e *env) {
	for _, k := range capability.All() {
		e.has(k)
		s, err := e.c.Supports(e.ctx, k, hypervisor.Ref{})
		e.ok(err, "Supports(%s)", k)
		switch {
		case s.Level == hypervisor.LevelYes && s.Reason != "":
			e.Errorf("%s is Yes with a reason why not: %s", k, s.Reason)
		case s.Level != hypervisor.LevelYes && s.Reason == "":
			e.Errorf("%s is %s without a reason", k, s.Level)
		case s.Level != hypervisor.LevelYes && s.Detail == "":
			e.Errorf("%s is %s (%s) without a sentence", k, s.Level, s.Reason)
		}
	}
}

func refusalsUnknown(e *env) {
	_, err := e.c.Supports(e.ctx, "no.such.thing", hypervisor.Ref{})
	e.kind(err, hypervisor.ErrInvalidArgument, "Supports of an unknown capability")
	if _, err := e.create("vm").Supports(e.ctx, capability.SnapshotMemory); err != nil {
		e.Errorf("Supports of a machine: %v", err)
	}
}

// refusalRows returns a row for each capability that a call needs.
func refusalRows() (out []row) {
	for _, k := range capability.All() {
		off, running := whileOff[k], whileRunning[k]
		switch {
		case off != nil:
			out = append(out, row{name: string(k), lacks: k, run: func(e *env) { e.denied(k, e.create("vm"), off) }})
		case running != nil:
			out = append(out, row{name: string(k), lacks: k, run: func(e *env) { e.denied(k, e.running(), running) }})
		}
	}
	return out
}

// attempt is a call that needs a capability and that nothing else prevents.
type attempt func(*env, *hypervisor.VM) error

// denied checks that a call is refused and changes nothing.
func (e *env) denied(k capability.Name, vm *hypervisor.VM, try attempt) {
	count, images, before := e.count(), e.listImages(), e.info(vm)
	e.refused(try(e, vm), k, vm.ID().Ref())
	if n := e.count(); n != count {
		e.Errorf("refused calls changed the number of machines from %d to %d", count, n)
	}
	if a := e.added(images); len(a) > 0 {
		e.Errorf("refused calls left the images %v", a)
	}
	after := e.info(vm)
	if after.CPUs != before.CPUs || after.MemoryBytes != before.MemoryBytes || len(after.Disks) != len(before.Disks) || after.Snapshots != before.Snapshots ||
		after.Name != before.Name || after.State != before.State {
		e.Errorf("refused calls changed the machine from %+v to %+v", before, after)
	}
}
