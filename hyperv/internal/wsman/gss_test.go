package wsman

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/krblab"
)

// realm is a real KDC and tickets from it for a service whose key is in a keytab.
type realm struct {
	*tickets
	kdc    *krblab.KDC
	keytab string
}

func startRealm(t *testing.T) *realm {
	t.Helper()
	k, keytab := krblab.ForTest(t, krblab.Config{}, "secret", []string{"ann"}, "HTTP/localhost")
	tk, err := newTickets(Config{Host: "localhost", User: "ann", Password: "secret", Krb: KerberosConfig{ConfigFile: k.Config()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tk.close)
	return &realm{tk, k, keytab}
}

// acceptor is MIT's implementation of the host's side.
type acceptor struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

func (r *realm) acceptor(t *testing.T, binding []byte) *acceptor {
	t.Helper()
	if err := lab.Install(t.Context(), "python3-gssapi"); err != nil {
		lab.Skip(t, err)
	}
	args := []string{filepath.Join("testdata", "acceptor.py")}
	if binding != nil {
		args = append(args, base64.StdEncoding.EncodeToString(binding))
	}
	cmd := exec.Command("/usr/bin/python3", args...)
	cmd.Env = append(r.kdc.Environment(), "KRB5_KTNAME="+r.keytab)
	cmd.WaitDelay = 5 * time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, said.String())
		}
	})
	s := bufio.NewScanner(out)
	s.Buffer(nil, 4<<20)
	return &acceptor{t, in, s}
}

// do asks the acceptor; values are passed as they are.
func (a *acceptor) do(op string, signature, data []byte) (gotSignature, got []byte, err error) {
	a.t.Helper()
	b, err := json.Marshal(map[string]any{"op": op, "signature": signature, "data": data})
	if err != nil {
		a.t.Fatal(err)
	}
	if _, err := a.in.Write(append(b, '\n')); err != nil {
		a.t.Fatal(err)
	}
	if !a.out.Scan() {
		a.t.Fatalf("the acceptor has ended: %v", a.out.Err())
	}
	var m struct {
		Signature, Data []byte
		Error           string
	}
	if err := json.Unmarshal(a.out.Bytes(), &m); err != nil {
		a.t.Fatalf("%s: %v", a.out.Text(), err)
	}
	if m.Error != "" {
		return nil, nil, errors.New(m.Error)
	}
	return m.Signature, m.Data, nil
}

