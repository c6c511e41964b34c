package hypervisortest

import (
	"github.com/anyvisor/anyvisor/hypervisor"
)

// templates: both ways, and never started.
func templates(e *env) {
	vm := e.create("vm")
	if !e.has(hypervisor.Templates) {
		return
	}
	e.write(vm, "golden")
	e.start(vm)
	_, err := vm.MarkTemplate(e.ctx).Wait(e.ctx)
	e.kind(err, hypervisor.ErrInvalidState, "MarkTemplate of a running machine")
	e.off(vm)
	var t *hypervisor.Template
	for range 3 {
		t, err = vm.MarkTemplate(e.ctx).Wait(e.ctx)
		e.ok(err, "MarkTemplate")
	}
	tid := hypervisor.VMID(t.ID())
	e.keep(tid)
	name := ""
	found := false
	for i, err := range e.c.Templates(e.ctx) {
		e.ok(err, "Templates")
		if i.ID == t.ID() {
			found, name = true, i.Name
		}
	}
	if !found {
		e.Errorf("Templates leaves out %s", t.ID())
	}
	for v, err := range e.c.VMs(e.ctx, nil) {
		e.ok(err, "VMs")
		if v.ID == tid {
			e.Errorf("VMs lists the template %s", tid)
		}
	}
	if f, err := e.c.FindTemplate(e.ctx, name); err != nil || f.ID() != t.ID() {
		e.Errorf("FindTemplate(%q): %v", name, err)
	}
	_, err = e.c.VM(tid).Start(e.ctx).Wait(e.ctx)
	e.kind(err, hypervisor.ErrInvalidState, "Start of a template")
	if i, err := e.c.VM(tid).Info(e.ctx); err != nil || !i.Template || i.State != hypervisor.Off {
		e.Errorf("after a refused Start the template is %+v (%v)", i, err)
	}
	if e.has(hypervisor.CloneFull) {
		n := e.name("deployed")
		d, err := t.Deploy(e.ctx, n, nil).Wait(e.ctx)
		e.ok(err, "Deploy")
		e.keep(d.ID())
		if i := e.info(d); i.Template || i.Name != n || i.State != hypervisor.Off {
			e.Errorf("the deployed machine is %+v", i)
		}
		e.content(d, "golden", "Deploy")
		e.start(d)
		e.state(d, hypervisor.Running, "Start of a deployed machine")
		e.off(d)
	}
	if e.has(hypervisor.CloneLinked) {
		d, err := t.Deploy(e.ctx, e.name("linked"), &hypervisor.CloneOptions{Mode: hypervisor.Linked}).Wait(e.ctx)
		e.ok(err, "Deploy linked")
		e.keep(d.ID())
		e.content(d, "golden", "Deploy linked")
		if i := e.info(d); len(i.Disks) > 0 && i.Disks[0].Parent == "" {
			e.Errorf("the linked machine's disk stands on nothing")
		}
		_, err = t.Delete(e.ctx, hypervisor.DeleteDisks).Wait(e.ctx)
		if err != nil {
			e.kind(err, hypervisor.ErrBusy, "Delete of a template with a linked clone")
		} else {
			e.content(d, "golden", "Delete of its template")
		}
		_, err = d.Delete(e.ctx, hypervisor.DeleteDisks, nil).Wait(e.ctx)
		e.ok(err, "Delete of the linked machine")
	}
	if !e.exists(tid) { // the platform keeps bases by itself, so it could go
		again := e.create("again")
		e.write(again, "golden")
		t, err = again.MarkTemplate(e.ctx).Wait(e.ctx)
		e.ok(err, "MarkTemplate")
	}
	back, err := t.MarkVM(e.ctx, hypervisor.Placement{}).Wait(e.ctx)
	e.ok(err, "MarkVM")
	e.keep(back.ID())
	if i := e.info(back); i.Template {
		e.Errorf("after MarkVM it is a template still")
	}
	e.content(back, "golden", "MarkVM")
	e.start(back)
	e.state(back, hypervisor.Running, "Start after MarkVM")
	_, err = t.Info(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Info of a template that is a machine again")
	e.proved(hypervisor.Templates)
}
