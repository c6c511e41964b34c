package vspheresim

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Cut is the point at which a connection is cut.
type Cut int

const (
	// CutBefore drops the request: the server never acts.
	CutBefore Cut = iota + 1
	// CutInside lets the server act and sends half of the answer.
	CutInside
	// CutAfter lets the server act and sends nothing of the answer.
	CutAfter
	// CutLate closes the connection and then lets the server act, as one that
	// is so busy that the client has reconnected before.
	CutLate
)

// lateAct is the time from the cut to the act of CutLate.
const lateAct = 200 * time.Millisecond

// front stands between the network and govmomi's simulator. It counts calls and simulates a bad network. What it passes on, it passes on unchanged.
type front struct {
	sim  *Sim
	next http.Handler

	mu         sync.Mutex
	calls      map[string]int
	log        []string
	delays     map[string]time.Duration
	late       map[string]time.Duration // from the act to the answer
	holds      map[string][]func()
	faults     map[string][]types.BaseMethodFault
	taskFaults map[string][]types.BaseMethodFault
	cuts       map[string][]Cut
	roundTrip  time.Duration
	seen       map[string]time.Time // last call of each session
	waits      map[*wait]bool
	closed     bool
}

// wait is a WaitForUpdatesEx that has not answered.
type wait struct {
	session string
	path    string
	cookie  string
	self    string
	done    chan struct{} // the poll has ended
	gone    chan struct{} // the session has ended
	dropped bool
}

func newFront(s *Sim, next http.Handler) *front {
	return &front{
		sim: s, next: next,
		calls: map[string]int{}, delays: map[string]time.Duration{}, late: map[string]time.Duration{}, holds: map[string][]func(){},
		faults: map[string][]types.BaseMethodFault{}, taskFaults: map[string][]types.BaseMethodFault{},
		cuts: map[string][]Cut{}, roundTrip: s.cfg.RoundTrip,
		seen: map[string]time.Time{}, waits: map[*wait]bool{},
	}
}

var (
	methodPattern = regexp.MustCompile(`(?s)<(?:[\w.-]+:)?Body[^>]*>\s*<(?:[\w.-]+:)?(\w+)`)
	thisPattern   = regexp.MustCompile(`<(?:[\w.-]+:)?_this[^>]*>([^<]*)<`)
	kindPattern   = regexp.MustCompile(`<(?:[\w.-]+:)?_this[^>]*\stype="(\w+)"`)
)

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || !strings.HasPrefix(r.URL.Path, "/sdk") {
		if !f.sleep(r.Context(), f.roundTripTime()) {
			panic(http.ErrAbortHandler)
		}
		switch {
		case r.URL.Path == guestFiles:
			content, err := io.ReadAll(r.Body)
			if err == nil {
				f.sim.serveGuestFile(w, r, content)
			}
			return
		case strings.HasPrefix(r.URL.Path, "/sts/"):
			content, err := io.ReadAll(r.Body)
			if err == nil {
				f.sim.serveSTS(w, r, content)
			}
			return
		}
		if !f.sim.admitPath(w, r) {
			return
		}
		f.next.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	method := ""
	if m := methodPattern.FindSubmatch(body); m != nil {
		method = string(m[1])
	}
	cookie := ""
	if c, err := r.Cookie(soap.SessionCookieName); err == nil {
		cookie = c.Value
	}

	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	f.calls[method]++
	f.log = append(f.log, method)
	delay := f.roundTrip + lookup(f.delays, method)
	late := f.late[method]
	cut, hold := take(f.cuts, method), take(f.holds, method)
	expired := f.touch(cookie)
	f.mu.Unlock()

	if !f.sleep(r.Context(), delay) {
		panic(http.ErrAbortHandler)
	}
	if expired {
		f.terminate(cookie)
	}
	if cut == CutBefore {
		panic(http.ErrAbortHandler)
	}
	serve := func() *recorder {
		rec := &recorder{header: http.Header{}, code: http.StatusOK}
		if !f.sim.admitLogin(method, r, body) {
			f.sim.refuseLogin(rec)
			return rec
		}
		if path := f.sim.strays(method, body); path != "" {
			f.sim.refusePath(rec, path)
			return rec
		}
		req := r.Clone(context.WithoutCancel(r.Context()))
		req.Body = io.NopCloser(bytes.NewReader(body))
		f.step(method, body, rec, func() { f.next.ServeHTTP(rec, req) })
		f.noteLogin(rec)
		return rec
	}
	if h, ok := w.(http.Hijacker); ok && cut == CutLate {
		if conn, _, err := h.Hijack(); err == nil {
			conn.Close()
		}
		f.sleep(context.WithoutCancel(r.Context()), lateAct)
		serve()
		return
	}
	var rec *recorder
	if method == "WaitForUpdatesEx" || method == "WaitForUpdates" {
		rec = f.serveWait(r, body, cookie, serve)
	} else {
		rec = serve()
	}
	if hold != nil {
		hold()
	}
	if !f.sleep(r.Context(), late) || cut == CutAfter {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), rec.header)
	w.Header().Set("Content-Length", strconv.Itoa(rec.body.Len()))
	w.WriteHeader(rec.code)
	if cut == CutInside {
		_, _ = w.Write(rec.body.Bytes()[:rec.body.Len()/2])
		if fl, ok := w.(http.Flusher); ok {
			fl.Flush()
		}
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(rec.body.Bytes())
}

