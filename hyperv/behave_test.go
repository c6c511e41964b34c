package hyperv

import (
	"errors"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// native is a session beside the driver, as another tool would have one.
func native(t *testing.T, s *site) cim.Session {
	t.Helper()
	d, err := connect(t.Context(), s.config, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	session, err := d.hosts[0].session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// TestTemplateCannotBeStartedNatively: no tool starts it, not only this API.
func TestTemplateCannotBeStartedNatively(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c := openSite(t, s)
	vm := create(t, c, small("golden"))
	tpl, err := vm.MarkTemplate(t.Context()).Wait(t.Context())
	if err != nil || string(tpl.ID()) != string(vm.ID()) {
		t.Fatalf("%v, %v", tpl, err)
	}
	raw := native(t, s)
	rows, err := cim.Collect(raw.Query(t.Context(), cim.Virtualization, "SELECT Name FROM Msvm_ComputerSystem WHERE Name = "+cim.Quote(string(vm.ID()))))
	if err != nil || len(rows) != 0 {
		t.Errorf("the template is among the machines: %v, %v", rows, err)
	}
	ref := cim.NewRef("Msvm_PlannedComputerSystem", "CreationClassName", "Msvm_PlannedComputerSystem", "Name", string(vm.ID()))
	r, err := raw.Invoke(t.Context(), ref, "RequestStateChange", cim.Arg{Name: "RequestedState", Value: uint16(stateEnabled)})
	if err != nil || r.Return != cim.ReturnInvalidState {
		t.Errorf("starting a template: %+v, %v", r, err)
	}
	for _, mode := range []hypervisor.CloneMode{hypervisor.CloneModeFull, hypervisor.CloneModeLinked} {
		m, err := tpl.Deploy(t.Context(), "from "+mode.String(), &hypervisor.CloneOptions{Mode: mode, Start: true}).Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if i, err := m.Info(t.Context()); err != nil || i.State != hypervisor.StateRunning || i.Template || (i.Disks[0].Parent != "") != (mode == hypervisor.CloneModeLinked) {
			t.Errorf("%s: %+v, %v", mode, i, err)
		}
	}
	if _, err := tpl.MarkVM(t.Context(), hypervisor.Placement{}).Wait(t.Context()); !errors.Is(err, hypervisor.ErrBusy) || !strings.Contains(err.Error(), "from linked") {
		t.Errorf("MarkVM of a base: %v", err)
	}
	if _, err := tpl.Delete(t.Context(), hypervisor.DeleteDisks).Wait(t.Context()); !errors.Is(err, hypervisor.ErrBusy) {
		t.Errorf("Delete of a base: %v", err)
	}
}

// TestClusteredMachineMovesThroughTheCluster: the migration service is not
// asked, for the cluster would undo what it does.
func TestClusteredMachineMovesThroughTheCluster(t *testing.T) {
	s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{}, {}}, Cluster: &hvsim.ClusterConfig{Volumes: []string{"Volume1"}}})
	c := openSite(t, s)
	spec := small("clustered")
	spec.Placement = hypervisor.Placement{Host: hypervisor.HostID(s.config.Hosts[0]), Datastore: sharedStore}
	spec.Start = true
	vm := create(t, c, spec)
	if err := s.sim.Cluster(string(vm.ID())); err != nil {
		t.Fatal(err)
	}
	s.sim.ResetCalls()
	to := hypervisor.HostID(s.config.Hosts[1])
	r, err := vm.Migrate(t.Context(), hypervisor.MigrateOptions{Host: to, Mode: hypervisor.MigrateModeLive}).Wait(t.Context())
	if err != nil || r.Host != to || !strings.Contains(r.Method, "cluster") {
		t.Fatalf("%+v, %v", r, err)
	}
	if i, err := vm.Info(t.Context()); err != nil || i.Host != to || i.State != hypervisor.StateRunning {
		t.Errorf("%+v, %v", i, err)
	}
	calls := s.sim.Calls()
	if calls["Invoke MSCluster_ResourceGroup.MoveToNewNodeParams"] != 1 || calls["Invoke Msvm_VirtualSystemMigrationService.MigrateVirtualSystemToHost"] != 0 {
		t.Errorf("%v", calls)
	}
}

