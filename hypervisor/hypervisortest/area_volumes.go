package hypervisortest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// volumes: images independent of machines.
var volumes = area{"volumes", []row{
	{name: "made-and-listed", proves: caps{capability.VolumeManage}, run: volumesMade},
	{name: "of-a-machine-is-kept", proves: caps{capability.VolumeManage}, run: volumesUsed},
	{name: "other-spellings", proves: caps{capability.VolumeManage}, run: volumesSpelled},
	{name: "odd-names", proves: caps{capability.VolumeManage}, run: volumesNamed},
	{name: "absent-datastore", needs: caps{capability.VolumeManage}, run: volumesNoDatastore},
}}

// volume makes a volume on the first datastore that has room.
func (e *env) volume() hypervisor.VolumeInfo {
	e.Helper()
	var ds hypervisor.DatastoreInfo
	for d, err := range e.c.Datastores(e.ctx) {
		e.ok(err, "Datastores")
		if d.Accessible && d.FreeBytes > 64*hypervisor.MiB {
			ds = d
			break
		}
	}
	spec := hypervisor.VolumeSpec{Name: e.name("vol"), Datastore: ds.ID, SizeBytes: 16 * hypervisor.MiB}
	id := must(e, e.c.CreateVolume(e.ctx, spec), "CreateVolume")
	v := e.listed(ds.ID, id)
	if v.ID != id || v.SizeBytes != spec.SizeBytes || v.Datastore != ds.ID {
		e.Errorf("the volume is %+v, want %+v", v, spec)
		v.ID = id
	}
	return v
}

// listed returns a volume as a datastore's listing reports it.
func (e *env) listed(ds hypervisor.DatastoreID, id hypervisor.VolumeID) (out hypervisor.VolumeInfo) {
	e.Helper()
	for v, err := range e.c.Volumes(e.ctx, ds) {
		e.ok(err, "Volumes")
		if v.ID == id {
			out = v
		}
	}
	return out
}

func volumesMade(e *env) {
	v := e.volume()
	must(e, e.c.DeleteVolume(e.ctx, v.ID), "DeleteVolume")
	if e.listed(v.Datastore, v.ID).ID != "" {
		e.Errorf("the volume %s is listed after DeleteVolume", v.ID)
	}
	e.kind(errOf(e, e.c.DeleteVolume(e.ctx, v.ID)), hypervisor.ErrNotFound, "DeleteVolume again")
}

func volumesUsed(e *env) {
	v := e.volume()
	vm := e.create("vm", func(s *hypervisor.VMSpec) {
		s.Disks = append(s.Disks, hypervisor.DiskSpec{Volume: v.ID})
	})
	mine := e.info(vm).Disks
	e.kind(errOf(e, e.c.DeleteVolume(e.ctx, v.ID)), hypervisor.ErrBusy, "DeleteVolume of a machine's disk")
	must(e, vm.Delete(e.ctx, hypervisor.KeepDisks, nil), "Delete with KeepDisks")
	if e.listed(v.Datastore, v.ID).ID != v.ID {
		e.Errorf("KeepDisks removed the volume %s", v.ID)
	}
	e.removeVolumes(mine)
}

// oddNames are names that a file system, a shell or a reader may take for
// something else.
var oddNames = []string{"..", ".", "../up", "a/b", `a\b`, "CON", "nul.txt", "com1", "] x", "[x] y", "a] [b", "trailing.", "trailing ", " leading", "a:b", "a*b", "a\nb", "a\x00b", "\u202egnp", "a\u200bb", "%2e%2e", "-rf"}

// volumesNamed: a volume gets its odd name in the datastore that was asked
// for, or the name is refused and nothing is made.
func volumesNamed(e *env) {
	v := e.volume()
	defer func() { must(e, e.c.DeleteVolume(e.ctx, v.ID), "DeleteVolume") }()
	before := e.listImages()
	for _, name := range oddNames {
		id, err := e.c.CreateVolume(e.ctx, hypervisor.VolumeSpec{Name: name, Datastore: v.Datastore, SizeBytes: hypervisor.MiB}).Wait(e.ctx)
		if err != nil {
			e.kind(err, hypervisor.ErrInvalidArgument, "CreateVolume of the name %q", name)
		} else {
			if got := e.listed(v.Datastore, id); got.ID != id {
				e.Errorf("CreateVolume of the name %q made %s, which the datastore does not list", name, id)
			}
			must(e, e.c.DeleteVolume(e.ctx, id), "DeleteVolume of %s", id)
		}
		if more := e.added(before); len(more) > 0 {
			e.Errorf("CreateVolume of the name %q left %v (%v)", name, more, err)
			before = e.listImages()
		}
	}
}

