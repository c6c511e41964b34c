package xapisim_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestWire compares bodies byte for byte with the form in which a real xapi 24.11 answered the same requests. In both, SESSION is the
// session, HOST the host's reference and REF any other reference.
func TestWire(t *testing.T) {
	sim, c := start(t, xapisim.Config{})
	host := c.hosts()[0]
	ref := regexp.MustCompile(`OpaqueRef:[0-9a-f-]{36}`)
	stamp := regexp.MustCompile(`\d{8}T\d\d:\d\d:\d\dZ`)
	mask := func(s string) string {
		s = strings.ReplaceAll(strings.ReplaceAll(s, c.session, "SESSION"), host, "HOST")
		return stamp.ReplaceAllString(ref.ReplaceAllString(s, "REF"), "DATE")
	}
	const xmlOK = `<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name><value>Success</value></member><member><name>Value</name>`
	const xmlEnd = `</member></struct></value></param></params></methodResponse>`
	const xmlBad = `<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name><value>Failure</value></member><member><name>ErrorDescription</name><value><array><data>`
	call := func(method string, params ...string) string {
		s := `<?xml version="1.0"?><methodCall><methodName>` + method + `</methodName><params>`
		for _, p := range params {
			s += "<param><value>" + p + "</value></param>"
		}
		return s + "</params></methodCall>"
	}
	page := func(text string) string {
		return "<html><body><h1>HTTP 500 internal server error</h1>An unexpected error occurred; please wait a while and try again. If the problem persists, please contact your support representative.<h1> Additional information </h1>" + text + "</body></html>"
	}
	for _, x := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/jsonrpc", `{"jsonrpc":"2.0","method":"host.get_all","params":["SESSION"],"id":"str-id"}`, 200, `{"jsonrpc":"2.0","result":["HOST"],"id":"str-id"}`},
		{"/jsonrpc", `{"method":"host.get_all","params":["SESSION"],"id":7}`, 200, `{"result":["HOST"],"error":null,"id":7}`},
		{"/jsonrpc", `{"method":"host.get_all","params":["bogus"],"id":7}`, 200, `{"result":null,"error":["SESSION_INVALID","bogus"],"id":7}`},
		{"/jsonrpc", `{"jsonrpc":"2.0","method":"host.get_all","params":["bogus"],"id":7}`, 200, `{"jsonrpc":"2.0","error":{"code":1,"message":"SESSION_INVALID","data":["bogus"]},"id":7}`},
		{"/jsonrpc", `{"jsonrpc":"2.0","method":"host.get_all","params":[],"id":7}`, 200, `{"jsonrpc":"2.0","error":{"code":1,"message":"MESSAGE_PARAMETER_COUNT_MISMATCH","data":["host.get_all","0","-1"]},"id":7}`},
		{"/jsonrpc", `{"jsonrpc":"2.0","method":"host.get_all","params":{},"id":1}`, 200, `{"jsonrpc":"2.0","error":{"code":1,"message":"INTERNAL_ERROR","data":["Expected string, got '{}'"]},"id":1}`},
		{"/jsonrpc", `{"jsonrpc":"2.0","method":"host.get_all","params":5,"id":1}`, 500, page("Jsonrpc.Malformed_method_request(&quot;Invalid request body&quot;)")},
		{"/jsonrpc", `{"jsonrpc":"2.0","method":"host.nosuch","params":["SESSION"],"id":7}`, 200, `{"jsonrpc":"2.0","error":{"code":1,"message":"MESSAGE_METHOD_UNKNOWN","data":["host.nosuch"]},"id":7}`},
		{"/jsonrpc", `{"jsonrpc":"2.0","method":"VM.get_record","params":["SESSION","OpaqueRef:xx"],"id":7}`, 200, `{"jsonrpc":"2.0","error":{"code":1,"message":"HANDLE_INVALID","data":["VM","OpaqueRef:xx"]},"id":7}`},
		{"/jsonrpc", `{"jsonrpc":"2.0","method":"VM.get_by_uuid","params":["SESSION","nope"],"id":7}`, 200, `{"jsonrpc":"2.0","error":{"code":1,"message":"UUID_INVALID","data":["VM","nope"]},"id":7}`},
		{"/jsonrpc", `[{"jsonrpc":"2.0","method":"host.get_all","params":["SESSION"],"id":1}]`, 500, page("Jsonrpc.Malformed_method_request(&quot;Invalid request body&quot;)")},
		{"/jsonrpc", `garbage`, 500, page("Yojson.Json_error(&quot;Line 1, bytes 0-7:\\nInvalid token &apos;garbage&apos;&quot;)")},
		{"/", `{"jsonrpc":"2.0","method":"host.get_all","params":["SESSION"],"id":7}`, 500, page("Xmlm.Error(1:1, &quot;expected root element&quot;)")},
		{"/jsonrpc", `{"jsonrpc":"2.0","method":"Async.host.get_all","params":["SESSION"],"id":7}`, 200, `{"jsonrpc":"2.0","error":{"code":1,"message":"Fault","data":["No async mode for this operation (rpc: host.get_all)"]},"id":7}`},
		{"/jsonrpc", `{"jsonrpc":"2.0","method":"Async.VM.start","params":["SESSION","OpaqueRef:xx",false,false],"id":7}`, 200, `{"jsonrpc":"2.0","result":"REF","id":7}`},
		{"/jsonrpc", `{"jsonrpc":"2.0","method":"host.get_servertime","params":["SESSION","HOST"],"id":1}`, 200, `{"jsonrpc":"2.0","result":"DATE","id":1}`},
		{"/jsonrpc", `{"jsonrpc":"2.0","method":"host.compute_free_memory","params":["SESSION","HOST"],"id":1}`, 200, `{"jsonrpc":"2.0","result":65498251264,"id":1}`},
		{"/jsonrpc", `{"jsonrpc":"2.0","method":"host.get_enabled","params":["SESSION","HOST"]}`, 500, page("Jsonrpc.Malformed_method_request(&quot;Invalid field id&quot;)")},
		{"/", call("session.login_with_password", sim.User(), sim.Password(), "2.0", "wire"), 200, xmlOK + "<value>REF</value>" + xmlEnd},
		{"/RPC2", call("host.get_all", "SESSION"), 200, xmlOK + "<value><array><data><value>HOST</value></data></array></value>" + xmlEnd},
		{"/", call("host.get_all", "bogus"), 200, xmlBad + "<value>SESSION_INVALID</value><value>bogus</value></data></array></value>" + xmlEnd},
		{"/", call("host.get_servertime", "SESSION", "HOST"), 200, xmlOK + "<value><dateTime.iso8601>DATE</dateTime.iso8601></value>" + xmlEnd},
		{"/", call("host.compute_free_memory", "SESSION", "HOST"), 200, xmlOK + "<value>65498251264</value>" + xmlEnd},
		{"/", call("host.get_enabled", "SESSION", "HOST"), 200, xmlOK + "<value><boolean>1</boolean></value>" + xmlEnd},
		{"/", call("host.nosuch", "SESSION"), 200, xmlBad + "<value>MESSAGE_METHOD_UNKNOWN</value><value>host.nosuch</value></data></array></value>" + xmlEnd},
		{"/", call("host.get_all"), 200, xmlBad + "<value>MESSAGE_PARAMETER_COUNT_MISMATCH</value><value>host.get_all</value><value>0</value><value>-1</value></data></array></value>" + xmlEnd},
		{"/", call("session.logout", "SESSION"), 200, xmlOK + "<value></value>" + xmlEnd},
	} {
		body := strings.ReplaceAll(strings.ReplaceAll(x.body, "SESSION", c.session), "HOST", host)
		status, got := c.post(x.path, body)
		if got = mask(got); status != x.status || got != x.want {
			t.Errorf("POST %s %s\ngot  %d %s\nwant %d %s", x.path, x.body, status, got, x.status, x.want)
		}
	}
}

