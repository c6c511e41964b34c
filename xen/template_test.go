package xen

import (
	"context"
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
	if err := wait(ctx, tmpl.Delete(ctx, hypervisor.DeleteDisks)); hypervisor.KindOf(err) != hypervisor.ErrInvalidState {
		t.Errorf("a default template was deleted: %v", err)
	}
}

// TestProvisionNowhere deploys from templates whose disks have no place: in a
// pool without a default datastore, with a default that is gone, and with a
// datastore of another pool. Nothing is made.
func TestProvisionNowhere(t *testing.T) {
	for name, prepare := range map[string]func(context.Context, *testing.T, *world, *hypervisor.Template){
		"no default": func(ctx context.Context, t *testing.T, w *world, _ *hypervisor.Template) {
			w.rpc(ctx, t, nil, "pool.set_default_SR", w.sim.Refs("pool")[0], "OpaqueRef:NULL")
		},
		"a default that is gone": func(ctx context.Context, t *testing.T, w *world, _ *hypervisor.Template) {
			if err := w.sim.SetField("pool", w.sim.Refs("pool")[0], "default_SR", "OpaqueRef:11111111-1111-4111-8111-111111111111"); err != nil {
				t.Fatal(err)
			}
		},
		"a datastore of another pool": func(ctx context.Context, t *testing.T, w *world, tmpl *hypervisor.Template) {
			list := `<provision><disk device="0" size="1048576" sr="11111111-1111-4111-8111-111111111111" bootable="true" type="system"/></provision>`
			if err := w.sim.SetField("VM", string(tmpl.ID()), "other_config", map[string]any{"disks": list}); err != nil {
				t.Fatal(err)
			}
		},
		"no list": func(ctx context.Context, t *testing.T, w *world, tmpl *hypervisor.Template) {
			if err := w.sim.SetField("VM", string(tmpl.ID()), "other_config", map[string]any{"disks": "three of them"}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, w := settled(t), newWorld(t, xapisim.Config{})
			tmpl := ok[*hypervisor.Template](t)(w.c.FindTemplate(ctx, "Debian Bookworm 12"))
			local := ok[any](t)(localStore(ctx, w)).(hypervisor.DatastoreID)
			prepare(ctx, t, w, tmpl)
			w.sim.ResetCalls()
			err := wait(ctx, tmpl.Deploy(ctx, "new", nil))
			if k := hypervisor.KindOf(err); name != "no list" && (k != hypervisor.ErrInvalidArgument || !strings.Contains(err.Error(), "Placement.Datastore")) || k == hypervisor.ErrUnknown {
				t.Errorf("%v", err)
			}
			if got := w.truth(t); got.vms != w.before.vms || w.sim.Calls()["VM.copy"]+w.sim.Calls()["Async.VM.copy"] > 0 {
				t.Errorf("there is %+v", got)
			}
			if name == "no list" {
				return
			}
			vm := ok[*hypervisor.VM](t)(tmpl.Deploy(ctx, "new", &hypervisor.CloneOptions{Placement: hypervisor.Placement{Datastore: local}}).Wait(ctx))
			if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); len(i.Disks) != 1 || i.Disks[0].Datastore != local {
				t.Errorf("%+v", i)
			}
		})
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
		if hypervisor.KindOf(err) != hypervisor.ErrInvalidState {
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
	for _, d := range []hypervisor.Detail{hypervisor.DetailBrief, hypervisor.DetailFull} {
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
			if _, err := w.vm(t, r).Info(ctx); hypervisor.KindOf(err) != hypervisor.ErrNotFound {
				t.Errorf("Info of %s: %v", w.text(t, "VM", r, "name_label"), err)
			}
		}
	}
	// The pool's own templates stay what they are.
	preset := ok[*hypervisor.Template](t)(w.c.FindTemplate(ctx, "Debian Bookworm 12"))
	if err := wait(ctx, preset.MarkVM(ctx, hypervisor.Placement{})); hypervisor.KindOf(err) != hypervisor.ErrInvalidState {
		t.Errorf("a default template became a machine: %v", err)
	}
	if err := wait(ctx, preset.Delete(ctx, hypervisor.DeleteDisks)); hypervisor.KindOf(err) != hypervisor.ErrInvalidState || !strings.Contains(err.Error(), "default templates") {
		t.Errorf("a default template was deleted: %v", err)
	}
	back := ok[*hypervisor.VM](t)(tmpl.MarkVM(ctx, hypervisor.Placement{Host: w.hosts(ctx)[0].ID}).Wait(ctx))
	if i := ok[hypervisor.VMInfo](t)(back.Info(ctx)); i.Template || i.Placement.Host != w.hosts(ctx)[0].ID {
		t.Errorf("%+v", i)
	}
}

// TestEmptyDrives leads a machine with empty drives of another tool through
// what copies, freezes, converts and deletes it.
func TestEmptyDrives(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	vm := w.off
	var ref string
	w.rpc(ctx, t, &ref, "VM.get_by_uuid", string(vm.ID()))
	for _, dev := range []string{"3", "5"} {
		w.rpc(ctx, t, nil, "VBD.create", map[string]any{"VM": ref, "VDI": "OpaqueRef:NULL", "userdevice": dev, "bootable": false, "mode": "RO", "type": "CD",
			"unpluggable": true, "empty": true, "other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{}})
	}
	drives := func(vm *hypervisor.VM) (n int) {
		for _, r := range w.field(t, "VM", string(vm.ID()), "VBDs").([]any) {
			if w.field(t, "VBD", r.(string), "empty") == true {
				n++
			}
		}
		return n
	}
	was := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
	snap := ok[*hypervisor.Snapshot](t)(vm.CreateSnapshot(ctx, "s", nil).Wait(ctx))
	if err := wait(ctx, snap.Revert(ctx, nil)); err != nil {
		t.Error(err)
	}
	tmpl := ok[*hypervisor.Template](t)(vm.MarkTemplate(ctx).Wait(ctx))
	for name, mode := range map[string]hypervisor.CloneMode{"full": hypervisor.CloneModeFull, "linked": hypervisor.CloneModeLinked} {
		made := ok[*hypervisor.VM](t)(tmpl.Deploy(ctx, name, &hypervisor.CloneOptions{Mode: mode}).Wait(ctx))
		if i := ok[hypervisor.VMInfo](t)(made.Info(ctx)); len(i.Disks) != len(was.Disks) || drives(made) != 2 {
			t.Errorf("%s: %d disks and %d empty drives, the template has %d and 2", name, len(i.Disks), drives(made), len(was.Disks))
		}
		for _, err := range []error{wait(ctx, made.Start(ctx)), wait(ctx, made.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}))} {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	ok[*hypervisor.VM](t)(tmpl.MarkVM(ctx, hypervisor.Placement{}).Wait(ctx))
	if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); len(i.Disks) != len(was.Disks) || drives(vm) != 2 || i.Snapshots != 1 {
		t.Errorf("it is %+v with %d empty drives", i, drives(vm))
	}
	if err := wait(ctx, vm.Delete(ctx, hypervisor.DeleteDisks, nil)); err != nil {
		t.Error(err)
	}
	if got := w.truth(t); len(got.loose) > 0 || got.vms != w.before.vms-1 {
		t.Errorf("there is %+v", got)
	}
}
