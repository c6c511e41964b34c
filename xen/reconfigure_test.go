package xen

import (
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// sizes are a machine's, in the order smin, dmin, dmax, smax, VCPUs, most.
func (w *world) sizes(t *testing.T, vm *hypervisor.VM) [6]int64 {
	t.Helper()
	var out [6]int64
	for n, f := range []string{"memory_static_min", "memory_dynamic_min", "memory_dynamic_max", "memory_static_max", "VCPUs_at_startup", "VCPUs_max"} {
		out[n], _ = w.field(t, "VM", string(vm.ID()), f).(int64)
	}
	return out
}

const mib = hypervisor.MiB

// TestSizesOff changes the sizes of a machine that is off: XAPI's order of
// static and dynamic limits, and of CPUs, holds at every step.
func TestSizesOff(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	vm := ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, hypervisor.VMSpec{Name: "sized", CPUs: 2, MemoryBytes: 1024 * mib}).Wait(ctx))
	if got, want := w.sizes(t, vm), ([6]int64{1024 * mib, 1024 * mib, 1024 * mib, 1024 * mib, 2, 2}); got != want {
		t.Errorf("made with %v, want %v", got, want)
	}
	for _, c := range []struct {
		change hypervisor.Changes
		want   [6]int64
	}{
		{hypervisor.Changes{CPUs: 4}, [6]int64{1024 * mib, 1024 * mib, 1024 * mib, 1024 * mib, 4, 4}},
		{hypervisor.Changes{CPUs: 2, MaxCPUs: 3}, [6]int64{1024 * mib, 1024 * mib, 1024 * mib, 1024 * mib, 2, 3}},
		{hypervisor.Changes{CPUs: 1}, [6]int64{1024 * mib, 1024 * mib, 1024 * mib, 1024 * mib, 1, 3}},
		{hypervisor.Changes{CPUs: 6}, [6]int64{1024 * mib, 1024 * mib, 1024 * mib, 1024 * mib, 6, 6}},
		{hypervisor.Changes{CPUs: 5}, [6]int64{1024 * mib, 1024 * mib, 1024 * mib, 1024 * mib, 5, 5}}, // a machine without room for more stays one
		{hypervisor.Changes{MemoryBytes: 512 * mib}, [6]int64{512 * mib, 512 * mib, 512 * mib, 512 * mib, 5, 5}},
		{hypervisor.Changes{MemoryBytes: 2048 * mib, MaxMemoryBytes: 4096 * mib}, [6]int64{512 * mib, 2048 * mib, 2048 * mib, 4096 * mib, 5, 5}},
		{hypervisor.Changes{DynamicMemory: &hypervisor.MemoryRange{MinBytes: 256 * mib, MaxBytes: 2048 * mib}}, [6]int64{256 * mib, 256 * mib, 2048 * mib, 4096 * mib, 5, 5}},
		{hypervisor.Changes{DynamicMemory: &hypervisor.MemoryRange{}}, [6]int64{256 * mib, 2048 * mib, 2048 * mib, 4096 * mib, 5, 5}},
	} {
		if err := wait(ctx, vm.Reconfigure(ctx, c.change)); err != nil {
			t.Fatalf("%+v: %v", c.change, err)
		}
		if got := w.sizes(t, vm); got != c.want {
			t.Errorf("after %+v it has %v, want %v", c.change, got, c.want)
		}
		if err := wait(ctx, vm.Start(ctx)); err != nil {
			t.Fatalf("after %+v it doesn't start: %v", c.change, err)
		}
		if err := wait(ctx, vm.PowerOff(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	before := w.sizes(t, vm)
	for _, c := range []struct {
		change hypervisor.Changes
		kind   hypervisor.Kind
	}{
		{hypervisor.Changes{MaxCPUs: 2}, hypervisor.ErrInvalidArgument}, {hypervisor.Changes{CPUs: 65}, hypervisor.ErrInvalidArgument},
		{hypervisor.Changes{MaxMemoryBytes: 1024 * mib}, hypervisor.ErrInvalidArgument}, {hypervisor.Changes{MemoryBytes: 65 * hypervisor.GiB}, hypervisor.ErrExhausted},
	} {
		if err := wait(ctx, vm.Reconfigure(ctx, c.change)); hypervisor.KindOf(err) != c.kind {
			t.Errorf("%+v: %v (%v), want %v", c.change, err, hypervisor.KindOf(err), c.kind)
		}
		if got := w.sizes(t, vm); got != before {
			t.Errorf("refused, %+v changed %v to %v", c.change, before, got)
		}
	}
}

// TestSizesLive changes the sizes of a running machine inside its static
// limits, and refuses what is outside.
func TestSizesLive(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	vm := ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, hypervisor.VMSpec{Name: "sized", CPUs: 2, MaxCPUs: 4, MemoryBytes: 1024 * mib, MaxMemoryBytes: 4096 * mib,
		DynamicMemory: &hypervisor.MemoryRange{MinBytes: 512 * mib, MaxBytes: 2048 * mib}, Start: true}).Wait(ctx))
	ram := w.sim.Memory(string(vm.ID()))
	for _, c := range []struct {
		change hypervisor.Changes
		want   [6]int64
		reason hypervisor.ReasonCode // empty: it is done
	}{
		{hypervisor.Changes{CPUs: 3}, [6]int64{512 * mib, 512 * mib, 2048 * mib, 4096 * mib, 3, 4}, ""},
		{hypervisor.Changes{CPUs: 5}, [6]int64{512 * mib, 512 * mib, 2048 * mib, 4096 * mib, 3, 4}, hypervisor.ReasonHotAddOff},
		{hypervisor.Changes{MemoryBytes: 3072 * mib}, [6]int64{512 * mib, 3072 * mib, 3072 * mib, 4096 * mib, 3, 4}, ""},
		{hypervisor.Changes{MemoryBytes: 5120 * mib}, [6]int64{512 * mib, 3072 * mib, 3072 * mib, 4096 * mib, 3, 4}, hypervisor.ReasonHotAddOff},
		{hypervisor.Changes{DynamicMemory: &hypervisor.MemoryRange{MinBytes: 256 * mib, MaxBytes: 1024 * mib}}, [6]int64{512 * mib, 3072 * mib, 3072 * mib, 4096 * mib, 3, 4}, hypervisor.ReasonHotAddOff},
		{hypervisor.Changes{DynamicMemory: &hypervisor.MemoryRange{MinBytes: 512 * mib, MaxBytes: 1024 * mib}}, [6]int64{512 * mib, 512 * mib, 1024 * mib, 4096 * mib, 3, 4}, ""},
		{hypervisor.Changes{MaxCPUs: 8}, [6]int64{512 * mib, 512 * mib, 1024 * mib, 4096 * mib, 3, 4}, hypervisor.ReasonHotAddOff},
		// Nothing waits for the next start; what can be done at once is.
		{hypervisor.Changes{CPUs: 5, NextStart: true}, [6]int64{512 * mib, 512 * mib, 1024 * mib, 4096 * mib, 3, 4}, hypervisor.ReasonPlatform},
		{hypervisor.Changes{CPUs: 4, NextStart: true}, [6]int64{512 * mib, 512 * mib, 1024 * mib, 4096 * mib, 4, 4}, ""},
	} {
		err := wait(ctx, vm.Reconfigure(ctx, c.change))
		if why := reasonOf(err); why != c.reason || (err == nil) != (c.reason == "") {
			t.Errorf("%+v: %v", c.change, err)
		}
		if got := w.sizes(t, vm); got != c.want {
			t.Errorf("after %+v it has %v, want %v", c.change, got, c.want)
		}
	}
	if w.sim.Memory(string(vm.ID())) != ram {
		t.Error("the machine was started anew")
	}
	if err := w.sim.SetField("VM", string(vm.ID()), "memory_target", int64(768*mib)); err != nil { // the pool balloons it
		t.Fatal(err)
	}
	for v, err := range w.c.VMs(ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}) {
		if err != nil || v.ID == vm.ID() && v.MemoryBytes != 768*mib {
			t.Errorf("it has %d MiB now, %v", v.MemoryBytes/mib, err)
		}
	}
	if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); i.CPUs != 4 || i.MaxCPUs != 4 || i.MaxMemoryBytes != 4096*mib || i.DynamicMemory == nil || *i.DynamicMemory != (hypervisor.MemoryRange{MinBytes: 512 * mib, MaxBytes: 1024 * mib}) {
		t.Errorf("%+v", i)
	}
}

