package hyperv

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// Clone implements hypervisor.Cloner. The definition goes through the host's
// export and import, with a new identifier, so that all settings come along;
// the images are made by the image service: copied in full, or as
// differencing images on frozen ones. A machine that is in use is frozen by a
// crash-consistent checkpoint, which a linked clone keeps as its base and a
// full clone removes again.
func (d *driver) Clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	if t, err := d.byToken(ctx, r.Token); t != nil || err != nil {
		return t, err
	}
	switch {
	case r.Mode == hypervisor.Instant:
		return nil, d.refuse(src.Ref(), hypervisor.CloneInstant)
	case r.Customize != nil:
		return nil, d.refuse(src.Ref(), hypervisor.CloneCustomize)
	}
	m, err := d.machine(ctx, src)
	if err != nil {
		return nil, err
	}
	if err := checkPlacement(src.Ref(), r.Placement); err != nil {
		return nil, err
	}
	if r.Placement.Host != "" {
		h, err := d.host(r.Placement.Host)
		if err != nil {
			return nil, err
		}
		if h != m.h {
			return nil, hypervisor.Unsupported(src.Ref(), hypervisor.CloneFull, hypervisor.ReasonPlatform,
				fmt.Sprintf("Hyper-V clones on the host where the source is (%s): clone there and migrate the clone to %s", m.h.id, h.id))
		}
	}
	if _, err := m.h.directory(r.Placement.Datastore); err != nil {
		return nil, err
	}
	var from *cim.Instance
	if r.From != "" {
		if from, err = m.snapshot(r.From); err != nil {
			return nil, err
		}
	}
	if from == nil && !m.planned && m.state != hypervisor.Off {
		if m.state == hypervisor.Suspended {
			return nil, hypervisor.Errorf(hypervisor.KindInvalidState, src.Ref(), "the machine is suspended, and a checkpoint of it would hold its RAM: resume it, power it off, or clone a snapshot")
		}
		if err := m.unpinned(ctx, hypervisor.CloneRunning); err != nil {
			return nil, err
		}
	}
	id := makeTask(m.h)
	return d.start(ctx, m.h, id, func(o *op) (hypervisor.Ref, error) { return o.clone(m, from, r, id) })
}

func (o *op) clone(m *machine, from *cim.Instance, r hypervisor.CloneRequest, id hypervisor.TaskID) (hypervisor.Ref, error) {
	temporary := false
	if from == nil && !m.planned && (m.state != hypervisor.Off || r.Mode == hypervisor.Linked) {
		s, err := o.freeze(m, r)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		from, temporary = s, r.Mode == hypervisor.FullClone
	}
	owner := string(m.id)
	if from != nil {
		owner = ownerOf(from.Str("InstanceID"))
	}
	images, err := o.imagesOf(owner)
	if err != nil {
		return hypervisor.Ref{}, err
	}
	definition := m.notes.Definition
	if !m.planned {
		o.phase("reading the definition", -1)
		if definition, err = o.exportDefinition(m, from); err != nil {
			return hypervisor.Ref{}, err
		}
	}
	p, err := o.importCopy(m, definition, id)
	if err != nil {
		return hypervisor.Ref{}, err
	}
	if !m.planned {
		// The planned machine holds all that was in the file.
		o.drop(definition)
	}
	if err := o.fill(p, m, owner, images, r, id); err != nil {
		return hypervisor.Ref{}, err
	}
	o.phase("realizing", -1)
	if err := o.realize(p); err != nil {
		return hypervisor.Ref{}, err
	}
	o.undos = nil
	made := *p
	made.planned = false
	o.d.remember(made.id, o.h)
	if temporary {
		if err := o.thaw(m, from); err != nil {
			o.state.Leftover = append(o.state.Leftover, hypervisor.SnapshotID(ownerOf(from.Str("InstanceID"))).Ref(), made.id.Ref())
			return made.id.Ref(), fmt.Errorf("the clone is made, but the checkpoint that froze the source could not be removed: %w", err)
		}
	}
	return made.id.Ref(), o.powerOn(&made, r.Start)
}

