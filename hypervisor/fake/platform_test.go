package fake_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// A linked clone keeps its base alive, whatever its source does meanwhile,
// and nothing is left when all are gone.
func TestChains(t *testing.T) {
	b := fake.New(fake.Config{})
	c := open(t, b)
	ctx := t.Context()
	src := create(t, c, "src")
	content := func(vm *hypervisor.VM, want string) {
		t.Helper()
		if got, err := b.ReadDisk(vm.ID(), 0); got != want || err != nil {
			t.Errorf("the disk holds %q (%v), want %q", got, err, want)
		}
	}
	write := func(vm *hypervisor.VM, s string) {
		t.Helper()
		if err := b.WriteDisk(vm.ID(), 0, s); err != nil {
			t.Fatal(err)
		}
	}
	write(src, "one")
	one := wait(t, src.CreateSnapshot(ctx, "one", nil))
	write(src, "two")
	linked := wait(t, src.Clone(ctx, "linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}))
	of := wait(t, src.Clone(ctx, "of-one", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked, From: one.ID()}))
	content(linked, "two")
	content(of, "one")
	write(src, "three")
	wait(t, one.Revert(ctx, nil)) // leaves the linked clone's base behind
	content(src, "one")
	content(linked, "two")
	content(of, "one")

	busy := func(err error, what string) {
		t.Helper()
		demand(t, err, hypervisor.ErrBusy, what)
	}
	_, err := one.Delete(ctx, nil).Wait(ctx)
	busy(err, "Delete of the snapshot")
	_, err = src.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx)
	busy(err, "Delete of the source")
	i, _ := src.Info(ctx)
	_, err = src.DetachDisk(ctx, i.Disks[0].ID, hypervisor.DeleteDisks).Wait(ctx)
	busy(err, "DetachDisk")
	_, err = c.DeleteVolume(ctx, i.Disks[0].Parent).Wait(ctx)
	busy(err, "DeleteVolume of the base")
	wait(t, src.MarkTemplate(ctx))
	_, err = c.Template(hypervisor.TemplateID(src.ID())).MarkVM(ctx, hypervisor.Placement{}).Wait(ctx)
	if err != nil {
		t.Errorf("nothing depends on the template's present disk: %v", err)
	}

	wait(t, linked.Delete(ctx, hypervisor.DeleteDisks, nil))
	wait(t, of.Delete(ctx, hypervisor.DeleteDisks, nil))
	wait(t, one.Delete(ctx, nil))
	content(src, "one")
	if n := b.Images(); len(n) != 1 {
		t.Errorf("after the clones are gone and the snapshot is merged the images are %v, want one", n)
	}
	wait(t, src.Delete(ctx, hypervisor.DeleteDisks, nil))
	if n := b.Images(); len(n) != 0 {
		t.Errorf("images %v are left", n)
	}
}

