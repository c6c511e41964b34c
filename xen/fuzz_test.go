package xen

import (
	"net/url"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// FuzzURL: no error and no Config shows the password.
func FuzzURL(f *testing.F) {
	const word = "s3cret-word"
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		u.User = url.UserPassword(u.User.Username(), word)
		c, err := parseURL(u)
		if err != nil && (hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument || strings.Contains(err.Error(), word)) {
			t.Errorf("%q: %v", s, err)
		}
		if strings.Contains(c.String(), word) {
			t.Errorf("%q: %s", s, c)
		}
	})
}
