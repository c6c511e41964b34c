package xapisim_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client is a bare JSON-RPC client for these tests.
type client struct {
	t       *testing.T
	http    *http.Client
	url     string
	session string
}

// apiError is a refused call.
type apiError struct {
	Code   string
	Params []string
}

func (e *apiError) Error() string { return fmt.Sprint(e.Code, e.Params) }

func start(t *testing.T, cfg xapisim.Config) (*xapisim.Sim, *client) {
	t.Helper()
	sim, err := xapisim.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	return sim, login(t, sim)
}

func login(t *testing.T, sim *xapisim.Sim) *client {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: sim.CertPool()}}
	t.Cleanup(tr.CloseIdleConnections)
	c := &client{t: t, http: &http.Client{Transport: tr}, url: sim.URL()}
	c.session = c.must("session.login_with_password", sim.User(), sim.Password(), "2.0", "test").(string)
	return c
}

func (c *client) post(path, body string) (int, string) {
	c.t.Helper()
	r, err := c.http.Post(c.url+path, "application/json", strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func (c *client) raw(method string, params ...any) (any, error) {
	if params == nil {
		params = []any{}
	}
	b, _ := json.Marshal(map[string]any{"jsonrpc": "2.0", "method": method, "params": params, "id": 1})
	r, err := c.http.Post(c.url+"/jsonrpc", "application/json", bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	var out struct {
		Result any
		Error  *struct {
			Message string
			Data    []string
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&out); err != nil {
		return nil, err
	}
	if out.Error != nil {
		return nil, &apiError{out.Error.Message, out.Error.Data}
	}
	return out.Result, nil
}

// call adds the session.
func (c *client) call(method string, params ...any) (any, error) {
	return c.raw(method, append([]any{c.session}, params...)...)
}

// must calls and fails the test on an error; it adds the session unless there is none yet.
func (c *client) must(method string, params ...any) any {
	c.t.Helper()
	if c.session != "" {
		params = append([]any{c.session}, params...)
	}
	v, err := c.raw(method, params...)
	if err != nil {
		c.t.Fatalf("%s: %v", method, err)
	}
	return v
}

func (c *client) ref(method string, params ...any) string {
	c.t.Helper()
	s, _ := c.must(method, params...).(string)
	return s
}

// refused calls and wants exactly this code and these parameters.
func (c *client) refused(code string, want []string, method string, params ...any) {
	c.t.Helper()
	_, err := c.call(method, params...)
	e, ok := err.(*apiError)
	if !ok {
		c.t.Fatalf("%s: got %v, want %s", method, err, code)
	}
	if e.Code != code || (want != nil && fmt.Sprint(e.Params) != fmt.Sprint(want)) {
		c.t.Fatalf("%s: got %s %q, want %s %q", method, e.Code, e.Params, code, want)
	}
}

// wait waits for a task by event.from and gives its record.
func (c *client) wait(task string) map[string]any {
	c.t.Helper()
	token := ""
	for {
		v := c.must("event.from", []string{"task/" + task}, token, 20.0).(map[string]any)
		token = v["token"].(string)
		for _, e := range v["events"].([]any) {
			snap, _ := e.(map[string]any)["snapshot"].(map[string]any)
			if snap != nil && snap["status"] != "pending" {
				return snap
			}
		}
	}
}

// newVM makes a VM of 1 GiB without devices and gives its reference.
func (c *client) newVM(name string, with map[string]any) string {
	c.t.Helper()
	const gib = 1 << 30
	rec := map[string]any{
		"name_label": name, "name_description": "", "user_version": 1, "is_a_template": false, "affinity": "OpaqueRef:NULL",
		"memory_static_max": gib, "memory_dynamic_max": gib, "memory_dynamic_min": gib, "memory_static_min": gib / 2, "VCPUs_params": map[string]any{},
		"VCPUs_max": 2, "VCPUs_at_startup": 1, "actions_after_shutdown": "destroy", "actions_after_reboot": "restart",
		"actions_after_crash": "restart", "PV_bootloader": "", "PV_kernel": "", "PV_ramdisk": "", "PV_args": "", "PV_bootloader_args": "",
		"PV_legacy_args": "", "HVM_boot_policy": "BIOS order", "HVM_boot_params": map[string]any{"order": "cd"}, "platform": map[string]any{},
		"PCI_bus": "", "other_config": map[string]any{}, "recommendations": "",
	}
	for k, v := range with {
		rec[k] = v
	}
	return c.ref("VM.create", rec)
}

// addDisk gives a VM a disk on the pool's default SR.
func (c *client) addDisk(vm, device string, size int64) (vdi, vbd string) {
	c.t.Helper()
	pools := c.must("pool.get_all").([]any)
	sr := c.ref("pool.get_default_SR", pools[0])
	vdi = c.ref("VDI.create", map[string]any{
		"name_label": "disk" + device, "name_description": "", "SR": sr, "virtual_size": size, "type": "user", "sharable": false, "read_only": false,
		"other_config": map[string]any{},
	})
	vbd = c.ref("VBD.create", map[string]any{
		"VM": vm, "VDI": vdi, "userdevice": device, "bootable": true, "mode": "RW", "type": "Disk", "empty": false,
		"other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{},
	})
	return vdi, vbd
}

func list(v any) []string {
	var out []string
	for _, x := range v.([]any) {
		out = append(out, x.(string))
	}
	return out
}

// benchClient logs in and gives a function that calls a message and throws the answer away.
func benchClient(b *testing.B, sim *xapisim.Sim) func(method string) {
	b.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: sim.CertPool()}}
	b.Cleanup(tr.CloseIdleConnections)
	h := &http.Client{Transport: tr}
	send := func(method string, params ...string) []byte {
		body, _ := json.Marshal(map[string]any{"jsonrpc": "2.0", "method": method, "params": params, "id": 1})
		r, err := h.Post(sim.URL()+"/jsonrpc", "application/json", bytes.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		defer r.Body.Close()
		out, err := io.ReadAll(r.Body)
		if err != nil {
			b.Fatal(err)
		}
		return out
	}
	var in struct{ Result string }
	if err := json.Unmarshal(send("session.login_with_password", sim.User(), sim.Password()), &in); err != nil {
		b.Fatal(err)
	}
	return func(method string) { send(method, in.Result) }
}
