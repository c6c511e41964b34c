package hostile

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

const (
	patience = 150 * time.Millisecond // of a call's context
	slack    = 3 * time.Second        // in which it must have returned, on a busy machine
	peak     = 300 << 20              // bytes of memory
)

// Password is what no error may hold. The servers that Turned stands before
// must have it.
const Password = "S3cr3t-Pa55"

// lies change honest answers.
var lies = map[string]func([]byte) []byte{
	"truncated":  func(b []byte) []byte { return b[:len(b)/2] },
	"doubled":    func(b []byte) []byte { return append(b, b...) },
	"null":       func(b []byte) []byte { return result.ReplaceAll(b, []byte(`"result":null}`)) },
	"nothing":    func([]byte) []byte { return nil },
	"empty text": func(b []byte) []byte { return text.ReplaceAll(b, []byte("><")) },
	"empty JSON texts": func(b []byte) []byte {
		return jsonText.ReplaceAll(b, []byte(`:""`))
	},
	"other types": func(b []byte) []byte { return xsi.ReplaceAll(b, []byte(`type="xsd:string"`)) },
	"other JSON types": func(b []byte) []byte {
		return jsonText.ReplaceAll(b, []byte(`:{"a":[1,null]}`))
	},
	"no numbers":   func(b []byte) []byte { return number.ReplaceAll(b, []byte("-99999999999999999999")) },
	"strange text": func(b []byte) []byte { return text.ReplaceAll(b, []byte("> \u202e..\\..%2f%00&#xA;&lt;CON:/ <")) },
	"other bytes": func(b []byte) []byte {
		b = bytes.Clone(b)
		for range 1 + len(b)/200 {
			if len(b) > 0 {
				b[rand.IntN(len(b))] = byte(rand.Uint32())
			}
		}
		return b
	},
}

var (
	result   = regexp.MustCompile(`(?s)"result":.*`)
	text     = regexp.MustCompile(`>[^<>]+<`)
	xsi      = regexp.MustCompile(`type="[^"]*"`)
	jsonText = regexp.MustCompile(`:"[^"]*"`)
	number   = regexp.MustCompile(`\b\d+\b`)
)

// replies take the place of an honest answer.
func replies(trap string) map[string]func(http.ResponseWriter, *http.Request) {
	out := map[string]func(http.ResponseWriter, *http.Request){
		"slow": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, "<")
				w.(http.Flusher).Flush()
				time.Sleep(20 * time.Millisecond)
			}
		},
		"none":      func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"empty 200": func(http.ResponseWriter, *http.Request) {},
		"empty 500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"large header": func(w http.ResponseWriter, _ *http.Request) {
			for i := range 2000 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 8000))
			}
		},
		"compressed": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			for more := bytes.Repeat([]byte("<a>"), 1<<16); r.Context().Err() == nil; {
				if _, err := z.Write(more); err != nil {
					return
				}
			}
		},
		"10 GB announced": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10000000000")
			_, _ = io.WriteString(w, `{"a":`)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"broken off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			_, _ = io.WriteString(w, `{"a":<a>`)
			panic(http.ErrAbortHandler)
		},
	}
	for _, status := range []int{302, 307} {
		out[fmt.Sprint("redirect ", status)] = func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, trap+r.URL.Path, status)
		}
	}
	for name, text := range raw {
		out[name] = func(w http.ResponseWriter, r *http.Request) { endless(w, text[0], text[1]) }
	}
	for _, name := range []string{"hidden XML", "nested JSON", "empty JSON", "SOAP", "XML-RPC", "attributes", "SOAP attributes", "name spaces", "a name", "a value", "a text", "a JSON text", "a JSON name", "a number", "spaces"} {
		out["endless "+name] = func(w http.ResponseWriter, _ *http.Request) {
			_, err := io.WriteString(w, answers[name][0])
			for more := strings.Repeat(answers[name][1], 1000); err == nil; {
				_, err = io.WriteString(w, more)
			}
		}
	}
	return out
}

