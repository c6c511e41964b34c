package hyperv

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

func openSite(t testing.TB, s *site) *hypervisor.Client {
	t.Helper()
	c, err := s.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func small(name string) hypervisor.VMSpec {
	return hypervisor.VMSpec{Name: name, MemoryBytes: 64 * hypervisor.MiB, Disks: []hypervisor.DiskSpec{{SizeBytes: 64 * hypervisor.MiB}}}
}

func create(t testing.TB, c *hypervisor.Client, s hypervisor.VMSpec) *hypervisor.VM {
	t.Helper()
	vm, err := c.CreateVM(t.Context(), s).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func TestOpenFaults(t *testing.T) {
	for _, old := range []bool{false, true} {
		s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{NoHyperV: true}}, OldFaults: old})
		if _, err := s.open(t.Context()); !errors.Is(err, hypervisor.ErrUnsupported) || !strings.Contains(err.Error(), "not installed") {
			t.Errorf("a host without Hyper-V: %v", err)
		}
		s = startSite(t, hvsim.Config{OldFaults: old})
		for h, want := range map[uint32]error{0x80041003: hypervisor.ErrPermission, 0x80041048: hypervisor.ErrExhausted} {
			remove := s.sim.Inject(hvsim.Fault{Op: "Query", Target: "Msvm_VirtualSystemManagementServiceSettingData", HRESULT: h, Times: -1})
			if _, err := s.open(t.Context()); !errors.Is(err, want) || strings.Contains(err.Error(), "not installed") {
				t.Errorf("old %v, 0x%X: %v", old, h, err)
			}
			remove()
		}
	}
	s := startSite(t, hvsim.Config{})
	s.config.Password = "no-good-secret"
	if _, err := s.open(t.Context()); !errors.Is(err, hypervisor.ErrUnauthenticated) || strings.Contains(err.Error(), "no-good-secret") {
		t.Errorf("a wrong password: %v", err)
	}
	s.config.Hosts = []string{"127.0.0.1:1"}
	if _, err := s.open(t.Context()); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
	for _, cfg := range []Config{{}, {Hosts: []string{"a", "A"}}, {Hosts: []string{"a|b"}}, {Hosts: []string{"a"}, Transport: "x"}, {Hosts: []string{"a"}, Auth: AuthBasic, PlainHTTP: true}} {
		if _, err := Open(t.Context(), cfg, nil); !errors.Is(err, hypervisor.ErrInvalidArgument) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestURLs(t *testing.T) {
	ctx := t.Context()
	for _, u := range []string{"hyperv://u:secretpw@h/?password=secretpw", "hyperv://h/?plainhttp=secretpw", "hyperv:///", "hyperv://h/?transport=smoke", "hyperv://h/?auth=basic&plainhttp=1", "hyperv://h/?plainhttp=perhaps", "hyperv://h/?certificate=x", "hyperv://h/?what=1"} {
		if _, err := hypervisor.Open(ctx, u, nil); !errors.Is(err, hypervisor.ErrInvalidArgument) || strings.Contains(err.Error(), "secretpw") {
			t.Errorf("%s: %v", u, err)
		}
	}
	s := startSite(t, hvsim.Config{})
	c, err := hypervisor.Open(ctx, "hyperv://"+hostPort(s.sim.Host(0).HTTPURL())+"/?plainhttp=1", &hypervisor.Options{
		Credentials: &hypervisor.Credentials{Username: "Administrator", Password: hypervisor.Secret(s.sim.Password())}, Require: []capability.Name{capability.SnapshotMemory}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if vms, err := hypervisor.Collect(c.VMs(ctx, nil)); err != nil || len(vms) != 0 {
		t.Errorf("%v, %v", vms, err)
	}
}

// TestDroppedConnection: a read is repeated once, and nothing hangs.
func TestDroppedConnection(t *testing.T) {
	s := startSite(t, hvsim.Config{MaxEnvelopeKB: 64})
	var many []hvsim.Machine
	for range 300 {
		many = append(many, hvsim.Machine{Name: "vm", Disks: nil})
	}
	if _, err := s.sim.Host(0).Add(many...); err != nil {
		t.Fatal(err)
	}
	c := openSite(t, s)
	s.sim.Inject(hvsim.Fault{Op: "Pull", Drop: true})
	vms, err := hypervisor.Collect(c.VMs(t.Context(), nil))
	if err != nil || len(vms) != 300 {
		t.Errorf("one drop: %d machines, %v", len(vms), err)
	}
	remove := s.sim.Inject(hvsim.Fault{Op: "Pull", Drop: true, Times: -1})
	if _, err = hypervisor.Collect(c.VMs(t.Context(), nil)); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("drops for ever: %v", err)
	}
	remove()
	if vms, err = hypervisor.Collect(c.VMs(t.Context(), nil)); err != nil || len(vms) != 300 {
		t.Errorf("afterwards: %d machines, %v", len(vms), err)
	}
}

// TestForgottenJob: the host loses a job while it is waited for.
func TestForgottenJob(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c := openSite(t, s)
	vm := create(t, c, small("forgetful"))
	s.sim.Inject(hvsim.Fault{Op: "Job", Target: "RequestStateChange", Forget: true})
	if _, err := vm.Start(t.Context()).Wait(t.Context()); !errors.Is(err, hypervisor.ErrNotFound) || !strings.Contains(err.Error(), "no longer knows") {
		t.Errorf("a forgotten job: %v", err)
	}
	task := vm.PowerOff(t.Context())
	if _, err := task.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Another process finds the job until its retention time is over.
	c2 := openSite(t, s)
	if again, err := c2.Task(t.Context(), task.ID()); err != nil {
		t.Errorf("Task of another client: %v", err)
	} else if _, err := again.Wait(t.Context()); err != nil {
		t.Errorf("Wait of another client: %v", err)
	}
	s.sim.Advance(6 * time.Minute)
	if _, err := c2.Task(t.Context(), task.ID()); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("Task after the retention time: %v", err)
	}
	for _, id := range []hypervisor.TaskID{"x", "job:", "job:a|b|c", "make:a|b|c", "make:a|b|1"} {
		if _, err := c2.Task(t.Context(), id); !errors.Is(err, hypervisor.ErrNotFound) {
			t.Errorf("Task(%s): %v", id, err)
		}
	}
}

func TestFailedJobsAndReturnCodes(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c := openSite(t, s)
	vm := create(t, c, small("unlucky"))
	s.sim.Inject(hvsim.Fault{Op: "Job", Target: "RequestStateChange", JobError: "Not enough memory in the system.", JobCode: 32778})
	if _, err := vm.Start(t.Context()).Wait(t.Context()); !errors.Is(err, hypervisor.ErrExhausted) || !strings.Contains(err.Error(), "Not enough memory") {
		t.Errorf("a failed job: %v", err)
	}
	for code, want := range map[uint32]error{32769: hypervisor.ErrPermission, 32774: hypervisor.ErrBusy, 32775: hypervisor.ErrInvalidState} {
		s.sim.Inject(hvsim.Fault{Op: "Invoke", Target: "Msvm_ComputerSystem.RequestStateChange", Return: code})
		if _, err := vm.Start(t.Context()).Wait(t.Context()); !errors.Is(err, want) {
			t.Errorf("return value %d: %v", code, err)
		}
	}
	// The other range, on the snapshot service. The machine's state is the one
	// that the driver has checked, so the host must be at work on it.
	s.sim.Inject(hvsim.Fault{Op: "Invoke", Target: "Msvm_VirtualSystemSnapshotService.CreateSnapshot", Return: 5})
	if _, err := vm.CreateSnapshot(t.Context(), "s", nil).Wait(t.Context()); !errors.Is(err, hypervisor.ErrBusy) {
		t.Errorf("return value 5: %v", err)
	}
}

// TestUndo: a clone that fails in the middle leaves nothing.
func TestUndo(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c := openSite(t, s)
	vm := create(t, c, small("source"))
	before := len(s.sim.Host(0).Files())
	for _, target := range []string{"ConvertVirtualHardDisk", "RealizePlannedSystem", "ExportSystemDefinition"} {
		s.sim.Inject(hvsim.Fault{Op: "Job", Target: target, JobError: "It was not to be."})
		_, err := vm.Clone(t.Context(), "copy", nil).Wait(t.Context())
		var e *hypervisor.Error
		if !errors.As(err, &e) || len(e.Leftover) > 0 {
			t.Errorf("%s: %v", target, err)
		}
		if f := s.sim.Machines(); len(f) != 1 {
			t.Errorf("%s left machines: %+v", target, f)
		}
		if n := len(s.sim.Host(0).Files()); n != before {
			t.Errorf("%s left files: %v", target, s.sim.Host(0).Files())
		}
	}
}

// TestUndoWhileRealizing: the answer to RealizePlannedSystem is lost, and the
// host realizes the clone while the undo looks at it, or between that look and
// the removal.
func TestUndoWhileRealizing(t *testing.T) {
	for _, class := range []string{"Msvm_ComputerSystem", "Msvm_VirtualSystemSettingData"} { // the last one to be read
		t.Run(class, func(t *testing.T) {
			s := startSite(t, hvsim.Config{JobTimes: map[string]time.Duration{"RealizePlannedSystem": time.Hour}})
			c := openSite(t, s)
			vm := create(t, c, small("source"))
			realized := false
			s.sim.Inject(hvsim.Fault{Op: "Invoke", Target: "*.RealizePlannedSystem", Drop: true,
				Next: &hvsim.Fault{DropBefore: true, Times: 4, Next: &hvsim.Fault{Op: "Query", Target: class, Late: func() {
					realized = true
					s.sim.Advance(2 * time.Hour)
				}}}})
			_, err := vm.Clone(t.Context(), "copy", nil).Wait(t.Context())
			if err == nil || !realized {
				t.Fatalf("the clone was realized meanwhile: %t, %v", realized, err)
			}
			for _, m := range s.sim.Machines() {
				if m.Name == "copy" {
					t.Errorf("machine %s is left: %v", m.ID, err)
				}
			}
		})
	}
}

// TestHostDown: one of two hosts does not answer.
func TestHostDown(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	s.config.Hosts = append(s.config.Hosts, "127.0.0.1:1")
	c := openSite(t, s)
	hosts, err := hypervisor.Collect(c.Hosts(t.Context()))
	if err != nil || len(hosts) != 2 || hosts[0].State != hypervisor.HostUp || hosts[1].State != hypervisor.HostDown || hosts[1].Detail == "" {
		t.Fatalf("%+v, %v", hosts, err)
	}
	if _, err := hypervisor.Collect(c.VMs(t.Context(), nil)); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("a listing without one host's machines: %v", err)
	}
	if _, err := hypervisor.Collect(c.VMs(t.Context(), &hypervisor.ListOptions{Host: hosts[0].ID})); err != nil {
		t.Errorf("the listing of the host that is up: %v", err)
	}
}

