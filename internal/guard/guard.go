// Package guard limits what a server's answers can cost a client: their size,
// the number of values in them, and the depth of their nesting. An answer's
// bytes are counted as they arrive; the length that it announces counts for
// nothing.
package guard

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Limits of answers.
const (
	Size  = 64 << 20 // bytes, unless the configuration sets another value
	Depth = 256      // elements in elements

	// bytesPerValue keeps short values from taking many times their size:
	// answers have at most one value for this many bytes.
	bytesPerValue = 16

	// small answers are read at any time, of others one at a time, so that
	// parallel calls don't multiply their limit.
	small = 1 << 20

	// slice is how long one of them keeps its turn while others wait.
	slice = time.Second
)

// LimitError means that an answer was too large. The rest of it was not read.
type LimitError struct {
	What  string
	Limit int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("the server's answer was not read to its end: it has more than %d %s", e.Limit, e.What)
}

// Reader limits a text in XML or JSON: it returns size bytes at most.
func Reader(r io.Reader, size int64) io.Reader {
	return &limited{r: r, size: size, values: size / bytesPerValue}
}

type limited struct {
	r            io.Reader
	size, values int64 // limits; no values: they are not counted
	read, seen   int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.read += int64(n)
	if l.values > 0 {
		l.seen += int64(bytes.Count(p[:n], comma) + bytes.Count(p[:n], open) + bytes.Count(p[:n], equals))
	}
	switch {
	case l.read > l.size:
		return 0, &LimitError{"bytes", l.size}
	case l.values > 0 && l.seen > l.values:
		return 0, &LimitError{"values", l.values}
	}
	return n, err
}

// They stand before values: in JSON, elements and attributes of XML.
var comma, open, equals = []byte{','}, []byte{'<'}, []byte{'='}

// RedirectError means that a server referred to another address. No server
// that the drivers talk to has a reason to, and an answer from elsewhere is
// not the server's.
type RedirectError struct {
	Status   string
	Location string // without a user, a password and parameters
}

func (e *RedirectError) Error() string {
	return fmt.Sprintf("the server refers to another address, which is not followed: HTTP status %s, location %q", e.Status, e.Location)
}

// Transport limits the answers of another transport, and refuses redirects.
type Transport struct {
	Base *http.Transport
	Size int64 // 0: the package's
	// XML means that calls, which are POSTs, are answered in XML.
	XML bool

	once  sync.Once
	turns turns
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(rq *http.Request) (*http.Response, error) {
	t.once.Do(func() { t.turns.turn = make(chan struct{}, 1) })
	rs, err := t.Base.RoundTrip(rq)
	if err != nil || rs.Body == nil {
		return rs, err
	}
	if rs.StatusCode/100 == 3 {
		rs.Body.Close()
		return nil, &RedirectError{rs.Status, place(rs.Header.Get("Location"))}
	}
	size := t.Size
	if size == 0 {
		size = Size
	}
	l := &limited{r: rs.Body, size: size}
	b := &body{Reader: l, Closer: rs.Body, turns: &t.turns, end: make(chan struct{})}
	if rq.Method == http.MethodPost { // others are files
		l.values = size / bytesPerValue
		l.r = &taken{body: b, ctx: rq.Context(), r: rs.Body, size: size}
		if t.XML {
			b.Reader = XML(l, Depth)
		}
	}
	rs.Body = b
	return rs, nil
}

// place is what an error says of a location.
func place(location string) string {
	u, err := url.Parse(location)
	if err != nil {
		return "?"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	if at := u.String(); len(at) < 200 {
		return at
	}
	return u.Scheme + "://…"
}

// CloseIdleConnections passes the call of http.Client's method to the other
// transport.
func (t *Transport) CloseIdleConnections() { t.Base.CloseIdleConnections() }
