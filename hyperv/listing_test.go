package hyperv

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

func populate(t testing.TB, s *site, n int) []string {
	t.Helper()
	var all []hvsim.Machine
	for i := range n {
		all = append(all, hvsim.Machine{Name: fmt.Sprintf("vm-%05d", i), Disks: []string{fmt.Sprintf(`C:\disks\%d.vhdx`, i)}, Switch: "External", Running: i%2 == 0})
	}
	ids, err := s.sim.Host(0).Add(all...)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// golden are the calls that each operation makes, by simulator's count. They
// do not depend on the number of machines.
var golden = map[string]map[string]int{
	"full": {
		"Query Msvm_VirtualSystemSettingData": 1, "Query Msvm_ComputerSystem": 1, "Query Msvm_ProcessorSettingData": 1, "Query Msvm_MemorySettingData": 1,
		"Query Msvm_StorageAllocationSettingData": 1, "Query Msvm_ResourceAllocationSettingData": 1, "Query Msvm_SyntheticEthernetPortSettingData": 1,
		"Query Msvm_EmulatedEthernetPortSettingData": 1, "Query Msvm_EthernetPortAllocationSettingData": 1, "Query Msvm_PciExpressSettingData": 1,
		"Query Msvm_GpuPartitionSettingData": 1, "Query Msvm_GuestNetworkAdapterConfiguration": 1, "Query Msvm_MostCurrentSnapshotInBranch": 1, "Query Msvm_EthernetSwitchPortOffloadSettingData": 1, "HTTP Enumerate": 14,
	},
	"brief": {"Query Msvm_VirtualSystemSettingData": 1, "Query Msvm_ComputerSystem": 1, "Query Msvm_ProcessorSettingData": 1, "Query Msvm_MemorySettingData": 1, "HTTP Enumerate": 4},
}

func TestCallsOfAListing(t *testing.T) {
	for _, n := range []int{3, 300} {
		// A large envelope, so that the number of pages does not show.
		s := startSite(t, hvsim.Config{MaxEnvelopeKB: 1 << 16})
		s.config.MaxEnvelope = 1 << 26
		populate(t, s, n)
		c := openSite(t, s)
		for name, o := range map[string]*hypervisor.ListOptions{"full": nil, "brief": {Detail: hypervisor.DetailBrief}} {
			if _, err := hypervisor.Collect(c.VMs(t.Context(), o)); err != nil { // logs in
				t.Fatal(err)
			}
			s.sim.ResetCalls()
			vms, err := hypervisor.Collect(c.VMs(t.Context(), o))
			if err != nil || len(vms) != n {
				t.Fatalf("%d machines, %v", len(vms), err)
			}
			got := s.sim.Calls()
			maps.DeleteFunc(got, func(k string, _ int) bool { return k == "HTTP login" || k == "HTTP sealed" })
			if !maps.Equal(got, golden[name]) {
				t.Errorf("%s listing of %d machines:\n got %v\nwant %v", name, n, got, golden[name])
			}
		}
	}
}

// TestCallsOfAWatch: a host without events is looked at with two queries, once
// each EventInterval, however many machines it has.
func TestCallsOfAWatch(t *testing.T) {
	const looks = 3
	for _, n := range []int{3, 300} {
		s := startSite(t, hvsim.Config{MaxEnvelopeKB: 1 << 16})
		s.config.MaxEnvelope, s.config.EventInterval = 1<<26, 5*time.Millisecond
		ids := populate(t, s, n)
		c := openSite(t, s)
		ctx, stop := context.WithCancel(t.Context())
		s.sim.ResetCalls()
		go func() { // something to see after some looks in which nothing has changed
			for s.sim.Calls()["Query Msvm_ComputerSystem"] < looks {
				time.Sleep(time.Millisecond)
			}
			if err := s.sim.SetHealth(ids[0], 25); err != nil { // which pauses it
				t.Error(err)
			}
		}()
		var events []hypervisor.Event
		for e, err := range c.Watch(ctx, "") {
			if err != nil {
				t.Error(err)
				break
			}
			if events = append(events, e); e.Type == hypervisor.EventVMState {
				break
			}
		}
		stop()
		if len(events) != 1 || events[0].State != hypervisor.StatePaused || string(events[0].Object.ID) != ids[0] {
			t.Errorf("%+v", events)
		}
		got := s.sim.Calls()
		settings, systems := got["Query Msvm_VirtualSystemSettingData"], got["Query Msvm_ComputerSystem"]
		if settings != systems || systems < looks || got["HTTP Enumerate"] != settings+systems || got["HTTP Pull"] != 0 {
			t.Errorf("%d machines: %v", n, got)
		}
	}
}

func TestObserverHearsOfCalls(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	calls := 0
	c, err := Open(t.Context(), s.config, &hypervisor.Options{Observer: func(ctx context.Context, _ hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
		return ctx, func(e hypervisor.CallEnd) { calls += e.Calls }
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := hypervisor.Collect(c.VMs(t.Context(), &hypervisor.ListOptions{Detail: hypervisor.DetailBrief})); err != nil || calls != len(brief) {
		t.Errorf("%d calls, want %d; %v", calls, len(brief), err)
	}
}

func TestListingTellsWhatSingleReadsTell(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	ids := populate(t, s, 4)
	c := openSite(t, s)
	for v, err := range c.VMs(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		i, err := c.VM(v.ID).Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(ids, string(v.ID)) || v.Name != i.Name || v.State != i.State || v.CPUs != i.CPUs || v.MemoryBytes != i.MemoryBytes ||
			len(v.Disks) != 1 || v.Disks[0].Volume != i.Disks[0].Volume || v.Disks[0].Bus != "scsi" || len(v.NICs) != 1 || v.NICs[0] != i.NICs[0] || !v.NICs[0].Connected || v.Machine != "generation 2" {
			t.Errorf("listing %+v\ninfo %+v", v, i)
		}
		if i.Disks[0].SizeBytes != 20*hypervisor.GiB || i.Disks[0].Provisioning != hypervisor.ProvisioningThin {
			t.Errorf("disk %+v", i.Disks[0])
		}
	}
}

// TestHostileTexts: names, descriptions and labels come back as they were.
func TestHostileTexts(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c := openSite(t, s)
	for n, name := range []string{`it's`, `say "hi"`, `50%_[x]`, `<vm>&amp;</vm>`, `]]>`, `<![CDATA[x]]>`, `back\slash\`, `ünïcode 日本`, `a'; SELECT * FROM x --`, `{brace}`, `anyvisor:{}`} {
		spec := small(name)
		spec.Description = "first line " + name + "\nsecond <line>"
		spec.Labels = map[string]string{"app/x": name}
		spec.Token = fmt.Sprintf("token-%d", n)
		vm := create(t, c, spec)
		i, err := vm.Info(t.Context())
		if err != nil || i.Name != name || i.Description != spec.Description || i.Labels["app/x"] != name || i.Token != spec.Token {
			t.Errorf("%q came back as %+v, %v", name, i, err)
			continue
		}
		if found, err := c.FindVM(t.Context(), name); err != nil || found.ID() != vm.ID() {
			t.Errorf("FindVM(%q): %v", name, err)
		}
		again := create(t, c, spec)
		if again.ID() != vm.ID() {
			t.Errorf("the token of %q made a second machine", name)
		}
		if _, err := vm.CreateSnapshot(t.Context(), name, &hypervisor.SnapshotOptions{Description: name}).Wait(t.Context()); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if all, err := vm.Snapshots(t.Context()); err != nil || len(all) != 1 || all[0].Name != name || all[0].Description != name {
			t.Errorf("snapshot of %q came back as %+v, %v", name, all, err)
		}
		clone, err := vm.Clone(t.Context(), name+" 2", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(t.Context())
		if err != nil {
			t.Errorf("clone of %q: %v", name, err)
			continue
		}
		if i, err := clone.Info(t.Context()); err != nil || i.Name != name+" 2" || i.Labels["app/x"] != name {
			t.Errorf("clone of %q came back as %+v, %v", name, i, err)
		}
	}
}

func TestNotes(t *testing.T) {
	for _, n := range []notes{{}, {Description: "text"}, {Description: "two\nlines", Labels: map[string]string{"a": "<&>\n"}}, {Token: "t", Template: true, Bases: []string{`C:\a b.vhdx`}},
		{Description: "anyvisor:{not json", Token: "x"}, {Description: "ends with a line\n", Token: "x"}} {
		got := parseNotes(n.strings())
		if fmt.Sprint(got) != fmt.Sprint(n) {
			t.Errorf("%+v came back as %+v", n, got)
		}
	}
	if n := parseNotes([]string{"one", "two"}); n.Description != "one\ntwo" {
		t.Errorf("%+v", n)
	}
	if n := parseNotes(nil); n.Description != "" || len(notes{}.strings()) != 1 {
		t.Errorf("%+v", n)
	}
	if f := fileName(`a/b:c*"` + strings.Repeat("é", 100)); strings.ContainsAny(f, `/:*"é`) || len(f) > 60 {
		t.Error(f)
	}
}

// BenchmarkList compares a listing of 10,000 machines with the best that a
// program could do without this driver, and with one call for each machine, as
// code does that asks for machines one by one. The last two print the ratio to
// the full listing.
func BenchmarkList(b *testing.B) {
	const n = 10000
	s := startSite(b, hvsim.Config{MaxEnvelopeKB: 1 << 14})
	s.config.MaxEnvelope = 1 << 24
	ids := populate(b, s, n)
	c := openSite(b, s)
	var full float64
	perMachine := func(b *testing.B, machines int) float64 {
		ns := float64(b.Elapsed().Nanoseconds()) / float64(b.N) / float64(machines)
		b.ReportMetric(ns, "ns/machine")
		return ns
	}
	list := func(o *hypervisor.ListOptions) func(b *testing.B) {
		return func(b *testing.B) {
			for b.Loop() {
				count := 0
				for _, err := range c.VMs(b.Context(), o) {
					if err != nil {
						b.Fatal(err)
					}
					count++
				}
				if count != n {
					b.Fatalf("%d machines", count)
				}
			}
			ns := perMachine(b, n)
			if o == nil {
				full = ns
			}
		}
	}
	b.Run("brief", list(&hypervisor.ListOptions{Detail: hypervisor.DetailBrief}))
	b.Run("full", list(nil))
	b.Run("native", func(b *testing.B) {
		// The same queries over the same transport, side by side, nothing made
		// of them.
		d, err := connect(b.Context(), s.config, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		session, err := d.hosts[0].session(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			var g errgroup.Group
			for _, t := range tables {
				g.Go(func() error {
					_, err := cim.Collect(session.Query(b.Context(), cim.Virtualization, cim.Select(t.class, t.props)))
					return err
				})
			}
			if err := g.Wait(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(full/perMachine(b, n), "full/native")
	})
	b.Run("one by one", func(b *testing.B) {
		// A sample: all of them would take minutes.
		const sample = 20
		for b.Loop() {
			for _, id := range ids[:sample] {
				if _, err := c.VM(hypervisor.VMID(id)).Info(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(perMachine(b, sample)/full, "one-by-one/full")
	})
}