func TestEditions(t *testing.T) {
	s := startSite(t, hvsim.Config{Hosts: []hvsim.HostConfig{{Edition: hvsim.WindowsPro}, {Edition: hvsim.WindowsPro}}})
	c := openSite(t, s)
	for _, k := range []capability.Name{capability.MigrateLive, capability.DevicePCI, capability.DevicePrepare} {
		sup, err := c.Supports(t.Context(), k, hypervisor.Ref{})
		if err != nil || sup.Level != hypervisor.LevelNo || sup.Reason != hypervisor.ReasonEdition {
			t.Errorf("%s on Windows Pro: %+v, %v", k, sup, err)
		}
	}
	vm := create(t, c, small("pro"))
	hosts, err := hypervisor.Collect(c.Hosts(t.Context()))
	if err != nil || hosts[0].Edition != "Professional" {
		t.Fatalf("%+v, %v", hosts, err)
	}
	info, err := vm.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	to := hosts[0].ID
	if info.Host == to {
		to = hosts[1].ID
	}
	rep, err := vm.CheckMigrate(t.Context(), hypervisor.MigrateOptions{Host: to})
	if err != nil || rep.OK() || rep.Blockers[0].Reason != hypervisor.ReasonEdition {
		t.Errorf("CheckMigrate on Windows Pro: %+v, %v", rep, err)
	}
	// Every blocker is told, not the first one.
	var reasons []hypervisor.ReasonCode
	for _, b := range rep.Blockers {
		reasons = append(reasons, b.Reason)
	}
	for _, want := range []hypervisor.ReasonCode{hypervisor.ReasonEdition, hypervisor.ReasonConfig, hypervisor.ReasonNoSharedStorage} {
		found := false
		for _, r := range reasons {
			found = found || r == want
		}
		if !found {
			t.Errorf("the report lacks %s: %v", want, reasons)
		}
	}
	// A client edition makes checkpoints by itself unless told not to.
	if _, err := vm.Start(t.Context()).Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if i, err := vm.Info(t.Context()); err != nil || i.Snapshots != 0 {
		t.Errorf("%d automatic checkpoints, %v", i.Snapshots, err)
	}
}

