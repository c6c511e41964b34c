package hypervisortest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// A disk and an adapter are made with a new machine or attached to one.
var diskWays = map[string]func(*env, hypervisor.DiskSpec) (hypervisor.DiskInfo, *hypervisor.VM, error){
	"VMSpec.Disks": func(e *env, d hypervisor.DiskSpec) (hypervisor.DiskInfo, *hypervisor.VM, error) {
		vm, err := e.try(func(s *hypervisor.VMSpec) { s.Disks = []hypervisor.DiskSpec{d} })
		if err != nil {
			return hypervisor.DiskInfo{}, nil, err
		}
		i := e.info(vm)
		if len(i.Disks) != 1 {
			e.Fatalf("the machine has the disks %+v, want one", i.Disks)
		}
		return i.Disks[0], vm, nil
	},
	"DiskSpec": func(e *env, d hypervisor.DiskSpec) (hypervisor.DiskInfo, *hypervisor.VM, error) {
		vm := e.create("vm", func(s *hypervisor.VMSpec) { s.Disks = nil })
		i, err := vm.AttachDisk(e.ctx, d).Wait(e.ctx)
		return i, vm, err
	},
}

var nicWays = map[string]func(*env, hypervisor.NICSpec) (hypervisor.NICInfo, error){
	"VMSpec.NICs": func(e *env, n hypervisor.NICSpec) (hypervisor.NICInfo, error) {
		vm, err := e.try(func(s *hypervisor.VMSpec) { s.NICs = []hypervisor.NICSpec{n} })
		if err != nil {
			return hypervisor.NICInfo{}, err
		}
		i := e.info(vm)
		if len(i.NICs) != 1 {
			e.Fatalf("the machine has the adapters %+v, want one", i.NICs)
		}
		return i.NICs[0], nil
	},
	"NICSpec": func(e *env, n hypervisor.NICSpec) (hypervisor.NICInfo, error) {
		vm := e.create("vm", func(s *hypervisor.VMSpec) { s.NICs = nil })
		return vm.AttachNIC(e.ctx, n).Wait(e.ctx)
	},
}

// image makes an image with content that belongs to no machine.
func (e *env) image(content string) hypervisor.VolumeID {
	e.Helper()
	vm := e.create("kept")
	e.write(vm, content)
	v := e.info(vm).Disks[0].Volume
	_, err := vm.Delete(e.ctx, hypervisor.KeepDisks, nil).Wait(e.ctx)
	e.ok(err, "Delete with KeepDisks")
	e.volumes = append(e.volumes, v)
	return v
}

const small = 24 * hypervisor.MiB