func volumesNoDatastore(e *env) {
	_, err := hypervisor.Collect(e.c.Volumes(e.ctx, "no-such-datastore"))
	e.oneOf(err, "Volumes of an absent datastore", hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument)
}

// spellings makes IDs that are not the one of an image: what a path would
// reach by another name, hidden characters, devices, and names outside of its
// datastore. other is another datastore, or empty.
func spellings(v hypervisor.VolumeInfo, other hypervisor.DatastoreID) []hypervisor.VolumeID {
	id := string(v.ID)
	base := id[strings.LastIndexAny(id, `/\`)+1:]
	dir := strings.TrimSuffix(id, base)
	out := []string{id + "/", id + `\`, id + ".", id + " ", " " + id, id + "::$DATA", id + ":stream", id + "\x00", id + "\n", "\u202e" + id, id + "\u202e", "\u200b" + id,
		dir + "../" + base, dir + `..\` + base, dir + "./" + base, dir + "x/../" + base, dir + `x\..\` + base, dir + "/" + base, dir + `\` + base, dir + " " + base,
		dir + "NUL", dir + "con.vmdk", dir + `aux.vhdx`, dir + "*", dir + "..", dir, "/" + id, `\\.\` + id, "file:///" + id, base + "x", ".", "..", "../../../etc/passwd", `C:\Windows\System32\config\SAM`,
		strings.ReplaceAll(id, "-", ""), "%2e%2e/" + id, "[" + id + "]"}
	if dir != "" {
		out = append(out, base, strings.ReplaceAll(id, "/", `\`), strings.ReplaceAll(id, `\`, "/"), dir+"[other] "+base)
	}
	if other != "" {
		out = append(out, strings.Replace(id, string(v.Datastore), string(other), 1), string(other)+"/"+base, string(other)+"/../"+id, dir+"["+string(other)+"] "+base)
	}
	var ids []hypervisor.VolumeID
	for _, s := range out {
		if s != id && s != "" {
			ids = append(ids, hypervisor.VolumeID(s))
		}
	}
	return ids
}

// volumesSpelled: an image has one ID. Whatever looks like it, or would reach
// it or a file that is no image, is refused by every use of a VolumeID.
func volumesSpelled(e *env) {
	v := e.volume()
	var other hypervisor.DatastoreID
	for d, err := range e.c.Datastores(e.ctx) {
		e.ok(err, "Datastores")
		if d.ID != v.Datastore {
			other = d.ID
		}
	}
	vm := e.create("vm")
	disks := len(e.info(vm).Disks)
	before := e.listImages()
	for _, id := range spellings(v, other) {
		uses := map[string]func() error{
			"DeleteVolume":     func() error { return errOf(e, e.c.DeleteVolume(e.ctx, id)) },
			"AttachDisk":       func() error { return errOf(e, vm.AttachDisk(e.ctx, hypervisor.DiskSpec{Volume: id})) },
			"AttachDisk, CD":   func() error { return errOf(e, vm.AttachDisk(e.ctx, hypervisor.DiskSpec{Volume: id, CDROM: true})) },
			"AttachDisk, copy": func() error { return errOf(e, vm.AttachDisk(e.ctx, hypervisor.DiskSpec{Image: id})) },
			"CreateVolume": func() error {
				return errOf(e, e.c.CreateVolume(e.ctx, hypervisor.VolumeSpec{Name: e.name("copy"), Datastore: v.Datastore, From: id}))
			},
			"CreateVM": func() error {
				s := e.Spec(e.name("other"))
				s.Disks = []hypervisor.DiskSpec{{Image: id}}
				return errOf(e, e.c.CreateVM(e.ctx, s))
			},
		}
		for _, name := range slices.Sorted(maps.Keys(uses)) {
			e.oneOf(uses[name](), fmt.Sprintf("%s of %q, which is not %q", name, id, v.ID),
				hypervisor.ErrNotFound, hypervisor.ErrInvalidArgument, hypervisor.ErrIncompatible, hypervisor.ErrUnsupported)
		}
	}
	if e.listed(v.Datastore, v.ID).ID != v.ID || len(e.info(vm).Disks) != disks {
		e.Errorf("the image %s or the machine's disks have changed", v.ID)
	}
	if a := e.added(before); len(a) > 0 {
		e.Errorf("refused calls left %q", a)
	}
	must(e, e.c.DeleteVolume(e.ctx, v.ID), "DeleteVolume")
}
