package hypervisortest

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// concurrency: calls at the same time, on one Client and from several. Each
// succeeds, or reports that another is at work (ErrBusy) and has done
// nothing.
var concurrency = area{"concurrency", slices.Concat(
	[]row{
		{name: "creates", run: concurrentCreates},
		{name: "one-machine", run: concurrentWork},
		{name: "deletes", run: concurrentDeletes},
		{name: "clone-both-ways", needs: caps{capability.CloneFull, capability.CloneLinked}, run: cloneBothWays},
	},
	both("deploy-linked", caps{capability.Templates, capability.CloneLinked}, deployMany),
	both("clone-full-twice", caps{capability.CloneFull}, func(r *race) { r.cloneTwice(hypervisor.CloneModeFull) }),
	both("clone-linked-twice", caps{capability.CloneLinked}, func(r *race) { r.cloneTwice(hypervisor.CloneModeLinked) }),
	both("clone-running-twice", caps{capability.CloneRunning, capability.CloneLinked}, cloneRunning),
	both("clone-and-snapshot", caps{capability.CloneFull, capability.SnapshotDisk}, cloneAndSnapshot),
	both("clone-and-delete", caps{capability.CloneFull}, deleteMeanwhile),
	both("migrate-and-snapshot", caps{capability.MigrateCold, capability.SnapshotDisk}, migrateAndSnapshot),
	both("linked-clone-and-delete-snapshot", caps{capability.CloneLinked, capability.CloneFromSnapshot}, cloneAndDeleteSnapshot),
)}

// both returns rows for one Client, and for several.
func both(name string, needs caps, run func(*race)) []row {
	return []row{
		{name: name, needs: needs, run: func(e *env) { run(&race{env: e, clients: []*hypervisor.Client{e.c}}) }},
		{name: name + "-sessions", needs: needs, run: func(e *env) { e.sessions(run) }},
	}
}

// race is a row in which calls compete.
type race struct {
	*env
	clients []*hypervisor.Client // used in turn
	next    int
	names   []string // of the requested machines
}

// sessions runs a row with several Clients that don't know of each other.
func (e *env) sessions(run func(*race)) {
	if e.Reopen == nil {
		e.unshown("the harness opens no second Client")
		return
	}
	r := &race{env: e}
	defer func() {
		for _, c := range r.clients {
			if err := c.Close(); err != nil {
				e.Errorf("Close of another Client: %v", err)
			}
		}
	}()
	for range 4 {
		c, err := e.Reopen(e.ctx)
		e.ok(err, "Reopen")
		r.clients = append(r.clients, c)
	}
	run(r)
}

// client returns the next Client in turn.
func (r *race) client() *hypervisor.Client {
	r.next++
	return r.clients[(r.next-1)%len(r.clients)]
}

// on returns a handle on a machine from the next Client.
func (r *race) on(vm *hypervisor.VM) *hypervisor.VM { return r.client().VM(vm.ID()) }

func (r *race) name(part string) string {
	n := r.env.name(part)
	r.names = append(r.names, n)
	return n
}

// copying is a call that makes a machine.
type copying func(name string) (*hypervisor.VM, error)

func (r *race) clone(vm *hypervisor.VM, o *hypervisor.CloneOptions) copying {
	src := r.on(vm)
	return func(name string) (*hypervisor.VM, error) { return src.Clone(r.ctx, name, o).Wait(r.ctx) }
}

// meet is long enough for long operations to overlap.
const meet = 60 * time.Millisecond

// together starts all functions at the same moment, and returns their errors
// when all have ended.
func together(fs ...func() error) []error {
	errs := make([]error, len(fs))
	var ready, done sync.WaitGroup
	ready.Add(len(fs))
	for i, f := range fs {
		done.Go(func() {
			ready.Done()
			ready.Wait()
			errs[i] = f()
		})
	}
	done.Wait()
	return errs
}

// copies makes machines at the same time. Each one is made or refused as
// busy. The refused ones are requested again, one after the other, and must
// succeed.
func (r *race) copies(what string, all ...copying) []*hypervisor.VM {
	r.Helper()
	vms := make([]*hypervisor.VM, len(all))
	var fs []func() error
	for i, f := range all {
		name := r.name("copy")
		fs = append(fs, func() (err error) {
			vms[i], err = f(name)
			return err
		})
	}
	r.slow(meet)
	errs := together(fs...)
	r.slow(0)
	made := 0
	for i, err := range errs {
		if err == nil {
			made++
			r.keep(vms[i].ID())
			continue
		}
		r.kind(err, hypervisor.ErrBusy, "%s, %d at once", what, len(all))
	}
	r.strays()
	switch {
	case r.Failed():
		return slices.DeleteFunc(vms, func(vm *hypervisor.VM) bool { return vm == nil || !r.exists(vm.ID()) })
	case made == 0:
		r.Errorf("%s, %d at once: all are refused: %v", what, len(all), errs[0])
	}
	for i, err := range errs {
		if err != nil {
			vm, err := all[i](r.name("again"))
			r.ok(err, "%s, once the others have ended", what)
			r.keep(vm.ID())
			vms[i] = vm
		}
	}
	return vms
}

