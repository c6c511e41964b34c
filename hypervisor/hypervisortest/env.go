package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// env is one area's view: the backend, and the machines that it made.
type env struct {
	T
	*Backend
	s      *suite
	ctx    context.Context
	c      *hypervisor.Client
	area   string
	made   []hypervisor.VMID // machines and templates to remove
	images []string
	closed bool
}

var serial atomic.Uint64

// name makes a name that no other test uses.
func (e *env) name(part string) string {
	return fmt.Sprintf("av-%s-%s-%d", e.area, part, serial.Add(1))
}

// ok ends the area on an error.
func (e *env) ok(err error, what string, args ...any) {
	e.Helper()
	if err != nil {
		e.Fatalf("%s: %v", fmt.Sprintf(what, args...), err)
	}
}

// kind demands an *Error that is the sentinel, names an operation, an object
// and a text.
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

// oneOf is kind with several sentinels allowed.
func (e *env) oneOf(err error, what string, want ...error) {
	e.Helper()
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	e.Errorf("%s: got %v (kind %s), want one of %q", what, err, hypervisor.KindOf(err), want)
}

// has asks whether a capability is declared for the Client and remembers it.
func (e *env) has(k hypervisor.Capability) bool {
	e.Helper()
	s, err := e.c.Supports(e.ctx, k, hypervisor.Ref{})
	e.ok(err, "Supports(%s)", k)
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	e.s.support[k] = s
	return s.Level == hypervisor.Yes || s.Level == hypervisor.Partial
}

// proved notes that the area has shown a capability at work.
func (e *env) proved(ks ...hypervisor.Capability) {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	for _, k := range ks {
		if e.Failed() {
			e.s.failed[k] = true
		} else {
			e.s.proved[k] = e.area
		}
	}
}

// refused demands that a call fails as Unsupported, with the reason that
// Supports gives for the scope or for the whole Client.
func (e *env) refused(err error, k hypervisor.Capability, scope hypervisor.Ref) {
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
		if s.Level == hypervisor.No || s.Level == hypervisor.Unproven {
			want = append(want, s.Reason)
		}
	}
	if u.Support.Reason == "" || !slices.Contains(want, u.Support.Reason) {
		e.Errorf("%s was refused with reason %q, Supports says %q", k, u.Support.Reason, want)
	}
	e.s.mu.Lock()
	e.s.refused[k] = true
	e.s.mu.Unlock()
}

// create makes a machine that is removed when the area ends.
func (e *env) create(part string, change ...func(*hypervisor.VMSpec)) *hypervisor.VM {
	e.Helper()
	s := e.Spec(e.name(part))
	for _, f := range change {
		f(&s)
	}
	vm, err := e.c.CreateVM(e.ctx, s).Wait(e.ctx)
	e.ok(err, "CreateVM(%q)", s.Name)
	if vm.ID() == "" {
		e.Fatalf("CreateVM(%q) returned an empty ID", s.Name)
	}
	e.keep(vm.ID())
	return vm
}

// keep has a machine removed when the area ends.
func (e *env) keep(id hypervisor.VMID) { e.made = append(e.made, id) }

func (e *env) info(vm *hypervisor.VM) hypervisor.VMInfo {
	e.Helper()
	i, err := vm.Info(e.ctx)
	e.ok(err, "Info(%s)", vm.ID())
	return i
}

// start powers on and waits for the guest.
func (e *env) start(vm *hypervisor.VM) {
	e.Helper()
	_, err := vm.Start(e.ctx).Wait(e.ctx)
	e.ok(err, "Start(%s)", vm.ID())
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
	_, err := vm.PowerOff(e.ctx).Wait(e.ctx)
	e.ok(err, "PowerOff(%s)", vm.ID())
}

// state demands a power state, from the API and from the platform.
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
// can't tell.
func (e *env) uptime(vm *hypervisor.VM) int {
	e.Helper()
	if e.Uptime == nil {
		return 0
	}
	n, err := e.Uptime(e.ctx, vm.ID())
	e.ok(err, "the guest's uptime")
	return n
}

// sameBoot demands that the guest's memory went on from n.
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

// content demands what the machine's first disk holds.
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

// added returns the images that are there now and were not in before.
func (e *env) added(before []string) []string {
	e.Helper()
	return slices.DeleteFunc(e.listImages(), func(i string) bool { return slices.Contains(before, i) })
}

// cleanup removes what the area made, newest first, and demands that no image
// is left.
func (e *env) cleanup(strict bool) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(e.ctx), 2*time.Minute)
	defer stop()
	c := e.c
	if e.closed {
		var err error
		if e.Reopen == nil {
			return
		}
		if c, err = e.Reopen(ctx); err != nil {
			e.Errorf("reopen for the clean-up: %v", err)
			return
		}
	}
	if e.Slow != nil {
		e.Slow(0)
	}
	left := slices.Clone(e.made)
	for range 3 { // clones before their bases, whatever the order
		var next []hypervisor.VMID
		for _, id := range slices.Backward(left) {
			_, err := c.VM(id).Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx)
			if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
				next = append(next, id)
				if strict {
					e.Logf("clean-up of %s: %v", id, err)
				}
			}
		}
		if left = next; len(left) == 0 {
			break
		}
		slices.Reverse(left)
	}
	if strict && len(left) > 0 {
		e.Errorf("the clean-up could not delete %v", left)
	}
	e.ctx = ctx
	if strict && e.Images != nil && len(left) == 0 {
		if a := e.added(e.images); len(a) > 0 {
			e.Errorf("images without a machine are left: %s", strings.Join(a, ", "))
		}
	}
	if err := c.Close(); err != nil {
		e.Errorf("Close: %v", err)
	}
	if c != e.c {
		if err := e.c.Close(); err != nil {
			e.Errorf("second Close: %v", err)
		}
	}
	if g := settle(); strict && len(g) > 0 {
		e.Errorf("%d goroutines of the Client are left after Close:\n%s", len(g), g[0])
	}
}

// settle waits for goroutines that are on their way out.
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

// exists tells whether a machine is there, by the API and by the platform.
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