// freeze takes a checkpoint without RAM.
func (o *op) freeze(m *machine, r hypervisor.CloneRequest) (*cim.Instance, error) {
	o.phase("freezing", -1)
	name := "base of " + r.Name
	if r.Mode == hypervisor.Linked {
		o.note("the source has a new checkpoint, " + name + ", which the clone stands on")
	}
	t, err := o.d.createSnapshot(o.ctx, m.id, hypervisor.SnapshotRequest{Name: name, Description: "Frozen for a clone."}, true)
	if err != nil {
		return nil, err
	}
	var st hypervisor.TaskState
	for !st.Done {
		if st, err = t.Next(o.ctx); err != nil {
			return nil, err
		}
	}
	if st.Err != nil {
		o.state.Leftover = append(o.state.Leftover, st.Leftover...)
		return nil, st.Err
	}
	o.onFailure(st.Result, func(ctx context.Context) error {
		return o.destroySnapshot(ctx, m, hypervisor.SnapshotID(st.Result.ID))
	})
	now, err := o.d.read(o.ctx, o.h, o.s, m.id)
	if err != nil {
		return nil, err
	}
	if now == nil {
		return nil, hypervisor.Errorf(hypervisor.KindNotFound, m.id.Ref(), "the machine is gone")
	}
	*m = *now
	return m.snapshot(hypervisor.SnapshotID(st.Result.ID))
}

func (o *op) destroySnapshot(ctx context.Context, m *machine, id hypervisor.SnapshotID) error {
	ref := o.h.settingRef("Msvm_VirtualSystemSettingData", "Microsoft:"+string(id))
	return m.ask(ctx, m.done(absent(o.s, ref)), o.h.snapshots(), "DestroySnapshot", cim.Arg{Name: "AffectedSnapshot", Value: ref})
}

// thaw removes the checkpoint of a full clone and waits for the merge.
func (o *op) thaw(m *machine, s *cim.Instance) error {
	o.phase("merging", -1)
	before, err := m.depths(o.ctx)
	if err != nil {
		return err
	}
	if err := o.destroySnapshot(o.ctx, m, hypervisor.SnapshotID(ownerOf(s.Str("InstanceID")))); err != nil {
		return err
	}
	return o.merged(m, before, 1)
}

// imagesOf maps the place of each disk (its InstanceID behind the owner's
// GUID) to its image.
func (o *op) imagesOf(owner string) (map[string]string, error) {
	inv, err := readInventory(o.ctx, o.h, o.s, []int{rowDisks}, only(hypervisor.VMID(owner)))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, r := range inv.record(owner).rows[rowDisks] {
		if p := r.Str("HostResource"); p != "" && r.Str("ResourceSubType") == subVHD {
			out[placeOf(r)] = p
		}
	}
	return out, nil
}