// strays checks that every machine was returned by a call.
func (r *race) strays() {
	r.Helper()
	for v, err := range r.c.VMs(r.ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}) {
		r.ok(err, "VMs")
		if slices.Contains(r.names, v.Name) && !slices.Contains(r.made, v.ID) {
			r.Errorf("machine %s (%q) is there, and no call has returned it", v.ID, v.Name)
			r.keep(v.ID)
		}
	}
}

// pair runs two calls. Each succeeds or is refused as busy, and not both are
// refused. It returns their errors.
func (r *race) pair(a, b string, fa, fb func() error) (error, error) {
	r.Helper()
	r.slow(meet)
	errs := together(fa, fb)
	r.slow(0)
	if errs[0] != nil && errs[1] != nil {
		r.Errorf("%s and %s at once: both failed: %v; %v", a, b, errs[0], errs[1])
	}
	return errs[0], errs[1]
}

// busy checks that an error is nil or ErrBusy.
func (r *race) busy(err error, what string) {
	r.Helper()
	if err != nil {
		r.kind(err, hypervisor.ErrBusy, "%s", what)
	}
}

// chain checks that a running machine writes to the images that the images'
// headers name.
func (r *race) chain(vm *hypervisor.VM, after string) {
	r.Helper()
	if r.Chain == nil {
		return
	}
	if err := r.Chain(r.ctx, vm.ID()); err != nil {
		r.Errorf("after %s: %v", after, err)
	}
}

func concurrentCreates(e *env) {
	const n = 4
	r := &race{env: e, clients: []*hypervisor.Client{e.c}}
	vms := make([]*hypervisor.VM, n)
	var fs []func() error
	for i := range n {
		s := e.Spec(r.name("many"))
		fs = append(fs, func() (err error) {
			vms[i], err = e.c.CreateVM(e.ctx, s).Wait(e.ctx)
			return err
		})
	}
	ids := map[hypervisor.VMID]bool{}
	for i, err := range together(fs...) {
		e.ok(err, "concurrent CreateVM")
		e.keep(vms[i].ID())
		ids[vms[i].ID()] = true
	}
	if len(ids) != n {
		e.Errorf("%d concurrent CreateVM made %d machines", n, len(ids))
	}
	r.strays()
}

// concurrentWork: several operations on one machine, while it is read.
func concurrentWork(e *env) {
	vm := e.create("vm")
	e.slow(50 * time.Millisecond)
	var fs []func() error
	for k := range 3 {
		name, snapshot := e.name("busy"), k == 0 && e.has(capability.SnapshotDisk)
		fs = append(fs, func() (err error) {
			if snapshot {
				_, err = vm.CreateSnapshot(e.ctx, name, nil).Wait(e.ctx)
			} else {
				_, err = vm.Reconfigure(e.ctx, hypervisor.Changes{MemoryBytes: 128 * hypervisor.MiB}).Wait(e.ctx)
			}
			if errors.Is(err, hypervisor.ErrBusy) || errors.Is(err, hypervisor.ErrUnsupported) {
				err = nil
			}
			return err
		}, func() error {
			_, err := vm.Info(e.ctx)
			return err
		})
	}
	for i, err := range together(fs...) {
		if err != nil {
			e.Errorf("%s: %v, want success or ErrBusy", []string{"concurrent operations on one machine", "Info while the machine is worked on"}[i%2], err)
		}
	}
}

// concurrentDeletes: one call deletes the machine, the others report that it
// is gone or busy.
func concurrentDeletes(e *env) {
	const n = 4
	vm := e.create("vm")
	done := 0
	for _, err := range together(slices.Repeat([]func() error{func() error {
		_, err := vm.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
		return err
	}}, n)...) {
		if err == nil {
			done++
		} else {
			e.oneOf(err, "concurrent Delete", hypervisor.ErrNotFound, hypervisor.ErrBusy)
		}
	}
	if done == 0 || e.exists(vm.ID()) {
		e.Errorf("of %d concurrent deletes %d succeeded and the machine exists: %v", n, done, e.exists(vm.ID()))
	}
}
