package wbem_test

import (
	"errors"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wbem"
)

const virt = "root/virtualization/v2"

func TestWatch(t *testing.T) {
	sim, err := hvsim.Start(hvsim.Config{JobTime: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	}()
	wmi := wbem.Of(sim.Host(0))
	w, err := wbem.Watch(wmi, virt, "SELECT * FROM __InstanceOperationEvent WITHIN 1 WHERE TargetInstance ISA 'Msvm_ComputerSystem'")
	if err != nil {
		t.Fatal(err)
	}
	next := func() *wbem.Event {
		t.Helper()
		e, err := w.Next(0)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if e := next(); e != nil {
		t.Fatalf("%+v", e)
	}
	ids, err := sim.Host(0).Add(hvsim.Machine{Name: "vm"})
	if err != nil {
		t.Fatal(err)
	}
	vm := cimx.Ref{Class: "Msvm_ComputerSystem", Keys: []cimx.KeyValue{{Name: "CreationClassName", Value: "Msvm_ComputerSystem"}, {Name: "Name", Value: ids[0]}}}
	invoke := func(r cimx.Ref, method string, args map[string]any) {
		t.Helper()
		if out, err := wmi.Invoke(virt, r, method, args); err != nil || out.Return != 0 && out.Return != 4096 {
			t.Fatalf("%s: %+v %v", method, out, err)
		}
	}
	if e := next(); e == nil || e.Class != "__InstanceCreationEvent" || e.Target.Str("Name") != ids[0] {
		t.Fatalf("%+v", e)
	}
	invoke(vm, "RequestStateChange", map[string]any{"RequestedState": 2})
	sim.Advance(time.Hour)
	if e := next(); e == nil || e.Class != "__InstanceModificationEvent" || e.Previous.Str("EnabledState") != "3" || e.Target.Str("EnabledState") != "2" {
		t.Fatalf("%+v", e)
	}
	sim.Advance(time.Hour) // up time alone is no event
	if e := next(); e != nil {
		t.Fatalf("%+v", e)
	}
	invoke(vm, "RequestStateChange", map[string]any{"RequestedState": 3})
	vmms, err := wmi.Query(virt, "SELECT * FROM Msvm_VirtualSystemManagementService")
	if err != nil {
		t.Fatal(err)
	}
	invoke(vmms.Instances[0].Ref(), "DestroySystem", map[string]any{"AffectedSystem": vm})
	if e := next(); e == nil || e.Class != "__InstanceDeletionEvent" {
		t.Fatalf("%+v", e)
	}
	for bad, code := range map[string]uint32{
		"SELECT * FROM __InstanceCreationEvent WHERE TargetInstance ISA 'Msvm_ComputerSystem'": wbem.InvalidQuery, "SELECT * FROM Msvm_ComputerSystem": wbem.InvalidQuery,
		"SELECT * FROM __InstanceCreationEvent WITHIN 1 WHERE TargetInstance ISA 'Nope'": wbem.InvalidClass, "x": wbem.InvalidQuery,
	} {
		var e *wbem.Error
		if _, err := wbem.Watch(wmi, virt, bad); !errors.As(err, &e) || e.Code != code {
			t.Errorf("%s: %v", bad, err)
		}
	}
	// A fault in the middle of a watch is told.
	sim.Inject(hvsim.Fault{Op: "Query", Target: "Msvm_ComputerSystem", HRESULT: wbem.AccessDenied})
	var e *wbem.Error
	if _, err := w.Next(0); !errors.As(err, &e) || e.Code != wbem.AccessDenied {
		t.Fatal(err)
	}
}
