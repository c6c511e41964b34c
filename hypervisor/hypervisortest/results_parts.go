package hypervisortest

import (
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// partResults: disks, adapters, devices and snapshots of a machine, images.
func partResults() []row {
	disks := func(e *env, field string) []hypervisor.DiskInfo {
		switch field {
		case "Parent":
			if !e.has(capability.SnapshotDisk) {
				e.unshown("no image depends on another")
				return nil
			}
			vm := e.create("vm")
			_, err := vm.CreateSnapshot(e.ctx, "s", nil).Wait(e.ctx)
			e.ok(err, "CreateSnapshot")
			return e.info(vm).Disks
		case "ReadOnly", "CDROM":
			spec := hypervisor.DiskSpec{ReadOnly: field == "ReadOnly", CDROM: field == "CDROM", Volume: e.ISO}
			if spec.Volume == "" || field == "ReadOnly" {
				spec.Volume = e.image("iso")
			}
			i, _, err := diskWays["VMSpec.Disks"](e, spec)
			if !e.can(err) {
				e.unshown("no disk is so")
			}
			return []hypervisor.DiskInfo{i}
		case "UsedBytes":
			vm := e.create("vm")
			e.write(vm, "something")
			return e.info(vm).Disks
		}
		return e.info(e.create("vm")).Disks
	}
	nics := func(e *env, field string) []hypervisor.NICInfo {
		return e.info(e.running()).NICs
	}
	snaps := func(e *env, field string) []hypervisor.SnapshotInfo {
		vm := e.create("vm")
		e.write(vm, "then")
		o := hypervisor.SnapshotOptions{Description: "first"}
		switch {
		case field == "Memory" && !e.has(capability.SnapshotMemory), field == "Quiesced" && !e.has(capability.SnapshotQuiesce):
			e.unshown("no snapshot is so")
			return nil
		case field == "Memory", field == "Quiesced", field == "SizeBytes" && e.has(capability.SnapshotMemory):
			e.start(vm)
			o.Memory, o.Quiesce = field != "Quiesced", field == "Quiesced"
		}
		for _, name := range []string{"one", "two"} {
			_, err := vm.CreateSnapshot(e.ctx, name, &o).Wait(e.ctx)
			if field == "Quiesced" && !e.can(err) {
				e.unshown("this guest can't")
				return nil
			}
			e.ok(err, "CreateSnapshot")
		}
		all, err := vm.Snapshots(e.ctx)
		e.ok(err, "Snapshots")
		return all
	}
	volumes := func(e *env, field string) []hypervisor.VolumeInfo {
		vm := e.create("vm")
		e.write(vm, "something")
		switch {
		case field != "Parent":
		case e.has(capability.SnapshotDisk):
			_, err := vm.CreateSnapshot(e.ctx, "s", nil).Wait(e.ctx)
			e.ok(err, "CreateSnapshot")
		case e.has(capability.CloneLinked):
			e.clone(vm, "c", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked})
		}
		all, err := hypervisor.Collect(e.c.Volumes(e.ctx, ""))
		e.ok(err, "Volumes")
		return all
	}
	depend := func(e *env, field string) []hypervisor.Dependencies {
		vm := e.create("vm")
		e.write(vm, "base")
		c, err := vm.Clone(e.ctx, e.name("c"), &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked}).Wait(e.ctx)
		e.ok(err, "Clone")
		e.keep(c.ID())
		var out []hypervisor.Dependencies
		for _, x := range []*hypervisor.VM{vm, c} {
			d, err := x.Dependencies(e.ctx)
			if !e.can(err) {
				e.unshown("dependencies are not told")
				return nil
			}
			out = append(out, d)
		}
		return out
	}
	attached := func(e *env, field string) []hypervisor.AttachedDevice {
		r := e.Device
		if field == "Profile" {
			if r = e.Profile; r.Profile == "" || !e.has(capability.DeviceVGPU) {
				e.unshown("there are no profiles")
				return nil
			}
		}
		a, vm, err := e.attach(r)
		e.ok(err, "AttachDevice")
		e.start(vm)
		return append(e.info(vm).Devices, a)
	}
	return slices.Concat(
		resultsOf(nil, disks, map[string]func(hypervisor.DiskInfo) bool{}),
		resultsOf(nil, nics, map[string]func(hypervisor.NICInfo) bool{
			"MAC": func(n hypervisor.NICInfo) bool { return len(n.MAC) == 17 },
		}),
		resultsOf(caps{capability.SnapshotDisk}, snaps, map[string]func(hypervisor.SnapshotInfo) bool{
			"Name":        func(s hypervisor.SnapshotInfo) bool { return s.Name == "two" },
			"Description": func(s hypervisor.SnapshotInfo) bool { return s.Description == "first" },
			"Current":     func(s hypervisor.SnapshotInfo) bool { return s.Current && s.Name == "two" },
			"Depth":       func(s hypervisor.SnapshotInfo) bool { return s.Depth == 1 && s.Name == "two" },
			"CreatedAt":   func(s hypervisor.SnapshotInfo) bool { return time.Since(s.CreatedAt).Abs() < 10*time.Minute },
		}),
		resultsOf(caps{capability.VolumeManage}, volumes, nil),
		resultsOf(caps{capability.CloneLinked}, depend, nil),
		resultsOf(caps{capability.DevicePCI}, attached, nil),
	)
}
