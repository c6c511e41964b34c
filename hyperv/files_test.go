package hyperv

import (
	"crypto/rand"
	"net"
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
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	noise := make([]byte, 5000)
	_, _ = rand.Read(noise)
	conf := write("[libdefaults]\n default_realm = EXAMPLE.TEST\n")
	for name, text := range map[string]string{
		"a key":            "-----BEGIN OPENSSH PRIVATE KEY-----\ns3cret\n-----END OPENSSH PRIVATE KEY-----\n",
		"nothing":          "",
		"a short one":      "\x05\x04\x00",
		"half a cache":     "\x05\x04\x00\x0c\x00\x01\x00\x08\xff\xff\xff\xff",
		"half a key table": "\x05\x02\x00\x00\x00\x7fs3cret",
		"negative lengths": "\x05\x02\xff\xff\xff\xff\x05\x02\x80\x00\x00\x00",
		"noise":            "\x05\x04" + string(noise),
		"a configuration":  "[libdefaults]\n s3cret\n",
	} {
		file := write(text)
		krb := "auth=kerberos&kerberosconfig="
		for _, q := range []string{"ca=" + file, "auth=certificate&certificate=" + file + "&key=" + file,
			krb + conf + "&keytab=" + file, krb + conf + "&credentialcache=" + file, krb + file + "&keytab=" + file} {
			_, err := hypervisor.Open(t.Context(), "hyperv://user:pw@"+l.Addr().String()+"/?"+q, nil)
			if hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s with %s: %v", name, q, err)
			}
		}
	}
	if n := dialled.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}
