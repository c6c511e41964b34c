package hvsim_test

import (
	"errors"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

// TestLostAnswers: a connection that breaks before a call leaves nothing done, one that breaks after it leaves it done,
// or refused, with nobody told.
func TestLostAnswers(t *testing.T) {
	sim := start(t, hvsim.Config{JobTime: time.Minute})
	c := dial(t, sim, 0)
	vmms := c.service("Msvm_VirtualSystemManagementService")
	const define = "Msvm_VirtualSystemManagementService.DefineSystem"
	made := func(name string) error {
		_, err := c.call(vmms, "DefineSystem", arg{"SystemSettings", emb("Msvm_VirtualSystemSettingData", "ElementName", name)})
		return err
	}
	dropped := func(what string, err error, machines int) {
		t.Helper()
		var f *soapFault
		if err == nil || errors.As(err, &f) {
			t.Errorf("%s: %v, want a broken connection", what, err)
		}
		if n := len(sim.Machines()); n != machines {
			t.Errorf("%s: %d machines, want %d", what, n, machines)
		}
	}
	sim.Inject(hvsim.Fault{Op: "Invoke", Target: define, DropBefore: true})
	dropped("before", made("a"), 0)
	sim.Inject(hvsim.Fault{Op: "Invoke", Target: define, Drop: true})
	dropped("after", made("b"), 1)
	sim.Inject(hvsim.Fault{Op: "Invoke", Target: define, Drop: true})
	dropped("after a refusal", made(""), 1)
	for op, ask := range map[string]func() error{
		"Query": func() error { _, err := c.queryNS(virtNS, "SELECT * FROM Msvm_ComputerSystem"); return err },
		"Get": func() error {
			_, err := c.get(byID("Msvm_VirtualSystemSettingData", "Microsoft:"+sim.Machines()[0].ID))
			return err
		},
	} {
		for _, f := range []hvsim.Fault{{Op: op, Drop: true}, {Op: op, DropBefore: true}} {
			sim.Inject(f)
			dropped(op, ask(), 1)
			if err := ask(); err != nil {
				t.Errorf("%s after the fault: %v", op, err)
			}
		}
	}

	// A job continues without its client.
	id := sim.Machines()[0].ID
	sim.Inject(hvsim.Fault{Op: "Invoke", Target: "Msvm_ComputerSystem.RequestStateChange", Drop: true})
	_, err := c.call(system(id), "RequestStateChange", arg{"RequestedState", 2})
	dropped("a job", err, 1)
	sim.Advance(2 * time.Minute)
	if s := sim.Machines()[0].State; s != 2 {
		t.Errorf("the machine is in state %d after the job that nobody saw", s)
	}

	// One fault after the other.
	before := sim.Struck()
	remove := sim.Inject(hvsim.Fault{Op: "Invoke", Target: define, Drop: true, Next: &hvsim.Fault{DropBefore: true, Times: -1}})
	if _, err := c.put(byID("Msvm_VirtualSystemSettingData", "x"), "ElementName", "x"); err == nil {
		t.Error("an object that is not there was changed")
	}
	dropped("the first", made("c"), 2)
	for range 2 {
		dropped("the next", made("d"), 2)
	}
	if n := sim.Struck() - before; n != 3 {
		t.Errorf("faults struck %d times, want 3", n)
	}
	remove()
	if err := made("e"); err != nil || len(sim.Machines()) != 3 {
		t.Errorf("after the faults: %v", err)
	}
}

// TestTruth: facts tell what a client set, and devices who has them.
func TestTruth(t *testing.T) {
	sim := start(t, hvsim.Config{Hosts: []hvsim.HostConfig{{GPUs: []hvsim.GPU{{Device: hvsim.Device{Name: "A2", Vendor: 0x10DE, Product: 0x25B6}, PartitionCounts: []uint16{1, 2}}}}}})
	ids, err := sim.Host(0).Add(hvsim.Machine{Name: "vm", Processors: 3, Disks: []string{`C:\vm.vhdx`}})
	if err != nil {
		t.Fatal(err)
	}
	has := func(want string) bool {
		for _, l := range sim.Machines()[0].Settings {
			if l == want {
				return true
			}
		}
		return false
	}
	const disk = `machine on -1 Msvm_StorageAllocationSettingData ElementName=Hard Disk Image ResourceSubType=Microsoft:Hyper-V:Virtual Hard Disk HostResource=[C:\vm.vhdx] bytes=21474836480`
	if !has(disk) {
		t.Errorf("no line %q in %q", disk, sim.Machines()[0].Settings)
	}
	c := dial(t, sim, 0)
	c.do(sim, c.service("Msvm_VirtualSystemSnapshotService"), "CreateSnapshot", arg{"AffectedSystem", system(ids[0])}, arg{"SnapshotType", 2})
	below := 0
	for _, l := range sim.Machines()[0].Settings {
		if len(l) > 16 && l[:16] == "checkpoint 0 on " {
			below++
		}
	}
	if below == 0 || has(disk) {
		t.Errorf("%d settings of the checkpoint: %q", below, sim.Machines()[0].Settings)
	}
	if l := sim.Host(0).DeviceStates(); len(l) != 1 || l[0] != "PCIROOT(0)#PCI(0100)#PCI(0000) disabled=false dismounted=false assigned=false partitions=2" {
		t.Errorf("%q", l)
	}
}