// noteLogin starts the idle time of a new session.
func (f *front) noteLogin(rec *recorder) {
	res := http.Response{Header: rec.header}
	for _, c := range res.Cookies() {
		if c.Name == soap.SessionCookieName {
			f.mu.Lock()
			f.touch(c.Value)
			f.mu.Unlock()
		}
	}
}

// serveWait ends the long poll when the client goes away: govmomi's simulator would wait forever, in a
// goroutine that outlives the test.
func (f *front) serveWait(r *http.Request, body []byte, cookie string, serve func() *recorder) *recorder {
	wt := &wait{session: cookie, path: r.URL.Path, cookie: r.Header.Get("Cookie"),
		done: make(chan struct{}), gone: make(chan struct{})}
	if m := thisPattern.FindSubmatch(body); m != nil {
		wt.self = string(m[1])
	}
	f.mu.Lock()
	f.waits[wt] = true
	f.mu.Unlock()
	stop := context.AfterFunc(r.Context(), func() { f.abandon(wt) })
	rec := serve()
	stop()
	close(wt.done)
	f.mu.Lock()
	delete(f.waits, wt)
	dropped := wt.dropped
	f.mu.Unlock()
	if dropped {
		<-wt.gone
		return serve() // the session is gone by now, and the answer reports that
	}
	return rec
}

// abandon cancels a long poll until it has ended: a cancel that comes before the poll is set up has no effect.
func (f *front) abandon(wt *wait) {
	const envelope = `<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body><CancelWaitForUpdates xmlns="urn:vim25">` +
		`<_this type="PropertyCollector">THIS</_this></CancelWaitForUpdates></Body></Envelope>`
	for {
		req, err := http.NewRequest(http.MethodPost, wt.path, strings.NewReader(strings.Replace(envelope, "THIS", wt.self, 1)))
		if err != nil {
			return
		}
		req.Header.Set("Cookie", wt.cookie)
		f.next.ServeHTTP(&recorder{header: http.Header{}}, req)
		select {
		case <-wt.done:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (f *front) shutdown() {
	f.mu.Lock()
	f.closed = true
	var open []*wait
	for wt := range f.waits {
		open = append(open, wt)
	}
	f.mu.Unlock()
	for _, wt := range open {
		f.abandon(wt)
	}
}

// sleep waits for d. It returns false if the client or the simulator went away meanwhile.
func (f *front) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-f.sim.ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (f *front) roundTripTime() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.roundTrip
}

func lookup[V any](m map[string]V, method string) V {
	if v, ok := m[method]; ok {
		return v
	}
	return m["*"]
}

// take removes and returns the next entry for a method, or for any method.
func take[V any](m map[string][]V, method string) (v V) {
	for _, k := range []string{method, "*"} {
		if q := m[k]; len(q) > 0 {
			v, m[k] = q[0], q[1:]
			return v
		}
	}
	return v
}

func (f *front) takeFault(method string) types.BaseMethodFault {
	f.mu.Lock()
	defer f.mu.Unlock()
	return take(f.faults, method)
}

func (f *front) takeTaskFault(method string) types.BaseMethodFault {
	f.mu.Lock()
	defer f.mu.Unlock()
	return take(f.taskFaults, method)
}

// recorder keeps an answer until it is known how much of it is sent.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(code int)        { r.code = code }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
