package vsphere

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// afterMark does something when the template is one again.
type afterMark struct {
	next soap.RoundTripper
	do   func()
}

func (a afterMark) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	err := a.next.RoundTrip(ctx, req, res)
	if _, ok := req.(*methods.MarkAsTemplateBody); ok {
		a.do()
	}
	return err
}

// TestMarkCannotBeTakenOff: a clone that another program begins keeps the mark on the template, and no deployment from it.
func TestMarkCannotBeTakenOff(t *testing.T) {
	impatient(t, time.Hour)
	sim, c := once(t, vspheresim.Config{})
	ctx := t.Context()
	tpl := nativeTemplate(t, sim, c, "golden")
	d := driverOf(t, c)
	b, err := d.readBase(ctx, hypervisor.VMID(tpl.ID()))
	if err != nil {
		t.Fatal(err)
	}
	at, err := d.settle(ctx, hypervisor.Placement{Host: hypervisor.HostID(b.host.Value)})
	if err != nil {
		t.Fatal(err)
	}
	var theirs ref
	m, x := mortalClient(t, sim)
	m.next = afterMark{m.next, func() {
		sim.SetTaskDelay("CloneVM_Task", time.Hour)
		res, err := methods.CloneVM_Task(ctx, d.rt, &types.CloneVM_Task{This: vmRef(hypervisor.VMID(tpl.ID())), Folder: b.parent, Name: "theirs",
			Spec: types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{Pool: &at.pool, Host: at.host}}})
		if err != nil {
			t.Error(err)
			return
		}
		theirs = res.Returnval
		for info := (types.TaskInfo{}); err == nil && info.State != types.TaskInfoStateRunning; {
			info, err = d.job(theirs).look(ctx)
		}
		time.Sleep(50 * time.Millisecond) // past the start, where its delay is read
		sim.SetTaskDelay("CloneVM_Task", 0)
	}}
	for n, by := range []*hypervisor.Client{x, c} {
		if _, err := by.Template(tpl.ID()).Deploy(ctx, fmt.Sprint("linked ", n), &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx); err != nil {
			t.Errorf("linked machine %d: %v", n, err)
		}
	}
	if err := d.job(theirs).Cancel(ctx); err != nil {
		t.Fatalf("their clone is not at work any more: %v", err)
	}
	if _, err := d.await(ctx, theirs); kindOf(err) != hypervisor.ErrCanceled {
		t.Fatalf("their clone ended with %v", err)
	}
	for end := time.Now().Add(hang); ; time.Sleep(20 * time.Millisecond) {
		b, err := d.readBase(ctx, hypervisor.VMID(tpl.ID()))
		if err == nil && b.ready() {
			break
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("the template is %+v (%v)", b, err)
		}
	}
	hasOneBase(t, c, tpl, "golden")
}

// TestCloseWhileBaseIsMade: Close puts the template back.
func TestCloseWhileBaseIsMade(t *testing.T) {
	sim, c := once(t, vspheresim.Config{})
	tpl := nativeTemplate(t, sim, c, "golden")
	x, err := openSim(t.Context(), sim.URL())
	if err != nil {
		t.Fatal(err)
	}
	sim.SetTaskDelay("CreateSnapshot_Task", time.Minute)
	task := x.Template(tpl.ID()).Deploy(t.Context(), "never", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked})
	for sim.Calls()["CreateSnapshot_Task"] == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	if _, err := task.Wait(t.Context()); err == nil {
		t.Error("the closed Client's deployment was done")
	}
	sim.SetTaskDelay("CreateSnapshot_Task", 0)
	p, err := driverOf(t, c).one(t.Context(), vmRef(hypervisor.VMID(tpl.ID())), "summary.config.template", notePath, basePath, "snapshot")
	if err != nil || !get[bool](p, "summary.config.template") || p.str(notePath) != "notes of golden" || optionValue(p[basePath]) != "" || p["snapshot"] != nil {
		t.Errorf("the template is %v (%v)", p, err)
	}
}

