package fleet

import (
	"slices"
	"strconv"
	"strings"
)

// defaultTotal is Limits.Total where it is 0.
const defaultTotal = 16

// slots counts the targets at work. It is used by one goroutine.
type slots struct {
	limits Limits
	total  int
	used   map[string]int // by the keys of places
}

func newSlots(l Limits) *slots {
	if l.Total == 0 {
		l.Total = defaultTotal
	}
	return &slots{limits: l, used: map[string]int{}}
}

// places returns what a target counts on, as far as it is limited.
func (s *slots) places(t Target) []string {
	var out []string
	if s.limits.PerClient > 0 {
		out = append(out, "c"+t.Client)
	}
	if s.limits.PerHost > 0 {
		for _, h := range t.Hosts {
			out = append(out, "h"+t.Client+"/"+string(h))
		}
	}
	if s.limits.PerDatastore > 0 {
		for _, d := range t.Datastores {
			out = append(out, "d"+t.Client+"/"+string(d))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *slots) limit(place string) int {
	switch place[0] {
	case 'c':
		return s.limits.PerClient
	case 'h':
		return s.limits.PerHost
	}
	return s.limits.PerDatastore
}

func (s *slots) free(places []string) bool {
	for _, p := range places {
		if s.used[p] >= s.limit(p) {
			return false
		}
	}
	return s.total < s.limits.Total
}

func (s *slots) take(places []string) {
	s.total++
	for _, p := range places {
		s.used[p]++
	}
}

func (s *slots) give(places []string) {
	s.total--
	for _, p := range places {
		if s.used[p]--; s.used[p] == 0 {
			delete(s.used, p)
		}
	}
}

// queue holds waiting targets in their order. Targets with the same places
// wait in one line, so that a blocked line costs one look.
type queue struct {
	lines map[string]*line
	n     int
}

type line struct {
	places []string
	waits  []waiting
}

type waiting struct {
	order  int
	begun  bool // by an earlier worker
	target Target
}

func newQueue() *queue { return &queue{lines: map[string]*line{}} }

func lineKey(places []string) string {
	var b strings.Builder
	for _, p := range places {
		b.WriteString(strconv.Quote(p))
	}
	return b.String()
}

func (q *queue) push(s *slots, w waiting) {
	places := s.places(w.target)
	k := lineKey(places)
	l := q.lines[k]
	if l == nil {
		l = &line{places: places}
		q.lines[k] = l
	}
	i, _ := slices.BinarySearchFunc(l.waits, w.order, func(x waiting, order int) int { return x.order - order })
	l.waits = slices.Insert(l.waits, i, w)
	q.n++
}

// pop takes the first target whose places are free.
func (q *queue) pop(s *slots) (w waiting, places []string, ok bool) {
	var first *line
	for _, l := range q.lines {
		if s.free(l.places) && (first == nil || l.waits[0].order < first.waits[0].order) {
			first = l
		}
	}
	if first == nil {
		return waiting{}, nil, false
	}
	w = first.waits[0]
	if first.waits = first.waits[1:]; len(first.waits) == 0 {
		delete(q.lines, lineKey(first.places))
	}
	q.n--
	return w, first.places, true
}
