package wsman_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hyperv/internal/wsman"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// guess is the password where no simulator has one.
const guess = "Passw0rd!"

const allSystems = "SELECT Name, ElementName FROM Msvm_ComputerSystem"

func start(t testing.TB, c hvsim.Config) *hvsim.Sim {
	t.Helper()
	sim, err := hvsim.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	return sim
}

// config reaches a host with NTLM. Without a simulator the password is a made-up one, and no certificate is trusted.
func config(t testing.TB, sim *hvsim.Sim, rawURL string) wsman.Config {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	c := wsman.Config{Host: "127.0.0.1", Port: port, User: "Administrator", Password: guess, PlainHTTP: u.Scheme == "http"}
	if sim != nil {
		c.Password = hypervisor.Secret(sim.Password())
		if !c.PlainHTTP {
			c.TLS = &tls.Config{RootCAs: sim.CertPool()}
		}
	}
	return c
}

// trust takes the certificate of a test's server.
func trust(srv *httptest.Server) *tls.Config {
	p := x509.NewCertPool()
	p.AddCert(srv.Certificate())
	return &tls.Config{RootCAs: p}
}

func dial(t testing.TB, c wsman.Config) *wsman.Client {
	t.Helper()
	s, err := wsman.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func rows(t testing.TB, s *wsman.Client) []*cim.Instance {
	t.Helper()
	out, err := cim.Collect(s.Query(t.Context(), cim.Virtualization, allSystems))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLogins(t *testing.T) {
	cert := clientCertificate(t)
	sim := start(t, hvsim.Config{ClientCertificate: cert.Leaf, RequireChannelBinding: true})
	h := sim.Host(0)
	for name, edit := range map[string]func(*wsman.Config){
		"NTLM":        func(*wsman.Config) {},
		"NTLM domain": func(c *wsman.Config) { c.User = `HV01\Administrator` },
		"Basic":       func(c *wsman.Config) { c.Auth = wsman.Basic },
		"certificate": func(c *wsman.Config) {
			c.Auth, c.Password = wsman.Certificate, ""
			c.TLS.Certificates = []tls.Certificate{cert}
		},
		"sealed": func(c *wsman.Config) { *c = config(t, sim, h.HTTPURL()) },
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t, sim, h.URL())
			edit(&c)
			s := dial(t, c)
			for range 3 {
				if got := rows(t, s); len(got) != 1 || got[0].Str("ElementName") != "HV01" {
					t.Errorf("%+v", got)
				}
			}
		})
	}
	if n := sim.Calls()["HTTP sealed"]; n < 3 {
		t.Errorf("%d sealed messages, want 3 or more", n)
	}
}

func TestRefusedLogins(t *testing.T) {
	sim := start(t, hvsim.Config{})
	for _, auth := range []wsman.Auth{wsman.NTLM, wsman.Basic} {
		c := config(t, sim, sim.Host(0).URL())
		c.Auth, c.Password = auth, "wrong"
		_, err := cim.Collect(dial(t, c).Query(t.Context(), cim.Virtualization, allSystems))
		var le *wsman.LoginError
		if !errors.As(err, &le) || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%s: %v", auth, err)
		}
	}
	c := config(t, sim, sim.Host(0).HTTPURL())
	c.Password = "wrong"
	var le *wsman.LoginError
	if _, err := cim.Collect(dial(t, c).Query(t.Context(), cim.Virtualization, allSystems)); !errors.As(err, &le) {
		t.Errorf("sealed: %v", err)
	}
	// A certificate that nobody vouches for is refused by the client.
	c = config(t, nil, sim.Host(0).URL())
	var ce *wsman.ConnectionError
	if _, err := cim.Collect(dial(t, c).Query(t.Context(), cim.Virtualization, allSystems)); !errors.As(err, &ce) || ce.Sent {
		t.Errorf("unknown certificate: %v", err)
	}
}

func TestNothingGoesUnsealedOverHTTP(t *testing.T) {
	for _, auth := range []wsman.Auth{wsman.Basic, wsman.Certificate} {
		if _, err := wsman.New(wsman.Config{Host: "h", PlainHTTP: true, Auth: auth, User: "u", Password: "p"}); !errors.Is(err, wsman.ErrUnsealed) {
			t.Errorf("%s: %v", auth, err)
		}
	}
	// A server that takes no NTLM, or answers without sealing, never sees the
	// question.
	var leaked atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || strings.Contains(string(b), "Envelope") {
			leaked.Store(true)
		}
		w.Header().Set("WWW-Authenticate", "Negotiate")
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer srv.Close()
	s := dial(t, config(t, nil, srv.URL))
	_, err := cim.Collect(s.Query(t.Context(), cim.Virtualization, allSystems))
	var le *wsman.LoginError
	if !errors.As(err, &le) {
		t.Errorf("a server without NTLM: %v", err)
	}
	if leaked.Load() {
		t.Error("the message went out before the login")
	}
}

