package hypervisortest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// foreign: a part that another tool gave the machine is listed. Each verb
// copies it, freezes it, keeps and names it, or is refused with its name. The
// rows are the cases of the Backend times the verbs.
var foreign = area{name: "foreign"}

// foreignVerb is a column of the table of rows.
type foreignVerb struct {
	name  string
	needs caps
	kinds []PartKind // for which it is tried; nil: all
	run   func(*odd)
}

var foreignVerbs = []foreignVerb{
	{"list", nil, nil, (*odd).list},
	{"reconfigure", caps{capability.Reconfigure}, nil, (*odd).reconfigure},
	{"attach-disk", caps{capability.DiskAttach}, nil, (*odd).attachDisk},
	{"snapshot", caps{capability.SnapshotDisk}, nil, (*odd).snapshot},
	{"revert", caps{capability.SnapshotDisk}, nil, (*odd).revert},
	{"delete-snapshot", caps{capability.SnapshotDisk}, nil, (*odd).deleteSnapshot},
	{"clone-full", caps{capability.CloneFull}, nil, (*odd).cloneFull},
	{"clone-linked", caps{capability.CloneLinked}, nil, (*odd).cloneLinked},
	{"template", caps{capability.Templates}, nil, (*odd).template},
	{"deploy-full", caps{capability.Templates, capability.CloneFull}, nil, (*odd).deployFull},
	{"deploy-linked", caps{capability.Templates, capability.CloneLinked}, nil, (*odd).deployLinked},
	{"migrate", caps{capability.MigrateCold}, nil, (*odd).migrateHost},
	{"migrate-storage", caps{capability.MigrateStorage}, nil, (*odd).migrateStorage},
	{"detach-delete", caps{capability.DiskAttach}, []PartKind{PartDisk}, func(o *odd) { o.detach(hypervisor.DeleteDisks) }},
	{"detach-keep", caps{capability.DiskAttach}, []PartKind{PartDisk}, func(o *odd) { o.detach(hypervisor.KeepDisks) }},
	{"detach-device", nil, []PartKind{PartDevice}, (*odd).detachDevice},
	{"delete-disks", nil, nil, func(o *odd) { o.delete(hypervisor.DeleteDisks) }},
	{"keep-disks", nil, nil, func(o *odd) { o.delete(hypervisor.KeepDisks) }},
}

// snapshotVerbs are about a snapshot of the other tool.
var snapshotVerbs = []foreignVerb{
	{"revert-to-its-snapshot", caps{capability.SnapshotDisk}, nil, (*odd).revertToIts},
	{"delete-its-snapshot", caps{capability.SnapshotDisk}, nil, (*odd).deleteIts},
	{"clone-of-its-snapshot", caps{capability.SnapshotDisk, capability.CloneFull, capability.CloneFromSnapshot}, nil, (*odd).cloneOfIts},
}

func foreignRows(b *Backend) (out []row) {
	for _, f := range b.Foreign {
		verbs := foreignVerbs
		if f.Snapshot != "" {
			verbs = slices.Concat(verbs, snapshotVerbs)
		}
		for _, v := range verbs {
			if (v.kinds == nil || slices.Contains(v.kinds, f.Kind)) && (f.Verbs == nil || slices.Contains(f.Verbs, v.name)) {
				out = append(out, row{name: f.Name + "/" + v.name, needs: v.needs, run: func(e *env) { v.run(e.odd(f)) }})
			}
		}
	}
	return out
}

// odd is a row's machine with a foreign part.
type odd struct {
	*env
	f      Foreign
	vm     *hypervisor.VM
	before hypervisor.VMInfo // without the part
	with   hypervisor.VMInfo // with it
	p      *Part             // nil before add
	place  Place             // when it was looked at last
	left   string
}

func (e *env) odd(f Foreign) *odd {
	e.Helper()
	o := &odd{env: e, f: f, vm: e.create("odd")}
	e.write(o.vm, "before")
	o.before = e.info(o.vm)
	return o
}

// add makes the other tool add the part.
func (o *odd) add() {
	o.Helper()
	p, err := o.f.Add(o.ctx, o.vm.ID())
	if p != nil && p.Remove != nil {
		o.after = append(o.after, p.Remove)
	}
	o.ok(err, "add %s", o.f.Name)
	if len(p.Names) == 0 {
		o.Fatalf("the harness must set Names of %s", o.f.Name)
	}
	o.p, o.with = p, o.info(o.vm)
	o.look()
}

