package xen

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestProvision deploys a default template on a datastore: it gets the disks
// that the template lists, there.
func TestProvision(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	local := ok[any](t)(localStore(ctx, w)).(hypervisor.DatastoreID)
	tmpl := ok[*hypervisor.Template](t)(w.c.FindTemplate(ctx, "Debian Bookworm 12"))
	for _, place := range []hypervisor.DatastoreID{"", local} {
		vm := ok[*hypervisor.VM](t)(tmpl.Deploy(ctx, "deployed", &hypervisor.CloneOptions{Placement: hypervisor.Placement{Datastore: place}, CPUs: 2}).Wait(ctx))
		i := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
		if len(i.Disks) != 1 || i.Disks[0].SizeBytes != 10*hypervisor.GiB || place != "" && i.Disks[0].Datastore != place || i.Template || i.CPUs != 2 {
			t.Errorf("on %q: %+v", place, i)
		}
		if err := wait(ctx, vm.Start(ctx)); err != nil {
			t.Error(err)
		}
	}
	other := ok[*hypervisor.Template](t)(w.c.FindTemplate(ctx, "Other install media"))
	vm := ok[*hypervisor.VM](t)(other.Deploy(ctx, "bare", nil).Wait(ctx))
	if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); len(i.Disks) != 0 || i.Template {
		t.Errorf("%+v", i)
	}
	if err := wait(ctx, tmpl.Delete(ctx, hypervisor.DeleteDisks)); hypervisor.KindOf(err) != hypervisor.KindInvalidState {
		t.Errorf("a default template was deleted: %v", err)
	}
}

// TestTemplates turns a machine with several disks into a template, which
// nobody can start or change into another kind, and deploys from it.
func TestTemplates(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	src := w.origin(ctx, t)
	tmpl := ok[*hypervisor.Template](t)(src.MarkTemplate(ctx).Wait(ctx))
	ok[*hypervisor.Template](t)(src.MarkTemplate(ctx).Wait(ctx)) // one already
	for what, err := range map[string]error{"Start": wait(ctx, src.Start(ctx)), "CreateSnapshot": wait(ctx, src.CreateSnapshot(ctx, "s", nil))} {
		if hypervisor.KindOf(err) != hypervisor.KindInvalidState {
			t.Errorf("%s of a template: %v", what, err)
		}
	}
	vm := ok[*hypervisor.VM](t)(tmpl.Deploy(ctx, "web", nil).Wait(ctx))
	w.sameDisks(ctx, t, src, vm, "", false)
	if err := wait(ctx, vm.Start(ctx)); err != nil {
		t.Error(err)
	}
	// Listings tell them apart, and no control domain or snapshot is among them.
	ok[*hypervisor.Snapshot](t)(w.run.CreateSnapshot(ctx, "snap", nil).Wait(ctx))
	for _, d := range []hypervisor.Detail{hypervisor.Brief, hypervisor.Full} {
		var vms, templates []string
		for v, err := range w.c.VMs(ctx, &hypervisor.ListOptions{Detail: d}) {
			if err != nil {
				t.Fatal(err)
			}
			vms = append(vms, v.Name)
		}
		for v, err := range w.c.Templates(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			templates = append(templates, v.Name)
		}
		slices.Sort(vms)
		slices.Sort(templates)
		if fmt.Sprint(vms) != "[vm0001 vm0002 web]" || fmt.Sprint(templates) != "[Debian Bookworm 12 Other install media origin]" {
			t.Errorf("machines %v, templates %v", vms, templates)
		}
	}
	for _, r := range w.sim.Refs("VM") {
		if w.field(t, "VM", r, "is_control_domain") == true || w.field(t, "VM", r, "is_a_snapshot") == true {
			if _, err := w.vm(t, r).Info(ctx); hypervisor.KindOf(err) != hypervisor.KindNotFound {
				t.Errorf("Info of %s: %v", w.text(t, "VM", r, "name_label"), err)
			}
		}
	}
	// The pool's own templates stay what they are.
	preset := ok[*hypervisor.Template](t)(w.c.FindTemplate(ctx, "Debian Bookworm 12"))
	if err := wait(ctx, preset.MarkVM(ctx, hypervisor.Placement{})); hypervisor.KindOf(err) != hypervisor.KindInvalidState {
		t.Errorf("a default template became a machine: %v", err)
	}
	if err := wait(ctx, preset.Delete(ctx, hypervisor.DeleteDisks)); hypervisor.KindOf(err) != hypervisor.KindInvalidState || !strings.Contains(err.Error(), "default templates") {
		t.Errorf("a default template was deleted: %v", err)
	}
	back := ok[*hypervisor.VM](t)(tmpl.MarkVM(ctx, hypervisor.Placement{Host: w.hosts(ctx)[0].ID}).Wait(ctx))
	if i := ok[hypervisor.VMInfo](t)(back.Info(ctx)); i.Template || i.Placement.Host != w.hosts(ctx)[0].ID {
		t.Errorf("%+v", i)
	}
}