func TestPagesAndEarlyEnd(t *testing.T) {
	sim := start(t, hvsim.Config{MaxEnvelopeKB: 32})
	var many []hvsim.Machine
	for n := range 400 {
		many = append(many, hvsim.Machine{Name: fmt.Sprintf("vm-%d", n)})
	}
	if _, err := sim.Host(0).Add(many...); err != nil {
		t.Fatal(err)
	}
	s := dial(t, config(t, sim, sim.Host(0).URL()))
	if got := rows(t, s); len(got) != 401 {
		t.Errorf("%d rows, want 401", len(got))
	}
	if n := sim.Calls()["HTTP Pull"]; n < 2 {
		t.Errorf("%d pulls: the reply was to come in pages", n)
	}
	for range s.Query(t.Context(), cim.Virtualization, allSystems) {
		break
	}
	if n := sim.Calls()["HTTP Release"]; n != 1 {
		t.Errorf("%d releases of an abandoned enumeration, want 1: %v", n, sim.Calls())
	}
}

func TestDropInMidPull(t *testing.T) {
	sim := start(t, hvsim.Config{MaxEnvelopeKB: 32})
	var many []hvsim.Machine
	for n := range 400 {
		many = append(many, hvsim.Machine{Name: fmt.Sprintf("vm-%d", n)})
	}
	if _, err := sim.Host(0).Add(many...); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{sim.Host(0).URL(), sim.Host(0).HTTPURL()} {
		s := dial(t, config(t, sim, u))
		sim.Inject(hvsim.Fault{Op: "Pull", Drop: true, Times: 2}) // a query is read again once
		got, err := cim.Collect(s.Query(t.Context(), cim.Virtualization, allSystems))
		var ce *wsman.ConnectionError
		if !errors.As(err, &ce) || !ce.Sent || !errors.Is(err, cim.ErrLost) {
			t.Errorf("%s: %d rows, %v", u, len(got), err)
		}
		if got := rows(t, s); len(got) != 401 {
			t.Errorf("%s: %d rows after the drop", u, len(got))
		}
	}
}

// TestFaults: both forms of faults that WinRM has for what WMI refuses.
func TestFaults(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old %v", old), func(t *testing.T) { testFaults(t, old) })
	}
}

func testFaults(t *testing.T, old bool) {
	sim := start(t, hvsim.Config{Hosts: []hvsim.HostConfig{{}, {NoHyperV: true}}, OldFaults: old})
	s := dial(t, config(t, sim, sim.Host(0).URL()))
	query := func(s *wsman.Client, ns, wql string) error {
		_, err := cim.Collect(s.Query(t.Context(), ns, wql))
		return err
	}
	hresult := func(err error) uint32 {
		var ce *cim.Error
		if errors.As(err, &ce) {
			return ce.HResult
		}
		return 0
	}
	if h := hresult(query(s, cim.Virtualization, "SELECT * FROM Msvm_NoSuch")); h != cim.WBEMInvalidClass {
		t.Errorf("unknown class: 0x%X", h)
	}
	for _, bad := range []string{"SELEKT", "SELECT Nope FROM Msvm_ComputerSystem"} {
		if err := query(s, cim.Virtualization, bad); cim.KindOf(err) != cim.InvalidArgument {
			t.Errorf("bad query: %v", err)
		}
	}
	if h := hresult(query(s, "root/nowhere", "SELECT * FROM X")); h != cim.WBEMInvalidNamespace {
		t.Errorf("unknown namespace: 0x%X", h)
	}
	s2 := dial(t, config(t, sim, sim.Host(1).URL()))
	if h := hresult(query(s2, cim.Virtualization, allSystems)); h != cim.WBEMInvalidNamespace {
		t.Errorf("host without Hyper-V: 0x%X", h)
	}
	_, err := s.Get(t.Context(), cim.NewRef("Msvm_ComputerSystem", "CreationClassName", "Msvm_ComputerSystem", "Name", "no' <such>"))
	if cim.KindOf(err) != cim.NotFound {
		t.Errorf("absent instance: %v", err)
	}
	_, err = s.Invoke(t.Context(), cim.NewRef("Msvm_ComputerSystem", "CreationClassName", "Msvm_ComputerSystem", "Name", "HV01"), "NoSuchMethod")
	if cim.KindOf(err) != cim.Unsupported {
		t.Errorf("unknown method: %v", err)
	}
	sim.Inject(hvsim.Fault{HRESULT: cim.WBEMAccessDenied})
	if err := query(s, cim.Virtualization, allSystems); cim.KindOf(err) != cim.Permission {
		t.Errorf("access denied: %v", err)
	}
	sim.Inject(hvsim.Fault{HRESULT: 0x80041048})
	if err := query(s, cim.Virtualization, allSystems); cim.KindOf(err) != cim.Exhausted {
		t.Errorf("quota: %v", err)
	}
	sim.Inject(hvsim.Fault{Op: "HTTP", Status: 503, Times: 2})
	var ce *wsman.ConnectionError
	if err := query(s, cim.Virtualization, allSystems); !errors.As(err, &ce) {
		t.Errorf("503: %v", err)
	}
	sim.Inject(hvsim.Fault{Op: "HTTP", Status: 401})
	if err := query(s, cim.Virtualization, allSystems); err != nil {
		t.Errorf("a session that expired was not renewed: %v", err)
	}
}