// Space comes back: the account of a datastore is what its images take.
func TestSpace(t *testing.T) {
	b := fake.New(fake.Config{Datastores: []fake.Datastore{{ID: "small", CapacityBytes: 10 * hypervisor.GiB}}})
	c := open(t, b)
	free := func() int64 {
		ds, err := hypervisor.Collect(c.Datastores(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		return ds[0].FreeBytes
	}
	thick := func(s *hypervisor.VMSpec) {
		s.Disks[0] = hypervisor.DiskSpec{SizeBytes: 6 * hypervisor.GiB, Provisioning: hypervisor.ProvisioningThick}
	}
	vm := create(t, c, "a", thick)
	if free() != 4*hypervisor.GiB {
		t.Errorf("%d free", free())
	}
	_, err := vm.Clone(t.Context(), "b", nil).Wait(t.Context())
	demand(t, err, hypervisor.ErrExhausted, "a thick clone that doesn't fit")
	linked := wait(t, vm.Clone(t.Context(), "l", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}))
	_ = b.WriteDisk(linked.ID(), 0, "x")
	if free() != 4*hypervisor.GiB-hypervisor.MiB {
		t.Errorf("%d free with a linked clone", free())
	}
	wait(t, linked.Delete(t.Context(), hypervisor.DeleteDisks, nil))
	wait(t, vm.Delete(t.Context(), hypervisor.DeleteDisks, nil))
	if free() != 10*hypervisor.GiB {
		t.Errorf("%d free at the end", free())
	}
}

// Memory of hosts: what runs takes it, in every way to run and to stop.
func TestHostMemory(t *testing.T) {
	b := fake.New(fake.Config{Hosts: []fake.Host{{MemoryBytes: 3 * hypervisor.GiB}, {MemoryBytes: 3 * hypervisor.GiB}}})
	c := open(t, b)
	ctx := t.Context()
	used := func(want ...int64) {
		t.Helper()
		n := 0
		for h, err := range c.Hosts(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if got := h.MemoryBytes - h.FreeBytes; got != want[n]*hypervisor.GiB {
				t.Errorf("host %s has %d GiB in use, want %d", h.ID, got/hypervisor.GiB, want[n])
			}
			n++
		}
	}
	on := func(s *hypervisor.VMSpec) { s.MemoryBytes, s.Placement.Host = 2*hypervisor.GiB, "host-1" }
	x, y := create(t, c, "x", on), create(t, c, "y", on)
	wait(t, x.Start(ctx))
	used(2, 0)
	_, err := y.Start(ctx).Wait(ctx)
	demand(t, err, hypervisor.ErrExhausted, "Start on a full host")
	wait(t, x.Pause(ctx))
	used(2, 0)
	wait(t, x.Resume(ctx))
	snap := wait(t, x.CreateSnapshot(ctx, "s", &hypervisor.SnapshotOptions{Memory: true}))
	wait(t, x.Suspend(ctx))
	used(0, 0)
	wait(t, y.Start(ctx))
	_, err = snap.Revert(ctx, nil).Wait(ctx)
	demand(t, err, hypervisor.ErrExhausted, "Revert to RAM on a full host")
	wait(t, y.Migrate(ctx, hypervisor.MigrateOptions{Host: "host-2"}))
	used(0, 2)
	wait(t, snap.Revert(ctx, nil))
	used(2, 2)
	wait(t, snap.Revert(ctx, &hypervisor.RevertOptions{KeepOff: true}))
	used(0, 2)
	if s, _ := b.State(x.ID()); s != hypervisor.StateSuspended {
		t.Errorf("after KeepOff: %s", s)
	}
	wait(t, x.Resume(ctx))
	rep, err := x.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: "host-2"})
	if err != nil || len(rep.Blockers) != 1 || rep.Blockers[0].Reason != hypervisor.ReasonNoMemory {
		t.Errorf("CheckMigrate to a full host: %+v, %v", rep, err)
	}
	wait(t, x.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}))
	used(0, 2)
}

func TestHotAdd(t *testing.T) {
	b := fake.New(fake.Config{})
	c := open(t, b)
	ctx := t.Context()
	vm := create(t, c, "a", func(s *hypervisor.VMSpec) { s.CPUs, s.MaxCPUs = 2, 4 })
	wait(t, vm.Start(ctx))
	reason := func(ch hypervisor.Changes, want hypervisor.ReasonCode) {
		t.Helper()
		_, err := vm.Reconfigure(ctx, ch).Wait(ctx)
		var u *hypervisor.UnsupportedError
		if !errors.As(err, &u) || u.Support.Reason != want {
			t.Errorf("%+v: %v, want reason %s", ch, err, want)
		}
	}
	wait(t, vm.Reconfigure(ctx, hypervisor.Changes{CPUs: 3}))
	reason(hypervisor.Changes{CPUs: 5}, hypervisor.ReasonHotAddOff)
	reason(hypervisor.Changes{CPUs: 1}, hypervisor.ReasonPlatform)
	reason(hypervisor.Changes{CPUs: 4, MemoryBytes: 2 * hypervisor.GiB}, hypervisor.ReasonHotAddOff)
	if i, _ := vm.Info(ctx); i.CPUs != 3 {
		t.Errorf("all or none: %d CPUs", i.CPUs)
	}
	k := vm.Reconfigure(ctx, hypervisor.Changes{CPUs: 4, MemoryBytes: 2 * hypervisor.GiB, NextStart: true})
	wait(t, k)
	if i, _ := vm.Info(ctx); i.CPUs != 4 || i.MemoryBytes != hypervisor.GiB || len(k.Notes()) == 0 {
		t.Errorf("before the next start: %d CPUs, %d bytes, notes %v", i.CPUs, i.MemoryBytes, k.Notes())
	}
	wait(t, vm.PowerOff(ctx))
	wait(t, vm.Start(ctx))
	if i, _ := vm.Info(ctx); i.MemoryBytes != 2*hypervisor.GiB {
		t.Errorf("after the next start: %d bytes", i.MemoryBytes)
	}
}

