package xapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/internal/guard"
)

// serve answers every request of a path with what f makes of its body; other
// paths are not found.
func serve(t *testing.T, path string, f func(body string) string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.URL.Path != path {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, f(string(b)))
	}))
	t.Cleanup(s.Close)
	return s
}

const (
	xmlOK  = `<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name><value>Success</value></member><member><name>Value</name>%s</member></struct></value></param></params></methodResponse>`
	xmlBad = `<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name><value>Failure</value></member><member><name>ErrorDescription</name><value><array><data>%s</data></array></value></member></struct></value></param></params></methodResponse>`
)

// TestXMLRPC talks to a server without JSON-RPC that doesn't take the
// originator either.
func TestXMLRPC(t *testing.T) {
	var answer, asked string
	c := open(t, serve(t, "/", func(body string) string {
		switch {
		case strings.Contains(body, "<string>"+originator+"</string>"):
			return fmt.Sprintf(xmlBad, "<value>MESSAGE_PARAMETER_COUNT_MISMATCH</value><value>session.login_with_password</value><value>3</value><value>4</value>")
		case strings.Contains(body, "login_with_password"):
			return fmt.Sprintf(xmlOK, "<value>OpaqueRef:session</value>")
		case strings.Contains(body, "logout"):
			return fmt.Sprintf(xmlOK, "<value></value>")
		}
		asked = body
		return answer
	}))
	type record struct {
		UUID  string            `json:"uuid"`
		Max   int64             `json:"memory_static_max"`
		Tmpl  bool              `json:"is_a_template"`
		VBDs  []Ref             `json:"VBDs"`
		Other map[string]string `json:"other_config"`
		Taken Time              `json:"snapshot_time"`
		Mult  float64           `json:"HVM_shadow_multiplier"`
	}
	answer = fmt.Sprintf(xmlOK, "<value><struct><member><name>OpaqueRef:1</name><value><struct><member><name>uuid</name><value>12</value></member>"+
		"<member><name>memory_static_max</name><value>8589934592</value></member><member><name>is_a_template</name><value><boolean>1</boolean></value></member>"+
		"<member><name>VBDs</name><value><array><data><value>OpaqueRef:2</value><value><string>OpaqueRef:3</string></value></data></array></value></member>"+
		"<member><name>other_config</name><value><struct><member><name>a&lt;b</name><value>7 &amp; &quot;8&quot;</value></member><member><name>n</name><value>5</value></member></struct></value></member>"+
		"<member><name>field_of_a_later_version</name><value>9</value></member>"+
		"<member><name>HVM_shadow_multiplier</name><value><double>1.5</double></value></member>"+
		"<member><name>snapshot_time</name><value><dateTime.iso8601>20261122T23:41:57Z</dateTime.iso8601></value></member></struct></value></member></struct></value>")
	var all map[Ref]record
	if err := c.Call(t.Context(), &all, "VM.get_all_records"); err != nil {
		t.Fatal(err)
	}
	want := record{"12", 1 << 33, true, []Ref{"OpaqueRef:2", "OpaqueRef:3"}, map[string]string{"a<b": `7 & "8"`, "n": "5"},
		Time{time.Date(2026, 11, 22, 23, 41, 57, 0, time.UTC)}, 1.5}
	if got := all["OpaqueRef:1"]; !reflect.DeepEqual(got, want) {
		t.Errorf("the record is %+v", got)
	}

	answer = fmt.Sprintf(xmlOK, "<value></value>")
	if err := c.Call(t.Context(), nil, "VM.create", map[string]any{"b": true, "a": "x<y", "n": 3, "f": Float(2)}, []string{"r"}); err != nil {
		t.Fatal(err)
	}
	if want := `<?xml version="1.0"?><methodCall><methodName>VM.create</methodName><params><param><value><string>OpaqueRef:session</string></value></param>` +
		`<param><value><struct><member><name>a</name><value><string>x&lt;y</string></value></member><member><name>b</name><value><boolean>1</boolean></value></member>` +
		`<member><name>f</name><value><double>2.0</double></value></member><member><name>n</name><value><string>3</string></value></member></struct></value></param>` +
		`<param><value><array><data><value><string>r</string></value></data></array></value></param></params></methodCall>`; asked != want {
		t.Errorf("sent\n%s\nwant\n%s", asked, want)
	}

	answer = fmt.Sprintf(xmlBad, "<value>HANDLE_INVALID</value><value>VM</value><value>OpaqueRef:x</value>")
	var e *Error
	if err := c.Call(t.Context(), nil, "VM.start", "OpaqueRef:x", false, false); !errors.As(err, &e) || e.Error() != "HANDLE_INVALID(VM, OpaqueRef:x)" {
		t.Errorf("%v", err)
	}

	answer = fmt.Sprintf(xmlOK, "<value><struct><member><name>events</name><value><array><data><value><struct><member><name>snapshot</name><value><struct>"+
		"<member><name>memory_target</name><value>77</value></member></struct></value></member><member><name>class</name><value>vm</value></member>"+
		"<member><name>ref</name><value>OpaqueRef:1</value></member></struct></value></data></array></value></member><member><name>token</name><value>1,2</value></member></struct></value>")
	got, err := c.From(t.Context(), []string{"VM"}, "", time.Second)
	if err != nil || got.Token != "1,2" || len(got.Events) != 1 || string(got.Events[0].Snapshot) != `{"memory_target":77}` {
		t.Errorf("%+v, %v", got, err)
	}

	for _, odd := range []string{"", "<html>", "<html></html>", "<methodResponse><fault></fault></methodResponse>", fmt.Sprintf(xmlBad, ""), "{}",
		fmt.Sprintf(xmlOK, "<value><array><data><value>no string</value></data></array></value>")} {
		answer = odd
		var name string
		if err := c.Call(t.Context(), &name, "VM.get_name_label", "OpaqueRef:x"); !Lost(err) {
			t.Errorf("%q: %v", odd, err)
		}
	}
}

// TestJSONRPC1 reads the answers of a server that knows JSON-RPC 1.0 alone.
func TestJSONRPC1(t *testing.T) {
	c := open(t, serve(t, "/jsonrpc", func(body string) string {
		if strings.Contains(body, "VM.start") {
			return `{"result":null,"error":["HANDLE_INVALID","VM","OpaqueRef:x"],"id":1}`
		}
		return `{"result":"OpaqueRef:session","error":null,"id":1}`
	}))
	var e *Error
	if err := c.Call(t.Context(), nil, "VM.start", "OpaqueRef:x", false, false); !errors.As(err, &e) || e.Error() != "HANDLE_INVALID(VM, OpaqueRef:x)" {
		t.Errorf("%v", err)
	}
}

// TestNoPool meets a web server that is no pool: the error is that of the
// first try.
func TestNoPool(t *testing.T) {
	for path, body := range map[string]string{"/": "<html></html>", "/elsewhere": ""} {
		s := serve(t, path, func(string) string { return body })
		if _, err := dial(t, s); !Lost(err) || !strings.Contains(err.Error(), "404") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestNestedXML: an answer that would fill the stack.
func TestNestedXML(t *testing.T) {
	text := "<methodResponse><params><param><value><struct><member><name>Status</name><value>Success</value></member><member><name>Value</name>" +
		strings.Repeat("<value><array><data>", 1000) + strings.Repeat("</data></array></value>", 1000) + "</member></struct></value></param></params></methodResponse>"
	var got any
	if err := xmlAnswer("VM.get_record", []byte(text), &got); !errors.As(err, new(*guard.LimitError)) {
		t.Errorf("%v", err)
	}
}
