package hypervisortest

import (
	"slices"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// rich makes a machine with a value for every field that the Client can set.
func (e *env) rich(change ...func(*hypervisor.VMSpec)) *hypervisor.VM {
	e.Helper()
	return e.create("rich", append([]func(*hypervisor.VMSpec){func(s *hypervisor.VMSpec) {
		s.Description, s.CPUs, s.Token = "rich", 2, "tok-"+s.Name
		if e.has(capability.Labels) {
			s.Labels = map[string]string{"role": "rich"}
		}
		if e.has(capability.CPUHotAdd) {
			s.MaxCPUs = 4
		}
		if e.has(capability.MemoryHotAdd) {
			s.MaxMemoryBytes = 2 * s.MemoryBytes
		}
		s.Placement.Folder = e.Folder
	}}, change...)...)
}

// both reads a machine by itself and in the listing.
func (e *env) both(vm *hypervisor.VM) []hypervisor.VMInfo {
	e.Helper()
	one := e.info(vm)
	for v, err := range e.c.VMs(e.ctx, nil) {
		e.ok(err, "VMs")
		if v.Name == one.Name && v.ReadAt.IsZero() == one.ReadAt.IsZero() {
			return []hypervisor.VMInfo{v, one}
		}
	}
	return []hypervisor.VMInfo{one}
}

func vmResults() []row {
	type info = hypervisor.VMInfo
	have := func(e *env, field string) []info {
		switch field {
		case "Template":
			if !e.has(capability.Templates) {
				e.unshown("there are no templates")
				return nil
			}
			vm := e.create("golden")
			t, err := vm.MarkTemplate(e.ctx).Wait(e.ctx)
			e.ok(err, "MarkTemplate")
			e.keep(hypervisor.VMID(t.ID()))
			return []info{e.info(e.c.VM(hypervisor.VMID(t.ID())))}
		case "State", "Host", "Addresses", "Placement.Host", "Placement.Pool":
			return e.both(e.running())
		case "SecureBoot":
			vm, err := e.try(secure)
			if !e.can(err) {
				e.unshown("no machine has it")
				return nil
			}
			return e.both(vm)
		case "Boot.Kernel", "Boot.Initrd", "Boot.CommandLine":
			if !e.has(capability.BootDirect) {
				e.unshown("no machine has it")
				return nil
			}
			return e.both(e.rich(kernel))
		case "DynamicMemory.MinBytes", "DynamicMemory.MaxBytes":
			if !e.has(capability.MemoryDynamic) {
				e.unshown("no machine has it")
				return nil
			}
			return e.both(e.create("vm", dynamic))
		case "GuestOS":
			vm, err := e.try(func(s *hypervisor.VMSpec) { s.GuestOS = "linux" })
			if !e.can(err) {
				e.unshown("no machine has it")
				return nil
			}
			return e.both(vm)
		case "Devices":
			if !e.has(capability.DevicePCI) {
				e.unshown("no machine has one")
				return nil
			}
			_, vm, err := e.attach(e.Device)
			e.ok(err, "AttachDevice")
			return e.both(vm)
		case "Snapshots", "CurrentSnapshot":
			if !e.has(capability.SnapshotDisk) {
				e.unshown("there are no snapshots")
				return nil
			}
			vm := e.rich()
			s, err := vm.CreateSnapshot(e.ctx, "s", nil).Wait(e.ctx)
			e.ok(err, "CreateSnapshot")
			return slices.DeleteFunc(e.both(vm), func(i info) bool { return field == "CurrentSnapshot" && i.CurrentSnapshot != s.ID() })
		case "Labels":
			if !e.has(capability.Labels) {
				e.unshown("there are no labels")
				return nil
			}
		case "Tasks":
			if e.Slow == nil || !e.has(capability.CloneFull) {
				e.unshown("no task takes long here")
				return nil
			}
			vm := e.create("src")
			e.Slow(time.Second)
			t := vm.Clone(e.ctx, e.name("c"), nil)
			e.ok(t.Err(), "Clone")
			out := e.both(vm)
			for end := time.Now().Add(time.Second); len(out[0].Tasks) == 0 && time.Now().Before(end); {
				out = e.both(vm) // the platform may begin with it a little later
			}
			e.Slow(0)
			c, err := t.Wait(e.ctx)
			e.ok(err, "Clone")
			e.keep(c.ID())
			return out
		}
		return e.both(e.rich())
	}
	recent := func(t time.Time) bool { return time.Since(t).Abs() < 10*time.Minute }
	rows := resultsOf(nil, have, map[string]func(info) bool{
		"Name":           func(i info) bool { return strings.Contains(i.Name, "rich") },
		"State":          func(i info) bool { return i.State == hypervisor.StateRunning },
		"CPUs":           func(i info) bool { return i.CPUs == 2 },
		"ReadAt":         func(i info) bool { return recent(i.ReadAt) },
		"CreatedAt":      func(i info) bool { return recent(i.CreatedAt) },
		"Description":    func(i info) bool { return i.Description == "rich" },
		"MaxCPUs":        func(i info) bool { return i.MaxCPUs >= i.CPUs },
		"MaxMemoryBytes": func(i info) bool { return i.MaxMemoryBytes >= i.MemoryBytes },
		"Snapshots":      func(i info) bool { return i.Snapshots == 1 },
		"Labels":         func(i info) bool { return i.Labels["role"] == "rich" },
		"Token":          func(i info) bool { return i.Token == "tok-"+i.Name },
		"Placement.Host": func(i info) bool { return i.Placement.Host != "" && i.Placement.Host == i.Host },
		"Placement.Datastore": func(i info) bool {
			return i.Placement.Datastore != "" && i.Placement.Datastore == i.Disks[0].Datastore
		},
	})
	return slices.Concat(rows, templateResults())
}

func templateResults() []row {
	type info = hypervisor.TemplateInfo
	have := func(e *env, field string) []info {
		vm := e.rich()
		t, err := vm.MarkTemplate(e.ctx).Wait(e.ctx)
		e.ok(err, "MarkTemplate")
		e.keep(hypervisor.VMID(t.ID()))
		i, err := t.Info(e.ctx)
		e.ok(err, "Info of a template")
		out := []info{i}
		for x, err := range e.c.Templates(e.ctx) {
			e.ok(err, "Templates")
			if x.ID == t.ID() {
				out = append(out, x)
			}
		}
		return out
	}
	return resultsOf(caps{capability.Templates}, have, map[string]func(info) bool{
		"Name":        func(i info) bool { return strings.Contains(i.Name, "rich") },
		"Description": func(i info) bool { return i.Description == "rich" },
		"CPUs":        func(i info) bool { return i.CPUs == 2 },
		"Labels":      func(i info) bool { return i.Labels["role"] == "rich" },
	})
}