// look records where and what the part is now.
func (o *odd) look() {
	o.Helper()
	var err error
	if o.p.Look != nil {
		o.place, err = o.p.Look(o.ctx, o.vm.ID())
		o.ok(err, "look at %s", o.f.Name)
	}
	if o.p.Left != nil {
		o.left, err = o.p.Left(o.ctx)
		o.ok(err, "look at what %s left", o.f.Name)
	}
}

// fill changes the part's content, and that of the machine's first disk, like
// its guest would.
func (o *odd) fill(content string) {
	o.Helper()
	if o.f.Kind == PartDependant {
		return // its base must stay as it is
	}
	o.write(o.vm, content)
	if o.p != nil && o.p.Write != nil {
		o.ok(o.p.Write(o.ctx, o.vm.ID(), content), "write to %s", o.f.Name)
	}
	if o.p != nil {
		o.look()
	}
}

// names reports whether a text, or several, name the part.
func (o *odd) names(texts ...string) bool {
	all := strings.ToLower(strings.Join(texts, "\n"))
	return slices.ContainsFunc(o.p.Names, func(n string) bool { return hasWord(all, strings.ToLower(n)) })
}

// hasWord reports whether a text has a word that is not part of a longer one.
func hasWord(text, word string) bool {
	alnum := func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
	for at := 0; word != ""; {
		i := strings.Index(text[at:], word)
		if i < 0 {
			return false
		}
		before, _ := utf8.DecodeLastRuneInString(text[:at+i])
		after, _ := utf8.DecodeRuneInString(text[at+i+len(word):])
		if !alnum(before) && !alnum(after) {
			return true
		}
		at += i + 1
	}
	return false
}

// done reports whether a verb was done. It may be refused instead, with an
// error that has a kind, names the part, and has changed nothing.
func (o *odd) done(err error, what string) bool {
	o.Helper()
	if err == nil {
		return true
	}
	o.oneOf(err, what, hypervisor.ErrUnsupported, hypervisor.ErrBusy, hypervisor.ErrInvalidState, hypervisor.ErrIncompatible)
	if !o.names(err.Error()) {
		o.Errorf("%s is refused, and the refusal names none of %q: %v", what, o.p.Names, err)
	}
	o.same("a refused " + what)
	return false
}

// same checks that the machine has the part unchanged.
func (o *odd) same(after string) {
	o.Helper()
	if o.p.Look != nil {
		switch at, err := o.p.Look(o.ctx, o.vm.ID()); {
		case err != nil:
			o.Errorf("after %s the machine has lost %s: %v", after, o.f.Name, err)
		case at.Content != o.place.Content:
			o.Errorf("after %s %s holds %q, want %q", after, o.f.Name, at.Content, o.place.Content)
		}
	}
	o.kept(after)
}

// kept checks that what the other tool made outside the machine is unchanged.
func (o *odd) kept(after string) {
	o.Helper()
	if o.p.Left == nil {
		return
	}
	switch got, err := o.p.Left(o.ctx); {
	case err != nil:
		o.Errorf("after %s what %s made is lost: %v", after, o.f.Name, err)
	case got != o.left:
		o.Errorf("after %s what %s made holds %q, want %q", after, o.f.Name, got, o.left)
	}
}

// has reads what a machine has in the part's place.
func (o *odd) has(vm *hypervisor.VM) (Place, bool) {
	o.Helper()
	if o.p.Look == nil {
		return Place{}, false
	}
	at, err := o.p.Look(o.ctx, vm.ID())
	if errors.Is(err, hypervisor.ErrNotFound) {
		return at, false
	}
	o.ok(err, "look at %s of %s", o.f.Name, vm.ID())
	return at, true
}

