package hvsim_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/krblab"
)

// realm starts a real KDC and a simulation that trusts it. The environment is set for programs that log in as the
// administrator.
func realm(t *testing.T, c hvsim.Config) (*krblab.KDC, *hvsim.Sim) {
	t.Helper()
	k, keytab := krblab.ForTest(t, krblab.Config{}, "secret", []string{"administrator", "guest"}, "HTTP/localhost")
	cache, err := k.Login(t.Context(), "administrator", "secret")
	if err != nil {
		t.Fatal(err)
	}
	c.Keytab = keytab
	t.Setenv("KRB5_CONFIG", k.Config())
	t.Setenv("KRB5CCNAME", "FILE:"+cache)
	return k, start(t, c)
}

func byName(url string) string { return strings.Replace(url, "127.0.0.1", "localhost", 1) }

// TestPythonKerberos lets python3-winrm, with MIT's Kerberos under it, log in: sealed over HTTP, and bound to the channel
// over HTTPS.
func TestPythonKerberos(t *testing.T) {
	k, sim := realm(t, hvsim.Config{NoBasic: true, RequireChannelBinding: true})
	h := sim.Host(0)
	if _, err := h.Add(hvsim.Machine{Name: "<one> & \"two\""}); err != nil {
		t.Fatal(err)
	}
	body := enumerate("SELECT ElementName FROM Msvm_VirtualSystemSettingData")
	ask := func(url, encryption string) answer {
		t.Helper()
		out := python(t, []any{map[string]string{"url": url, "transport": "kerberos", "ca": caFile(t, sim), "encryption": encryption, "body": body}},
			[]string{"python3-winrm", "python3-requests-kerberos", "python3-gssapi"}, "send.py")
		var a answer
		if err := json.Unmarshal(out, &a); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return a
	}
	good := func(a answer) bool {
		s, _ := a.Result.(string)
		return strings.Contains(s, "&lt;one&gt; &amp; &#34;two&#34;")
	}
	if a := ask(byName(h.HTTPURL()), "always"); !good(a) {
		t.Errorf("sealed: %+v", a)
	}
	if n := sim.Calls()["HTTP sealed"]; n != 1 {
		t.Errorf("%d sealed messages", n)
	}
	if a := ask(byName(h.URL()), "never"); !good(a) {
		t.Errorf("bound to the channel: %+v", a)
	}
	if a := ask(byName(h.HTTPURL()), "never"); good(a) || a.Error == "" {
		t.Errorf("a clear message over HTTP: %+v", a)
	}
	cache, err := k.Login(t.Context(), "guest", "secret")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KRB5CCNAME", "FILE:"+cache)
	if a := ask(byName(h.HTTPURL()), "always"); good(a) || a.Error == "" {
		t.Errorf("a user whom the host does not know: %+v", a)
	}
	sim.Advance(10 * time.Minute)
	t.Setenv("KRB5CCNAME", "FILE:/nonexistent")
	if a := ask(byName(h.HTTPURL()), "always"); good(a) || a.Error == "" {
		t.Errorf("no ticket: %+v", a)
	}
}

// TestCurlNegotiate lets curl log in by SPNEGO.
func TestCurlNegotiate(t *testing.T) {
	_, sim := realm(t, hvsim.Config{NoBasic: true})
	if err := lab.Install(t.Context(), "curl"); err != nil {
		lab.Skip(t, err)
	}
	ca := caFile(t, sim)
	ask := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "curl", append([]string{"-sS", "-i", "--cacert", ca, "-H", "Content-Type: application/soap+xml;charset=UTF-8", "--data-binary", identify}, args...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, 5*time.Second
		err := cmd.Run()
		return out.String(), err
	}
	url := byName(sim.Host(0).URL())
	if out, err := ask("--negotiate", "-u", ":", url); err != nil || !strings.Contains(out, "vmms") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := ask(url); err != nil || strings.Contains(out, "vmms") || !strings.Contains(out, " 401 ") || !strings.Contains(strings.ToLower(out), "www-authenticate: kerberos") {
		t.Errorf("without a login: %v: %s", err, out)
	}
	// The host's clock goes wrong: the answer is a refusal that MIT's library reads.
	sim.Advance(10 * time.Minute)
	if out, err := ask("--negotiate", "-u", ":", url); strings.Contains(out, "vmms") || !strings.Contains(out, " 401 ") {
		t.Errorf("clocks ten minutes apart: %v: %s", err, out)
	}
}
