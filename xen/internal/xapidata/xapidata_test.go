package xapidata

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTables(t *testing.T) {
	m := Load()
	if len(m.Classes) < 40 {
		t.Errorf("%d classes", len(m.Classes))
	}
	start := m.Message("VM.start")
	if start == nil || start.Required() != 3 || !start.Async || !start.Session || start.Implicit || start.Params[1].Type.Kind != Bool {
		t.Errorf("VM.start: %+v", start)
	}
	snap := m.Message("VM.snapshot")
	if snap.Required() != 2 || len(snap.Params) != 3 || !snap.Params[2].Optional {
		t.Errorf("VM.snapshot: %+v", snap)
	}
	if get := m.Message("host.get_all"); get.Async || !get.Implicit {
		t.Errorf("host.get_all: %+v", get)
	}
	if login := m.Message("session.login_with_password"); login.Session || login.Required() != 2 {
		t.Errorf("login: %+v", login)
	}
	if m.Message("VM.nothing") != nil || m.Message("Nothing.get_all") != nil || m.Message("VM") != nil {
		t.Error("unknown messages are found")
	}
	if f := m.Class("VM").Field("memory_static_max"); f == nil || f.Type.Kind != Int || f.Qualifier != Constructor {
		t.Errorf("memory_static_max: %+v", f)
	}
	if m.ClassFold("vm_guest_metrics") != m.Class("VM_guest_metrics") || m.Class("vm") != nil {
		t.Error("case")
	}
	if got := m.Enum("vm_power_state"); len(got) != 4 || got[0] != "Halted" {
		t.Errorf("vm_power_state: %v", got)
	}
	for _, c := range m.Classes {
		for _, f := range c.Fields {
			if f.Type.Kind == Enum && m.Enum(f.Type.Name) == nil {
				t.Errorf("%s.%s: no values for %s", c.Name, f.Name, f.Type.Name)
			}
		}
	}
}

func TestParseType(t *testing.T) {
	x := ParseType("(VM ref -> (string -> string) map) map")
	if x.Kind != Map || x.Key.Kind != Ref || x.Key.Name != "VM" || x.Elem.Kind != Map || x.Elem.Elem.Kind != String {
		t.Errorf("%+v", x)
	}
	x = ParseType("(int -> string set) map")
	if x.Kind != Map || x.Elem.Kind != Set || x.Elem.Elem.Kind != String {
		t.Errorf("%+v", x)
	}
	if x = ParseType("string set set"); x.Elem.Kind != Set {
		t.Errorf("%+v", x)
	}
	if x = ParseType("an event batch"); x.Kind != Other {
		t.Errorf("%+v", x)
	}
	if _, err := parse("Z\tx"); err == nil {
		t.Error("a broken line was read")
	}
}
