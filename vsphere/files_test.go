package vsphere

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestFilesOfURLs: a file that is not what the URL says is refused, and no
// connection is made.
func TestFilesOfURLs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var dialled atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			dialled.Add(1)
			c.Close()
		}
	}()
	const saml = `xmlns:saml2="urn:oasis:names:tc:SAML:2.0:assertion"`
	for name, text := range map[string]string{
		"a key":             "-----BEGIN OPENSSH PRIVATE KEY-----\ns3cret\n-----END OPENSSH PRIVATE KEY-----\n",
		"nothing":           "",
		"other XML":         "<settings>s3cret</settings>",
		"no namespace":      "<Assertion>s3cret</Assertion>",
		"two":               "<saml2:Assertion " + saml + "/><saml2:Assertion " + saml + ">s3cret</saml2:Assertion>",
		"more behind":       "<saml2:Assertion " + saml + "/>s3cret",
		"more before":       "s3cret <saml2:Assertion " + saml + "/>",
		"not ended":         "<saml2:Assertion " + saml + ">s3cret",
		"ended too early":   "<saml2:Assertion " + saml + "/></wsse:Security><s3cret/>",
		"with a type":       "<!DOCTYPE x><saml2:Assertion " + saml + "/>",
		"with instructions": "<?xml version='1.0'?><saml2:Assertion " + saml + "/>",
	} {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, q := range []string{"token=" + file, "ca=" + file, "certificate=" + file + "&key=" + file} {
			if q[0] != 't' && strings.Contains(text, "saml2") {
				continue
			}
			_, err := hypervisor.Open(t.Context(), "vsphere://user:pw@"+l.Addr().String()+"/?"+q, nil)
			if hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s as %.5s: %v", name, q, err)
			}
		}
	}
	for _, q := range []string{"token", "ca"} {
		if _, err := hypervisor.Open(t.Context(), "vsphere://user:pw@"+l.Addr().String()+"/?"+q+"="+url.QueryEscape("/dev/zero"), nil); hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument {
			t.Errorf("%s of a device: %v", q, err)
		}
	}
	if _, err := Open(t.Context(), Config{Host: l.Addr().String(), Token: "s3cret"}, nil); hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a Config with another token: %v", err)
	}
	if n := dialled.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}
