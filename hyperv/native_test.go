package hyperv

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

const virt = "root/virtualization/v2"

func rows(t *testing.T, s *Session, namespace, wql string) []*Object {
	t.Helper()
	out, err := hypervisor.Collect(s.Query(t.Context(), namespace, wql))
	if err != nil {
		t.Errorf("%s: %v", wql, err)
	}
	return out
}

// TestAs reaches the hosts' sessions, and the paths of machines and snapshots,
// which the sessions take.
func TestAs(t *testing.T) {
	s := startSite(t, hvsim.Config{Hosts: make([]hvsim.HostConfig, 2)})
	ctx := t.Context()
	c := openSite(t, s)
	spec := small("one")
	spec.Placement.Host = hypervisor.HostID(s.config.Hosts[1])
	vm := create(t, c, spec)
	snap, err := vm.CreateSnapshot(ctx, "before", nil).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for v, host := range map[interface{ Ref() hypervisor.Ref }]int{hypervisor.HostID(s.config.Hosts[0]): 0, hypervisor.HostID(s.config.Hosts[1]): 1, vm: 1, snap: 1} {
		session, err := hypervisor.As[*Session](ctx, c, v)
		if err != nil {
			t.Errorf("the session of %s: %v", v.Ref(), err)
			continue
		}
		if r := rows(t, session, "root/cimv2", "SELECT CSName FROM Win32_OperatingSystem"); len(r) != 1 || r[0].Get("csname") != s.sim.Host(host).Name() {
			t.Errorf("the session of %s is that of %+v", v.Ref(), r)
		}
	}
	path, err := hypervisor.As[Path](ctx, c, vm)
	if err != nil || !strings.Contains(string(path), `:Msvm_ComputerSystem.`) {
		t.Fatalf("the machine's path is %s (%v)", path, err)
	}
	session, err := hypervisor.As[*Session](ctx, c, vm)
	if err != nil {
		t.Fatal(err)
	}
	mark, err := hypervisor.As[Path](ctx, c, snap)
	if err != nil {
		t.Fatal(err)
	}
	_, rel, _ := strings.Cut(string(mark), ":")
	// The snapshot's own settings have a disk and its controllers, as objects.
	if r := rows(t, session, virt, "ASSOCIATORS OF {"+rel+"} WHERE ResultClass = Msvm_StorageAllocationSettingData"); len(r) != 1 || r[0].Class != "Msvm_StorageAllocationSettingData" {
		t.Errorf("behind %s: %+v", mark, r)
	}

	code, out, err := session.Invoke(ctx, path, "RequestStateChange", Arg{"RequestedState", uint16(2)})
	if err != nil || code != 0 && code != 4096 || code == 4096 && out.Get("Job") == "" {
		t.Fatalf("start: %d, %+v, %v", code, out, err)
	}
	if code == 4096 {
		job := Path(out.Get("Job"))
		if code, _, err = session.Invoke(ctx, job, "GetErrorEx"); err != nil || code != 0 {
			t.Errorf("GetErrorEx of %s: %d, %v", job, code, err)
		}
	}
	if code, _, err = session.Invoke(ctx, path, "RequestStateChange", Arg{"RequestedState", uint16(77)}); err != nil || code == 0 || code == 4096 {
		t.Errorf("a state that isn't there: %d, %v", code, err)
	}

	for _, k := range []struct {
		v    hypervisor.Ref
		want error
	}{
		{hypervisor.VMID("00000000-0000-4000-8000-00000000DEAD").Ref(), hypervisor.ErrNotFound},
		{hypervisor.SnapshotID("00000000-0000-4000-8000-00000000DEAD").Ref(), hypervisor.ErrNotFound},
		{hypervisor.SnapshotID(vm.ID()).Ref(), hypervisor.ErrNotFound}, // a machine's settings
		{hypervisor.HostID("none").Ref(), hypervisor.ErrNotFound},
		{hypervisor.DatastoreID("d").Ref(), hypervisor.ErrUnsupported},
		{c.Ref(), hypervisor.ErrUnsupported}, // two hosts
	} {
		if _, err := hypervisor.As[*Session](ctx, c, k.v); !errors.Is(err, k.want) {
			t.Errorf("the session of %s: %v, want %v", k.v, err, k.want)
		}
	}
	if _, err := hypervisor.As[Path](ctx, c, hypervisor.HostID(s.config.Hosts[0])); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("the path of a host: %v", err)
	}
	gone, stop := context.WithCancel(ctx)
	stop()
	if _, err := hypervisor.As[Path](gone, c, vm); !errors.Is(err, context.Canceled) {
		t.Errorf("As with an ended context: %v", err)
	}
}

// TestSession: errors have their class, and the session ends with the Client.
func TestSession(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	ctx := t.Context()
	c, err := s.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	session, err := hypervisor.As[*Session](ctx, c, c) // the only host's
	if err != nil {
		t.Fatal(err)
	}
	fails := func(what string, want, err error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	query := func(ns, wql string) error {
		_, err := hypervisor.Collect(session.Query(ctx, ns, wql))
		return err
	}
	fails("nonsense", hypervisor.ErrInvalidArgument, query(virt, "SELECT"))
	fails("an unknown class", hypervisor.ErrUnsupported, query(virt, "SELECT * FROM Msvm_Nothing"))
	invoke := func(p Path, method string, args ...Arg) error {
		_, _, err := session.Invoke(ctx, p, method, args...)
		return err
	}
	absent := Path(`\\.\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="none"`)
	fails("no path", hypervisor.ErrInvalidArgument, invoke("nothing", "RequestStateChange"))
	fails("an absent object", hypervisor.ErrNotFound, invoke(absent, "RequestStateChange", Arg{"RequestedState", uint16(2)}))
	fails("a value that can't be sent", hypervisor.ErrInvalidArgument, invoke(absent, "RequestStateChange", Arg{"RequestedState", 2.5}))
	fails("a reference that is none", hypervisor.ErrInvalidArgument, invoke(absent, "RequestStateChange", Arg{"RequestedState", Path("x")}))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	fails("a query after Close", hypervisor.ErrClosed, query(virt, "SELECT Name FROM Msvm_ComputerSystem"))
	fails("a call after Close", hypervisor.ErrClosed, invoke(absent, "RequestStateChange"))
}
