package hypervisortest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// running returns the area's running machine. Rows that leave it unchanged,
// or off, share it, so that few guests are booted. After a row that failed
// with it, or gave it other images, the next row gets a new one.
func (e *env) running(change ...func(*hypervisor.VMSpec)) *hypervisor.VM {
	e.Helper()
	return e.shared("running", func() *hypervisor.VM { return e.create("shared", change...) })
}

// shared is like running, for more than one kind of machine in an area, of
// which only one exists at a time.
func (e *env) shared(as string, make func() *hypervisor.VM) *hypervisor.VM {
	e.Helper()
	w := e.site
	e.sharing = true
	if w.shared != nil && w.sharedAs == as {
		switch e.info(w.shared).State {
		case hypervisor.StateRunning:
			return w.shared
		case hypervisor.StateOff:
			e.start(w.shared)
			return w.shared
		}
	}
	e.unshare()
	before, mine := e.listImages(), len(e.made)
	vm := make()
	e.made = e.made[:mine]
	w.shared, w.sharedAs, w.sharedImages = vm, as, e.added(before)
	e.images = append(e.images, w.sharedImages...)
	e.start(vm)
	return vm
}

// unshare deletes the shared machine, if there is one.
func (e *env) unshare() {
	e.Helper()
	e.ok(e.site.drop(e.ctx), "Delete of the machine that rows share")
}

// cleanup removes everything that the row made, newest first, and checks that
// no image is left. After a failure it does so as far as possible.
func (e *env) cleanup() {
	ctx, stop := context.WithTimeout(context.WithoutCancel(e.ctx), 2*time.Minute)
	defer stop()
	e.ctx = ctx
	strict := !e.Failed()
	if e.Slow != nil {
		e.Slow(0)
	}
	left := e.remove(strict && len(e.after) == 0)
	if len(e.after) > 0 {
		if err := finish(ctx, e.after); err != nil {
			e.Errorf("the clean-up: %v", err)
		}
		left = e.remove(strict)
	}
	if e.sharing && (!strict || e.Images != nil && len(e.added(e.images)) > 0) {
		if err := e.site.drop(ctx); err != nil {
			e.Logf("clean-up of the shared machine: %v", err)
		}
	}
	e.dropVolumes(strict)
	if strict && len(left) > 0 {
		e.Errorf("the clean-up could not delete %v", left)
	}
	if strict && e.Images != nil && len(left) == 0 {
		a := e.added(e.images)
		// A deletion that was cancelled may still be at work.
		for try := 0; len(a) > 0 && try < 50 && !e.site.leaks; try++ {
			time.Sleep(100 * time.Millisecond)
			a = e.added(e.images)
		}
		if len(a) > 0 {
			e.site.leaks = true
			e.Errorf("images without a machine are left: %s", strings.Join(a, ", "))
		}
	}
}

// remove deletes the machines that were made and returns those that it can't
// delete.
func (e *env) remove(strict bool) []hypervisor.VMID {
	left := slices.Clone(e.made)
	waits := 0
	for try := 0; try < 3; try++ { // clones before their bases, whatever the order
		var next []hypervisor.VMID
		busy := false
		for _, id := range slices.Backward(left) {
			_, err := e.c.VM(id).Delete(e.ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(e.ctx)
			if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
				next = append(next, id)
				busy = busy || errors.Is(err, hypervisor.ErrBusy)
				if strict {
					e.Logf("clean-up of %s: %v", id, err)
				}
			}
		}
		if strict && busy && len(next) == len(left) && waits < 50 { // the platform is at work, such as on a cancelled deletion
			waits, try = waits+1, try-1
			time.Sleep(100 * time.Millisecond)
		}
		if left = next; len(left) == 0 {
			break
		}
		slices.Reverse(left)
	}
	return left
}

// dropVolumes deletes the images that belong to no machine. Where this is not
// possible, they stay.
func (e *env) dropVolumes(strict bool) {
	if len(e.volumes) == 0 {
		return
	}
	if !e.has(capability.VolumeManage) {
		e.images = e.listImages()
		return
	}
	for _, id := range e.volumes {
		_, err := e.c.DeleteVolume(e.ctx, id).Wait(e.ctx)
		if err != nil && !errors.Is(err, hypervisor.ErrNotFound) && strict {
			e.Errorf("the clean-up could not delete %s: %v", id, err)
		}
	}
}