func TestVGPU(t *testing.T) {
	b := fake.New(fake.Config{Hosts: fake.DefaultHosts(1)})
	c := open(t, b)
	ctx := t.Context()
	avail := func(id hypervisor.DeviceID) map[string]int {
		for d, err := range c.Devices(ctx, &hypervisor.DeviceFilter{ID: id}) {
			if err != nil {
				t.Fatal(err)
			}
			out := map[string]int{}
			for _, p := range d.Profiles {
				out[p.Name] = p.Available
			}
			return out
		}
		return nil
	}
	var last hypervisor.AttachedDevice
	var vms []*hypervisor.VM
	for n := range 4 { // two GPUs with room for two each
		vm := create(t, c, string(rune('a'+n)))
		last = wait(t, vm.AttachDevice(ctx, hypervisor.DeviceRequest{Profile: "GRID M60-4Q"}))
		vms = append(vms, vm)
	}
	fifth := create(t, c, "e")
	_, err := fifth.AttachDevice(ctx, hypervisor.DeviceRequest{Profile: "GRID M60-4Q"}).Wait(ctx)
	demand(t, err, hypervisor.ErrExhausted, "a fifth share")
	_, err = fifth.AttachDevice(ctx, hypervisor.DeviceRequest{ID: last.Device}).Wait(ctx)
	demand(t, err, hypervisor.ErrBusy, "the whole of a GPU that is split")
	_, err = fifth.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "1a03", Product: "2000"}).Wait(ctx)
	var u *hypervisor.UnsupportedError
	if !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonHostUsesDevice {
		t.Errorf("the console's graphics: %v", err)
	}
	wait(t, vms[3].DetachDevice(ctx, last.ID))
	if a := avail(last.Device); a["GRID M60-4Q"] != 1 || a["GRID M60-8Q"] != 0 || a["GRID M60-1Q"] != 0 {
		t.Errorf("shares of one size on a GPU: %v", a)
	}
	wait(t, vms[2].Delete(ctx, hypervisor.DeleteDisks, nil))
	if a := avail(last.Device); a["GRID M60-8Q"] != 1 || a["GRID M60-1Q"] != 8 {
		t.Errorf("an empty GPU offers %v", a)
	}
}

// Two backends hand machines to each other, both ways at once.
func TestCross(t *testing.T) {
	x, y := fake.New(fake.Config{}), fake.New(fake.Config{})
	cx, cy := open(t, x), open(t, y)
	done := make(chan error, 40)
	go func() {
		for range 20 {
			done <- handOver(t.Context(), cx, cy)
		}
	}()
	for range 20 {
		done <- handOver(t.Context(), cy, cx)
	}
	for range 40 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, c := range []*hypervisor.Client{cx, cy} {
		all, err := hypervisor.Collect(c.VMs(t.Context(), nil))
		if err != nil || len(all) != 20 {
			t.Errorf("%d machines (%v), want 20", len(all), err)
		}
	}
	if len(x.Images()) != 20 || len(y.Images()) != 20 {
		t.Errorf("%d and %d images, want 20 each", len(x.Images()), len(y.Images()))
	}
}

