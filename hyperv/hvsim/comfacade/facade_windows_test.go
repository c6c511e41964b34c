package comfacade

import (
	"errors"
	"fmt"
	"io"
	"log"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	ole "github.com/go-ole/go-ole"
	"github.com/go-ole/go-ole/oleutil"
	cim "github.com/microsoft/wmi/pkg/wmiinstance"
)

const virt = `root\virtualization\v2`

// site registers a simulation and gives a session manager of microsoft/wmi that reaches it.
func site(t *testing.T, cfg hvsim.Config) (*hvsim.Sim, *cim.WmiSessionManager) {
	t.Helper()
	log.SetOutput(io.Discard) // the library writes every query
	sim, err := hvsim.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := ole.CoInitializeEx(0, ole.COINIT_MULTITHREADED); err != nil {
		var o *ole.OleError
		if !errors.As(err, &o) || o.Code() > 1 {
			t.Fatal(err)
		}
	}
	revoke, err := Register(sim)
	if err != nil {
		t.Fatal(err)
	}
	m := cim.NewWmiSessionManager()
	t.Cleanup(func() {
		m.Close()
		if err := errors.Join(revoke(), sim.Close()); err != nil {
			t.Error(err)
		}
	})
	return sim, m
}

func connect(t *testing.T, m *cim.WmiSessionManager, ns, server string) *cim.WmiSession {
	t.Helper()
	s, err := m.GetSession(ns, server, "", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// scode is the WBEM code inside a COM error.
func scode(err error) uint32 {
	var o *ole.OleError
	if !errors.As(err, &o) {
		return 0
	}
	if x, ok := o.SubError().(ole.EXCEPINFO); ok {
		return x.SCODE()
	}
	return uint32(o.Code())
}

func one(t *testing.T, s *cim.WmiSession, q string) *cim.WmiInstance {
	t.Helper()
	l, err := s.QueryInstances(q)
	if err != nil || len(l) != 1 {
		t.Fatalf("%s: %d objects, %v", q, len(l), err)
	}
	return l[0]
}

func get(t *testing.T, i *cim.WmiInstance, name string) any {
	t.Helper()
	v, err := i.GetProperty(name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

func call(t *testing.T, i *cim.WmiInstance, method string, out []string, in ...any) *cim.WmiMethodResult {
	t.Helper()
	m, err := cim.NewWmiMethod(method, i)
	if err != nil {
		t.Fatal(err)
	}
	var ic, oc cim.WmiMethodParamCollection
	for n := 0; n < len(in); n += 2 {
		ic = append(ic, cim.NewWmiMethodParam(in[n].(string), in[n+1]))
	}
	for _, o := range out {
		oc = append(oc, cim.NewWmiMethodParam(o, nil))
	}
	r, err := m.Execute(ic, oc)
	if err != nil {
		t.Fatalf("%s: %v (0x%08X)", method, err, scode(err))
	}
	return r
}

func TestMicrosoftWMI(t *testing.T) {
	sim, m := site(t, hvsim.Config{JobTime: -1})
	s := connect(t, m, virt, "")
	hostile := `web'01 <&>]]> "x" \ %_[]`
	class, err := s.GetClass("Msvm_VirtualSystemSettingData")
	if err != nil {
		t.Fatal(err)
	}
	sd, err := class.MakeInstance()
	if err != nil {
		t.Fatal(err)
	}
	for n, v := range map[string]any{"ElementName": hostile, "VirtualSystemSubType": "Microsoft:Hyper-V:SubType:2", "Notes": []string{"a", "b"}, "LowMmioGapSize": "256"} {
		if err := sd.SetProperty(n, v); err != nil {
			t.Fatalf("%s: %v", n, err)
		}
	}
	text, err := sd.EmbeddedXMLInstance()
	if err != nil {
		t.Fatal(err)
	}
	vmms := one(t, s, "SELECT * FROM Msvm_VirtualSystemManagementService")
	r := call(t, vmms, "DefineSystem", []string{"ResultingSystem", "Job"}, "SystemSettings", text, "ResourceSettings", []string{}, "ReferenceConfiguration", nil)
	path, ok := r.OutMethodParams["ResultingSystem"].Value.(string)
	if r.ReturnValue != 0 || !ok || !strings.HasPrefix(path, `\\HV01\root\virtualization\v2:Msvm_ComputerSystem.`) {
		t.Fatalf("%d %v", r.ReturnValue, r.OutMethodParams)
	}
	vm, err := s.GetInstance(path)
	if err != nil {
		t.Fatal(err)
	}
	if v := get(t, vm, "ElementName"); v != hostile {
		t.Fatalf("%v", v)
	}
	// Types as the scripting interfaces show them.
	for n, want := range map[string]string{"EnabledState": "int32", "OnTimeInMilliseconds": "string", "InstallDate": "string", "ProcessID": "<nil>"} {
		if v := fmt.Sprintf("%T", get(t, vm, n)); v != want {
			t.Errorf("%s is %s, want %s", n, v, want)
		}
	}
	if l, ok := get(t, vm, "OperationalStatus").([]any); !ok || len(l) != 1 || l[0] != int32(2) {
		t.Errorf("%v", get(t, vm, "OperationalStatus"))
	}
	r = call(t, vm, "RequestStateChange", []string{"Job"}, "RequestedState", 2)
	if r.ReturnValue != 4096 {
		t.Fatalf("%d", r.ReturnValue)
	}
	job, err := s.GetInstance(r.OutMethodParams["Job"].Value.(string))
	if err != nil || get(t, job, "JobState") != int32(7) {
		t.Fatalf("%v %v", err, job)
	}
	if err := vm.Refresh(); err != nil || get(t, vm, "EnabledState") != int32(2) {
		t.Fatalf("%v %v", err, get(t, vm, "EnabledState"))
	}
	rel, err := vm.GetAllRelated("Msvm_VirtualSystemSettingData")
	if err != nil || len(rel) != 1 || get(t, rel[0], "LowMmioGapSize") != "256" {
		t.Fatalf("%v %d", err, len(rel))
	}
	if p := vm.InstancePath(); p != path {
		t.Errorf("%s, want %s", p, path)
	}
	r = call(t, vmms, "GetSummaryInformation", []string{"SummaryInformation"}, "RequestedInformation", []string{"0", "100"})
	if r.ReturnValue != 0 {
		t.Fatalf("%d", r.ReturnValue)
	}
	for q, want := range map[string]uint32{"SELECT * FROM Nothing": 0x80041010, "SELECT": 0x80041017, "SELECT * FROM Msvm_ComputerSystem WHERE Name = 'a'b'": 0x80041017} {
		if _, err := s.QueryInstances(q); scode(err) != want {
			t.Errorf("%s: 0x%08X, want 0x%08X", q, scode(err), want)
		}
	}
	if _, err := s.GetInstance(`Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="nobody"`); scode(err) != 0x80041002 {
		t.Errorf("0x%08X", scode(err))
	}
	if err := vm.SetProperty("Nope", "x"); err == nil {
		t.Error("a property that is not there is set")
	}
	if err := vm.SetProperty("EnabledState", "many"); scode(err) != 0x80041005 {
		t.Errorf("0x%08X", scode(err))
	}
	bad, err := cim.NewWmiMethod("NoSuch", vmms)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bad.Execute(nil, nil); scode(err) != 0x80041002 {
		t.Errorf("0x%08X", scode(err))
	}
	for range 200 { // nothing piles up
		l, err := s.QueryInstances("SELECT * FROM Msvm_VirtualSystemSettingData")
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range l {
			i.Close()
		}
	}
	mu.Lock()
	n := len(live)
	mu.Unlock()
	if n > 200 {
		t.Errorf("%d objects are held after 200 queries", n)
	}
	if c := sim.Calls(); c["Query Msvm_VirtualSystemSettingData"] < 200 {
		t.Errorf("%v", c)
	}
}

func TestLogins(t *testing.T) {
	sim, m := site(t, hvsim.Config{Hosts: []hvsim.HostConfig{{}, {}, {NoHyperV: true}}})
	for _, k := range []struct {
		ns, server, user, pass string
		want                   uint32
	}{
		{virt, "", "", "", 0}, {virt, "HV02", "", "", 0}, {virt, "hv02.example.test", "Administrator", sim.Password(), 0},
		{virt, "HV02", "Administrator", "wrong", accessDenied}, {virt, "", "Administrator", sim.Password(), localCredentials},
		{virt, "HV09", "", "", 0x800706BA}, {virt, "HV03", "", "", 0x8004100E}, {`root\cimv2`, "HV03", "", "", 0}, {`root\nothing`, "", "", "", 0x8004100E},
	} {
		s, err := m.GetSession(k.ns, k.server, "", k.user, k.pass)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Connect()
		if scode(err) != k.want || (err == nil) != (k.want == 0) {
			t.Errorf("%+v: %v 0x%08X", k, err, scode(err))
		}
		if err == nil {
			s.Close()
		}
	}
}

func TestEvents(t *testing.T) {
	sim, m := site(t, hvsim.Config{JobTime: -1})
	s := connect(t, m, virt, "")
	ids, err := sim.Host(0).Add(hvsim.Machine{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	src, err := oleutil.CallMethod(s.Session, "ExecNotificationQuery",
		"SELECT * FROM __InstanceModificationEvent WITHIN 1 WHERE TargetInstance ISA 'Msvm_ComputerSystem' AND TargetInstance.EnabledState <> PreviousInstance.EnabledState")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Clear()
	if _, err := oleutil.CallMethod(src.ToIDispatch(), "NextEvent", int32(1)); scode(err) != timedOut {
		t.Fatalf("%v 0x%08X", err, scode(err))
	}
	vm := one(t, s, "SELECT * FROM Msvm_ComputerSystem WHERE Name = '"+ids[0]+"'")
	call(t, vm, "RequestStateChange", []string{"Job"}, "RequestedState", 2)
	e, err := oleutil.CallMethod(src.ToIDispatch(), "NextEvent", int32(time.Minute/time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Clear()
	for name, want := range map[string]int32{"TargetInstance": 2, "PreviousInstance": 3} {
		o, err := e.ToIDispatch().GetProperty(name)
		if err != nil {
			t.Fatal(err)
		}
		v, err := o.ToIDispatch().GetProperty("EnabledState")
		if err != nil || v.Value() != want {
			t.Fatalf("%s: %v %v", name, v.Value(), err)
		}
		o.Clear()
	}
	if _, err := oleutil.CallMethod(s.Session, "ExecNotificationQuery", "SELECT * FROM __InstanceModificationEvent WHERE TargetInstance ISA 'Nothing'"); scode(err) != 0x80041017 {
		t.Fatalf("0x%08X", scode(err))
	}
}

// TestRefusesStacksThatMove: without the setting a call would fail now and then.
func TestRefusesStacksThatMove(t *testing.T) {
	t.Setenv("GODEBUG", "")
	if _, err := Register(nil); err == nil || !strings.Contains(err.Error(), "gcshrinkstackoff=1") {
		t.Fatalf("Register without the setting: %v", err)
	}
}

// TestCollector: the garbage collector runs all the time; answers and errors reach their callers all the same.
func TestCollector(t *testing.T) {
	_, m := site(t, hvsim.Config{})
	s := connect(t, m, virt, "")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	for n := range 500 {
		deep(64) // a stack that has grown is one that shrinks
		if _, err := s.QueryInstances("SELECT * FROM Nothing"); scode(err) != 0x80041010 {
			t.Fatalf("%d: %v 0x%08X", n, err, scode(err))
		}
		c := one(t, s, "SELECT * FROM Msvm_ImageManagementService")
		if v := get(t, c, "CreationClassName"); v != "Msvm_ImageManagementService" {
			t.Fatalf("%d: %v", n, v)
		}
		c.Close()
	}
}

//go:noinline
func deep(n int) byte {
	var b [1024]byte
	if n > 0 {
		b[n] = deep(n - 1)
	}
	return b[n]
}
