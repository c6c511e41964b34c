package cim

import "testing"

func FuzzParseInstance(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		i, err := ParseInstance(s)
		if err == nil && i == nil {
			t.Errorf("%q: neither an instance nor an error", s)
		}
	})
}

// FuzzParsePath: a path that is read is written so that it is read as the same.
func FuzzParsePath(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParsePath(s)
		if err != nil {
			return
		}
		r.Server, r.Namespace = "", ""
		again, err := ParsePath(r.RelPath())
		if err != nil || again.RelPath() != r.RelPath() {
			t.Errorf("%q is written as %q and read as %q: %v", s, r.RelPath(), again.RelPath(), err)
		}
	})
}