func handOver(ctx context.Context, from, to *hypervisor.Client) error {
	vm, err := from.CreateVM(ctx, hypervisor.VMSpec{Name: "traveller", MemoryBytes: hypervisor.GiB, Start: true,
		Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}}).Wait(ctx)
	if err != nil {
		return err
	}
	_, err = vm.Migrate(ctx, hypervisor.MigrateOptions{To: to, Host: "host-1", Storage: "ds-shared"}).Wait(ctx)
	return err
}

// A host that is down: what ran there is unknown and can't be worked on.
func TestHostDown(t *testing.T) {
	b := fake.New(fake.Config{})
	c := open(t, b)
	vm := create(t, c, "a", func(s *hypervisor.VMSpec) { s.Start, s.Placement.Host = true, "host-1" })
	if err := b.SetHostState("host-1", hypervisor.HostDown); err != nil {
		t.Fatal(err)
	}
	if i, err := vm.Info(t.Context()); err != nil || i.State != hypervisor.StateUnknown {
		t.Errorf("%s (%v)", i.State, err)
	}
	_, err := vm.PowerOff(t.Context()).Wait(t.Context())
	demand(t, err, hypervisor.ErrUnavailable, "PowerOff")
	_, err = vm.Migrate(t.Context(), hypervisor.MigrateOptions{Host: "host-2"}).Wait(t.Context())
	demand(t, err, hypervisor.ErrIncompatible, "Migrate")
	if i, err := c.Host("host-1").Info(t.Context()); err != nil || i.State != hypervisor.HostDown || i.Detail == "" {
		t.Errorf("%+v (%v)", i, err)
	}
	if other := create(t, c, "b"); other != nil {
		if i, _ := other.Info(t.Context()); i.Host != "host-2" {
			t.Errorf("placed on %s", i.Host)
		}
	}
}

// Every reason that stands in the way of a migration is reported at once.
func TestBlockers(t *testing.T) {
	hosts := fake.DefaultHosts(2)
	hosts[1].CPUVendor, hosts[1].Version, hosts[1].MemoryBytes = "Intel", "1.9", hypervisor.GiB
	b := fake.New(fake.Config{Hosts: hosts, Networks: []fake.Network{{ID: "lan", Name: "lan", Hosts: []hypervisor.HostID{"host-1"}}}})
	c := open(t, b)
	vm := create(t, c, "a", func(s *hypervisor.VMSpec) {
		s.MemoryBytes, s.Placement = 2*hypervisor.GiB, hypervisor.Placement{Host: "host-1", Datastore: "ds-host-1"}
	})
	wait(t, vm.AttachDevice(t.Context(), hypervisor.DeviceRequest{Class: hypervisor.ClassNetwork, VirtualFunction: true}))
	wait(t, vm.Start(t.Context()))
	b.SetDelay(op.VMClone, time.Hour)
	k := vm.Clone(t.Context(), "slow", nil)
	rep, err := vm.CheckMigrate(t.Context(), hypervisor.MigrateOptions{Host: "host-2"})
	if err != nil {
		t.Fatal(err)
	}
	var got []hypervisor.ReasonCode
	for _, x := range rep.Blockers {
		got = append(got, x.Reason)
	}
	for _, want := range []hypervisor.ReasonCode{hypervisor.ReasonVMBusy, hypervisor.ReasonVMPassthrough, hypervisor.ReasonCPU, hypervisor.ReasonVersion,
		hypervisor.ReasonNoMemory, hypervisor.ReasonNetworkMissing, hypervisor.ReasonDiskUnreachable} {
		if !slices.Contains(got, want) {
			t.Errorf("blockers %q lack %q", got, want)
		}
	}
	if err := k.Cancel(t.Context()); err != nil {
		t.Error(err)
	}
	_, err = k.Wait(t.Context())
	demand(t, err, hypervisor.ErrCanceled, "Clone")
	b.Fail(fake.Fault{Op: op.VMSetLabels, Lost: fake.AfterSend})
	demand(t, vm.SetLabels(t.Context(), map[string]string{"a": "b"}), hypervisor.ErrUnavailable, "SetLabels whose answer is lost")
	if i, _ := vm.Info(t.Context()); i.Labels["a"] != "b" {
		t.Errorf("the platform had acted: %v", i.Labels)
	}
}