// placeOf is the part of an InstanceID behind the owner's GUID, which export
// and import keep.
func placeOf(i *cim.Instance) string {
	_, place, _ := strings.Cut(i.Str("InstanceID"), `\`)
	return strings.ToUpper(place)
}

// exportDefinition writes the definition of a machine, or of one of its
// snapshots, without images. It returns the path of the file.
func (o *op) exportDefinition(m *machine, from *cim.Instance) (string, error) {
	dir := join(join(o.h.vmPath, "anyvisor"), randomHex(8))
	e := cim.NewEmbedded("Msvm_VirtualSystemExportSettingData",
		"CopyVmStorage", false, "CopyVmRuntimeInformation", false, "CreateVmExportSubdirectory", false)
	id := string(m.id)
	if from == nil {
		e.Set("CopySnapshotConfiguration", exportNoSnapshots)
	} else {
		e.Set("CopySnapshotConfiguration", exportOneSnapshot).Set("SnapshotVirtualSystem", m.snapshotRef(from))
	}
	if m.state != hypervisor.Off {
		e.Set("CaptureLiveState", captureCrashConsistent)
	}
	file := join(join(dir, "Virtual Machines"), id+".vmcx")
	o.onFailure(hypervisor.Ref{Kind: hypervisor.KindOfVolume, ID: string(o.h.volume(file))}, func(ctx context.Context) error { return removeFile(ctx, o.s, file) })
	look := m.done(func(ctx context.Context) (bool, error) { f, err := fileOf(ctx, o.s, file); return f != nil, err })
	_, err := o.call(look, o.h.management(), "ExportSystemDefinition", cim.Arg{Name: "ComputerSystem", Value: m.ref()},
		cim.Arg{Name: "ExportDirectory", Value: dir}, cim.Arg{Name: "ExportSettingData", Value: e})
	return file, err
}

// Values of Msvm_VirtualSystemExportSettingData.CopySnapshotConfiguration and
// .CaptureLiveState.
const (
	exportNoSnapshots      = uint8(1)
	exportOneSnapshot      = uint8(2)
	captureCrashConsistent = uint8(0)
)

// drop removes a file that nothing needs any more.
func (o *op) drop(path string) {
	if err := removeFile(o.ctx, o.s, path); err != nil {
		o.note("file " + path + " stays: " + err.Error())
	}
}

// importDefinition makes a planned machine of a definition file.
func (o *op) importDefinition(file string, newID bool, tobe hypervisor.Ref, find func(context.Context) (string, error)) (*machine, error) {
	look := once
	if !newID { // the host has each machine once
		look = func(t trace) trace { return t }
	}
	return o.define(tobe, look, find, "ImportSystemDefinition", cim.Arg{Name: "SystemDefinitionFile", Value: file},
		cim.Arg{Name: "SnapshotFolder", Value: ""}, cim.Arg{Name: "GenerateNewSystemIdentifier", Value: newID})
}

// importCopy imports a definition under a new identifier, and marks the copy
// as this task's: until then nothing tells it from others of the same source.
func (o *op) importCopy(src *machine, file string, id hypervisor.TaskID) (*machine, error) {
	unlock, err := o.d.lock(o.ctx, src.id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	before, err := o.copies(o.ctx, src)
	if err != nil {
		return nil, err
	}
	tobe := hypervisor.Ref{Kind: hypervisor.KindOfVM, Name: src.name()} // as it is called until it is filled
	p, err := o.importDefinition(file, true, tobe, func(ctx context.Context) (string, error) { return o.strayCopy(ctx, src, before) })
	if err != nil {
		return nil, err
	}
	n := notes{Task: string(id), Unfinished: true}
	return p, p.modifyNow(o.ctx, "Notes", n.strings())
}

// copies are the planned machines that look like the source, as one does that
// was imported and not marked.
func (o *op) copies(ctx context.Context, src *machine) ([]string, error) {
	inv, err := readInventory(ctx, o.h, o.s, []int{rowSettings}, nil)
	if err != nil {
		return nil, err
	}
	var out []string
	for id, r := range inv.byID {
		if r.settings == nil || r.settings.Str("VirtualSystemType") != typePlanned || id == string(src.id) || r.settings.Str("ElementName") != src.name() {
			continue
		}
		// A definition that was written before the source became a template
		// has the same notes but for that mark.
		if n := parseNotes(r.settings.Strs("Notes")); !n.Unfinished && n.Token == src.notes.Token && n.Task == src.notes.Task {
			out = append(out, id)
		}
	}
	return out, nil
}

// strayCopy finds the copy of a lost import; "" if there is none. A copy that
// another process makes at this moment is marked soon, so only one that stays
// as it is counts.
func (o *op) strayCopy(ctx context.Context, src *machine, before []string) (string, error) {
	var stray []string
	pause := cim.Poll{First: o.d.poll.Last, Last: o.d.poll.Last}
	for step := range 8 {
		now, err := o.copies(ctx, src)
		if err != nil {
			return "", err
		}
		now = slices.DeleteFunc(now, func(id string) bool { return slices.Contains(before, id) || step > 0 && !slices.Contains(stray, id) })
		stray = now
		switch {
		case len(stray) == 0:
			return "", nil
		case len(stray) == 1 && step > 2:
			return stray[0], nil
		}
		if err := pause.Next(ctx, step); err != nil {
			return "", err
		}
	}
	return "", hypervisor.Errorf(hypervisor.KindAmbiguous, src.id.Ref(), "several unfinished copies of it are on the host: %s", strings.Join(stray, ", "))
}

// realize turns a planned machine into a real one.
func (o *op) realize(p *machine) error {
	look := p.done(func(ctx context.Context) (bool, error) {
		now, err := o.d.read(ctx, o.h, o.s, p.id)
		return now != nil && !now.planned, err
	})
	_, err := o.call(look, o.h.management(), "RealizePlannedSystem", cim.Arg{Name: "PlannedSystem", Value: p.ref()})
	return err
}

// fill turns the imported copy into the clone: name, notes, images, adapters.
func (o *op) fill(p, src *machine, owner string, images map[string]string, r hypervisor.CloneRequest, id hypervisor.TaskID) error {
	dir, err := o.h.directory(r.Placement.Datastore)
	if err != nil {
		return err
	}
	n := notes{Description: r.Description, Labels: r.Labels, Token: r.Token, Task: string(id)}
	if n.Description == "" {
		n.Description = src.notes.Description
	}
	if n.Labels == nil {
		n.Labels = src.notes.Labels
	}
	rec, _, err := p.resources(o.ctx)
	if err != nil {
		return err
	}
	img, err := o.h.images(o.ctx, o.s)
	if err != nil {
		return err
	}
	for _, disk := range rec.rows[rowDisks] {
		if disk.Str("ResourceSubType") != subVHD {
			continue
		}
		from := images[placeOf(disk)]
		if from == "" {
			return hypervisor.Errorf(hypervisor.KindIncompatible, src.id.Ref(), "the exported definition has a disk at %s that the source (%s) has not", placeOf(disk), owner)
		}
		to := join(dir, fileName(r.Name)+".vhdx")
		if r.Mode == hypervisor.Linked {
			o.phase("making a differencing image", -1)
			c, err := chain(o.ctx, o.s, img, from)
			if err != nil {
				return err
			}
			n.Bases = append(n.Bases, c...)
			err = o.newImage(to, "Type", vhdDifferencing, "ParentPath", from)
			if err != nil {
				return err
			}
		} else {
			o.phase("copying "+base(from), -1)
			v, err := readImage(o.ctx, o.s, img, from)
			if err != nil {
				return err
			}
			kind := vhdDynamic
			if uint16(v.Uint("Type")) == vhdFixed {
				kind = vhdFixed
			}
			if err := o.copyImage(from, to, kind); err != nil {
				return err
			}
		}
		if err := o.modifyResource(p, cim.NewEmbedded("Msvm_StorageAllocationSettingData", "InstanceID", disk.Str("InstanceID"), "HostResource", []string{to})); err != nil {
			return err
		}
	}
	if err := o.renewMACs(p, rec); err != nil {
		return err
	}
	if err := o.dropDevices(p, rec); err != nil {
		return err
	}
	if r.CPUs > 0 || r.MemoryBytes > 0 {
		ch := hypervisor.Changes{CPUs: r.CPUs, MemoryBytes: r.MemoryBytes}
		if err := o.resize(p, ch); err != nil {
			return err
		}
	}
	return p.modifyNow(o.ctx, "ElementName", r.Name, "Notes", n.strings(), "AutomaticSnapshotsEnabled", false)
}

// renewMACs gives adapters with a fixed address a new one from Microsoft's
// range; the host gives the others theirs.
func (o *op) renewMACs(p *machine, rec *record) error {
	for _, t := range []int{rowNICs, rowLegacyNICs} {
		for _, nic := range rec.rows[t] {
			if !nic.Bool("StaticMacAddress") {
				continue
			}
			mac := "00155D" + strings.ToUpper(randomHex(3))
			if err := o.modifyResource(p, cim.NewEmbedded(tables[t].class, "InstanceID", nic.Str("InstanceID"), "StaticMacAddress", true, "Address", mac)); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropDevices removes assigned functions from the copy: the source has them.
func (o *op) dropDevices(p *machine, rec *record) error {
	for _, x := range rec.rows[rowPCI] {
		if err := p.removeResources(o.ctx, o.h.settingRef("Msvm_PciExpressSettingData", x.Str("InstanceID"))); err != nil {
			return err
		}
		o.note("the source's assigned device stays with the source")
	}
	return nil
}