// list: the part is listed, and everything else is as before.
func (o *odd) list() {
	o.add()
	i := o.info(o.vm)
	if o.f.Kind != PartSnapshot && o.f.Kind != PartDependant { // those may change what the disks are
		for _, d := range o.before.Disks {
			if !slices.ContainsFunc(i.Disks, func(x hypervisor.DiskInfo) bool {
				return x.ID == d.ID && x.SizeBytes == d.SizeBytes && x.Datastore == d.Datastore
			}) {
				o.Errorf("with %s disk %s is no longer listed as it was: %+v", o.f.Name, d.ID, i.Disks)
			}
		}
	}
	if len(i.NICs) < len(o.before.NICs) {
		o.Errorf("with %s %d adapters are listed, %d were", o.f.Name, len(i.NICs), len(o.before.NICs))
	}
	if i.Placement.Datastore != o.before.Placement.Datastore {
		o.Errorf("with %s the machine's datastore is %q, it was %q", o.f.Name, i.Placement.Datastore, o.before.Placement.Datastore)
	}
	o.listed(i)
	for v, err := range o.c.VMs(o.ctx, nil) {
		o.ok(err, "VMs with %s", o.f.Name)
		if v.ID == o.vm.ID() && (len(v.Disks) != len(i.Disks) || len(v.Devices) != len(i.Devices)) {
			o.Errorf("VMs lists %d disks and %d devices, Info %d and %d", len(v.Disks), len(v.Devices), len(i.Disks), len(i.Devices))
		}
	}
}

// listed checks that the listing for its kind has the part.
func (o *odd) listed(i hypervisor.VMInfo) {
	o.Helper()
	switch o.f.Kind {
	case PartDisk:
		if d, ok := o.disk(i); !ok {
			o.Errorf("Info lists no disk that is one of %q: %+v", o.p.Names, i.Disks)
		} else if o.p.SizeBytes != 0 && d.SizeBytes != o.p.SizeBytes {
			o.Errorf("Info reports %d bytes of disk %s, it has %d", d.SizeBytes, d.ID, o.p.SizeBytes)
		}
	case PartDevice:
		if _, ok := o.device(i); !ok {
			o.Errorf("Info lists no device that is one of %q: %+v", o.p.Names, i.Devices)
		}
	case PartDependant:
		dep, err := o.vm.Dependencies(o.ctx)
		if errors.Is(err, hypervisor.ErrUnsupported) {
			return
		}
		o.ok(err, "Dependencies")
		for _, v := range dep.Volumes {
			for _, r := range v.Dependants {
				if o.names(r.String()) {
					return
				}
			}
		}
		o.Errorf("Dependencies names none of %q: %+v", o.p.Names, dep)
	}
	if o.f.Snapshot != "" {
		o.its()
	}
}

func (o *odd) disk(i hypervisor.VMInfo) (hypervisor.DiskInfo, bool) {
	n := slices.IndexFunc(i.Disks, func(d hypervisor.DiskInfo) bool { return o.names(string(d.ID), string(d.Volume), string(d.Parent)) })
	if n < 0 {
		return hypervisor.DiskInfo{}, false
	}
	return i.Disks[n], true
}

func (o *odd) device(i hypervisor.VMInfo) (hypervisor.AttachedDevice, bool) {
	n := slices.IndexFunc(i.Devices, func(d hypervisor.AttachedDevice) bool {
		return o.names(string(d.ID), string(d.Device), d.Address)
	})
	if n < 0 {
		return hypervisor.AttachedDevice{}, false
	}
	return i.Devices[n], true
}

// its finds the other tool's snapshot.
func (o *odd) its() *hypervisor.Snapshot {
	o.Helper()
	s, err := o.vm.FindSnapshot(o.ctx, o.f.Snapshot)
	o.ok(err, "find the snapshot %q of another tool", o.f.Snapshot)
	return s
}

func (o *odd) reconfigure() {
	o.add()
	text := "changed"
	_, err := o.vm.Reconfigure(o.ctx, hypervisor.Changes{CPUs: 2, Description: &text}).Wait(o.ctx)
	if o.done(err, "Reconfigure") {
		o.same("Reconfigure")
	}
	if o.env.has(capability.Labels) && o.done(o.vm.SetLabels(o.ctx, map[string]string{"a": "b"}), "SetLabels") {
		o.same("SetLabels")
	}
}

// attachDisk: a new disk is made beside the machine's own.
func (o *odd) attachDisk() {
	o.add()
	d, err := o.vm.AttachDisk(o.ctx, hypervisor.DiskSpec{SizeBytes: 8 * hypervisor.MiB}).Wait(o.ctx)
	if !o.done(err, "AttachDisk") {
		return
	}
	o.same("AttachDisk")
	if d.Datastore != o.before.Disks[0].Datastore {
		o.Errorf("the new disk is in datastore %s, the machine's own is in %s", d.Datastore, o.before.Disks[0].Datastore)
	}
}

// finish runs the clean-up functions of the row, as far as possible.
func finish(ctx context.Context, fs []func(context.Context) error) error {
	var errs []error
	for _, f := range slices.Backward(fs) {
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}
