package vsphere

import (
	"net/url"
	"path"
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

// FuzzVolumeID: an ID that is taken has one spelling, and stays in its
// datastore.
func FuzzVolumeID(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		store, rel, ok := splitVolume(hypervisor.VolumeID(s))
		if !ok {
			return
		}
		if path.Clean(rel) != rel || path.IsAbs(rel) || strings.HasPrefix(rel, "../") || rel == ".." || strings.ContainsAny(rel, "\\") {
			t.Errorf("%q is taken as %q", s, rel)
		}
		if again := volumeID(store, "[store] "+rel); string(again) != s {
			t.Errorf("%q comes back as %q", s, again)
		}
	})
}
