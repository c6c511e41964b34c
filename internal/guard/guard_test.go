package guard

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReader(t *testing.T) {
	for text, want := range map[string]string{
		strings.Repeat("x", 1000):        "",
		strings.Repeat("x", 1001):        "1000 bytes",
		strings.Repeat("{},", 62) + "xx": "",
		strings.Repeat("{},", 63):        "62 values",
		strings.Repeat("<a/>", 63):       "62 values",
		strings.Repeat(` a=""`, 63):      "62 values",
	} {
		got, err := io.ReadAll(iotest.OneByteReader(Reader(strings.NewReader(text), 1000)))
		var over *LimitError
		if want == "" && (err != nil || string(got) != text) || want != "" && (!errors.As(err, &over) || !strings.HasSuffix(err.Error(), want)) {
			t.Errorf("%d × %.4q: %v, want %q", len(text), text, err, want)
		}
	}
}

// depth is how deep encoding/xml finds a document nested, or false if it can't
// read it.
func depth(text string) (most int, ok bool) {
	d := xml.NewDecoder(strings.NewReader(text))
	now := 0
	for {
		tok, err := d.RawToken()
		if err != nil {
			return most, err == io.EOF
		}
		switch tok.(type) {
		case xml.StartElement:
			now++
			most = max(most, now)
		case xml.EndElement:
			now--
		}
	}
}

func seeds() []string {
	return []string{
		`<a><b x="/>" y='>'/><c></c></a>`, `<?xml version="1.0"?><a><!-- <b><c> --><![CDATA[<d><e>]]]></a>`, `<a><b/><b/><b/></a>`, `<!--><a><b>--><a/>`,
		`<a>/></a><a>'</a>`, `<?a ?><?b>?><c><d></d ></c>`, `<a b="'"><c d='"'></c></a>`, `<a><!---><b></b>---></a>`, `<a><![CDATA[]]]]><b><c/></b></a>`,
	}
}

// TestXML: what passes is not nested deeper than said, whatever hides it.
func TestXML(t *testing.T) {
	for _, s := range seeds() {
		checkXML(t, s)
	}
	for text, want := range map[string]string{
		strings.Repeat("<a>", 300): "256 levels", "<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>": "document type", strings.Repeat(`<a b="/>">`, 300): "levels",
		strings.Repeat("<!--</a>--><a>", 300): "levels", strings.Repeat("<![CDATA[</a>]]><a>", 300): "levels", strings.Repeat("/><a>", 300): "levels",
	} {
		if _, err := io.ReadAll(XML(iotest.HalfReader(strings.NewReader(text)), Depth)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20s: %v", text, err)
		}
	}
}

// checkXML compares with encoding/xml.
func checkXML(t *testing.T, text string) {
	t.Helper()
	want, ok := depth(text)
	if !ok || want == 0 {
		return
	}
	for _, limit := range []int{want, want - 1} {
		got, err := io.ReadAll(XML(iotest.OneByteReader(strings.NewReader(text)), limit))
		if errors.Is(err, errDoctype) {
			return
		}
		if fits := limit == want; fits != (err == nil) || fits && string(got) != text {
			t.Errorf("%q is %d deep; with a limit of %d: %v", text, want, limit, err)
		}
	}
}

func FuzzXML(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	f.Fuzz(checkXML)
}

func TestTransport(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/announced": // and never sent
			w.Header().Set("Content-Length", "10000000000")
			w.WriteHeader(http.StatusOK)
		case "/endless":
			for {
				if _, err := w.Write(make([]byte, 1<<10)); err != nil {
					return
				}
			}
		case "/nested":
			io.WriteString(w, strings.Repeat("<a>some text that is long enough", 300))
		case "/file":
			io.WriteString(w, strings.Repeat("<a>", 300))
		}
	}))
	defer srv.Close()
	base := &http.Transport{}
	c := &http.Client{Transport: &Transport{Base: base, Size: 1 << 16, XML: true}}
	for path, want := range map[string]string{"announced": "unexpected EOF", "endless": "65536 bytes", "nested": "256 levels"} {
		rs, err := c.Post(srv.URL+"/"+path, "text/xml", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = io.ReadAll(rs.Body); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
		rs.Body.Close()
	}
	rs, err := c.Get(srv.URL + "/file")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(rs.Body); len(b) != 900 || err != nil {
		t.Errorf("a file: %d bytes, %v", len(b), err)
	}
	rs.Body.Close()
	c.CloseIdleConnections()
}

