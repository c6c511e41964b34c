package hypervisortest

import (
	"errors"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// deployMany deploys many machines from one template at the same time.
func deployMany(r *race) {
	vm := r.create("golden")
	r.write(vm, "golden")
	t, err := vm.MarkTemplate(r.ctx).Wait(r.ctx)
	r.ok(err, "MarkTemplate")
	r.keep(hypervisor.VMID(t.ID()))
	var all []copying
	for range r.site.s.h.AtOnce {
		t := r.client().Template(t.ID())
		all = append(all, func(name string) (*hypervisor.VM, error) {
			return t.Deploy(r.ctx, name, &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(r.ctx)
		})
	}
	vms := r.copies("linked Deploy", all...)
	for i, vm := range vms {
		r.content(vm, "golden", "Deploy")
		if d := r.info(vm).Disks; len(d) == 0 || d[0].Parent == "" {
			r.Errorf("the disk of linked machine %d of %d has no base: %+v", i+1, len(vms), d)
		}
	}
	if len(vms) > 1 {
		r.write(vms[0], "mine")
		r.content(vms[1], "golden", "a write to another machine of the template")
	}
	if _, err := t.Info(r.ctx); err != nil {
		r.Errorf("after the deploys the template is none: %v", err)
	}
	if _, err := r.c.VM(hypervisor.VMID(t.ID())).Start(r.ctx).Wait(r.ctx); !errors.Is(err, hypervisor.ErrInvalidState) {
		r.Errorf("after the deploys Start of the template: %v, want ErrInvalidState", err)
	}
}

func (r *race) cloneTwice(m hypervisor.CloneMode) {
	vm := r.create("src")
	r.write(vm, "base")
	o := &hypervisor.CloneOptions{Mode: m}
	r.apart(vm, r.copies("Clone", r.clone(vm, o), r.clone(vm, o)))
}

// cloneBothWays makes full and linked clones, several of each.
func cloneBothWays(e *env) {
	e.sessions(func(r *race) {
		vm := r.create("src")
		r.write(vm, "base")
		linked := &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}
		r.apart(vm, r.copies("Clone", r.clone(vm, nil), r.clone(vm, linked), r.clone(vm, nil), r.clone(vm, linked)))
	})
}

// apart checks that source and copies have the same content, and afterwards
// the content that is written to each of them.
func (r *race) apart(src *hypervisor.VM, copies []*hypervisor.VM) {
	r.Helper()
	r.content(src, "base", "the clones were made")
	for _, vm := range copies {
		r.content(vm, "base", "it was cloned beside others")
	}
	r.write(src, "source's")
	for _, vm := range copies {
		r.content(vm, "base", "a write to the source")
		r.write(vm, "copy's")
	}
	r.content(src, "source's", "writes to the copies")
}

// cloneRunning makes linked clones of a running machine.
func cloneRunning(r *race) {
	vm := r.create("src")
	r.write(vm, "base")
	r.start(vm)
	n := r.uptime(vm)
	o := &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}
	copies := r.copies("Clone of a running machine", r.clone(vm, o), r.clone(vm, o), r.clone(vm, o))
	r.state(vm, hypervisor.StateRunning, "Clone of a running machine")
	r.sameBoot(vm, n, "Clone of a running machine")
	r.chain(vm, "Clone of a running machine")
	r.off(vm)
	r.apart(vm, copies)
}

// deleteMeanwhile deletes the source of a clone that is being made. One of
// the two is refused, or both succeed.
func deleteMeanwhile(r *race) {
	other, src := r.create("other"), r.create("meanwhile")
	r.write(src, "precious")
	images := r.listImages()
	r.slow(5 * meet)
	t := r.on(src).Clone(r.ctx, r.name("meanwhile"), nil)
	r.ok(t.Err(), "Clone")
	_, derr := r.on(src).Delete(r.ctx, hypervisor.DeleteDisks, nil).Wait(r.ctx)
	vm, cerr := t.Wait(r.ctx)
	r.slow(0)
	r.busy(derr, "Delete of the source of a clone that is being made")
	if r.exists(src.ID()) != (derr != nil) {
		r.Errorf("Delete of the source ended with %v, and it exists: %v", derr, r.exists(src.ID()))
	}
	switch {
	case cerr == nil:
		r.keep(vm.ID())
		r.content(vm, "precious", "Delete of its source while it was made")
	case derr != nil:
		r.Errorf("the refused Delete of its source broke the clone: %v", cerr)
	default:
		r.swept(cerr, images, "a clone whose source was deleted")
	}
	r.strays()
	if !r.exists(other.ID()) {
		r.Errorf("machine %s, which nobody touched, is gone", other.ID())
	}
}
