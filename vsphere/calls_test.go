package vsphere

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestCalls pins what each operation sends. A change here is a change of cost:
// look twice.
func TestCalls(t *testing.T) {
	sim, c := once(t, simConfig(vspheresim.VCenter))
	ctx := t.Context()
	vm := firstVM(t, c, "DC0_C0")
	host := hypervisor.HostID("")
	var other hypervisor.HostID
	for h, err := range c.Hosts(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if i, err := vm.Info(ctx); err != nil {
			t.Fatal(err)
		} else if h.ID == i.Host {
			host = h.ID
		} else {
			other = h.ID
		}
	}
	if host == "" || other == "" {
		t.Fatal("no two hosts")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	wait := func(k *hypervisor.Task[hypervisor.None]) error { _, err := k.Wait(ctx); return err }
	var snap *hypervisor.Snapshot
	var made, runs, own *hypervisor.VM
	var tpl *hypervisor.Template
	var disk hypervisor.DiskInfo
	// Views and folders are read once in a session: have them.
	must(func() error { _, err := hypervisor.Collect(c.VMs(ctx, nil)); return err }())
	must(func() error { _, err := hypervisor.Collect(c.HA(ctx)); return err }())
	last, err := c.CreateVM(ctx, spec("warm")).Wait(ctx)
	must(err)
	must(func() error { _, err := vm.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: other}); return err }())

	for _, op := range []struct {
		name string
		want string // methods and how often
		f    func() error
	}{
		{"list", "RetrievePropertiesEx", func() error { _, err := hypervisor.Collect(c.VMs(ctx, nil)); return err }},
		{"list brief", "RetrievePropertiesEx", func() error {
			_, err := hypervisor.Collect(c.VMs(ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}))
			return err
		}},
		{"info", "RetrievePropertiesEx", func() error { _, err := vm.Info(ctx); return err }},
		{"find", "RetrievePropertiesEx 2", func() error { _, err := c.FindVM(ctx, "warm"); return err }},
		{"datastores", "RetrievePropertiesEx", func() error { _, err := hypervisor.Collect(c.Datastores(ctx)); return err }},
		{"hosts", "RetrievePropertiesEx 2", func() error { _, err := hypervisor.Collect(c.Hosts(ctx)); return err }},
		{"devices", "RetrievePropertiesEx 2", func() error { _, err := hypervisor.Collect(c.Devices(ctx, nil)); return err }},
		{"snapshots", "RetrievePropertiesEx", func() error { _, err := vm.Snapshots(ctx); return err }},
		{"power off", "PowerOffVM_Task RetrievePropertiesEx", func() error { return wait(vm.PowerOff(ctx)) }},
		{"power off again", "RetrievePropertiesEx", func() error { return wait(vm.PowerOff(ctx)) }},
		{"power on", "PowerOnVM_Task RetrievePropertiesEx", func() error { return wait(vm.Start(ctx)) }},
		{"reconfigure", "ReconfigVM_Task RetrievePropertiesEx", func() error {
			text := "x"
			return wait(vm.Reconfigure(ctx, hypervisor.Changes{Description: &text}))
		}},
		{"snapshot", "CreateSnapshot_Task RetrievePropertiesEx", func() error {
			var err error
			snap, err = vm.CreateSnapshot(ctx, "s", nil).Wait(ctx)
			return err
		}},
		{"revert", "RetrievePropertiesEx 2 RevertToSnapshot_Task", func() error { return wait(snap.Revert(ctx, nil)) }},
		{"delete snapshot", "RemoveSnapshot_Task RetrievePropertiesEx 4", func() error { return wait(snap.Delete(ctx, nil)) }},
		{"labels", "ReconfigVM_Task", func() error { return vm.SetLabels(ctx, map[string]string{"a": "b"}) }},
		{"check of a migration", "CheckRelocate_Task RetrievePropertiesEx 5", func() error {
			_, err := vm.CheckMigrate(ctx, hypervisor.MigrateOptions{Host: other})
			return err
		}},
		{"migrate", "CheckRelocate_Task RelocateVM_Task RetrievePropertiesEx 5", func() error { _, err := vm.Migrate(ctx, hypervisor.MigrateOptions{Host: other}).Wait(ctx); return err }},
		{"create", "CreateVM_Task RetrievePropertiesEx 5", func() error { made, err = c.CreateVM(ctx, spec("made")).Wait(ctx); return err }},
		{"create and start", "CreateVM_Task PowerOnVM_Task RetrievePropertiesEx 5", func() error {
			s := spec("made and started")
			s.Start = true
			runs, err = c.CreateVM(ctx, s).Wait(ctx)
			return err
		}},
		{"create with a token", "CreateVM_Task FindAllByUuid 2 RetrievePropertiesEx 5", func() error {
			s := spec("made with a token")
			s.Token = "request"
			_, err = c.CreateVM(ctx, s).Wait(ctx)
			return err
		}},
		{"full clone", "CloneVM_Task RetrievePropertiesEx 2", func() error { _, err := made.Clone(ctx, "full", nil).Wait(ctx); return err }},
		{"linked clone", "CloneVM_Task CreateSnapshot_Task RetrievePropertiesEx 2", func() error {
			_, err := made.Clone(ctx, "linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx)
			return err
		}},
		{"attach disk", "ReconfigVM_Task RetrievePropertiesEx 3", func() error {
			disk, err = made.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: hypervisor.MiB}).Wait(ctx)
			return err
		}},
		{"detach disk", "ReconfigVM_Task RetrievePropertiesEx 5", func() error { return wait(made.DetachDisk(ctx, disk.ID, hypervisor.DeleteDisks)) }},
		{"attach adapter", "ReconfigVM_Task RetrievePropertiesEx 6", func() error { _, err := made.AttachNIC(ctx, hypervisor.NICSpec{}).Wait(ctx); return err }},
		{"attach device", "ReconfigVM_Task RetrievePropertiesEx 7", func() error {
			_, err := made.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "10de", Product: "2330"}).Wait(ctx)
			return err
		}},
		{"volumes", "RetrievePropertiesEx 5 SearchDatastoreSubFolders_Task 2", func() error { _, err := hypervisor.Collect(c.Volumes(ctx, "")); return err }},
		{"HA", "RetrievePropertiesEx", func() error { _, err := hypervisor.Collect(c.HA(ctx)); return err }},
		{"availability", "RetrievePropertiesEx 3", func() error { _, err := made.Availability(ctx); return err }},
		{"restart priority", "ReconfigureComputeResource_Task RetrievePropertiesEx 3", func() error { return wait(made.SetRestartPriority(ctx, hypervisor.RestartLow)) }},
		{"exec", "CreateTemporaryFileInGuest 2 DeleteFileInGuest 2 InitiateFileTransferFromGuest 2 ListProcessesInGuest RetrievePropertiesEx 6 StartProgramInGuest", func() error {
			_, err := runs.Exec(ctx, hypervisor.ExecRequest{Path: "/bin/true", User: "root", Password: "x"})
			return err
		}},
		// A template's base is made with it, and removed when it is a machine again.
		{"template", "CreateSnapshot_Task MarkAsTemplate RetrievePropertiesEx", func() error { tpl, err = last.MarkTemplate(ctx).Wait(ctx); return err }},
		{"full deployment", "CloneVM_Task RetrievePropertiesEx 5", func() error { _, err := tpl.Deploy(ctx, "deployed", nil).Wait(ctx); return err }},
		{"linked deployment", "CloneVM_Task RetrievePropertiesEx 5", func() error {
			own, err = tpl.Deploy(ctx, "deployed linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx)
			return err
		}},
		{"delete", "Destroy_Task RetrievePropertiesEx 5", func() error { return wait(own.Delete(ctx, hypervisor.DeleteDisks, nil)) }},
		{"machine of a template", "MarkAsVirtualMachine RemoveSnapshot_Task RetrievePropertiesEx 7", func() error { _, err := tpl.MarkVM(ctx, hypervisor.Placement{}).Wait(ctx); return err }},
		// Of a template that others made the base is made once: a step follows from a reading each.
		{"mark by others", "MarkAsTemplate RetrievePropertiesEx", func() error { return nativelyMarked(ctx, c, last) }},
		{"first linked deployment", "CloneVM_Task CreateSnapshot_Task MarkAsTemplate MarkAsVirtualMachine ReconfigVM_Task 4 RetrievePropertiesEx 17", func() error {
			own, err = tpl.Deploy(ctx, "first linked", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(ctx)
			return err
		}},
	} {
		t.Run(op.name, func(t *testing.T) {
			sim.ResetCalls()
			if err := op.f(); err != nil {
				t.Fatal(err)
			}
			if got := countsWithoutWaits(sim.Calls()); got != op.want {
				t.Errorf("calls:\n%s\nwant\n%s", got, op.want)
			}
		})
	}
}