// TestProductionCheckpointDoesNotFallBack: without the guest's help there is
// none, instead of another kind.
func TestProductionCheckpointDoesNotFallBack(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c := openSite(t, s)
	ids, err := s.sim.Host(0).Add(hvsim.Machine{Name: "toolless", Disks: []string{`C:\t.vhdx`}, Running: true, Guest: hvsim.Guest{NoTools: true}})
	if err != nil {
		t.Fatal(err)
	}
	vm := c.VM(hypervisor.VMID(ids[0]))
	for _, o := range []*hypervisor.SnapshotOptions{nil, {Quiesce: true}} {
		_, err := vm.CreateSnapshot(t.Context(), "s", o).Wait(t.Context())
		var u *hypervisor.UnsupportedError
		if !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonToolsMissing {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := vm.CreateSnapshot(t.Context(), "ram", &hypervisor.SnapshotOptions{Memory: true}).Wait(t.Context()); err != nil {
		t.Errorf("with RAM: %v", err)
	}
	all, err := vm.Snapshots(t.Context())
	if err != nil || len(all) != 1 || !all[0].Memory || all[0].Kind != "standard" {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestGracefulShutdown(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c := openSite(t, s)
	vm := create(t, c, small("stubborn"))
	on := func(g hvsim.Guest) {
		t.Helper()
		if err := s.sim.SetGuest(string(vm.ID()), g); err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Start(t.Context()).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	down := func(o hypervisor.ShutdownOptions) error {
		_, err := vm.Shutdown(t.Context(), &o).Wait(t.Context())
		return err
	}
	on(hvsim.Guest{IgnoresShutdown: true})
	if err := down(hypervisor.ShutdownOptions{Timeout: 50 * time.Millisecond}); !errors.Is(err, hypervisor.ErrTimeout) {
		t.Errorf("a guest that ignores it: %v", err)
	}
	if err := down(hypervisor.ShutdownOptions{Timeout: 50 * time.Millisecond, Force: true}); err != nil {
		t.Errorf("Force: %v", err)
	}
	on(hvsim.Guest{Locked: true})
	if err := down(hypervisor.ShutdownOptions{}); !errors.Is(err, hypervisor.ErrInvalidState) {
		t.Errorf("a locked guest: %v", err)
	}
	if err := down(hypervisor.ShutdownOptions{Timeout: time.Second, Force: true}); err != nil {
		t.Errorf("a locked guest, Force: %v", err)
	}
	on(hvsim.Guest{NoTools: true})
	if err := down(hypervisor.ShutdownOptions{}); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("a guest without tools: %v", err)
	}
}

func TestCancelledContext(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	c := openSite(t, s)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := hypervisor.Collect(c.VMs(ctx, nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("VMs: %v", err)
	}
	if err := c.CreateVM(ctx, small("never")).Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("CreateVM: %v", err)
	}
}

// TestClusterThatDoesNotAnswer: a query that fails for a quota doesn't mean
// that no cluster is there.
func TestClusterThatDoesNotAnswer(t *testing.T) {
	s := startSite(t, hvsim.Config{Cluster: &hvsim.ClusterConfig{Volumes: []string{"Volume1"}}})
	c := openSite(t, s)
	vm := create(t, c, small("role"))
	if err := s.sim.Cluster(string(vm.ID())); err != nil {
		t.Fatal(err)
	}
	s.sim.Inject(hvsim.Fault{Op: "Query", Target: "MSCluster_Resource", HRESULT: 0x80041048})
	if _, err := vm.Delete(t.Context(), hypervisor.DeleteDisks, nil).Wait(t.Context()); !errors.Is(err, hypervisor.ErrExhausted) {
		t.Errorf("Delete: %v", err)
	}
	if len(s.sim.Roles()) != 1 || len(s.sim.Machines()) != 1 {
		t.Errorf("%v, %v", s.sim.Roles(), s.sim.Machines())
	}
}

// TestForgottenMake: of many tasks that have ended a Client forgets the oldest
// ones. One that made nothing is then not found; only another Client's may
// still be at its beginning.
func TestForgottenMake(t *testing.T) {
	s := startSite(t, hvsim.Config{})
	own, err := connect(t.Context(), s.config, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	other, err := connect(t.Context(), s.config, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	id := own.makeTask(own.hosts[0])
	if _, err := own.Task(t.Context(), id); hypervisor.KindOf(err) != hypervisor.ErrNotFound {
		t.Errorf("a forgotten task of this Client: %v", err)
	}
	task, err := other.Task(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := task.Next(t.Context()); err != nil || st.Done {
		t.Errorf("a task of another Client: %+v, %v", st, err)
	}
}