func diskRows() []row {
	type spec = hypervisor.DiskSpec
	var rows []row
	for prefix, way := range diskWays {
		add := func(name string, run func(*env)) {
			r := row{name: prefix + "." + name, run: run}
			if prefix == "DiskSpec" {
				r.needs = caps{capability.DiskAttach}
			}
			rows = append(rows, r)
		}
		add("SizeBytes", func(e *env) {
			i, _, err := way(e, spec{SizeBytes: 40 * hypervisor.MiB})
			e.ok(err, "a disk")
			e.same(i.SizeBytes, 40*hypervisor.MiB, "SizeBytes")
		})
		add("Provisioning", func(e *env) {
			for _, p := range []hypervisor.Provisioning{hypervisor.ProvisioningThin, hypervisor.ProvisioningThick} {
				i, _, err := way(e, spec{SizeBytes: small, Provisioning: p})
				if e.honoured(err) {
					e.same(i.Provisioning, p, "Provisioning")
				}
			}
		})
		add("Datastore", func(e *env) {
			for _, ds := range e.stores() {
				i, _, err := way(e, spec{SizeBytes: small, Datastore: hypervisor.DatastoreID(ds)})
				if !e.honoured(err) {
					return
				}
				e.same(string(i.Datastore), ds, "Datastore")
			}
			_, _, err := way(e, spec{SizeBytes: small, Datastore: "no-such-store"})
			e.notThere(err, "a disk in a datastore that is not there")
		})
		add("Image", func(e *env) {
			img := e.image("golden")
			i, vm, err := way(e, spec{Image: img})
			if !e.honoured(err) {
				return
			}
			if i.Volume == img || i.Volume == "" {
				e.Errorf("the copy of %s is %s", img, i.Volume)
			}
			e.content(vm, "golden", "a copy of an image")
		})
		add("Volume", func(e *env) {
			img := e.image("golden")
			i, vm, err := way(e, spec{Volume: img})
			if !e.honoured(err) {
				return
			}
			e.volumes = nil // they belong to the machine
			e.same(i.Volume, img, "Volume")
			e.content(vm, "golden", "a disk made of a volume")
		})
		add("Bus", func(e *env) {
			plain, _, err := way(e, spec{SizeBytes: small})
			e.ok(err, "a disk")
			e.others([]string{"virtio", "scsi", "sata", "nvme", "ide", "xen"}, plain.Bus, func(bus string) (string, error) {
				i, _, err := way(e, spec{SizeBytes: small, Bus: bus})
				return i.Bus, err
			})
		})
		add("ReadOnly", func(e *env) {
			img := e.image("golden")
			i, vm, err := way(e, spec{Volume: img, ReadOnly: true})
			if !e.honoured(err) {
				return
			}
			e.same(i.ReadOnly, true, "ReadOnly")
			// Other machines may have it too, so that it stays and is named.
			notes := e.withImages(prefix, vm, i.ID)
			if !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, string(img)) }) {
				e.Errorf("the notes do not name the read-only image %s that stays: %q", img, notes)
			}
			if all := e.listImages(); all != nil && !slices.Contains(all, string(img)) {
				e.Errorf("DeleteDisks removed %s, which the machine had read-only", img)
			}
		})
		add("CDROM", func(e *env) {
			iso := e.ISO
			if iso == "" {
				iso = e.image("iso")
			}
			i, _, err := way(e, spec{Volume: iso, CDROM: true})
			if e.honoured(err) {
				e.same(i.CDROM, true, "CDROM")
			}
		})
	}
	return rows
}

// withImages takes a disk off, or deletes its machine, with DeleteDisks and
// returns the notes.
func (e *env) withImages(way string, vm *hypervisor.VM, disk hypervisor.DiskID) []string {
	e.Helper()
	if way == "DiskSpec" {
		t := vm.DetachDisk(e.ctx, disk, hypervisor.DeleteDisks)
		must(e, t, "DetachDisk")
		return t.Notes()
	}
	t := vm.Delete(e.ctx, hypervisor.DeleteDisks, nil)
	must(e, t, "Delete")
	return t.Notes()
}

// others checks that one of the values other than the default is used, and
// that an unknown value is refused.
func (e *env) others(all []string, plain string, use func(string) (string, error)) {
	e.Helper()
	taken := false
	for _, want := range slices.DeleteFunc(all, func(s string) bool { return s == plain }) {
		got, err := use(want)
		switch {
		case err == nil:
			taken = true
			e.same(got, want, "of %s what it was made with", want)
		case !errors.Is(err, hypervisor.ErrUnsupported) && !errors.Is(err, hypervisor.ErrInvalidArgument) && !errors.Is(err, hypervisor.ErrNotFound):
			e.Errorf("%s: %v", want, err)
		}
		if taken {
			return
		}
	}
	e.decline(fmt.Sprintf("all but %q", plain))
}

