package xapisim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// need installs Debian packages, or skips the test where that can't be done.
func need(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Debian packages: ", lab.XAPIClients)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := lab.Install(ctx, lab.XAPIClients...); err != nil {
		lab.Skip(t, err)
	}
}

// foreign runs a program that trusts the simulator's certificate and nothing else.
func foreign(t *testing.T, sim *xapisim.Sim, stdin []byte, name string, args ...string) (string, error) {
	t.Helper()
	pem := filepath.Join(t.TempDir(), "pool.pem")
	if err := os.WriteFile(pem, sim.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+pem, "PYTHONWARNINGS=ignore")
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Logf("%s: %s", name, stderr.String())
	}
	return string(out), err
}

func TestOSXenAPI(t *testing.T) {
	need(t)
	sim, c := start(t, xapisim.Config{})
	vm := c.newVM("interop", nil)
	sim.SetDuration("VM.start", 50*time.Millisecond)
	out, err := foreign(t, sim, nil, "/usr/bin/python3", "testdata/os_xenapi_client.py", sim.URL(), sim.User(), sim.Password(), c.ref("VM.get_uuid", vm))
	if err != nil {
		t.Fatal(err)
	}
	var seen struct {
		API         string
		BadLogin    []string `json:"bad_login"`
		RecordTypes map[string]string
		Failure     []string
		Task, Power string
	}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(out, "record_types", "RecordTypes")), &seen); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if strings.Join(seen.BadLogin, " ") != "SESSION_AUTHENTICATION_FAILED root Authentication failure" {
		t.Errorf("bad login %q", seen.BadLogin)
	}
	if seen.API != "2.21" || seen.Task != "success" || seen.Power != "Running" {
		t.Errorf("%+v", seen)
	}
	if strings.Join(seen.Failure, " ") != "VM_BAD_POWER_STATE "+vm+" running halted" {
		t.Errorf("failure %q", seen.Failure)
	}
	want := map[string]string{"is_a_template": "bool", "memory_static_max": "str", "snapshot_time": "DateTime", "VBDs": "list", "platform": "dict", "HVM_shadow_multiplier": "float"}
	for k, v := range want {
		if seen.RecordTypes[k] != v {
			t.Errorf("%s is a %s, want %s", k, seen.RecordTypes[k], v)
		}
	}
}

func TestFenceXenAPI(t *testing.T) {
	need(t)
	sim, c := start(t, xapisim.Config{})
	vm := c.newVM("fenced", nil)
	fence := func(action string) string {
		out, err := foreign(t, sim, nil, "fence_xenapi", "-s", sim.URL(), "-l", sim.User(), "-p", sim.Password(), "-n", "fenced", "-o", action)
		if err != nil && action != "status" {
			t.Fatalf("fence_xenapi %s: %v %s", action, err, out)
		}
		return strings.TrimSpace(out)
	}
	if got := fence("status"); got != "Status: OFF" {
		t.Errorf("status %q", got)
	}
	fence("on")
	if got := c.ref("VM.get_power_state", vm); got != "Running" {
		t.Errorf("after on: %s", got)
	}
	ram := sim.Memory(vm)
	fence("reboot")
	if got := c.ref("VM.get_power_state", vm); got != "Running" || sim.Memory(vm) == ram {
		t.Errorf("after reboot: %s", got)
	}
	if got := fence("status"); got != "Status: ON" {
		t.Errorf("status %q", got)
	}
	fence("off")
	if got := c.ref("VM.get_power_state", vm); got != "Halted" {
		t.Errorf("after off: %s", got)
	}
	if got := fence("list"); !strings.Contains(got, "fenced") || strings.Contains(got, "Debian Bookworm") {
		t.Errorf("list %q", got)
	}
}

// typeTable is a type as the Python side reads it.
type typeTable struct {
	Kind   string       `json:"kind"`
	Values []string     `json:"values,omitempty"`
	Fields []fieldTable `json:"fields,omitempty"`
}

type fieldTable struct {
	Name string    `json:"name"`
	Type typeTable `json:"type"`
}

type messageTable struct {
	Name    string      `json:"name"`
	Params  []typeTable `json:"params"`
	Need    int         `json:"need"`
	Session bool        `json:"session"`
	Async   bool        `json:"async"`
	Removed bool        `json:"removed"`
}

func describeType(t *xapidata.Type) typeTable {
	m := xapidata.Load()
	out := typeTable{Kind: map[xapidata.Kind]string{
		xapidata.String: "string", xapidata.Int: "int", xapidata.Float: "float", xapidata.Bool: "bool", xapidata.Datetime: "datetime",
		xapidata.Enum: "enum", xapidata.Ref: "ref", xapidata.Set: "set", xapidata.Map: "map", xapidata.Record: "record",
	}[t.Kind]}
	switch t.Kind {
	case xapidata.Enum:
		out.Values = m.Enum(t.Name)
	case xapidata.Record:
		for _, f := range m.Class(t.Name).Fields {
			if f.Qualifier != xapidata.Runtime {
				out.Fields = append(out.Fields, fieldTable{f.Name, describeType(f.Type)})
			}
		}
	}
	return out
}

// TestEveryMessage lets Python's own XML-RPC client call every message that the simulator does, with right and wrong arity and types.
func TestEveryMessage(t *testing.T) {
	need(t)
	sim, _ := start(t, xapisim.Config{})
	var tables []messageTable
	for _, name := range sim.Served() {
		m := xapidata.Load().Message(name)
		mt := messageTable{Name: name, Params: []typeTable{}, Need: m.Required(), Session: m.Session, Async: m.Async, Removed: m.Removed}
		for _, p := range m.Params {
			mt.Params = append(mt.Params, describeType(p.Type))
		}
		tables = append(tables, mt)
	}
	if len(tables) < 1200 {
		t.Errorf("only %d messages", len(tables))
	}
	in, err := json.Marshal(tables)
	if err != nil {
		t.Fatal(err)
	}
	out, err := foreign(t, sim, in, "/usr/bin/python3", "testdata/every_message.py", sim.URL(), sim.User(), sim.Password())
	if err != nil {
		t.Fatal(err)
	}
	var res struct {
		Wrong [][]any
		Calls int
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatalf("%v: %.500s", err, out)
	}
	for i, w := range res.Wrong {
		if i == 40 {
			t.Errorf("and %d more", len(res.Wrong)-i)
			break
		}
		t.Error(w...)
	}
	if res.Calls < 5*len(tables) {
		t.Errorf("only %d calls for %d messages", res.Calls, len(tables))
	}
	t.Logf("%d messages, %d calls", len(tables), res.Calls)
}