func TestAssociatorsAndReferences(t *testing.T) {
	sim := start(t, hvsim.Config{})
	ids, err := sim.Host(0).Add(hvsim.Machine{Name: `it's "a" <vm>`})
	if err != nil {
		t.Fatal(err)
	}
	s := dial(t, config(t, sim, sim.Host(0).URL()))
	vm := cim.NewRef("Msvm_ComputerSystem", "CreationClassName", "Msvm_ComputerSystem", "Name", ids[0])
	set, err := cim.First(s.Query(t.Context(), cim.Virtualization, cim.AssociatorsOf(vm, cim.Assoc{Class: "Msvm_SettingsDefineState"})), "settings")
	if err != nil || set.Str("ElementName") != `it's "a" <vm>` {
		t.Fatalf("%+v, %v", set, err)
	}
	links, err := cim.Collect(s.Query(t.Context(), cim.Virtualization, cim.ReferencesOf(vm, "Msvm_SettingsDefineState", "")))
	if err != nil || len(links) != 1 {
		t.Fatalf("%d references, %v", len(links), err)
	}
	if r, ok := links[0].Ref("ManagedElement"); !ok || !r.Equal(vm) {
		t.Errorf("the reference leads to %v", r)
	}
}

func TestContextAndClose(t *testing.T) {
	block := make(chan struct{})
	arrived := make(chan struct{}, 8)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // the server sees the end of the connection only after the body
		arrived <- struct{}{}
		select {
		case <-block:
		case <-r.Context().Done():
		}
	}))
	defer srv.Close()
	defer close(block)
	c := config(t, nil, srv.URL)
	c.Auth = wsman.Basic
	c.TLS = trust(srv)
	s := dial(t, c)
	ctx, stop := context.WithCancel(t.Context())
	go func() { <-arrived; stop() }()
	if _, err := cim.Collect(s.Query(ctx, cim.Virtualization, allSystems)); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
	go func() { <-arrived; s.Close() }()
	_, err := cim.Collect(s.Query(t.Context(), cim.Virtualization, allSystems))
	if err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("a closed session: %v", err)
	}
	if _, err := s.Get(t.Context(), cim.NewRef("X", "K", "v")); err == nil {
		t.Error("a call on a closed session succeeded")
	}
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	for _, plain := range []bool{true, false} {
		s := dial(t, wsman.Config{Host: "127.0.0.1", Port: addr.Port, PlainHTTP: plain, User: "u", Password: "p"})
		_, err := s.Get(t.Context(), cim.NewRef("X", "K", "v"))
		var ce *wsman.ConnectionError
		if !errors.As(err, &ce) || ce.Sent {
			t.Errorf("plain %v: %v", plain, err)
		}
	}
}

// FuzzReply feeds anything to the reader of replies: it may refuse, and must
// not panic or hang.
func FuzzReply(f *testing.F) {
	f.Add(`<s:Envelope><s:Body><n:PullResponse><n:Items><p:X><p:A>1</p:A></p:X></n:Items><n:EndOfSequence/></n:PullResponse></s:Body></s:Envelope>`)
	f.Add(`<s:Envelope><s:Body><s:Fault><s:Detail><f:WSManFault Code="5"/></s:Detail></s:Fault></s:Body></s:Envelope>`)
	f.Fuzz(func(t *testing.T, body string) {
		srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) }))
		defer srv.Close()
		c := config(t, nil, srv.URL)
		c.Auth = wsman.Basic
		c.TLS = trust(srv)
		s := dial(t, c)
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		n := 0
		for _, err := range s.Query(ctx, cim.Virtualization, allSystems) {
			if n++; err != nil || n > 100 {
				break
			}
		}
		s.Get(ctx, cim.NewRef("X", "K", "v"))
		if ctx.Err() != nil {
			t.Fatal("the reader hangs")
		}
	})
}

func clientCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: leaf}
}