// TestStaleBase: a base is not used once the template has changed since, which other programs can do.
func TestStaleBase(t *testing.T) {
	sim, c := once(t, vspheresim.Config{})
	ctx := t.Context()
	vm, err := c.CreateVM(ctx, spec("source")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	linked := func(tpl *hypervisor.Template, name, want string) {
		t.Helper()
		x, err := tpl.Deploy(ctx, name, &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := sim.ReadDisk(string(x.ID()), 0); err != nil || got != want {
			t.Errorf("%s holds %q, want %q (%v)", name, got, want, err)
		}
		if p, err := driverOf(t, c).one(ctx, vmRef(x.ID()), basePath); err != nil || len(p) != 0 {
			t.Errorf("%s has the template's mark: %v (%v)", name, p, err)
		}
	}
	if err := sim.WriteDisk(string(vm.ID()), 0, "old"); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.CreateSnapshot(ctx, "theirs", nil).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if err := sim.WriteDisk(string(vm.ID()), 0, "new"); err != nil {
		t.Fatal(err)
	}
	nativeMark(t, c, vm)
	tpl := c.Template(hypervisor.TemplateID(vm.ID()))
	linked(tpl, "one", "new")
	// Others make a machine of it, change it, and mark it again.
	i, err := c.VM(hypervisor.VMID(tpl.ID())).Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	d := driverOf(t, c)
	at, err := d.settle(ctx, hypervisor.Placement{Host: i.Host})
	if err == nil {
		err = d.markVM(ctx, vm.ID(), at)
	}
	if err != nil {
		t.Fatal(err)
	}
	if i, err := vm.Info(ctx); err != nil || i.Template {
		t.Fatalf("made a machine by others, it is %+v (%v)", i, err)
	}
	if err := sim.WriteDisk(string(vm.ID()), 0, "newer"); err != nil {
		t.Fatal(err)
	}
	nativeMark(t, c, vm)
	linked(tpl, "two", "newer")
	linked(tpl, "three", "newer")
	if l, err := vm.Snapshots(ctx); err != nil || len(l) != 3 {
		t.Errorf("%d snapshots (%v), want theirs and two bases", len(l), err)
	}
}

// TestTemplateAndBack: a template of this driver has its base from the start, and a machine that is made of it has none.
func TestTemplateAndBack(t *testing.T) {
	sim, c := once(t, vspheresim.Config{})
	ctx := t.Context()
	vm, err := c.CreateVM(ctx, spec("source")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	snaps := func(want int, after string) {
		t.Helper()
		if l, err := vm.Snapshots(ctx); err != nil || len(l) != want {
			t.Errorf("after %s %d snapshots (%v), want %d", after, len(l), err, want)
		}
	}
	tpl, err := vm.MarkTemplate(ctx).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	snaps(1, "MarkTemplate")
	if _, err := tpl.MarkVM(ctx, hypervisor.Placement{}).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	snaps(0, "MarkVM")
	// A template can be had without a base, and says so.
	sim.FaultTask("CreateSnapshot_Task", new(types.NotSupported))
	mark := vm.MarkTemplate(ctx)
	if _, err := mark.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if n := strings.Join(mark.Notes(), "; "); !strings.Contains(n, "no base of linked clones was made") {
		t.Errorf("the notes are %q", n)
	}
	snaps(0, "MarkTemplate without a base")
	if _, err := tpl.MarkVM(ctx, hypervisor.Placement{}).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	// One that isn't marked leaves no snapshot.
	sim.Fault("MarkAsTemplate", new(types.NoPermission))
	if _, err := vm.MarkTemplate(ctx).Wait(ctx); !errors.Is(err, hypervisor.ErrPermission) {
		t.Errorf("MarkTemplate without permission: %v", err)
	}
	snaps(0, "MarkTemplate that failed")
	// Its disks can be kept.
	if tpl, err = vm.MarkTemplate(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	i, err := vm.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tpl.Delete(ctx, hypervisor.KeepDisks).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	volumes := map[hypervisor.VolumeID]bool{}
	for v, err := range c.Volumes(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		volumes[v.ID] = true
	}
	if len(volumes) != 1 {
		t.Errorf("of the template's disks %v stay, it had %+v", volumes, i.Disks)
	}
}

func TestBaseMark(t *testing.T) {
	for _, x := range []struct{ note, text, self, owner string }{
		{"", "", "", ""}, {" ", "", "", ""}, {"two\nlines", "two\nlines", "", ""},
		{markOf("vm-1@x", ""), "", "vm-1@x", ""}, {"text\n" + markOf("vm-1@x", "me"), "text", "vm-1@x", "me"},
		{"text\n" + markOf("vm-1@x", "me") + "\nadded", "text\nadded", "vm-1@x", "me"}, {markBefore, markBefore, "", ""},
	} {
		if text, self, owner := splitNote(x.note); text != x.text || self != x.self || owner != x.owner {
			t.Errorf("%q is split into %q, %q, %q", x.note, text, self, owner)
		}
	}
	for _, text := range []string{"", "text", "two\nlines"} {
		if got, _, _ := splitNote(joinNote(text, markOf("vm-1@x", "me"))); got != text {
			t.Errorf("%q comes back as %q", text, got)
		}
		if got, _, _ := splitNote(joinNote(text, "")); got != text {
			t.Errorf("%q without a mark comes back as %q", text, got)
		}
	}
}

// TestOneOwner: of two Clients that saw a base without an owner one becomes it, however long the other takes.
func TestOneOwner(t *testing.T) {
	sim, c := once(t, vspheresim.Config{})
	ctx := t.Context()
	tpl := nativeTemplate(t, sim, c, "golden")
	id := hypervisor.VMID(tpl.ID())
	var makers [2]*baseMaker
	for n := range makers {
		makers[n] = &baseMaker{d: driverOf(t, c), id: id, owner: fmt.Sprint("owner", n)}
	}
	for { // to the step after the template is a machine
		b, _, err := makers[0].step(ctx, true)
		if err != nil {
			t.Fatal(err)
		}
		if b, err = makers[0].d.readBase(ctx, id); err != nil {
			t.Fatal(err)
		} else if b.template {
			continue
		}
		if err := makers[1].claim(ctx, b); err != nil {
			t.Fatal(err)
		}
		if err := makers[0].claim(ctx, b); kindOf(err) != hypervisor.ErrBusy {
			t.Errorf("the second claim: %v, want ConcurrentAccess", err)
		}
		break
	}
	if base, err := makers[1].run(ctx); err != nil || base.Value == "" {
		t.Errorf("the owner made %v (%v)", base, err)
	}
	hasOneBase(t, c, tpl, "golden")
}

func nativelyMarked(ctx context.Context, c *hypervisor.Client, vm *hypervisor.VM) error {
	native, err := hypervisor.As[*object.VirtualMachine](ctx, c, vm)
	if err != nil {
		return err
	}
	return native.MarkAsTemplate(ctx)
}
