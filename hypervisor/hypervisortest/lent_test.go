package hypervisortest

import (
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// TestLentGuard: on a lent platform only what the suite made is changed.
func TestLentGuard(t *testing.T) {
	theirs, mine := hypervisor.VMID("theirs").Ref(), hypervisor.VMID("mine").Ref()
	g := &lentGuard{others: map[hypervisor.Ref]string{theirs: ""}}
	for _, k := range []struct {
		call hypervisor.Call
		want bool // refused
	}{
		{hypervisor.Call{Name: op.VMDelete, Object: theirs}, true},
		{hypervisor.Call{Name: op.VMSetLabels, Object: theirs}, true},
		{hypervisor.Call{Name: op.SnapshotCreate, Object: theirs}, true},
		{hypervisor.Call{Name: op.VMInfo, Object: theirs}, false},
		{hypervisor.Call{Name: op.VMCheckMigrate, Object: theirs}, false},
		{hypervisor.Call{Name: op.VMDelete, Object: mine}, false},
		{hypervisor.Call{Name: op.VMCreate}, false},
		{hypervisor.Call{Name: op.HostEnterMaintenance, Object: hypervisor.HostID("h").Ref()}, true},
		{hypervisor.Call{Name: op.DevicePrepare, Object: hypervisor.DeviceID("d").Ref()}, true},
		{hypervisor.Call{Name: op.HostInfo, Object: hypervisor.HostID("h").Ref()}, false},
		{hypervisor.Call{Name: op.ClientBalance}, true},
	} {
		before := len(g.refusals())
		ctx, _ := g.observe(t.Context(), k.call)
		if refused := ctx.Err() != nil; refused != k.want || refused != (len(g.refusals()) > before) {
			t.Errorf("%s of %s: refused %v", k.call.Name, k.call.Object, refused)
		}
	}
	was := map[hypervisor.Ref]string{theirs: "a", mine: "b"}
	if got := lentChanges(was, map[hypervisor.Ref]string{theirs: "x", hypervisor.VMID("new").Ref(): `"av-vm-1"`}); len(got) != 3 {
		t.Errorf("%q", got)
	}
}
