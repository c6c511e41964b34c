package hyperv

import (
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// fuzzWord is a password that no error and no Config shows.
const fuzzWord = "s3cret-word"

func FuzzURL(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil || strings.Contains(u.RawQuery, "=/") { // reads no files
			return
		}
		u.User = url.UserPassword(u.User.Username(), fuzzWord)
		c, err := parseURL(u)
		if err == nil {
			err = c.check()
		}
		if err != nil && (hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument || strings.Contains(err.Error(), fuzzWord)) {
			t.Errorf("%q: %v", s, err)
		}
		if strings.Contains(c.String(), fuzzWord) {
			t.Errorf("%q: %s", s, c)
		}
	})
}

// FuzzVolumeID: a path that is taken is one that Windows takes as it is.
func FuzzVolumeID(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		_, p, err := imageID(hypervisor.VolumeID(s), node.shared)
		if err != nil {
			if hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		for part := range strings.SplitSeq(strings.TrimPrefix(p, `\\`), `\`) {
			if part == "" || part == "." || part == ".." || strings.HasSuffix(part, ".") || strings.HasSuffix(part, " ") || strings.ContainsAny(part, "/\u202e\x00") {
				t.Errorf("%q is taken with the part %q", s, part)
			}
		}
		if strings.Count(p, ":") > 1 || strings.LastIndexByte(p, ':') > 1 {
			t.Errorf("%q is taken with a stream", s)
		}
	})
}

// FuzzNotes: notes that others write are read, and what is written is read
// back.
func FuzzNotes(f *testing.F) {
	f.Fuzz(func(t *testing.T, a, b string) {
		n := parseNotes([]string{a, b})
		if again := parseNotes(n.strings()); !reflect.DeepEqual(n, again) && len(again.Description) > 0 && strings.TrimSpace(again.Description) != strings.TrimSpace(n.Description) {
			t.Errorf("%q, %q: %+v is read back as %+v", a, b, n, again)
		}
	})
}
