package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestForest: children follow their parents, and no item is lost.
func TestForest(t *testing.T) {
	for _, c := range []struct{ items, want []string }{
		{[]string{"b<a", "a<", "c<b", "d<a"}, []string{"a", "  b", "    c", "  d"}},
		{[]string{"x<elsewhere", "y<x"}, []string{"x", "  y"}},
		{[]string{"a<b", "b<a", "c<"}, []string{"c", "a", "  b"}},
		{[]string{"base<", "base<", "top<base"}, []string{"base", "  top", "base"}},
		{nil, nil},
	} {
		var got []string
		for _, b := range forest(c.items, func(s string) (id, parent string) {
			id, parent, _ = strings.Cut(s, "<")
			return id, parent
		}) {
			name, _, _ := strings.Cut(b.item, "<")
			got = append(got, indent(b.depth, name))
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%q is %q, want %q", c.items, got, c.want)
		}
	}
}
