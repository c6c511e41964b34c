package xapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/hypervisor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers calls with what f returns: a result, an error of the API, or
// nil to break the connection.
func server(t *testing.T, address string, f func(method string, params []any) any) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Method string
			Params []any
			ID     int
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		answer := map[string]any{"jsonrpc": "2.0", "id": q.ID}
		switch v := f(q.Method, q.Params).(type) {
		case nil:
			panic(http.ErrAbortHandler)
		case int:
			w.WriteHeader(v)
			return
		case *Error:
			data := []any{}
			for _, p := range v.Params {
				data = append(data, p)
			}
			answer["error"] = map[string]any{"code": 1, "message": v.Code, "data": data}
		default:
			answer["result"] = v
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	if address != "" {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatalf("%s can't be listened on: %v", address, err)
		}
		s.Listener.Close()
		s.Listener = l
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func dial(t *testing.T, s *httptest.Server) (*Client, error) {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return Open(t.Context(), Config{URL: u, Username: "root", Password: "s3cret-word"})
}

func open(t *testing.T, s *httptest.Server) *Client {
	t.Helper()
	c, err := dial(t, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func login(method string) any {
	if method == "session.login_with_password" {
		return "OpaqueRef:session"
	}
	return ""
}

func TestSentOnceOrTwice(t *testing.T) {
	for _, c := range []struct {
		method string
		sent   int32
		lost   bool
	}{{"VM.get_record", 2, true}, {"VM.start", 1, true}, {"VM.destroy", 1, true}, {"VM.assert_can_migrate", 2, true}, {"event.from", 2, true}} {
		var n atomic.Int32
		cl := open(t, server(t, "", func(m string, _ []any) any {
			if m == c.method {
				n.Add(1)
				return nil
			}
			return login(m)
		}))
		err := cl.Call(t.Context(), nil, c.method, "OpaqueRef:x")
		if n.Load() != c.sent || Lost(err) != c.lost || Unsent(err) {
			t.Errorf("%s was sent %d times, want %d: %v", c.method, n.Load(), c.sent, err)
		}
	}
}

func TestAnswers(t *testing.T) {
	var answer any
	c := open(t, server(t, "", func(m string, _ []any) any {
		if m == "VM.get_name_label" {
			return answer
		}
		return login(m)
	}))
	var name string
	call := func(v any) error {
		answer = v
		return c.Call(t.Context(), &name, "VM.get_name_label", "OpaqueRef:x")
	}
	if err := call("web-01"); err != nil || name != "web-01" {
		t.Errorf("%q, %v", name, err)
	}
	var e *Error
	if err := call(&Error{"HANDLE_INVALID", []string{"VM", "OpaqueRef:x"}}); !errors.As(err, &e) || e.Error() != "HANDLE_INVALID(VM, OpaqueRef:x)" || Code(err) != "HANDLE_INVALID" {
		t.Errorf("%v", err)
	}
	for _, odd := range []any{500, 17.5, map[string]any{"a": 1}} {
		if err := call(odd); !Lost(err) || strings.Contains(fmt.Sprint(err), "s3cret-word") || strings.Contains(fmt.Sprint(err), "OpaqueRef:session") {
			t.Errorf("%v: %v", odd, err)
		}
	}
}

// TestMasterDown lets the master go away: another member knows the new one.
func TestMasterDown(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere than on Linux only 127.0.0.1 of the loopback addresses can be listened on")
	}
	first := server(t, "127.0.0.1:0", func(m string, _ []any) any { return login(m) })
	_, port, err := net.SplitHostPort(first.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server(t, "127.0.0.2:"+port, func(string, []any) any { return &Error{"HOST_IS_SLAVE", []string{"127.0.0.3"}} })
	server(t, "127.0.0.3:"+port, func(m string, _ []any) any {
		if m == "VM.get_name_label" || m == "VM.start" {
			return "third"
		}
		return login(m)
	})
	c := open(t, first)
	c.SetMembers([]string{"127.0.0.1", "127.0.0.2", "127.0.0.3"})
	first.Close()
	// A kept connection that turns out to be dead leaves open whether the
	// message arrived; here the next one must be dialled.
	c.http.CloseIdleConnections()
	var name string
	if err := c.Call(t.Context(), &name, "VM.start", "OpaqueRef:x"); err != nil || name != "third" {
		t.Fatalf("%q, %v", name, err)
	}
	if c.Address() != "http://127.0.0.3:"+port {
		t.Errorf("the master is %s", c.Address())
	}
}

func TestCloseEndsLongPolls(t *testing.T) {
	waiting := make(chan struct{})
	release := make(chan struct{})
	s := server(t, "", func(m string, _ []any) any {
		if m == "event.from" {
			close(waiting)
			<-release
		}
		return login(m)
	})
	defer close(release)
	c := open(t, s)
	result := make(chan error, 1)
	go func() { _, err := c.From(context.Background(), []string{"VM"}, "", time.Hour); result <- err }()
	<-waiting
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(err, hypervisor.ErrClosed) {
		t.Errorf("the poll ended with %v", err)
	}
	if err := c.Call(t.Context(), nil, "VM.get_all"); !errors.Is(err, hypervisor.ErrClosed) {
		t.Errorf("a call after Close: %v", err)
	}
}

func TestTexts(t *testing.T) {
	for in, want := range map[Float]string{0: "0.0", 30: "30.0", 0.25: "0.25"} {
		if b, err := in.MarshalJSON(); err != nil || string(b) != want {
			t.Errorf("%v is sent as %s, %v", float64(in), b, err)
		}
	}
	at := time.Date(2026, 11, 22, 23, 41, 57, 0, time.UTC)
	for in, want := range map[string]time.Time{`"20261122T23:41:57Z"`: at, `"2026-11-22T23:41:57Z"`: at, `"19700101T00:00:00Z"`: {}, `"soon"`: {}} {
		var got Time
		if err := json.Unmarshal([]byte(in), &got); err != nil || !got.Equal(want) {
			t.Errorf("%s is %v, %v", in, got, err)
		}
	}
	for in, want := range map[string]Ref{"<value>OpaqueRef:1</value>": "OpaqueRef:1", " OpaqueRef:2 ": "OpaqueRef:2", "": "", "<value></value>": ""} {
		if got := (Task{Result: in}).ResultRef(); got != want {
			t.Errorf("%q is %q", in, got)
		}
	}
	for base, want := range map[string]string{"https://10.0.0.1": "https://10.0.0.2", "https://10.0.0.1:444": "https://10.0.0.2:444"} {
		if got := withHost(base, "10.0.0.2"); got != want {
			t.Errorf("%s becomes %s", base, got)
		}
	}
	if got := withHost("https://h:444", "fd00::2"); got != "https://[fd00::2]:444" {
		t.Error(got)
	}
}

// TestNullResult: null where a value is due is no answer, neither for a login
// nor for a list.
func TestNullResult(t *testing.T) {
	null := false
	s := server(t, "", func(method string, _ []any) any {
		if null || method == "session.logout" {
			return json.RawMessage("null")
		}
		return "OpaqueRef:session"
	})
	c := open(t, s)
	null = true
	var all map[Ref]any
	if err := c.Call(t.Context(), &all, "VM.get_all_records"); !lost(err) || !strings.Contains(err.Error(), "null") {
		t.Errorf("a list: %v", err)
	}
	if err := c.Call(t.Context(), nil, "VM.destroy"); err != nil {
		t.Errorf("a call without a result: %v", err)
	}
	if _, err := dial(t, s); !lost(err) {
		t.Errorf("a login: %v", err)
	}
	for _, text := range []string{`{"jsonrpc":"2.0","id":1}`, `null`, `{}`} {
		if err := jsonAnswer([]byte(text), &all); err == nil {
			t.Errorf("%s is an answer", text)
		}
	}
}

// TestStrangeMaster: a host that names something else as its master does not
// get the password sent there.
func TestStrangeMaster(t *testing.T) {
	var logins atomic.Int32
	other := server(t, "127.0.0.2:0", func(string, []any) any { logins.Add(1); return "OpaqueRef:session" })
	_, port, err := net.SplitHostPort(other.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	master := ""
	s := server(t, "", func(method string, _ []any) any {
		if master != "" {
			return &Error{"HOST_IS_SLAVE", []string{master}}
		}
		return "OpaqueRef:session"
	})
	c := open(t, s)
	c.SetMembers([]string{"127.0.0.1"})
	for _, master = range []string{"127.0.0.2:" + port, "user:pw@127.0.0.2:" + port, "127.0.0.2:" + port + "/x?y", "", " ", "127.0.0.1@127.0.0.2:" + port, "a b", "h\x00"} {
		if master == "" {
			continue
		}
		if err := c.Call(t.Context(), nil, "VM.destroy"); !Unsent(err) {
			t.Errorf("%q: %v", master, err)
		}
		if _, err := dial(t, s); master != "127.0.0.2:"+port && err == nil {
			t.Errorf("%q is a master", master)
		}
	}
	if n := logins.Load(); n > 1 { // the one of dial, which knows no members yet
		t.Errorf("%d logins at the other server", n)
	}
}
