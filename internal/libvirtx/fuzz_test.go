//go:build cgo

package libvirtx

import (
	"net/url"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/endpoint"
)

// FuzzURL: no error and no URI has the password.
func FuzzURL(f *testing.F) {
	const word = "s3cret-word"
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		u.User = url.UserPassword(u.User.Username(), word)
		uris, err := HostURIs(u, "qemu", endpoint.Params{})
		if err != nil && (hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument || strings.Contains(err.Error(), word)) {
			t.Errorf("%q: %v", s, err)
		}
		if out := strings.Join(uris, " ") + Shown(append(uris, s)); strings.Contains(out, word) {
			t.Errorf("%q: %s", s, out)
		}
	})
}

// FuzzMark: metadata that others write is kept, beside a mark that is read
// back.
func FuzzMark(f *testing.F) {
	f.Fuzz(func(t *testing.T, inner string) {
		if _, err := ReadMark(inner); err != nil {
			return
		}
		out, err := PutMark(inner, Mark{Token: "t", Role: "helper"})
		if err != nil {
			t.Fatalf("%q: %v", inner, err)
		}
		m, err := ReadMark(out)
		if err != nil || m.Token != "t" || m.Role != "helper" {
			t.Errorf("%q becomes %q: %+v, %v", inner, out, m, err)
		}
	})
}

func FuzzVolumeID(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		pool, name, ok := SplitVolumeID(hypervisor.VolumeID(s))
		if ok && string(VolumeID(pool, name)) != s {
			t.Errorf("%q comes back as %q", s, VolumeID(pool, name))
		}
	})
}
