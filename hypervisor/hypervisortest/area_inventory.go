package hypervisortest

import (
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// inventory: listings agree with each other, with single reads and with the
// platform. Pages are not visible to the caller. Absent and ambiguous objects
// are reported as such.
var inventory = area{"inventory", []row{
	{name: "made-as-asked", proves: caps{capability.VMCreate}, run: inventoryMadeAsAsked},
	{name: "listings-agree", run: inventoryListings},
	{name: "concurrent-listings", run: inventoryConcurrent},
	{name: "find-by-name", run: inventoryFind},
	{name: "absent", run: inventoryAbsent},
	{name: "two-of-one-name", run: inventoryTwins},
	{name: "datastores", proves: caps{capability.DatastoreList}, run: inventoryDatastores},
	{name: "networks", proves: caps{capability.NetworkList}, run: inventoryNetworks},
	{name: "other-client", run: inventoryOther},
}}

func inventoryMadeAsAsked(e *env) {
	begin := time.Now()
	const text = "first <&> \"one\""
	a := e.create("a", func(s *hypervisor.VMSpec) { s.Description = text })
	spec, i := e.Spec("x"), e.info(a)
	switch {
	case i.ID != a.ID():
		e.Errorf("Info of %s has the ID %s", a.ID(), i.ID)
	case i.State != hypervisor.StateOff:
		e.Errorf("a new machine is %s, want off", i.State)
	case i.MemoryBytes != spec.MemoryBytes:
		e.Errorf("the machine has %d bytes of memory, asked for %d", i.MemoryBytes, spec.MemoryBytes)
	case i.CPUs != max(spec.CPUs, 1):
		e.Errorf("the machine has %d CPUs, asked for %d", i.CPUs, max(spec.CPUs, 1))
	case len(i.Disks) != len(spec.Disks):
		e.Errorf("the machine has %d disks, asked for %d", len(i.Disks), len(spec.Disks))
	case i.Description != text:
		e.Errorf("the description came back as %q", i.Description)
	case i.ReadAt.Before(begin.Add(-time.Minute)) || i.ReadAt.After(time.Now().Add(time.Minute)):
		e.Errorf("ReadAt is %v", i.ReadAt)
	}
	for n, d := range i.Disks {
		if d.ID == "" || d.Volume == "" || d.SizeBytes <= 0 {
			e.Errorf("disk %d lacks ID, volume or size: %+v", n, d)
		}
	}
}

func inventoryListings(e *env) {
	a, b := e.create("a"), e.create("b")
	for name, o := range map[string]*hypervisor.ListOptions{
		"full": nil, "brief": {Detail: hypervisor.DetailBrief}, "pages of one": {PageSize: 1}, "brief pages of two": {Detail: hypervisor.DetailBrief, PageSize: 2},
	} {
		seen := map[hypervisor.VMID]bool{}
		for v, err := range e.c.VMs(e.ctx, o) {
			e.ok(err, "VMs (%s)", name)
			if seen[v.ID] {
				e.Errorf("VMs (%s) yields %s twice", name, v.ID)
			}
			seen[v.ID] = true
			if v.Template {
				e.Errorf("VMs (%s) yields the template %s", name, v.ID)
			}
			if v.ID == a.ID() || v.ID == b.ID() {
				inventoryAgree(e, name, o == nil, v)
			}
		}
		for _, vm := range []*hypervisor.VM{a, b} {
			if !seen[vm.ID()] {
				e.Errorf("VMs (%s) leaves out %s", name, vm.ID())
			}
		}
	}
}

// inventoryAgree checks that a listing reports the same of a machine as Info.
func inventoryAgree(e *env, name string, full bool, v hypervisor.VMInfo) {
	i := e.info(e.c.VM(v.ID))
	if v.Name != i.Name || v.State != i.State || v.CPUs != i.CPUs || v.MemoryBytes != i.MemoryBytes || v.Host != i.Host {
		e.Errorf("VMs (%s) reports %s {%s %s %d CPUs %d bytes on %q}, Info {%s %s %d CPUs %d bytes on %q}", name, v.ID,
			v.Name, v.State, v.CPUs, v.MemoryBytes, v.Host, i.Name, i.State, i.CPUs, i.MemoryBytes, i.Host)
	}
	if full && (len(v.Disks) != len(i.Disks) || len(v.NICs) != len(i.NICs)) {
		e.Errorf("VMs (full) reports %d disks and %d NICs of %s, Info of %d and %d", len(v.Disks), len(v.NICs), v.ID, len(i.Disks), len(i.NICs))
	}
}

func inventoryConcurrent(e *env) {
	e.create("a")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := hypervisor.Collect(e.c.VMs(e.ctx, nil)); err != nil {
				e.Errorf("concurrent listing: %v", err)
			}
		})
	}
	wg.Wait()
}

func inventoryFind(e *env) {
	a := e.create("a")
	name := e.info(a).Name
	found, err := e.c.FindVM(e.ctx, name)
	e.ok(err, "FindVM(%q)", name)
	if found.ID() != a.ID() {
		e.Errorf("FindVM(%q) is %s, want %s", name, found.ID(), a.ID())
	}
}

func inventoryAbsent(e *env) {
	_, err := e.c.FindVM(e.ctx, e.name("absent"))
	e.kind(err, hypervisor.ErrNotFound, "FindVM of an absent name")
	_, err = e.c.VM(e.AbsentVM).Info(e.ctx)
	e.kind(err, hypervisor.ErrNotFound, "Info of an absent ID")
	_, err = e.c.VM("no/such'<id>&%2f").Info(e.ctx)
	e.oneOf(err, "Info of a malformed ID", hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument)
}

// Names need not be unique everywhere. Where they aren't, a look-up reports
// it.
func inventoryTwins(e *env) {
	a := e.create("a")
	name := e.info(a).Name
	twin, err := e.c.CreateVM(e.ctx, e.Spec(name)).Wait(e.ctx)
	if err != nil {
		e.kind(err, hypervisor.ErrExists, "CreateVM with a taken name")
		return
	}
	e.keep(twin.ID())
	_, err = e.c.FindVM(e.ctx, name)
	e.kind(err, hypervisor.ErrAmbiguous, "FindVM of a name that two machines have")
	if twin.ID() == a.ID() {
		e.Errorf("a second machine got the first one's ID %s", a.ID())
	}
}

func inventoryDatastores(e *env) {
	for ds, err := range e.c.Datastores(e.ctx) {
		e.ok(err, "Datastores")
		if ds.ID == "" || ds.Name == "" || ds.Accessible && ds.CapacityBytes <= 0 || ds.FreeBytes > ds.CapacityBytes {
			e.Errorf("datastore lacks ID, name or size, or is fuller than full: %+v", ds)
		}
	}
}

func inventoryNetworks(e *env) {
	for n, err := range e.c.Networks(e.ctx) {
		e.ok(err, "Networks")
		if n.ID == "" || n.Name == "" {
			e.Errorf("network lacks ID or name: %+v", n)
		}
	}
}

func inventoryOther(e *env) {
	if e.Other == nil {
		e.unshown("the harness has no other Client")
		return
	}
	a := e.create("a")
	for v, err := range e.Other.VMs(e.ctx, nil) {
		e.ok(err, "VMs of the other Client")
		if v.ID == a.ID() {
			e.Errorf("the other Client lists %s, which is not its own", v.ID)
		}
	}
}