// TestClusterMovesLive: a role of low priority is saved for a move unless the
// cluster gets the type of the move with the request.
func TestClusterMovesLive(t *testing.T) {
	s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{}, {}}, Cluster: &hvsim.ClusterConfig{Volumes: []string{"Volume1"}}})
	c := openSite(t, s)
	spec := small("batch")
	spec.Placement = hypervisor.Placement{Host: hypervisor.HostID(s.config.Hosts[0]), Datastore: sharedStore}
	spec.Start = true
	vm := create(t, c, spec)
	if _, err := vm.SetRestartPriority(t.Context(), hypervisor.RestartLow).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n, mode := range []hypervisor.MigrateMode{hypervisor.MigrateModeLive, hypervisor.MigrateModeAuto} {
		r, err := vm.Migrate(t.Context(), hypervisor.MigrateOptions{Host: hypervisor.HostID(s.config.Hosts[1-n]), Mode: mode}).Wait(t.Context())
		if err != nil || !strings.HasPrefix(r.Method, "live") || s.sim.SavedMoves(string(vm.ID())) != 0 {
			t.Errorf("%v: %+v, %v; the cluster saved the machine %d times", mode, r, err, s.sim.SavedMoves(string(vm.ID())))
		}
	}
	if _, err := vm.PowerOff(t.Context()).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Migrate(t.Context(), hypervisor.MigrateOptions{Host: hypervisor.HostID(s.config.Hosts[1]), Mode: hypervisor.MigrateModeCold}).Wait(t.Context()); err != nil {
		t.Errorf("cold: %v", err)
	}
}

// TestDeviceAssignmentSaysWhatItSets: stop action, memory, MMIO space.
func TestDeviceAssignmentSaysWhatItSets(t *testing.T) {
	s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{GPUs: []hvsim.GPU{{Device: hvsim.Device{Name: "A2", Vendor: 0x10DE, Product: 0x25B6}}, {Device: hvsim.Device{Name: "A2", Vendor: 0x10DE, Product: 0x25B6}}}}}})
	c := openSite(t, s)
	spec := small("gpu")
	spec.DynamicMemory = &hypervisor.MemoryRange{MinBytes: 32 * hypervisor.MiB, MaxBytes: 128 * hypervisor.MiB}
	vm := create(t, c, spec)
	want := hypervisor.DeviceRequest{Class: hypervisor.ClassDisplay, Vendor: "10de"}
	var u *hypervisor.UnsupportedError
	if _, err := vm.AttachDevice(t.Context(), want).Wait(t.Context()); !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonDevicePrepare {
		t.Errorf("a device that the host uses: %v", err)
	}
	if err := dismountAll(t.Context(), c, "25b6"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		task := vm.AttachDevice(t.Context(), want)
		if _, err := task.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := strings.Join(task.Notes(), "; "); !strings.Contains(n, "above 4 GiB") {
			t.Errorf("notes: %s", n)
		}
	}
	set, err := cim.First(native(t, s).Query(t.Context(), cim.Virtualization, cim.Select("Msvm_VirtualSystemSettingData", nil, "VirtualSystemIdentifier = "+cim.Quote(string(vm.ID())))), "settings")
	if err != nil || set.Uint("AutomaticShutdownAction") != 2 || set.Uint("LowMmioGapSize") < 3072 || set.Uint("HighMmioGapSize") < 2*33280 || !set.Bool("GuestControlledCacheTypes") {
		t.Errorf("%+v, %v", set.Props, err)
	}
	if _, err := vm.AttachDevice(t.Context(), want).Wait(t.Context()); !errors.Is(err, hypervisor.ErrExhausted) {
		t.Errorf("a third device of two: %v", err)
	}
	for _, k := range []capability.Name{capability.SnapshotMemory, capability.PowerSuspend} {
		if sup, err := vm.Supports(t.Context(), k); err != nil || sup.Reason != hypervisor.ReasonVMPassthrough {
			t.Errorf("%s: %+v, %v", k, sup, err)
		}
	}
}