// TestRedirects: no answer is taken from another address, and what the error
// says of it holds no secret.
func TestRedirects(t *testing.T) {
	var seen atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen.Add(1) }))
	defer other.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Path[1:])
		w.Header().Set("Location", strings.Replace(other.URL, "//", "//ann:s3cret@", 1)+"/?password=s3cret")
		w.WriteHeader(status)
	}))
	defer srv.Close()
	c := &http.Client{Transport: &Transport{Base: &http.Transport{}}}
	defer c.CloseIdleConnections()
	for _, status := range []string{"301", "302", "303", "307", "308"} {
		for _, method := range []string{http.MethodPost, http.MethodGet} {
			rq, err := http.NewRequest(method, srv.URL+"/"+status, strings.NewReader("a password"))
			if err != nil {
				t.Fatal(err)
			}
			rs, err := c.Do(rq)
			if e := (*RedirectError)(nil); !errors.As(err, &e) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s %s: %v", method, status, err)
			}
			if err == nil {
				rs.Body.Close()
			}
		}
	}
	if n := seen.Load(); n > 0 {
		t.Errorf("%d requests went to the other address", n)
	}
}

// TestLargeAnswersTakeTurns: of many large answers at once one is read beyond
// what is small, and the others continue when it is closed, or end with their
// contexts.
func TestLargeAnswersTakeTurns(t *testing.T) {
	const size = 4 * small
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), size))
	}))
	defer srv.Close()
	c := &http.Client{Transport: &Transport{Base: &http.Transport{}}}
	defer c.CloseIdleConnections()
	post := func(ctx context.Context) io.ReadCloser {
		rq, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := c.Do(rq)
		if err != nil {
			t.Fatal(err)
		}
		return rs.Body
	}
	first := post(t.Context())
	if n, err := io.Copy(io.Discard, first); n != size || err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	second := post(ctx)
	time.AfterFunc(50*time.Millisecond, stop)
	if n, err := io.Copy(io.Discard, second); n > small+1<<16 || !errors.Is(err, context.Canceled) {
		t.Errorf("while another answer is open: %d bytes, %v", n, err)
	}
	second.Close()
	third, done := post(t.Context()), make(chan error, 1)
	go func() {
		n, err := io.Copy(io.Discard, third)
		if n != size {
			err = errors.Join(err, fmt.Errorf("%d bytes", n))
		}
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	first.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	third.Close()
}

// TestSlowAnswerMovesAside: while one large answer, or several, come slowly,
// others are read; each of the slow ones is read to its end later, and an
// answer that can't have its turn ends with its context.
func TestSlowAnswerMovesAside(t *testing.T) {
	const size = 4 * small
	slow := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), size/2))
		if r.URL.Path == "/slow" {
			_ = http.NewResponseController(w).Flush()
			<-slow
		}
		_, _ = w.Write(bytes.Repeat([]byte("x"), size/2))
	}))
	defer srv.Close()
	tr := &Transport{Base: &http.Transport{}, Size: size + size/4}
	c := &http.Client{Transport: tr}
	defer c.CloseIdleConnections()
	fetch := func(ctx context.Context, path string) error {
		rq, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+path, nil)
		if err != nil {
			return err
		}
		rs, err := c.Do(rq)
		if err != nil {
			return err
		}
		defer rs.Body.Close()
		n, err := io.Copy(io.Discard, rs.Body)
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes", n)
		}
		return err
	}
	late := make(chan error, 3)
	begin := func() {
		go func() { late <- fetch(t.Context(), "/slow") }()
		for tr.turns.has(nil) {
			time.Sleep(time.Millisecond)
		}
	}
	for range 2 { // together they are as large as one may be
		begin()
		if err := fetch(t.Context(), "/"); err != nil {
			t.Error("beside a slow answer:", err)
		}
	}
	begin()
	ctx, stop := context.WithTimeout(t.Context(), slice*5/2)
	defer stop()
	if err := fetch(ctx, "/"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("where slow answers have too much:", err)
	}
	close(slow)
	for range cap(late) {
		if err := <-late; err != nil {
			t.Error("a slow answer:", err)
		}
	}
	if tr.turns.aside != 0 || tr.turns.holder != nil {
		t.Errorf("left: %d bytes", tr.turns.aside)
	}
}
