package hvsim_test

import (
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/bodgit/ntlmssp"
)

const identify = `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><s:Header><w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_VirtualSystemManagementService</w:ResourceURI><a:Action>http://schemas.xmlsoap.org/ws/2004/09/transfer/Get</a:Action></s:Header><s:Body/></s:Envelope>`

func TestNoBasic(t *testing.T) {
	sim := start(t, hvsim.Config{RequireChannelBinding: true, NoBasic: true})
	if _, err := dial(t, sim, 0).queryNS(virtNS, "SELECT * FROM Msvm_ComputerSystem"); err == nil || err.Error() != "HTTP 401" {
		t.Fatalf("Basic is off: %v", err)
	}
}

func TestSPNEGO(t *testing.T) {
	sim := start(t, hvsim.Config{})
	n, err := ntlmssp.NewClient(ntlmssp.SetUserInfo("Administrator", sim.Password()), ntlmssp.SetVersion(ntlmssp.DefaultVersion()))
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{MaxConnsPerHost: 1, TLSClientConfig: &tls.Config{RootCAs: sim.CertPool()}}
	t.Cleanup(tr.CloseIdleConnections)
	hc := &http.Client{Transport: tr}
	send := func(token []byte) *http.Response {
		req, err := http.NewRequest("POST", sim.Host(0).URL(), strings.NewReader(identify))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/soap+xml;charset=UTF-8")
		// A NegTokenInit or NegTokenResp whose only use is to carry the octet string.
		b := append([]byte{0xa2, 0x82, byte((len(token) + 4) >> 8), byte(len(token) + 4), 0x04, 0x82, byte(len(token) >> 8), byte(len(token))}, token...)
		req.Header.Set("Authorization", "Negotiate "+base64.StdEncoding.EncodeToString(b))
		r, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r
	}
	first, err := n.Authenticate(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := send(first)
	tok, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(r.Header.Get("WWW-Authenticate"), "Negotiate "))
	if err != nil || r.StatusCode != 401 || tok[0] != 0xa1 {
		t.Fatalf("%d %x %v", r.StatusCode, tok, err)
	}
	second, err := n.Authenticate(tok[strings.Index(string(tok), "NTLMSSP"):], nil)
	if err != nil {
		t.Fatal(err)
	}
	if r = send(second); r.StatusCode != 200 || !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Negotiate oQcwBaADCgEA") {
		t.Fatalf("%d %v", r.StatusCode, r.Header)
	}
}
