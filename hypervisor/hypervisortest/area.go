package hypervisortest

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// site is one area at work: the backend that its rows share.
type site struct {
	s     *suite
	t     tree
	name  string
	b     *Backend
	dirty bool // a row failed, so objects may be left
	leaks bool // a row left images, so that the next ones do not wait for theirs
	// shared is a machine that rows use one after the other, and sharedAs is
	// the purpose they use it for. It is nil before its first use and after a
	// row that failed with it. Its images belong to no row.
	shared       *hypervisor.VM
	sharedAs     string
	sharedImages []string
	heard        []hypervisor.Event // see env.heard
}

func (s *suite) area(t tree, a area) {
	b := s.backend(t)
	s.mu.Lock()
	s.product = b.Client.Describe()
	s.mu.Unlock()
	if a.name == "contexts" && (b.Break == nil || b.Break.Silence == nil) {
		_ = b.Client.Close()
		t.Fatalf("Backend.Break.Silence is nil, so that nothing shows what calls do at a silent server: set it, or say in Harness.NotYet why there is none")
	}
	rows := s.more(t, a, b)
	worlds := 1
	if !slices.ContainsFunc(rows, func(r row) bool { return !r.apart }) {
		worlds = max(1, min(s.h.Worlds, len(rows)))
	}
	todo := make(chan row, len(rows))
	for _, r := range rows {
		todo <- r
	}
	close(todo)
	var wg sync.WaitGroup
	dirty := make([]bool, worlds)
	for i := range worlds {
		wg.Go(func() {
			w := &site{s: s, t: t, name: a.name, b: b}
			if i > 0 {
				w.b = s.backend(t)
			}
			defer func() { dirty[i] = w.dirty }()
			defer w.close()
			for r := range todo {
				w.row(r)
			}
		})
	}
	wg.Wait()
	strict := !t.Failed() && !slices.Contains(dirty, true) && !s.parallel
	if g := settle(); strict && len(g) > 0 {
		t.Errorf("%d goroutines of the Client are left after Close:\n%s", len(g), g[0])
	}
}

// backend makes a backend with the harness.
func (s *suite) backend(t tree) *Backend {
	b := s.h.New(t)
	if b == nil || b.Client == nil || b.Spec == nil || b.AbsentVM == "" {
		t.Fatalf("the harness must set Client, Spec and AbsentVM")
	}
	return b
}

// row runs a row if the Client declares the capabilities that it needs.
func (w *site) row(r row) {
	path := w.name + "/" + r.name
	why, known := w.s.h.Known[path]
	skip := w.skip(r)
	skip.Name = path
	switch {
	case skip.Outcome != "" && known:
		w.t.Errorf("%s is not run, since %s is %s: take it out of Harness.Known (%s)", path, skip.Why, skip.Outcome, why)
	case skip.Outcome != "":
		w.t.Logf("%s demands nothing: %s is %s", path, skip.Why, skip.Outcome)
		w.s.note(r, skip)
	case known:
		w.t.sub(r.name, func(t tree) { w.known(t, r, path, why) })
	default:
		w.t.sub(r.name, func(t tree) {
			e := w.env(t)
			defer func() { w.s.note(r, e.outcome(path)) }() // also after Fatalf
			e.run(r, path)
		})
	}
}

// skip returns why a row does not apply to the Client, or the zero value.
func (w *site) skip(r row) Test {
	has := func(k capability.Name) bool { return w.s.has(w.t.Context(), w.t, w.b.Client, k) }
	absent := slices.DeleteFunc(slices.Concat(r.proves, r.needs), has)
	switch {
	case len(absent) > 0 && !r.anyway:
		return Test{Outcome: notDeclared, Why: words(absent)}
	case r.lacks != "" && (has(r.lacks) || w.s.support[r.lacks].Level != hypervisor.LevelNo):
		return Test{Outcome: declared, Why: string(r.lacks)}
	}
	return Test{}
}

// known runs a row that is known to fail.
func (w *site) known(t tree, r row, path, why string) {
	f := &finder{name: path, ctx: t.Context()}
	e := w.env(f)
	f.do(func() { e.run(r, path) })
	if !f.Failed() {
		w.s.note(r, e.outcome(path))
		t.Errorf("%s passes: take it out of Harness.Known (%s)", path, why)
		return
	}
	w.dirty = true
	for _, x := range f.found {
		t.Logf("KNOWN FAILURE (%s): %s", why, x)
	}
	w.s.note(r, Test{path, knownFailure, why})
}

// close removes the shared machine, closes the Client, and checks that
// nothing is left.
func (w *site) close() {
	t, strict := w.t, !w.t.Failed() && !w.dirty
	ctx, stop := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer stop()
	if err := w.drop(ctx); err != nil && strict {
		t.Errorf("the clean-up: %v", err)
	}
	if err := w.b.Client.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// drop deletes the shared machine.
func (w *site) drop(ctx context.Context) error {
	vm := w.shared
	if vm == nil {
		return nil
	}
	w.shared = nil
	_, err := vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx)
	if err == nil && w.b.Images != nil {
		var l []string
		l, err = w.b.Images(ctx)
		for _, i := range l {
			if err == nil && slices.Contains(w.sharedImages, i) {
				err = errors.New("Delete of " + string(vm.ID()) + " left the image " + i)
			}
		}
	}
	return err
}

// settle waits for goroutines that are about to end.
func settle() []string {
	var g []string
	for range 50 {
		if g = goroutines(); len(g) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return g
}

// goroutines returns the stacks that belong to this module, except for the
// suite's own.
func goroutines() []string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var out []string
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(g, "hypervisor/hypervisortest.") || !strings.Contains(g, "created by github.com/anyvisor/anyvisor/hypervisor.") {
			continue
		}
		out = append(out, g)
	}
	return out
}