// login establishes a context.
func (r *realm) login(t *testing.T, a *acceptor, binding []byte) *gssContext {
	t.Helper()
	g, token, err := r.begin(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	_, reply, err := a.do("accept", nil, token)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.accept(reply); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestSealingAgainstMIT: MIT's libgssapi takes our login, reads what we seal and
// seals what we read.
func TestSealingAgainstMIT(t *testing.T) {
	r := startRealm(t)
	a := r.acceptor(t, nil)
	g := r.login(t, a, nil)
	for _, msg := range []string{"a message", "", strings.Repeat("x", 100_000), "<s:Envelope/>"} {
		signature, sealed, err := g.seal([]byte(msg))
		if err != nil {
			t.Fatal(err)
		}
		if len(signature) != 60 || len(sealed) != len(msg) || len(msg) > 16 && bytes.Contains(sealed, []byte(msg)) {
			t.Errorf("a message of %d bytes became a signature of %d and %d bytes", len(msg), len(signature), len(sealed))
		}
		if _, got, err := a.do("unseal", signature, sealed); err != nil || string(got) != msg {
			t.Errorf("MIT reads %.40q: %v", got, err)
		}
		if signature, sealed, err = a.do("seal", nil, []byte(msg)); err != nil {
			t.Fatal(err)
		}
		if got, err := g.unseal(signature, sealed); err != nil || string(got) != msg {
			t.Errorf("we read %.40q: %v", got, err)
		}
		_, token, err := a.do("wrap", nil, []byte(msg)) // another rotation
		if err != nil {
			t.Fatal(err)
		}
		if got, err := g.unseal(token[:16], token[16:]); err != nil || string(got) != msg {
			t.Errorf("we read %.40q: %v", got, err)
		}
	}
	// Twice the same, as an attacker would send it.
	signature, sealed, err := g.seal([]byte("once"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		if _, _, err := a.do("unseal", signature, sealed); (err == nil) != (n == 0) {
			t.Errorf("MIT, time %d: %v", n, err)
		}
	}
}

// TestBindingAgainstMIT: MIT's acceptor takes a login for its channel alone.
func TestBindingAgainstMIT(t *testing.T) {
	r := startRealm(t)
	r.login(t, r.acceptor(t, []byte("tls-server-end-point:this")), []byte("tls-server-end-point:this"))
	_, token, err := r.begin(t.Context(), []byte("tls-server-end-point:that"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.acceptor(t, []byte("tls-server-end-point:this")).do("accept", nil, token); err == nil || !strings.Contains(err.Error(), "ncorrect channel bindings") {
		t.Errorf("a login for another channel: %v", err)
	}
}

// TestUnprovenHost: a host that takes each login without proving that it could
// read it never sees a message.
func TestUnprovenHost(t *testing.T) {
	r := startRealm(t)
	var leaked atomic.Bool
	answer := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, rq *http.Request) {
		if b, err := io.ReadAll(rq.Body); err != nil || len(b) > 0 {
			leaked.Store(true)
		}
		if answer != "" {
			w.Header().Set("WWW-Authenticate", answer)
		}
	}))
	defer srv.Close()
	for _, answer = range []string{"", "Kerberos", "Kerberos " + base64.StdEncoding.EncodeToString([]byte("hello")), "Negotiate oQcwBaADCgEA"} {
		cfg := r.cfg
		cfg.Auth, cfg.PlainHTTP, cfg.Krb.SPN = Kerberos, true, "HTTP/localhost"
		u, err := url.Parse(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Host = u.Hostname()
		if cfg.Port, err = strconv.Atoi(u.Port()); err != nil {
			t.Fatal(err)
		}
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Get(t.Context(), cim.NewRef("X", "K", "v"))
		var le *LoginError
		if !errors.As(err, &le) || leaked.Load() {
			t.Errorf("%q: leaked %v, %v", answer, leaked.Load(), err)
		}
		c.Close()
	}
}

// TestHostileHost: what a host that does not know its key, or somebody on the
// wire, could send.
func TestHostileHost(t *testing.T) {
	r := startRealm(t)
	a := r.acceptor(t, nil)
	g, token, err := r.begin(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, reply, err := a.do("accept", nil, token)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := r.begin(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.accept(reply); err == nil || !strings.Contains(err.Error(), "another login") {
		t.Errorf("the answer to another login: %v", err)
	}
	for n := len(reply) / 2; n < len(reply); n++ { // what is before is framing
		bad := bytes.Clone(reply)
		bad[n] ^= 0x40
		if err := g.accept(bad); err == nil {
			t.Errorf("an answer with byte %d changed is taken", n)
		}
	}
	if err := g.accept(token); err == nil {
		t.Error("our own token is taken for an answer")
	}
	if err := g.accept(reply); err != nil {
		t.Fatal(err)
	}
	seal := func(s string) (signature, sealed []byte) {
		signature, sealed, err := a.do("seal", nil, []byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return signature, sealed
	}
	first := strings.Repeat("first", 50)
	s1, m1 := seal(first)
	s2, m2 := seal("second")
	if _, err := g.unseal(s2, m2); err == nil {
		t.Error("the second message is taken before the first")
	}
	for n := range s1 {
		bad := bytes.Clone(s1)
		bad[n] ^= 0x40
		if got, err := g.unseal(bad, m1); err == nil {
			t.Errorf("a signature with byte %d changed is taken for %q", n, got)
		}
	}
	if _, err := g.unseal(s1, append(bytes.Clone(m1), 0)); err == nil {
		t.Error("a longer message is taken")
	}
	if _, err := g.unseal(s1[:3], nil); err == nil {
		t.Error("a short message is taken")
	}
	own, ownMsg, err := g.seal([]byte("ours"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.unseal(own, ownMsg); err == nil {
		t.Error("our own message is taken for the host's")
	}
	if got, err := g.unseal(s1, m1); err != nil || string(got) != first {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := g.unseal(s1, m1); err == nil {
		t.Error("the first message is taken twice")
	}
	if got, err := g.unseal(s2, m2); err != nil || string(got) != "second" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestWindowsRotation: Windows adds 16 bytes, and may count them into the
// rotation or not (MS-KILE 3.4.5.4.1).
func TestWindowsRotation(t *testing.T) {
	key := types.EncryptionKey{KeyType: etypeID.AES256_CTS_HMAC_SHA1_96, KeyValue: bytes.Repeat([]byte{7}, 32)}
	et, err := crypto.GetEtype(key.KeyType)
	if err != nil {
		t.Fatal(err)
	}
	const flags, extra = sentByAcceptor | confidential | acceptorSubkey, 16
	msg := []byte(strings.Repeat("a message ", 10))
	for _, k := range []struct{ says, does int }{{28, 28}, {28, 28 + extra}, {28 + extra, 28 + extra}, {0, 0}} {
		g := &gssContext{key: key, et: et, acceptorKey: true, received: 5}
		plain := append(append(bytes.Clone(msg), bytes.Repeat([]byte{0xff}, extra)...), wrapToken(flags, extra, 0, 5)...)
		_, c, err := et.EncryptMessage(key.KeyValue, plain, keyusage.GSSAPI_ACCEPTOR_SEAL)
		if err != nil {
			t.Fatal(err)
		}
		token := append(wrapToken(flags, extra, uint16(k.says), 5), rotate(c, len(c)-k.does)...)
		n := len(token) - len(msg)
		if got, err := g.unseal(token[:n], token[n:]); err != nil || !bytes.Equal(got, msg) {
			t.Errorf("%+v: %q, %v", k, got, err)
		}
	}
}

// TestOldEncryption: keys whose messages are sealed in another way are refused
// before anything is sent.
func TestOldEncryption(t *testing.T) {
	_, _, err := newGSS(messages.Ticket{}, types.EncryptionKey{KeyType: etypeID.RC4_HMAC, KeyValue: make([]byte, 16)}, "R", types.PrincipalName{}, nil)
	if err == nil || !strings.Contains(err.Error(), "allow AES") {
		t.Errorf("RC4: %v", err)
	}
}