// TestSizesByLicence asks for room that the edition doesn't give.
func TestSizesByLicence(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2, Restrictions: []string{"dmc", "set_vcpus_number_live"}})
	room := hypervisor.VMSpec{Name: "x", MemoryBytes: 1024 * mib, MaxMemoryBytes: 2048 * mib}
	span := hypervisor.VMSpec{Name: "x", MemoryBytes: 1024 * mib, DynamicMemory: &hypervisor.MemoryRange{MinBytes: 512 * mib, MaxBytes: 1024 * mib}}
	plain := hypervisor.VMSpec{Name: "plain", CPUs: 1, MemoryBytes: 1024 * mib}
	more := hypervisor.VMSpec{Name: "x", CPUs: 1, MaxCPUs: 2, MemoryBytes: 1024 * mib}
	vm := ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, plain).Wait(ctx))
	before := w.sizes(t, vm)
	for label, err := range map[string]error{
		"create with CPUs":     wait(ctx, w.c.CreateVM(ctx, more)),
		"room for CPUs":        wait(ctx, vm.Reconfigure(ctx, hypervisor.Changes{MaxCPUs: 2})),
		"create with room":     wait(ctx, w.c.CreateVM(ctx, room)),
		"create with a range":  wait(ctx, w.c.CreateVM(ctx, span)),
		"room":                 wait(ctx, vm.Reconfigure(ctx, hypervisor.Changes{MaxMemoryBytes: 2048 * mib})),
		"range":                wait(ctx, vm.Reconfigure(ctx, hypervisor.Changes{DynamicMemory: &hypervisor.MemoryRange{MinBytes: 512 * mib, MaxBytes: 1024 * mib}})),
		"CPUs while it runs":   wait(ctx, w.run.Reconfigure(ctx, hypervisor.Changes{CPUs: 1})),
		"memory while it runs": wait(ctx, w.run.Reconfigure(ctx, hypervisor.Changes{MemoryBytes: 512 * mib})),
	} {
		if reasonOf(err) != hypervisor.ReasonEdition || hypervisor.KindOf(err) != hypervisor.ErrLicense {
			t.Errorf("%s: %v (%v)", label, err, hypervisor.KindOf(err))
		}
	}
	if got := w.sizes(t, vm); got != before || len(w.named(t, "x")) > 0 {
		t.Errorf("refused, it has %v, before %v", got, before)
	}
	if err := wait(ctx, vm.Reconfigure(ctx, hypervisor.Changes{MemoryBytes: 2048 * mib, CPUs: 2})); err != nil {
		t.Errorf("while it is off: %v", err)
	}
}

