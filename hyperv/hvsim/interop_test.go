package hvsim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/internal/lab"
)

// python runs a script of testdata with the system's Python, which has the Debian packages.
func python(t *testing.T, in any, packages []string, script string, args ...string) []byte {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Minute)
	defer stop()
	if err := lab.Install(ctx, packages...); err != nil {
		lab.Skip(t, err)
	}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "/usr/bin/python3", append([]string{filepath.Join("testdata", script)}, args...)...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONWARNINGS=ignore", "OPENSSL_CONF="+filepath.Join("testdata", "openssl-legacy.cnf"))
	cmd.WaitDelay = 5 * time.Second
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(b), &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, errOut.String())
	}
	return out.Bytes()
}

// caFile writes the certificates of all hosts.
func caFile(t *testing.T, sim *hvsim.Sim) string {
	t.Helper()
	var b []byte
	for _, h := range sim.Hosts() {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})...)
	}
	p := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

type answer struct {
	Result any
	Error  string
	Text   string
}

// osWin runs os-win calls: host, object, method, arguments.
func osWin(t *testing.T, sim *hvsim.Sim, calls [][]any) []answer {
	t.Helper()
	hosts := map[string][]string{}
	for _, h := range sim.Hosts() {
		hosts[h.Name()] = []string{h.URL(), "Administrator", sim.Password()}
	}
	out := python(t, map[string]any{"hosts": hosts, "schema": "internal/schema/classes.txt", "ca": caFile(t, sim), "calls": calls}, []string{"python3-os-win"}, "oswin/run.py")
	var got []answer
	d := json.NewDecoder(bytes.NewReader(out))
	for d.More() {
		var a answer
		if err := d.Decode(&a); err != nil {
			t.Fatal(err)
		}
		got = append(got, a)
	}
	return got
}

// TestOSWin lets OpenStack's os-win, which was written against real hosts, list, make, change, checkpoint, power and migrate machines.
func TestOSWin(t *testing.T) {
	sim := start(t, hvsim.Config{Hosts: []hvsim.HostConfig{gpuHost(0), {}}})
	if _, err := sim.Host(0).Add(hvsim.Machine{Name: "web01", Disks: []string{`C:\vm\web01.vhdx`}, Switch: "External", Notes: []string{"made by the test"}}); err != nil {
		t.Fatal(err)
	}
	sim.Host(0).AddFile(`C:\iso\seed.iso`, 1<<20)
	c := dial(t, sim, 0)
	c.createDisk(sim, `C:\vm\second.vhdx`, 3, "")
	gpu, _ := c.pnp("NVIDIA A2")
	if _, err := c.callNS("root/cimv2", gpu, "Disable"); err != nil {
		t.Fatal(err)
	}
	c.do(sim, c.service("Msvm_AssignableDeviceService"), "DismountAssignableDevice", arg{"DismountSettingData", emb("Msvm_AssignableDeviceDismountSettingData", "DeviceInstancePath", gpu.Keys[0][1])})

	const running, off, turnOff = 2, 3, 2 // os_win.constants: HYPERV_VM_STATE_*, HOST_SHUTDOWN_ACTION_TURN_OFF
	calls := [][]any{
		{"HV01", "vmutils", "list_instances"},
		{"HV01", "vmutils", "list_instance_notes"},
		{"HV01", "vmutils", "create_vm", "made", false, 2, `C:\vm\made`, []string{"by os-win"}},
		{"HV01", "vmutils", "update_vm", "made", 2048, nil, 2, nil, false, 1},
		{"HV01", "vmutils", "create_scsi_controller", "made"},
		{"HV01", "vmutils", "attach_scsi_drive", "made", `C:\vm\second.vhdx`},
		{"HV01", "vmutils", "attach_scsi_drive", "made", `C:\iso\seed.iso`, "DVD"},
		{"HV01", "vmutils", "create_nic", "made", "eth0", "00:15:5d:aa:bb:cc"},
		{"HV01", "vmutils", "get_vm_storage_paths", "made"},
		{"HV01", "vmutils", "get_vm_memory_info", "made"},
		{"HV01", "vmutils", "set_vm_state", "made", running},
		{"HV01", "vmutils", "get_vm_summary_info", "made"},
		{"HV01", "vmutils", "soft_shutdown_vm", "made"},
		{"HV01", "vmutils", "take_vm_snapshot", "web01", "before"},
		{"HV01", "vmutils", "get_vm_snapshots", "web01", "before"},
		{"HV01", "vmutils", "set_vm_state", "web01", running},
		{"HV01", "livemigration", "live_migrate_vm", "web01", "HV02", true},
		{"HV02", "vmutils", "list_instances"},
		{"HV02", "vmutils", "set_vm_state", "web01", off},
		{"HV01", "hostutils", "get_pci_passthrough_devices"},
		{"HV01", "vmutils", "update_vm", "made", 2048, nil, 2, nil, false, 1, nil, nil, turnOff}, // as Nova does for PCI devices
		{"HV01", "vmutils", "add_pci_device", "made", "10DE", "25B6"},
		{"HV01", "vmutils", "vm_exists", "nobody"},
		{"HV01", "vmutils", "get_vm_id", "nobody"},
		{"HV01", "livemigration", "live_migrate_vm", "made", "HV09", true},
		{"HV01", "vmutils", "destroy_vm", "made"},
		{"HV01", "vmutils", "list_instances"},
	}
	got := osWin(t, sim, calls)
	if len(got) != len(calls) {
		t.Fatalf("%d answers to %d calls", len(got), len(calls))
	}
	for n, a := range got {
		t.Logf("%v -> %v %s %s", calls[n], a.Result, a.Error, a.Text)
	}
	want := map[int]string{0: `["web01"]`, 1: `[["web01",["made by the test"]]]`, 17: `["web01"]`, 22: `false`, 26: `[]`}
	wantErr := map[int]string{23: "HyperVVMNotFoundException", 24: "HyperVException"}
	for n, a := range got {
		if a.Error != wantErr[n] {
			t.Errorf("%v: %s %s", calls[n], a.Error, a.Text)
		}
		if w, ok := want[n]; ok {
			if b, err := json.Marshal(a.Result); err != nil || string(b) != w {
				t.Errorf("%v: %s, want %s", calls[n], b, w)
			}
		}
	}
	if s, ok := got[11].Result.(map[string]any); !ok || s["EnabledState"] != 2.0 || s["MemoryUsage"] != 2048.0 || s["NumberOfProcessors"] != 2.0 {
		t.Errorf("summary: %v", got[11].Result)
	}
	if l, ok := got[14].Result.([]any); !ok || len(l) != 1 {
		t.Errorf("checkpoints: %v", got[14].Result)
	}
	f := sim.Machines()
	if len(f) != 1 || f[0].Name != "web01" || f[0].Host != "HV02" || f[0].State != off || f[0].Checkpoints != 1 {
		t.Errorf("%+v", f)
	}
	if !slices.ContainsFunc(sim.Host(1).Files(), func(p string) bool { return strings.HasSuffix(p, ".avhdx") }) {
		t.Errorf("the checkpoint's disks did not come along: %v", sim.Host(1).Files())
	}
}