func nicRows() []row {
	type spec = hypervisor.NICSpec
	var rows []row
	for prefix, way := range nicWays {
		add := func(name string, run func(*env)) {
			r := row{name: prefix + "." + name, run: run}
			if prefix == "NICSpec" {
				r.needs = caps{capability.NICAttach}
			}
			rows = append(rows, r)
		}
		add("Network", func(e *env) {
			nets, err := hypervisor.Collect(e.c.Networks(e.ctx))
			e.ok(err, "Networks")
			nets = slices.DeleteFunc(nets, func(n hypervisor.NetworkInfo) bool { // those of the machines' host
				at := e.Spec("x").Placement.Host
				return at != "" && len(n.Hosts) > 0 && !slices.Contains(n.Hosts, at)
			})
			for _, n := range nets[:min(len(nets), 3)] {
				i, err := way(e, spec{Network: n.ID})
				e.ok(err, "an adapter on %s", n.ID)
				e.same(i.Network, n.ID, "Network")
			}
			_, err = way(e, spec{Network: "no-such-network"})
			e.notThere(err, "an adapter on a network that is not there")
		})
		add("MAC", func(e *env) {
			mac := fmt.Sprintf("00:50:56:2a:%02x:%02x", serial.Add(1)>>8&0xff, serial.Load()&0xff)
			i, err := way(e, spec{MAC: mac})
			if e.honoured(err) && !strings.EqualFold(i.MAC, mac) {
				e.Errorf("MAC is %s, want %s", i.MAC, mac)
			}
		})
		add("Model", func(e *env) {
			plain, err := way(e, spec{})
			e.ok(err, "an adapter")
			e.others([]string{"e1000", "e1000e", "virtio", "vmxnet3", "rtl8139", "netfront", "synthetic", "legacy", "sr-iov"}, plain.Model, func(m string) (string, error) {
				i, err := way(e, spec{Model: m})
				return i.Model, err
			})
		})
	}
	return rows
}

// volumeRows: fields of VolumeSpec.
func volumeRows() []row {
	type spec = hypervisor.VolumeSpec
	make1 := func(e *env, s spec) (hypervisor.VolumeInfo, error) {
		if s.Name == "" {
			s.Name = e.name("vol")
		}
		if s.Datastore == "" {
			s.Datastore = e.homeStore()
		}
		if s.SizeBytes == 0 && s.From == "" {
			s.SizeBytes = small
		}
		id, err := e.c.CreateVolume(e.ctx, s).Wait(e.ctx)
		if err != nil {
			return hypervisor.VolumeInfo{}, err
		}
		e.volumes = append(e.volumes, id)
		for v, err := range e.c.Volumes(e.ctx, "") {
			e.ok(err, "Volumes")
			if v.ID == id {
				return v, nil
			}
		}
		e.Fatalf("Volumes leaves out %s", id)
		return hypervisor.VolumeInfo{}, nil
	}
	rows := []row{
		{name: "VolumeSpec.Name", run: func(e *env) {
			name := e.name("named")
			v, err := make1(e, spec{Name: name})
			e.ok(err, "CreateVolume")
			e.same(v.Name, name, "Name")
		}},
		{name: "VolumeSpec.Datastore", run: func(e *env) {
			for _, ds := range append([]string{string(e.homeStore())}, e.stores()...) {
				v, err := make1(e, spec{Datastore: hypervisor.DatastoreID(ds)})
				e.ok(err, "CreateVolume in %s", ds)
				e.same(string(v.Datastore), ds, "Datastore")
			}
			_, err := make1(e, spec{Datastore: "no-such-store"})
			e.notThere(err, "CreateVolume in a datastore that is not there")
		}},
		{name: "VolumeSpec.SizeBytes", run: func(e *env) {
			v, err := make1(e, spec{SizeBytes: 40 * hypervisor.MiB})
			e.ok(err, "CreateVolume")
			e.same(v.SizeBytes, 40*hypervisor.MiB, "SizeBytes")
		}},
		{name: "VolumeSpec.Provisioning", run: func(e *env) {
			for _, p := range []hypervisor.Provisioning{hypervisor.ProvisioningThin, hypervisor.ProvisioningThick} {
				v, err := make1(e, spec{Provisioning: p})
				if e.honoured(err) {
					e.same(v.Provisioning, p, "Provisioning")
				}
			}
		}},
		{name: "VolumeSpec.From", run: func(e *env) {
			img := e.image("golden")
			v, err := make1(e, spec{From: img})
			if !e.honoured(err) {
				return
			}
			vm := e.create("vm", func(s *hypervisor.VMSpec) { s.Disks = []hypervisor.DiskSpec{{Volume: v.ID}} })
			e.volumes = slices.DeleteFunc(e.volumes, func(x hypervisor.VolumeID) bool { return x == v.ID })
			e.content(vm, "golden", "CreateVolume from an image")
		}},
	}
	for i := range rows {
		rows[i].needs = caps{capability.VolumeManage}
	}
	return rows
}

// homeStore returns the datastore of the machines.
func (e *env) homeStore() hypervisor.DatastoreID {
	e.Helper()
	return e.info(e.create("store")).Disks[0].Datastore
}