// waits are the calls that watch a task: their number depends on how long it
// takes. They come to one plain read, or to that and one collector.
var waits = []string{"CreatePropertyCollector", "CreateFilter", "WaitForUpdatesEx", "DestroyPropertyCollector"}

func countsWithoutWaits(calls map[string]int) string {
	started := 0
	for m, n := range calls {
		if strings.HasSuffix(m, "_Task") {
			started += n
		}
	}
	var out []string
	for _, m := range slices.Sorted(maps.Keys(calls)) {
		n := calls[m]
		if slices.Contains(waits, m) {
			continue
		}
		if m == "RetrievePropertiesEx" {
			n -= started // the first look at each task
		}
		switch {
		case n == 1:
			out = append(out, m)
		case n > 1:
			out = append(out, m+" "+itoa(n))
		}
	}
	return strings.Join(out, " ")
}

func itoa(n int) string { return keyID(int32(n)) }

// TestListingCalls: the number of calls for a page does not grow with the
// machines in it.
func TestListingCalls(t *testing.T) {
	defer func(was time.Duration) { folderAge = was }(folderAge)
	folderAge = time.Hour // on a slow machine what is remembered of folders would age while it lists
	sim, c := once(t, vspheresim.Config{})
	count := func(ctx context.Context, o *hypervisor.ListOptions) int {
		t.Helper()
		sim.ResetCalls()
		if _, err := hypervisor.Collect(c.VMs(ctx, o)); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, k := range sim.Calls() {
			n += k
		}
		return n
	}
	for _, o := range []*hypervisor.ListOptions{nil, {Detail: hypervisor.DetailBrief}} {
		_ = count(t.Context(), o)
		before := count(t.Context(), o)
		if err := sim.AddVMs("many", 400); err != nil {
			t.Fatal(err)
		}
		if o != nil {
			continue
		}
		if after := count(t.Context(), o); after != before || after != 1 {
			t.Errorf("a page of 400 machines takes %d calls, an empty one %d; want 1", after, before)
		}
	}
	// Who wants 20 gets 20, not the whole inventory.
	sim.ResetCalls()
	n := 0
	for _, err := range c.VMs(t.Context(), &hypervisor.ListOptions{Detail: hypervisor.DetailBrief, PageSize: 20}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 20 {
			break
		}
	}
	if k := sim.Calls()["RetrievePropertiesEx"] + sim.Calls()["ContinueRetrievePropertiesEx"]; k != 1 {
		t.Errorf("the first 20 of 800 machines take %d calls, want 1", k)
	}
	// 800 machines are two pages of 500.
	if n := count(t.Context(), &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}); n != 2 {
		t.Errorf("800 machines take %d calls, want 2", n)
	}
}
