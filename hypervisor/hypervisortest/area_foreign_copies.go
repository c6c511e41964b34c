package hypervisortest

import (
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
)

func (o *odd) cloneFull() {
	o.add()
	o.copied("Clone", o.vm.Clone(o.ctx, o.name("full"), nil))
}

func (o *odd) cloneLinked() {
	o.add()
	o.copied("linked Clone", o.vm.Clone(o.ctx, o.name("linked"), &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}))
}

// copied: the copy has its own version of the part, or the notes report that
// it lacks it.
func (o *odd) copied(what string, t *hypervisor.Task[*hypervisor.VM]) {
	o.Helper()
	c, err := t.Wait(o.ctx)
	if !o.done(err, what) {
		return
	}
	o.keep(c.ID())
	o.same(what)
	if o.f.Kind != PartDependant {
		o.content(c, "before", what)
	}
	at, ok := o.has(c)
	named := o.names(t.Notes()...)
	switch {
	case o.p.Look == nil, o.f.Kind == PartSnapshot && !ok, o.f.Kind == PartDependant:
	case !ok && !named:
		o.Errorf("the copy lacks %s, and its notes name none of %q: %q", o.f.Name, o.p.Names, t.Notes())
	case !ok:
	case at.Where == o.place.Where && !o.p.ReadOnly:
		o.Errorf("after %s two machines have %s, at %s", what, o.f.Name, at.Where)
	case at.Content != o.place.Content && !named:
		o.Errorf("the copy's %s holds %q, the source's %q, and the notes name none of %q: %q", o.f.Name, at.Content, o.place.Content, o.p.Names, t.Notes())
	case o.p.Write != nil && !o.p.ReadOnly && !o.isTemplate():
		o.ok(o.p.Write(o.ctx, c.ID(), "copy's"), "write to %s of the copy", o.f.Name)
		o.same("a write to the copy")
	}
	_, err = c.Delete(o.ctx, hypervisor.DeleteDisks, nil).Wait(o.ctx)
	o.ok(err, "Delete of the copy")
	o.same("Delete of the copy")
}

func (o *odd) isTemplate() bool { return o.info(o.vm).Template }

// mark makes the machine a template, or returns nil if that is refused.
func (o *odd) mark() *hypervisor.Template {
	o.Helper()
	o.add()
	t, err := o.vm.MarkTemplate(o.ctx).Wait(o.ctx)
	if !o.done(err, "MarkTemplate") {
		return nil
	}
	o.same("MarkTemplate")
	return t
}

// template: after both conversions the machine is as before.
func (o *odd) template() {
	t := o.mark()
	if t == nil {
		return
	}
	vm, err := t.MarkVM(o.ctx, hypervisor.Placement{}).Wait(o.ctx)
	if !o.done(err, "MarkVM") {
		return
	}
	if vm.ID() != o.vm.ID() {
		o.keep(vm.ID())
		o.vm = vm
	}
	o.same("MarkTemplate and MarkVM")
	n := o.info(vm)
	if n.MemoryBytes != o.with.MemoryBytes || n.CPUs != o.with.CPUs || len(n.Disks) != len(o.with.Disks) || len(n.Devices) != len(o.with.Devices) {
		o.Errorf("after MarkTemplate and MarkVM the machine is %+v, it was %+v", n, o.with)
	}
	o.listed(n)
	if o.f.Kind != PartDependant {
		o.content(vm, "before", "MarkTemplate and MarkVM")
	}
}

func (o *odd) deployFull() {
	if t := o.mark(); t != nil {
		o.copied("Deploy", t.Deploy(o.ctx, o.name("full"), nil))
	}
}

func (o *odd) deployLinked() {
	if t := o.mark(); t != nil {
		o.copied("linked Deploy", t.Deploy(o.ctx, o.name("linked"), &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}))
	}
}

// migrateHost: the machine arrives with the part, or the report names it.
func (o *odd) migrateHost() {
	for _, h := range o.hostIDs() {
		if h != o.before.Host {
			o.migrate(hypervisor.MigrateOptions{Host: h, Mode: hypervisor.MigrateModeCold})
			return
		}
	}
	o.unshown("there is no second host")
}

func (o *odd) migrateStorage() {
	at := o.before.Disks[0].Datastore
	for ds, err := range o.c.Datastores(o.ctx) {
		o.ok(err, "Datastores")
		if ds.ID != at && ds.Accessible && (len(ds.Hosts) == 0 || o.before.Host == "" || slices.Contains(ds.Hosts, o.before.Host)) {
			o.migrate(hypervisor.MigrateOptions{Storage: ds.ID})
			return
		}
	}
	o.unshown("there is no second datastore")
}

func (o *odd) migrate(opt hypervisor.MigrateOptions) {
	o.Helper()
	rep, err := o.vm.CheckMigrate(o.ctx, opt)
	o.ok(err, "CheckMigrate")
	if !rep.OK() {
		o.unshown("without the part the machine can't move either: %v", rep.Blockers)
		return
	}
	o.add()
	rep, err = o.vm.CheckMigrate(o.ctx, opt)
	o.ok(err, "CheckMigrate with %s", o.f.Name)
	var said []string
	for _, b := range slices.Concat(rep.Blockers, rep.Warnings) {
		said = append(said, b.Detail, b.Object.String())
	}
	if !rep.OK() && !o.names(said...) {
		o.Errorf("with %s the machine can't move, and the report names none of %q: %v", o.f.Name, o.p.Names, rep.Blockers)
	}
	t := o.vm.Migrate(o.ctx, opt)
	_, err = t.Wait(o.ctx)
	if rep.OK() != (err == nil) {
		o.Errorf("CheckMigrate found %v, and Migrate ended with %v", rep.Blockers, err)
	}
	if !o.done(err, "Migrate") {
		return
	}
	from := o.place.Where
	if opt.Storage != "" && !o.p.Shared && !o.p.ReadOnly && o.f.Kind != PartDependant {
		o.p.Left = nil // it has moved
	}
	o.same("Migrate")
	if o.f.Kind != PartDependant {
		o.content(o.vm, "before", "Migrate")
	}
	at, ok := o.has(o.vm)
	if d, listed := o.disk(o.info(o.vm)); listed && d.Datastore == opt.Storage {
		return
	}
	if opt.Storage != "" && o.f.Kind == PartDisk && !o.p.ReadOnly && ok && at.Where == from && !o.names(append(said, t.Notes()...)...) {
		o.Errorf("Migrate of storage left %s where it was, and names none of %q: %q", o.f.Name, o.p.Names, append(said, t.Notes()...))
	}
}