// TestSecondProcessFollowsAClone: a task that makes a machine is found again.
func TestSecondProcessFollowsAClone(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c, c2 := openSite(t, s), openSite(t, s)
	vm := create(t, c, small("source"))
	task := vm.Clone(t.Context(), "copy", nil)
	again, err := c2.Task(t.Context(), task.ID())
	if err != nil {
		t.Fatal(err)
	}
	made, err := task.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ref, err := again.Wait(t.Context()); err != nil || ref.ID != string(made.ID()) {
		t.Errorf("%v, %v", ref, err)
	}
}

// TestAdapterModels: an adapter that the machine or the switch can't have is
// refused before anything is made, and SR-IOV takes a switch that has it.
func TestAdapterModels(t *testing.T) {
	s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{Switches: []hvsim.Switch{{Name: "Fast", IOV: true}, {Name: "Slow"}}}}})
	c := openSite(t, s)
	ids := map[string]hypervisor.NetworkID{}
	for n, err := range c.Networks(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		ids[n.Name] = n.ID
		if n.SRIOV != hypervisor.FactOf(n.Name == "Fast") {
			t.Errorf("%+v", n)
		}
	}
	off := map[string]*hypervisor.VM{}
	for gen := range strings.SplitSeq("1 2", " ") {
		spec := small("generation " + gen)
		spec.Machine = "generation " + gen
		off[gen] = create(t, c, spec)
	}
	for _, k := range []struct {
		gen, network, model string
		want                error
	}{
		{"2", "Fast", modelSRIOV, nil},
		{"2", "Slow", modelSRIOV, hypervisor.ErrUnsupported},
		{"2", "Fast", "legacy", hypervisor.ErrUnsupported},
		{"1", "Slow", "legacy", nil},
		{"1", "Fast", "SR-IOV", nil},
		{"2", "Slow", "Synthetic", nil},
		{"2", "Slow", "e1000", hypervisor.ErrInvalidArgument},
		{"2", "nowhere", "", hypervisor.ErrNotFound},
	} {
		nic := hypervisor.NICSpec{Network: ids[k.network], Model: k.model}
		if k.network == "nowhere" {
			nic.Network = "nowhere"
		}
		before := len(s.sim.Machines())
		id, err := off[k.gen].AttachNIC(t.Context(), nic).Wait(t.Context())
		spec := small("made with one")
		spec.Machine, spec.NICs = "generation "+k.gen, []hypervisor.NICSpec{nic}
		made, cerr := c.CreateVM(t.Context(), spec).Wait(t.Context())
		if k.want != nil {
			if !errors.Is(err, k.want) || !errors.Is(cerr, k.want) || len(s.sim.Machines()) != before {
				t.Errorf("%+v: AttachNIC %v, CreateVM %v", k, err, cerr)
			}
			continue
		}
		if err != nil || cerr != nil {
			t.Errorf("%+v: AttachNIC %v, CreateVM %v", k, err, cerr)
			continue
		}
		i, err := made.Info(t.Context())
		if err != nil || len(i.NICs) != 1 || !strings.EqualFold(i.NICs[0].Model, k.model) || !i.NICs[0].Connected || i.NICs[0].Network != ids[k.network] {
			t.Errorf("%+v: %+v, %v", k, i.NICs, err)
		}
		if _, err := off[k.gen].DetachNIC(t.Context(), id.ID).Wait(t.Context()); err != nil {
			t.Errorf("%+v: %v", k, err)
		}
	}
}

func TestHostFacts(t *testing.T) {
	s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{NUMANodes: 2, Processors: 32, MemoryMB: 1 << 17}}})
	c := openSite(t, s)
	all, err := hypervisor.Collect(c.Hosts(t.Context()))
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	h := all[0]
	if h.Name != "HV01" || h.Edition != "Server Datacenter" || len(h.NUMA) != 2 || h.NUMA[1].ID != 1 || h.NUMA[0].Threads != 16 || h.CPU.Threads != 32 || h.CPU.Sockets != 2 ||
		h.MemoryBytes != 128*hypervisor.GiB || h.FreeBytes <= 0 || h.CPU.NestedPaging != hypervisor.FactPresent || h.IOMMU != hypervisor.FactUnknown || h.Limits.CPUs != 1024 {
		t.Errorf("%+v", h)
	}
}

