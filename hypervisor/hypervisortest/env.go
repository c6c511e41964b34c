package hypervisortest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// env is the view of one row: the backend, and the machines that the row
// made.
type env struct {
	T
	*Backend
	site     *site
	ctx      context.Context
	c        *hypervisor.Client
	made     []hypervisor.VMID     // machines and templates to remove
	volumes  []hypervisor.VolumeID // images to remove
	images   []string              // that existed before
	sharing  bool                  // the row uses site.shared
	without  string                // see unshown
	row      string                // its name
	declined string                // a field's refusal
	// after is called when the machines are removed, the last first.
	after []func(context.Context) error
	quiet *hypervisor.Client // see calm
}

func (w *site) env(t T) *env {
	return &env{T: t, Backend: w.b, site: w, ctx: t.Context(), c: w.b.Client}
}

// run runs a row within its limit, removes everything that it made, and
// checks that no image is left.
func (e *env) run(r row, path string) {
	h := e.site.s.h
	ctx, stop := context.WithTimeout(e.ctx, cmp.Or(h.RowLimit[path], h.Limit))
	defer stop()
	e.ctx, e.row = ctx, r.name
	defer e.cleanup()
	e.images = e.listImages()
	if m := e.site.s.mutation; m != nil {
		m.on.Store(true)
		defer m.on.Store(false) // before the clean-up
	}
	r.run(e)
	if why := h.Refused[r.name]; why != "" && e.site.name == "fields" && e.declined == "" && !e.Failed() {
		e.Errorf("the field is honoured: take it out of Harness.Refused (%s)", why)
	}
}

func (e *env) outcome(path string) Test {
	switch {
	case e.Failed():
		return Test{Name: path, Outcome: fail}
	case e.without != "":
		return Test{path, notShown, e.without}
	case e.declined != "":
		return Test{path, pass, "refused: " + e.declined}
	}
	return Test{Name: path, Outcome: pass}
}

// unshown records why the row, which then returns without a failure, could
// not show what it is for. It proves nothing.
func (e *env) unshown(why string, args ...any) {
	e.Helper()
	e.without = fmt.Sprintf(why, args...)
	e.Logf("not shown here: %s", e.without)
}

var serial atomic.Uint64

// name makes a name that no other test uses.
func (e *env) name(part string) string {
	return fmt.Sprintf("av-%s-%s-%d", e.site.name, part, serial.Add(1))
}

// ok ends the row if there is an error.
func (e *env) ok(err error, what string, args ...any) {
	e.Helper()
	if err != nil {
		e.Fatalf("%s: %v", fmt.Sprintf(what, args...), err)
	}
}

// kind checks that an error is an *Error of that kind that names an
// operation, an object and a text.
func (e *env) kind(err, want error, what string, args ...any) {
	e.Helper()
	what = fmt.Sprintf(what, args...)
	var he *hypervisor.Error
	switch {
	case err == nil:
		e.Errorf("%s: succeeded, want %q", what, want)
	case !errors.Is(err, want):
		e.Errorf("%s: got %v (kind %s), want %q", what, err, hypervisor.KindOf(err), want)
	case !errors.As(err, &he):
		e.Errorf("%s: %v is no *hypervisor.Error", what, err)
	case he.Op == "":
		e.Errorf("%s: the error names no operation: %v", what, err)
	}
}

// must returns a task's result and ends the row on its error.
func must[R any](e *env, t *hypervisor.Task[R], what string, args ...any) R {
	e.Helper()
	r, err := t.Wait(e.ctx)
	e.ok(err, what, args...)
	return r
}

// errOf returns a task's error.
func errOf[R any](e *env, t *hypervisor.Task[R]) error {
	_, err := t.Wait(e.ctx)
	return err
}

// oneOf is like kind, with several kinds allowed.
func (e *env) oneOf(err error, what string, want ...error) {
	e.Helper()
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	e.Errorf("%s: got %v (kind %s), want one of %q", what, err, hypervisor.KindOf(err), want)
}

// has reports whether a capability is declared for the Client.
func (e *env) has(k capability.Name) bool {
	e.Helper()
	return e.site.s.has(e.ctx, e, e.c, k)
}

// refused checks that a call fails as Unsupported, with the reason that
// Supports gives for the scope or for the whole Client.
func (e *env) refused(err error, k capability.Name, scope hypervisor.Ref) {
	e.Helper()
	var u *hypervisor.UnsupportedError
	switch {
	case err == nil:
		e.Errorf("%s is not declared, yet the call succeeded", k)
		return
	case !errors.Is(err, hypervisor.ErrUnsupported) || !errors.As(err, &u):
		e.Errorf("%s is not declared; the call failed with %v (kind %s), want Unsupported with the reason", k, err, hypervisor.KindOf(err))
		return
	}
	var want []hypervisor.ReasonCode
	for _, sc := range []hypervisor.Ref{scope, {}} {
		s, serr := e.c.Supports(e.ctx, k, sc)
		e.ok(serr, "Supports(%s, %s)", k, sc)
		if s.Level == hypervisor.LevelNo || s.Level == hypervisor.LevelUnproven {
			want = append(want, s.Reason)
		}
	}
	if u.Support.Reason == "" || !slices.Contains(want, u.Support.Reason) {
		e.Errorf("%s was refused with reason %q, Supports says %q", k, u.Support.Reason, want)
	}
	e.site.s.mu.Lock()
	defer e.site.s.mu.Unlock()
	e.site.s.refused[k] = true
}

