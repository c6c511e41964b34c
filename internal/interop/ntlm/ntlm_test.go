// Package ntlm tests Hyper-V's simulator with an independent NTLM client.
package ntlm

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/bodgit/ntlmssp"
	ntlmhttp "github.com/bodgit/ntlmssp/http"
	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg hvsim.Config) *hvsim.Sim {
	t.Helper()
	sim, err := hvsim.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	return sim
}

// ntlmClient is an independent NTLM client: bodgit/ntlmssp.
func ntlmClient(t *testing.T, tr *http.Transport, user, pass string, opts ...func(*ntlmhttp.Client) error) *ntlmhttp.Client {
	t.Helper()
	t.Cleanup(tr.CloseIdleConnections)
	n, err := ntlmssp.NewClient(ntlmssp.SetUserInfo(user, pass), ntlmssp.SetDomain("HV01"), ntlmssp.SetVersion(ntlmssp.DefaultVersion()))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ntlmhttp.NewClient(&http.Client{Transport: tr}, n, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const identify = `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><s:Header><w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_VirtualSystemManagementService</w:ResourceURI><a:Action>http://schemas.xmlsoap.org/ws/2004/09/transfer/Get</a:Action></s:Header><s:Body/></s:Envelope>`

// login sends the empty message that clients of WinRM log in with.
func login(t *testing.T, c *ntlmhttp.Client, url string, want int) {
	t.Helper()
	req, err := http.NewRequest("POST", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/soap+xml;charset=UTF-8")
	r, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != want {
		t.Fatalf("login: %d, want %d", r.StatusCode, want)
	}
}

func ask(t *testing.T, c *ntlmhttp.Client, url, body string) (int, string) {
	t.Helper()
	r, err := c.Post(url, "application/soap+xml;charset=UTF-8", io.MultiReader(strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var b strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := r.Body.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return r.StatusCode, b.String()
		}
	}
}

// A login is of one connection, so each client has one.
func TestSealedNTLM(t *testing.T) {
	sim := start(t, hvsim.Config{})
	url := sim.Host(0).HTTPURL()
	c := ntlmClient(t, &http.Transport{MaxConnsPerHost: 1}, "Administrator", sim.Password(), ntlmhttp.Encryption(true))
	login(t, c, url, 200)
	for range 3 {
		if st, b := ask(t, c, url, identify); st != 200 || !strings.Contains(b, "vmms") {
			t.Fatalf("%d %s", st, b)
		}
	}
	if n := sim.Calls()["HTTP sealed"]; n != 3 {
		t.Fatalf("%d sealed messages", n)
	}
	open := ntlmClient(t, &http.Transport{MaxConnsPerHost: 1}, "Administrator", sim.Password())
	login(t, open, url, 200)
	if st, b := ask(t, open, url, identify); st != 500 || strings.Contains(b, "vmms") {
		t.Fatalf("an open message over plain HTTP: %d %s", st, b)
	}
	for _, u := range [][2]string{{"Administrator", "wrong"}, {"nobody", sim.Password()}} {
		bad := ntlmClient(t, &http.Transport{MaxConnsPerHost: 1}, u[0], u[1], ntlmhttp.Encryption(true))
		login(t, bad, url, 401)
	}
}

func TestChannelBinding(t *testing.T) {
	sim := start(t, hvsim.Config{RequireChannelBinding: true, NoBasic: true})
	url := sim.Host(0).URL()
	tr := func() *http.Transport {
		return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: sim.CertPool()}}
	}
	c := ntlmClient(t, tr(), "Administrator", sim.Password(), ntlmhttp.SendCBT(true))
	login(t, c, url, 200)
	if st, b := ask(t, c, url, identify); st != 200 || !strings.Contains(b, "vmms") {
		t.Fatalf("%d %s", st, b)
	}
	login(t, ntlmClient(t, tr(), "Administrator", sim.Password()), url, 401) // no binding
}
