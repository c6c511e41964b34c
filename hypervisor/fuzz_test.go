package hypervisor_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

func init() {
	hypervisor.Register("fuzz", func(context.Context, *url.URL, *hypervisor.Options) (hypervisor.Driver, error) {
		return nil, errors.New("no server")
	})
}

// FuzzOpen: no error shows the password, whatever the URL around it is.
func FuzzOpen(f *testing.F) {
	const word = "s3cret-word"
	f.Fuzz(func(t *testing.T, before, after string) {
		if strings.Contains(before+after, word) {
			return
		}
		for i, s := range []string{"fuzz://" + before + ":" + word + after, "fuzz://ann:" + word + "@h/?" + before + after, "fuzz://h/?password=" + word + "&" + before} {
			if _, err := hypervisor.Open(t.Context(), s, nil); err == nil || strings.Contains(err.Error(), word) {
				u, perr := url.Parse(s)
				if perr == nil && u.User != nil { // it is the user's name, or a part of the host or path
					if p, _ := u.User.Password(); !strings.Contains(p, word) {
						continue
					}
				} else if perr == nil && i < 2 { // without an "@" there is no password
					continue
				}
				t.Errorf("%q: %v", s, err)
			}
		}
	})
}