// raw are answers below HTTP's syntax, or at its edges: they begin with the
// first text and continue with the second one without end.
var raw = map[string][2]string{
	"a status without end":     {"HTTP/1.1 200 ", "OK"},
	"1xx without end":          {"", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"},
	"headers without end":      {"HTTP/1.1 200 OK\r\n", "X-A: aaaaaaaa\r\n"},
	"a header without end":     {"HTTP/1.1 200 OK\r\nX-A: ", "aaaaaaaa"},
	"cookies without end":      {"HTTP/1.1 200 OK\r\n", "Set-Cookie: a=b; Path=/\r\n"},
	"chunks without end":       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\n<\r\n"},
	"a chunk without end":      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n", "text"},
	"a chunk's extension":      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", "a=b;"},
	"trailers without end":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n0\r\n", "X-A: aaaaaaaa\r\n"},
	"a body without a length":  {"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "text"},
	"another protocol":         {"SSH-2.0-OpenSSH_9.2\r\n", "\x00\x01\x02\x03"},
	"challenges without end":   {"HTTP/1.1 401 Unauthorized\r\n", "WWW-Authenticate: Negotiate TlRMTVNTUAACAAAA\r\nWWW-Authenticate: Basic realm=\"a\"\r\n"},
	"a redirect to plain HTTP": {"HTTP/1.1 308 Permanent Redirect\r\nLocation: http://127.0.0.1:1/\r\n\r\n", ""},
	"a redirect to a file":     {"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n", ""},
	"a change of the protocol": {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "text"},
	"no content, with content": {"HTTP/1.1 204 No Content\r\n\r\n", "text"},
	"two lengths":              {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "text"},
	"a length below zero":      {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "text"},
}

// endless takes the connection and writes to it until the client closes it.
func endless(w http.ResponseWriter, begin, more string) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = io.WriteString(conn, begin)
	for more := strings.Repeat(more, 1000); err == nil && more != ""; {
		_, err = io.WriteString(conn, more)
	}
}

// Turned opens a Client through an honest server at target, an address with
// TLS or, with plain set, without. Then the server's answers turn hostile.
// Calls must end soon after their contexts, Close within its time, with little
// memory; no connection is left, no other server is asked, and no error holds
// the Password.
func Turned(t *testing.T, target string, plain bool, open func(ctx context.Context, address string) (*hypervisor.Client, error)) {
	t.Helper()
	var asked atomic.Int32
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer trap.Close()

	var reply atomic.Pointer[func(http.ResponseWriter, *http.Request)]
	var lie atomic.Pointer[func([]byte) []byte]
	to := &url.URL{Scheme: "https", Host: target}
	if plain {
		to.Scheme = "http"
	}
	through := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableCompression: true}
	defer through.CloseIdleConnections()
	proxy := &httputil.ReverseProxy{Transport: through, ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
		ModifyResponse: func(r *http.Response) error {
			if f := lie.Load(); f != nil {
				b, err := io.ReadAll(r.Body)
				if err != nil {
					return err
				}
				b = (*f)(b)
				r.Body.Close()
				r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
				r.Header.Set("Content-Length", fmt.Sprint(len(b)))
			}
			return nil
		}}
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := reply.Load()
		if f == nil {
			proxy.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		(*f)(w, r)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Config.ConnState = func(c net.Conn, s http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if conns[c] = true; s == http.StateClosed || s == http.StateHijacked {
			delete(conns, c)
		}
	}
	if plain {
		srv.Start()
	} else {
		srv.StartTLS()
	}
	defer srv.Close()
	address := srv.Listener.Addr().String()

	try := func(name string, turn func()) {
		ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
		defer stop()
		c, err := open(ctx, address)
		if err != nil {
			t.Fatalf("%s: open, while the server is honest: %v", name, err)
		}
		vms, err := hypervisor.Collect(c.VMs(ctx, nil))
		if err != nil || len(vms) == 0 {
			t.Fatalf("%s: %d machines, %v", name, len(vms), err)
		}
		runtime.GC() // of the cases before
		most := watchMemory()
		turn()
		harm(t, name, c, c.VM(vms[0].ID))
		began := time.Now()
		_ = c.Close()
		if d := time.Since(began); d > 5*time.Second+slack {
			t.Errorf("%s: Close took %v", name, d)
		}
		reply.Store(nil)
		lie.Store(nil)
		n := most()
		t.Logf("%s: %v, %d MiB", name, time.Since(began), n>>20)
		if n > peak {
			t.Errorf("%s: %d MiB of memory were in use", name, n>>20)
		}
		left := 0
		for end := time.Now().Add(3 * slack); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			mu.Lock()
			left = len(conns)
			mu.Unlock()
			if left == 0 {
				break
			}
		}
		if left > 0 {
			t.Errorf("%s: %d connections are left after Close", name, left)
		}
	}
	for name, f := range lies {
		try(name, func() { lie.Store(&f) })
	}
	for name, f := range replies(trap.URL) {
		try(name, func() { reply.Store(&f) })
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests went to another server", n)
	}
}

// harm makes calls side by side. Any answer but a panic will do, in time.
func harm(t *testing.T, name string, c *hypervisor.Client, vm *hypervisor.VM) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	var wg sync.WaitGroup
	for what, f := range map[string]func() error{
		"VMs":   func() error { _, err := hypervisor.Collect(c.VMs(ctx, nil)); return err },
		"Hosts": func() error { _, err := hypervisor.Collect(c.Hosts(ctx)); return err },
		"Info":  func() error { _, err := vm.Info(ctx); return err },
		"Start": func() error { _, err := vm.Start(ctx).Wait(ctx); return err },
		"Snapshots": func() error {
			_, err := vm.Snapshots(ctx)
			return err
		},
		"CreateSnapshot": func() error { _, err := vm.CreateSnapshot(ctx, "one", nil).Wait(ctx); return err },
		"CreateVM": func() error {
			_, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: fmt.Sprint("h-", rand.Uint32()), CPUs: 1, MemoryBytes: 256 * hypervisor.MiB}).Wait(ctx)
			return err
		},
		"Watch": func() error {
			for _, err := range c.Watch(ctx, "") {
				if err != nil {
					return err
				}
			}
			return nil
		},
	} {
		wg.Go(func() {
			began := time.Now()
			err := f()
			if d := time.Since(began); d > patience+slack {
				t.Errorf("%s: %s returned after %v with a context of %v: %v", name, what, d, patience, err)
			}
			if err != nil && (strings.Contains(err.Error(), Password) || len(err.Error()) > 4000) {
				t.Errorf("%s: %s: the error holds a secret, or %d bytes: %.300s", name, what, len(err.Error()), err)
			}
		})
	}
	wg.Wait()
}

// watchMemory starts to look how much memory the program's objects take. The
// returned function ends that and returns the most.
func watchMemory() func() uint64 {
	const objects = "/memory/classes/heap/objects:bytes"
	read := func() uint64 {
		s := []metrics.Sample{{Name: objects}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	most, end, ended := uint64(0), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			most = max(most, read())
			select {
			case <-end:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	return func() uint64 { close(end); <-ended; return most }
}