// create makes a machine that is removed when the row ends.
func (e *env) create(part string, change ...func(*hypervisor.VMSpec)) *hypervisor.VM {
	e.Helper()
	s := e.Spec(e.name(part))
	for _, f := range change {
		f(&s)
	}
	vm := must(e, e.c.CreateVM(e.ctx, s), "CreateVM(%q)", s.Name)
	if vm.ID() == "" {
		e.Fatalf("CreateVM(%q) returned an empty ID", s.Name)
	}
	e.keep(vm.ID())
	return vm
}

// keep registers a machine for removal when the row ends.
func (e *env) keep(id hypervisor.VMID) { e.made = append(e.made, id) }

func (e *env) info(vm *hypervisor.VM) hypervisor.VMInfo {
	e.Helper()
	i, err := vm.Info(e.ctx)
	e.ok(err, "Info(%s)", vm.ID())
	return i
}

// start powers a machine on and waits for its guest.
func (e *env) start(vm *hypervisor.VM) {
	e.Helper()
	must(e, vm.Start(e.ctx), "Start(%s)", vm.ID())
	e.booted(vm)
}

func (e *env) booted(vm *hypervisor.VM) {
	e.Helper()
	if e.Booted != nil {
		e.ok(e.Booted(e.ctx, vm.ID()), "wait for the guest of %s", vm.ID())
	}
}

func (e *env) off(vm *hypervisor.VM) {
	e.Helper()
	must(e, vm.PowerOff(e.ctx), "PowerOff(%s)", vm.ID())
}

// state checks a power state, as reported by the API and by the platform.
func (e *env) state(vm *hypervisor.VM, want hypervisor.PowerState, after string) {
	e.Helper()
	if i := e.info(vm); i.State != want {
		e.Errorf("after %s the machine is %s, want %s", after, i.State, want)
	}
	if e.State != nil {
		got, err := e.State(e.ctx, vm.ID())
		e.ok(err, "the platform's state of %s", vm.ID())
		if got != want {
			e.Errorf("after %s the platform's own tool says %s, want %s", after, got, want)
		}
	}
}

// uptime returns a number from the guest's memory, or 0 where the backend
// can't read it.
func (e *env) uptime(vm *hypervisor.VM) int {
	e.Helper()
	if e.Uptime == nil {
		return 0
	}
	n, err := e.Uptime(e.ctx, vm.ID())
	e.ok(err, "the guest's uptime")
	return n
}

// sameBoot checks that the guest's memory was kept since n.
func (e *env) sameBoot(vm *hypervisor.VM, n int, after string) {
	e.Helper()
	if e.Uptime == nil {
		return
	}
	if got := e.uptime(vm); got < n {
		e.Errorf("after %s the guest's counter is %d, it was %d: its memory was lost", after, got, n)
	}
}

func (e *env) write(vm *hypervisor.VM, content string) {
	e.Helper()
	if e.WriteDisk != nil {
		e.ok(e.WriteDisk(e.ctx, vm.ID(), content), "write to the disk of %s", vm.ID())
	}
}

// content checks the content of the machine's first disk.
func (e *env) content(vm *hypervisor.VM, want, after string) {
	e.Helper()
	if e.ReadDisk == nil || e.WriteDisk == nil {
		return
	}
	got, err := e.ReadDisk(e.ctx, vm.ID())
	e.ok(err, "read the disk of %s", vm.ID())
	if got != want {
		e.Errorf("after %s the disk holds %q, want %q", after, got, want)
	}
}

func (e *env) listImages() []string {
	e.Helper()
	if e.Images == nil {
		return nil
	}
	l, err := e.Images(context.WithoutCancel(e.ctx))
	e.ok(err, "list the images")
	slices.Sort(l)
	return l
}

// added returns the images that exist now and did not exist before.
func (e *env) added(before []string) []string {
	e.Helper()
	return slices.DeleteFunc(e.listImages(), func(i string) bool { return slices.Contains(before, i) })
}

// hostIDs returns the hosts that are up.
func (e *env) hostIDs() []hypervisor.HostID {
	e.Helper()
	all, err := hypervisor.Collect(e.c.Hosts(e.ctx))
	e.ok(err, "Hosts")
	var out []hypervisor.HostID
	for _, h := range all {
		if h.State == hypervisor.HostUp {
			out = append(out, h.ID)
		}
	}
	return out
}

// exists reports whether a machine exists, in the API and on the platform.
func (e *env) exists(id hypervisor.VMID) bool {
	e.Helper()
	_, err := e.c.VM(id).Info(e.ctx)
	if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
		e.ok(err, "Info(%s)", id)
	}
	if e.State != nil {
		_, serr := e.State(e.ctx, id)
		if (err == nil) != (serr == nil) {
			e.Errorf("machine %s: Info says %v, the platform's own tool says %v", id, err, serr)
		}
	}
	return err == nil
}
