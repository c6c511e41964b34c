package hvsim_test

import (
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
)

// TestLibvirtsRequests: what libvirt's driver for Hyper-V sends, in its words
// (src/hyperv of libvirt; real hosts take them).
func TestLibvirtsRequests(t *testing.T) {
	sim := start(t, hvsim.Config{Hosts: []hvsim.HostConfig{{NUMANodes: 2}}})
	c := dial(t, sim, 0)
	id := c.define(sim, "guest", 2)
	name := sim.Host(0).Name()
	query := func(ns, wql string, want int) []*obj {
		t.Helper()
		l, err := c.queryNS(ns, wql)
		if err != nil || len(l) != want {
			t.Fatalf("%s: %d rows, %v", wql, len(l), err)
		}
		return l
	}
	const cimv2 = "root/cimv2"
	// The host itself, and the machines beside it.
	if l := query(virtNS, "SELECT * FROM Msvm_ComputerSystem WHERE Name = __SERVER", 1); l[0].get("Name") != name {
		t.Errorf("the host: %v", l[0].Vals)
	}
	if l := query(virtNS, "SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER", 1); l[0].get("Name") != id {
		t.Errorf("the machines: %v", l[0].Vals)
	}
	if _, err := c.queryNS(virtNS, "SELECT * FROM Msvm_ComputerSystem WHERE Name = NoSuchProperty"); err == nil {
		t.Error("a comparison with a property that is not there is taken")
	}
	// A key in single quotes may have a colon.
	query(virtNS, "ASSOCIATORS OF {Msvm_VirtualSystemSettingData.InstanceID='Microsoft:"+id+"'} WHERE AssocClass = Msvm_VirtualSystemSettingDataComponent ResultClass = Msvm_MemorySettingData", 1)
	if l := query(cimv2, "SELECT * FROM Win32_ComputerSystemProduct", 1); len(l[0].get("UUID")) != 36 {
		t.Errorf("the product: %v", l[0].Vals)
	}
	query(cimv2, "ASSOCIATORS OF {Win32_ComputerSystem.Name='"+name+"'} WHERE AssocClass = Win32_ComputerSystemProcessor ResultClass = Win32_Processor", 2)
}

// TestSingletonSelectors: CreationClassName alone finds a service, no selector
// finds nothing, and the name alone finds no machine.
func TestSingletonSelectors(t *testing.T) {
	sim := start(t, hvsim.Config{})
	c := dial(t, sim, 0)
	id := c.define(sim, "guest", 2)
	const class = "Msvm_VirtualSystemManagementService"
	if o, err := c.get(ref{class, [][2]string{{"CreationClassName", class}}}); err != nil || o.get("Name") != "vmms" {
		t.Errorf("by the class: %v", err)
	}
	if _, err := c.call(ref{class, nil}, "DestroySystem", arg{"AffectedSystem", system(id)}); err == nil || !strings.Contains(err.Error(), "2147749935") && !strings.Contains(strings.ToLower(err.Error()), "parameter") {
		t.Errorf("a call without a selector: %v", err)
	}
	if _, err := c.get(ref{class, [][2]string{{"CreationClassName", "Msvm_Other"}}}); err == nil {
		t.Error("by another class the service is found")
	}
	if _, err := c.get(ref{"Msvm_ComputerSystem", [][2]string{{"Name", id}}}); err == nil {
		t.Error("a machine is found by its name alone")
	}
}

// TestLibvirtsDisk: an image comes as Msvm_ResourceAllocationSettingData.
func TestLibvirtsDisk(t *testing.T) {
	sim := start(t, hvsim.Config{})
	c := dial(t, sim, 0)
	id := c.define(sim, "guest", 2)
	c.createDisk(sim, disk0, 3, "")
	at := c.attachAs(sim, id, disk0, "Msvm_ResourceAllocationSettingData")
	if !strings.HasSuffix(at.path(), `L"`) || c.leaf(id) != disk0 {
		t.Errorf("the image is at %s: %s", at.path(), c.leaf(id))
	}
}