// TestSpecialsInTexts: all of XML's special characters in names and
// descriptions.
func TestSpecialsInTexts(t *testing.T) {
	const hostile = "R&D <lab> \"one\" 'two' &amp; &#38; ]]>"
	s := startSite(t, hvsim.Config{})
	c := openSite(t, s)
	spec := small(hostile)
	spec.Description, spec.Labels = hostile, map[string]string{"a": hostile}
	spec.Disks = []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}
	vm := create(t, c, spec)
	snap, err := vm.CreateSnapshot(t.Context(), hostile, &hypervisor.SnapshotOptions{Description: hostile}).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := vm.Snapshots(t.Context())
	if err != nil || len(all) != 1 || all[0].ID != snap.ID() || all[0].Name != hostile || all[0].Description != hostile {
		t.Errorf("%+v, %v", all, err)
	}
	made, err := vm.Clone(t.Context(), hostile+"2", nil).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n, v := range []*hypervisor.VM{vm, made} {
		i, err := v.Info(t.Context())
		if err != nil || i.Name != []string{hostile, hostile + "2"}[n] || i.Description != hostile || i.Labels["a"] != hostile {
			t.Errorf("%+v, %v", i, err)
		}
	}
}

// TestPhysicalDisk: a disk of the host is listed, stands in the way of what
// needs an image, and is detached without harm.
func TestPhysicalDisk(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c, ctx := openSite(t, s), t.Context()
	spec := small("physical")
	spec.Disks = []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}
	vm := create(t, c, spec)
	for _, f := range s.foreignCases(t) {
		if f.Name == "physical-disk" {
			if _, err := f.Add(ctx, vm.ID()); err != nil {
				t.Fatal(err)
			}
		}
	}
	i, err := vm.Info(ctx)
	if err != nil || len(i.Disks) != 2 || i.Disks[1].Format != "raw" || i.Disks[1].Volume != "" {
		t.Fatalf("%+v, %v", i.Disks, err)
	}
	for _, k := range []capability.Name{capability.SnapshotDisk, capability.CloneFull, capability.CloneLinked, capability.Templates} {
		if sup, err := vm.Supports(ctx, k); err != nil || sup.Reason != hypervisor.ReasonVMPassthrough || !strings.Contains(sup.Detail, string(i.Disks[1].ID)) {
			t.Errorf("%s: %+v, %v", k, sup, err)
		}
	}
	if _, err := vm.GrowDisk(ctx, i.Disks[1].ID, 2*hypervisor.GiB).Wait(ctx); !errors.Is(err, hypervisor.ErrInvalidState) {
		t.Errorf("GrowDisk: %v", err)
	}
	if _, err := vm.DetachDisk(ctx, i.Disks[1].ID, hypervisor.DeleteDisks).Wait(ctx); err != nil {
		t.Error(err)
	}
	if i, err = vm.Info(ctx); err != nil || len(i.Disks) != 1 {
		t.Errorf("%+v, %v", i.Disks, err)
	}
}

// TestDatastoreOfTheFirstDisk: a CD before it is not where the machine is.
func TestDatastoreOfTheFirstDisk(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	const iso = `D:\iso\install.iso`
	s.sim.Host(0).AddFile(iso, 1<<20)
	c := openSite(t, s)
	spec := small("dvd")
	spec.Disks = []hypervisor.DiskSpec{{CDROM: true, ReadOnly: true, Volume: hypervisor.VolumeID(s.config.Hosts[0] + "|" + iso)}, {SizeBytes: hypervisor.GiB}}
	vm := create(t, c, spec)
	i, err := vm.Info(t.Context())
	if err != nil || len(i.Disks) != 2 || !i.Disks[0].CDROM || i.Placement.Datastore != i.Disks[1].Datastore {
		t.Errorf("%+v, %v", i, err)
	}
}
