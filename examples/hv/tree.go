package main

import "strings"

// branch is an item of a tree, and the number of its ancestors there.
type branch[T any] struct {
	item  T
	depth int
}

// forest orders items so that each stands below its parent, and keeps the order
// otherwise. An item whose parent is not among them is a root. None is lost,
// even if parents form a circle.
func forest[T any, ID comparable](all []T, of func(T) (id, parent ID)) []branch[T] {
	there := map[ID]bool{}
	below := map[ID][]int{}
	for i, x := range all {
		id, parent := of(x)
		there[id] = true
		below[parent] = append(below[parent], i)
	}
	var out []branch[T]
	done := make([]bool, len(all))
	var add func(i, depth int)
	add = func(i, depth int) {
		if done[i] {
			return
		}
		done[i] = true
		out = append(out, branch[T]{all[i], depth})
		id, _ := of(all[i])
		for _, k := range below[id] {
			add(k, depth+1)
		}
	}
	for i, x := range all {
		if _, parent := of(x); !there[parent] {
			add(i, 0)
		}
	}
	for i := range all { // circles have no root
		add(i, 0)
	}
	return out
}

// indent is a name in a tree.
func indent(depth int, name string) string { return strings.Repeat("  ", depth) + name }