func TestSoftwareVersionXML(t *testing.T) {
	_, c := start(t, xapisim.Config{})
	_, got := c.post("/", `<methodCall><methodName>host.get_software_version</methodName><params><param><value><string>`+c.session+`</string></value></param><param><value><string>`+c.hosts()[0]+`</string></value></param></params></methodCall>`)
	if !strings.Contains(got, "<member><name>product_version</name><value>8.4.0</value></member>") {
		t.Error(got)
	}
}

func TestWrongTypes(t *testing.T) {
	_, c := start(t, xapisim.Config{})
	vm := c.newVM("w", nil)
	for _, x := range []struct {
		want   string
		method string
		args   []any
	}{
		{"Expected bool, got 'S(yes)'", "VM.start", []any{vm, "yes", false}},
		{"Expected string, got 'I(5)'", "VM.set_name_label", []any{vm, 5}},
		{"Expected int64, got 'B(true)'", "VM.set_VCPUs_max", []any{vm, true}},
		{"Unknown tag/contents", "VM.set_actions_after_shutdown", []any{vm, "explode"}},
		{"bad __structure", "VM.create", []any{"x"}},
		{`Server_helpers.Dispatcher_FieldNotFound("name_label")`, "VDI.create", []any{map[string]any{}}},
	} {
		_, err := c.call(x.method, x.args...)
		e, ok := err.(*apiError)
		if !ok || e.Code != "INTERNAL_ERROR" {
			t.Errorf("%s: %v", x.method, err)
			continue
		}
		if x.method == "VDI.create" && strings.HasPrefix(e.Params[0], "Server_helpers.Dispatcher_FieldNotFound(") {
			continue
		}
		if e.Params[0] != x.want {
			t.Errorf("%s: %q, want %q", x.method, e.Params[0], x.want)
		}
	}
	c.must("VM.add_to_other_config", vm, "k", "v")
	c.refused("MAP_DUPLICATE_KEY", []string{"VM", "other_config", vm, "k"}, "VM.add_to_other_config", vm, "k", "w")
	c.must("VM.add_to_blocked_operations", vm, "start", "BECAUSE")
	c.refused("OPERATION_BLOCKED", []string{vm, "BECAUSE"}, "VM.start", vm, false, false)
	c.refused("MESSAGE_PARAMETER_COUNT_MISMATCH", []string{"VM.snapshot", "2", "1"}, "VM.snapshot", vm)
	c.refused("NOT_IMPLEMENTED", []string{"VM.get_data_sources"}, "VM.get_data_sources", vm)
	c.refused("MEMORY_CONSTRAINT_VIOLATION_ORDER", []string{}, "VM.set_memory_limits", vm, 5, 4, 3, 2)
}

// TestRandomPassword: each simulator has a password of its own, and accepts no other one.
func TestRandomPassword(t *testing.T) {
	a, c := start(t, xapisim.Config{})
	b, _ := start(t, xapisim.Config{})
	if len(a.Password()) < 20 || a.Password() == b.Password() {
		t.Errorf("passwords %q and %q", a.Password(), b.Password())
	}
	for _, word := range []string{b.Password(), "xapisim", ""} {
		for _, method := range []string{"session.login_with_password", "session.slave_local_login_with_password"} {
			_, err := c.raw(method, "root", word)
			var refusal *apiError
			if !errors.As(err, &refusal) || refusal.Code != "SESSION_AUTHENTICATION_FAILED" {
				t.Errorf("%s with %q: %v", method, word, err)
			}
		}
	}
}