// enumerate is the envelope of a query.
func enumerate(wql string) string {
	return `<s:Envelope xmlns:s="` + soapNS + `" xmlns:a="` + addrNS + `" xmlns:w="` + wsmNS + `" xmlns:n="` + enumNS + `"><s:Header><w:ResourceURI s:mustUnderstand="true">` + wmiNS + virtNS +
		`/*</w:ResourceURI><a:Action s:mustUnderstand="true">` + enumNS + `/Enumerate</a:Action><a:MessageID>uuid:7</a:MessageID></s:Header><s:Body><n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>50</w:MaxElements><w:Filter Dialect="http://schemas.microsoft.com/wbem/wsman/1/WQL">` +
		esc(wql) + `</w:Filter></n:Enumerate></s:Body></s:Envelope>`
}

// TestPythonWinRM lets python3-winrm, a client of real WinRM, carry queries and faults, in the clear over TLS and sealed over HTTP.
func TestPythonWinRM(t *testing.T) {
	sim := start(t, hvsim.Config{})
	h := sim.Host(0)
	if _, err := h.Add(hvsim.Machine{Name: "<one> & \"two\""}); err != nil {
		t.Fatal(err)
	}
	ca := caFile(t, sim)
	msg := func(url, transport, pass, enc, wql string) map[string]string {
		return map[string]string{"url": url, "transport": transport, "user": "Administrator", "password": pass, "ca": ca, "encryption": enc, "body": enumerate(wql)}
	}
	const good = "SELECT ElementName FROM Msvm_VirtualSystemSettingData"
	out := python(t, []any{
		msg(h.URL(), "basic", sim.Password(), "auto", good),
		msg(h.HTTPURL(), "ntlm", sim.Password(), "always", good),
		msg(h.URL(), "ntlm", sim.Password(), "never", good),
		msg(h.URL(), "basic", sim.Password(), "auto", "SELECT * FROM Nothing"),
		msg(h.URL(), "basic", "wrong", "auto", good),
		msg(h.HTTPURL(), "ntlm", "wrong", "always", good),
	}, []string{"python3-winrm"}, "send.py")
	d := json.NewDecoder(bytes.NewReader(out))
	var got []answer
	for d.More() {
		var a answer
		if err := d.Decode(&a); err != nil {
			t.Fatal(err)
		}
		got = append(got, a)
	}
	if len(got) != 6 {
		t.Fatalf("%s", out)
	}
	for n := range 3 {
		s, _ := got[n].Result.(string)
		if !strings.Contains(s, "&lt;one&gt; &amp; &#34;two&#34;") {
			t.Errorf("%d: %+v", n, got[n])
		}
	}
	if a := got[3]; a.Error == "" || !strings.Contains(a.Text, "n:CannotProcessFilter") {
		t.Errorf("a fault: %+v", a)
	}
	for n := 4; n < 6; n++ {
		if got[n].Error != "InvalidCredentialsError" {
			t.Errorf("%d: %+v", n, got[n])
		}
	}
	if n := sim.Calls()["HTTP sealed"]; n != 1 {
		t.Errorf("%d sealed messages", n)
	}
}
