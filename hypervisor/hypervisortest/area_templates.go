package hypervisortest

import (
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// templates are made and turned back, and never started.
var templates = area{"templates", []row{
	{name: "listed-apart", proves: caps{capability.Templates}, run: templatesListed},
	{name: "of-a-running-machine", needs: caps{capability.Templates}, run: templatesRunning},
	{name: "never-started", proves: caps{capability.Templates}, run: templatesStart},
	{name: "deploy", proves: caps{capability.Templates}, needs: caps{capability.CloneFull}, run: templatesDeploy},
	{name: "deploy-linked", proves: caps{capability.Templates}, needs: caps{capability.CloneLinked}, run: templatesDeployLinked},
	{name: "machine-again", proves: caps{capability.Templates}, run: templatesMarkVM},
}}

// template makes a template whose disk has the content "golden".
func (e *env) template() *hypervisor.Template {
	e.Helper()
	vm := e.create("vm")
	e.write(vm, "golden")
	var t *hypervisor.Template
	for range 3 {
		t = must(e, vm.MarkTemplate(e.ctx), "MarkTemplate")
		e.keep(hypervisor.VMID(t.ID()))
	}
	return t
}

func templatesListed(e *env) {
	t := e.template()
	name, found := "", false
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
		if v.ID == hypervisor.VMID(t.ID()) {
			e.Errorf("VMs lists the template %s", t.ID())
		}
	}
	if f, err := e.c.FindTemplate(e.ctx, name); err != nil || f.ID() != t.ID() {
		e.Errorf("FindTemplate(%q): %v", name, err)
	}
}

func templatesRunning(e *env) {
	vm := e.running()
	e.kind(errOf(e, vm.MarkTemplate(e.ctx)), hypervisor.ErrInvalidState, "MarkTemplate of a running machine")
	e.state(vm, hypervisor.StateRunning, "a refused MarkTemplate")
}

func templatesStart(e *env) {
	vm := e.c.VM(hypervisor.VMID(e.template().ID()))
	e.kind(errOf(e, vm.Start(e.ctx)), hypervisor.ErrInvalidState, "Start of a template")
	if i, err := vm.Info(e.ctx); err != nil || !i.Template || i.State != hypervisor.StateOff {
		e.Errorf("after a refused Start the template is %+v (%v)", i, err)
	}
}

func templatesDeploy(e *env) {
	t, n := e.template(), e.name("deployed")
	d := must(e, t.Deploy(e.ctx, n, nil), "Deploy")
	e.keep(d.ID())
	if i := e.info(d); i.Template || i.Name != n || i.State != hypervisor.StateOff {
		e.Errorf("the deployed machine is %+v", i)
	}
	e.content(d, "golden", "Deploy")
	e.start(d)
	e.state(d, hypervisor.StateRunning, "Start of a deployed machine")
}

// The template is protected, or deleting it leaves the machine intact: some
// platforms keep bases by themselves.
func templatesDeployLinked(e *env) {
	t := e.template()
	d := must(e, t.Deploy(e.ctx, e.name("linked"), &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}), "Deploy linked")
	e.keep(d.ID())
	e.content(d, "golden", "Deploy linked")
	if i := e.info(d); len(i.Disks) > 0 && i.Disks[0].Parent == "" {
		e.Errorf("the linked machine's disk depends on nothing")
	}
	if err := errOf(e, t.Delete(e.ctx, hypervisor.DeleteDisks)); err != nil {
		e.kind(err, hypervisor.ErrBusy, "Delete of a template with a linked clone")
	} else {
		e.content(d, "golden", "Delete of its template")
	}
	must(e, d.Delete(e.ctx, hypervisor.DeleteDisks, nil), "Delete of the linked machine")
}

func templatesMarkVM(e *env) {
	t := e.template()
	back := must(e, t.MarkVM(e.ctx, hypervisor.Placement{}), "MarkVM")
	e.keep(back.ID())
	if i := e.info(back); i.Template {
		e.Errorf("after MarkVM it is a template still")
	}
	e.content(back, "golden", "MarkVM")
	e.start(back)
	e.state(back, hypervisor.StateRunning, "Start after MarkVM")
	_, err := t.Info(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Info of a template that is a machine again")
}