// TestCreateOptions looks at what a machine is made with.
func TestCreateOptions(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	vm := ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, hypervisor.VMSpec{Name: "win", MemoryBytes: 1024 * mib, GuestOS: "windows", Firmware: hypervisor.FirmwareUEFI, SecureBoot: true}).Wait(ctx))
	platform, _ := w.field(t, "VM", string(vm.ID()), "platform").(map[string]any)
	boot, _ := w.field(t, "VM", string(vm.ID()), "HVM_boot_params").(map[string]any)
	if platform["viridian"] != "true" || platform["secureboot"] != "true" || boot["firmware"] != "uefi" {
		t.Errorf("platform %v, boot %v", platform, boot)
	}
	if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); i.GuestOS != "windows" || i.Firmware != hypervisor.FirmwareUEFI || i.Machine != "hvm" {
		t.Errorf("%+v", i)
	}
	plain, _ := w.field(t, "VM", string(ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, spec("plain")).Wait(ctx)).ID()), "platform").(map[string]any)
	if plain["viridian"] != nil || plain["secureboot"] != nil {
		t.Errorf("platform %v", plain)
	}
	vms := w.sim.Count("VM")
	for _, c := range []struct {
		s    hypervisor.VMSpec
		kind hypervisor.Kind
	}{
		{hypervisor.VMSpec{Name: "x", MemoryBytes: 1024 * mib, SecureBoot: true}, hypervisor.ErrInvalidArgument},
		{hypervisor.VMSpec{Name: "x", MemoryBytes: 1024 * mib, CPUs: 65}, hypervisor.ErrInvalidArgument},
		{hypervisor.VMSpec{Name: "x", MemoryBytes: 65 * hypervisor.GiB}, hypervisor.ErrExhausted},
		{hypervisor.VMSpec{Name: "x", MemoryBytes: 1024 * mib, Machine: "pc-q35-7.2"}, hypervisor.ErrUnsupported},
		{hypervisor.VMSpec{Name: "x", MemoryBytes: 1024 * mib, Placement: hypervisor.Placement{Folder: "f"}}, hypervisor.ErrUnsupported},
		{hypervisor.VMSpec{Name: "x", MemoryBytes: 1024 * mib, Placement: hypervisor.Placement{Host: "none"}}, hypervisor.ErrNotFound},
		{hypervisor.VMSpec{Name: "x", MemoryBytes: 1024 * mib, Disks: []hypervisor.DiskSpec{{SizeBytes: mib, Provisioning: hypervisor.ProvisioningThick}}}, hypervisor.ErrUnsupported},
		{hypervisor.VMSpec{Name: "x", MemoryBytes: 1024 * mib, Disks: []hypervisor.DiskSpec{{SizeBytes: mib, Bus: "nvme"}}}, hypervisor.ErrUnsupported},
		{hypervisor.VMSpec{Name: "x", MemoryBytes: 1024 * mib, NICs: []hypervisor.NICSpec{{Model: "e1000"}}}, hypervisor.ErrUnsupported},
		{hypervisor.VMSpec{Name: "x", MemoryBytes: 1024 * mib, NICs: []hypervisor.NICSpec{{Network: "none"}}}, hypervisor.ErrNotFound},
	} {
		if err := wait(ctx, w.c.CreateVM(ctx, c.s)); hypervisor.KindOf(err) != c.kind {
			t.Errorf("%+v: %v (%v), want %v", c.s, err, hypervisor.KindOf(err), c.kind)
		}
	}
	// An image may grow when it is copied, and not shrink.
	image := ok[hypervisor.DiskInfo](t)(diskOf(ctx, w.off))
	grown := hypervisor.DiskSpec{Image: image.Volume, SizeBytes: 12 * hypervisor.GiB}
	large := ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, hypervisor.VMSpec{Name: "large", MemoryBytes: 1024 * mib, Disks: []hypervisor.DiskSpec{grown}}).Wait(ctx))
	if d := ok[hypervisor.DiskInfo](t)(diskOf(ctx, large)); d.SizeBytes != 12*hypervisor.GiB {
		t.Errorf("%+v", d)
	}
	grown.SizeBytes = hypervisor.GiB
	if err := wait(ctx, w.c.CreateVM(ctx, hypervisor.VMSpec{Name: "small", MemoryBytes: 1024 * mib, Disks: []hypervisor.DiskSpec{grown}})); hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument {
		t.Errorf("an image that shrinks: %v", err)
	}
	if n := w.sim.Count("VM"); n != vms+1 {
		t.Errorf("%d machines, there were %d", n, vms)
	}
}
