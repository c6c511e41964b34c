package rpcproxy

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// fault is one answer to lose.
type fault struct {
	Host      int // whose proxy loses it
	Procedure uint32
	Skip      int
	Name      string
}

// faults are the answers to lose, one at a time, of work that asked each of
// several hosts for something: the first of each kind of request that changes
// something, and up to most of a kind.
func faults(asked [][]uint32, most int) []fault {
	var out []fault
	for host, all := range asked {
		times := map[uint32]int{}
		for _, p := range all {
			if name, ok := Changing[p]; ok && times[p] < most {
				times[p]++
				out = append(out, fault{host, p, times[p] - 1, fmt.Sprintf("%s %d at host %d", name, times[p], host+1)})
			}
		}
	}
	return out
}

// World is what one try of some work takes place in.
type World interface {
	Proxies() []*Proxy  // between the work and each of the hosts
	Try(want Scene) Try // the work, which is to lead to want
	End()               // removes what the try made
}

// Everywhere does work with the answer to one of its requests lost, for each of
// its requests that change something, every time in a fresh world.
func Everywhere(t *testing.T, most int, fresh func(t *testing.T) World) {
	w := fresh(t)
	y := w.Try(Scene{})
	var asked [][]uint32
	for _, p := range w.Proxies() {
		p.Procedures() // those of the preparations
	}
	if err := y.Do(); err != nil {
		t.Fatalf("without faults: %v", err)
	}
	for _, p := range w.Proxies() {
		asked = append(asked, p.Procedures())
	}
	want := y.Look()
	w.End()
	struck := 0
	for _, f := range faults(asked, most) {
		t.Run(f.Name, func(t *testing.T) {
			w := fresh(t)
			defer w.End()
			p := w.Proxies()[f.Host]
			p.LoseAnswer(f.Procedure, f.Skip)
			w.Try(want).run(t, p)
			if p.Struck() {
				struck++
			}
		})
	}
	if struck == 0 {
		t.Error("no answer was lost in any of them")
	}
}

// Scene is what is on the hosts, without a driver's word for it.
type Scene struct {
	Domains []string        // "host UUID"
	Lines   []string        // what can be compared of each domain
	Files   []string        // all images
	Used    map[string]bool // images that a domain or a snapshot uses, with all below
}

// Shape is a scene without what is different each time.
func (s Scene) Shape() string {
	return fmt.Sprintf("%s\n%d files, %d in use", strings.Join(s.Lines, "\n"), len(s.Files), len(s.Used))
}

// Try is work that loses an answer.
type Try struct {
	Before, Want Scene // before the work, and after it without a fault
	Look         func() Scene
	Do           func() error
	// Done is the kind of error for what was done already.
	Done         hypervisor.Kind
	DeleteVolume func(hypervisor.VolumeID) error
}

// run does the work and judges what comes of it: the whole work, or an error
// that says Unavailable with everything that is left behind named, after which
// the same work ends as if nothing had happened.
func (y Try) run(t testing.TB, p *Proxy) {
	t.Helper()
	err := y.Do()
	if !p.Struck() { // work that waits asks as often as it has to
		t.Log("no answer was lost")
		if err != nil {
			t.Fatal(err)
		}
	}
	now := y.Look()
	if err == nil {
		if now.Shape() != y.Want.Shape() {
			t.Errorf("it succeeded, but there is\n%s\nwant\n%s", now.Shape(), y.Want.Shape())
		}
		return
	}
	var e *hypervisor.Error
	if !errors.As(err, &e) || e.Kind != hypervisor.KindUnavailable {
		t.Fatalf("the error is %v (%s), want Unavailable", err, hypervisor.KindOf(err))
	}
	t.Logf("%v", err)
	y.accounted(t, e, now)
	for _, r := range e.Leftover {
		if r.Kind == hypervisor.KindOfVolume {
			if err := y.DeleteVolume(hypervisor.VolumeID(r.ID)); err != nil {
				t.Errorf("the leftover can't be deleted: %v", err)
			}
		}
	}
	if y.Look().Shape() != y.Want.Shape() {
		if err := y.Do(); err != nil && (y.Done == hypervisor.KindUnknown || hypervisor.KindOf(err) != y.Done) {
			t.Errorf("again: %v", err)
		}
	}
	if now = y.Look(); now.Shape() != y.Want.Shape() {
		t.Errorf("in the end there is\n%s\nwant\n%s", now.Shape(), y.Want.Shape())
	}
}

// accounted demands that Leftover names what is left, and nothing in use.
func (y Try) accounted(t testing.TB, e *hypervisor.Error, now Scene) {
	t.Helper()
	left := map[string]bool{}
	for _, r := range e.Leftover {
		left[filepath.Base(r.ID)] = true
	}
	for _, d := range now.Domains {
		if !slices.Contains(y.Before.Domains, d) && !left[strings.Fields(d)[1]] && now.Shape() != y.Want.Shape() {
			t.Errorf("domain %s is left behind, Leftover names %v", d, e.Leftover)
		}
	}
	for _, f := range now.Files {
		switch name := filepath.Base(f); {
		case !now.Used[f] && !left[name] && (y.Before.Used[f] || !slices.Contains(y.Before.Files, f)):
			t.Errorf("image %s is left behind, Leftover names %v", f, e.Leftover)
		case now.Used[f] && left[name]:
			t.Errorf("image %s is in use, and Leftover names it", f)
		}
	}
}
