package hyperv

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// Clone implements hypervisor.Cloner. The definition goes through the host's
// export and import, with a new identifier, so that all settings are kept.
// The image service makes the images: full copies, or differencing images on
// frozen ones. A machine that is in use is frozen by a crash-consistent
// checkpoint, which a linked clone keeps as its base and a full clone removes
// again.
func (d *driver) Clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	if t, err := d.byToken(ctx, r.Token); t != nil || err != nil {
		return t, err
	}
	switch {
	case r.Mode == hypervisor.CloneModeInstant:
		return nil, d.refuse(src.Ref(), capability.CloneInstant)
	case r.Customize != nil:
		return nil, d.refuse(src.Ref(), capability.CloneCustomize)
	}
	m, err := d.machine(ctx, src)
	if err != nil {
		return nil, err
	}
	if err := d.checkPlacement(src.Ref(), capability.CloneFull, r.Placement); err != nil {
		return nil, err
	}
	if r.Placement.Host != "" {
		h, err := d.host(r.Placement.Host)
		if err != nil {
			return nil, err
		}
		if h != m.h {
			return nil, hypervisor.Unsupported(src.Ref(), capability.CloneFull, hypervisor.ReasonPlatform,
				fmt.Sprintf("Hyper-V clones on the host where the source is (%s): clone there and migrate the clone to %s", m.h.id, h.id))
		}
	}
	if _, err := m.h.directory(r.Placement.Datastore); err != nil {
		return nil, err
	}
	kind := capability.CloneFull
	if r.Mode == hypervisor.CloneModeLinked {
		kind = capability.CloneLinked
	}
	if err := m.unpinned(ctx, kind); err != nil {
		return nil, err
	}
	var from *cim.Instance
	if r.From != "" {
		if from, err = m.snapshot(r.From); err != nil {
			return nil, err
		}
	}
	if from == nil && !m.planned && m.state != hypervisor.StateOff {
		if m.state == hypervisor.StateSuspended {
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, src.Ref(), "the machine is suspended, and a checkpoint of it would hold its RAM: resume it, power it off, or clone a snapshot")
		}
		if err := m.unpinned(ctx, capability.CloneRunning); err != nil {
			return nil, err
		}
	}
	id := m.d.makeTask(m.h)
	return m.start(ctx, "clone", id, func(o *op) (hypervisor.Ref, error) {
		ref, err := o.clone(m, from, r, id)
		return ref, m.contended(o.ctx, err)
	})
}

func (o *op) clone(m *machine, from *cim.Instance, r hypervisor.CloneRequest, id hypervisor.TaskID) (hypervisor.Ref, error) {
	temporary := false
	if from == nil && !m.planned && (m.state != hypervisor.StateOff || r.Mode == hypervisor.CloneModeLinked) {
		s, err := o.freeze(m, r)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		from, temporary = s, r.Mode == hypervisor.CloneModeFull
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
		o.Phase("reading the definition", -1)
		if definition, err = o.exportDefinition(m, from); err != nil {
			if from != nil && cim.KindOf(err) == cim.InvalidArgument { // Hyper-V reports an object that is gone as an invalid parameter
				err = cmp.Or(o.steady(owner, images), err)
			}
			return hypervisor.Ref{}, err
		}
	}
	p, err := o.importCopy(m, definition, id)
	if err != nil {
		return hypervisor.Ref{}, err
	}
	if !m.planned {
		// The planned machine holds everything that was in the file.
		o.dropExport(definition)
	}
	if err := o.fill(p, m, owner, images, r, id); err != nil {
		return hypervisor.Ref{}, err
	}
	if from != nil {
		// Another session may have deleted the checkpoint before it could see
		// that the clone needs it, and its images hold later content.
		if err := o.steady(owner, images); err != nil {
			return hypervisor.Ref{}, err
		}
	}
	o.Phase("realizing", -1)
	if err := o.realize(p); err != nil {
		return hypervisor.Ref{}, err
	}
	o.Whole()
	made := *p
	made.planned = false
	o.d.remember(made.id, o.h)
	if temporary {
		if err := o.thaw(m, from); err != nil {
			o.Left(hypervisor.SnapshotID(ownerOf(from.Str("InstanceID"))).Ref(), made.id.Ref())
			return made.id.Ref(), fmt.Errorf("the clone is made, but the checkpoint that froze the source could not be removed: %w", err)
		}
	}
	return made.id.Ref(), o.powerOn(&made, r.Start)
}

// steady refuses a checkpoint that is gone, or has other images than before.
func (o *op) steady(checkpoint string, images map[string]string) error {
	now, err := o.imagesOf(checkpoint)
	if err == nil && !maps.Equal(now, images) {
		return hypervisor.Errorf(hypervisor.ErrBusy, hypervisor.SnapshotID(checkpoint).Ref(), "the checkpoint was deleted or merged while the clone was made: clone again")
	}
	return err
}

// freeze takes a checkpoint without RAM.
func (o *op) freeze(m *machine, r hypervisor.CloneRequest) (*cim.Instance, error) {
	o.Phase("freezing", -1)
	name := "base of " + r.Name
	if r.Mode == hypervisor.CloneModeLinked {
		o.Note("the source has a new checkpoint, " + name + ", which the clone depends on")
	}
	t, err := o.d.createSnapshot(o.ctx, m.id, hypervisor.SnapshotRequest{Name: name, SnapshotOptions: hypervisor.SnapshotOptions{Description: "Frozen for a clone."}}, true)
	if err != nil {
		return nil, err
	}
	st, err := o.Follow(o.ctx, t, 0, 0)
	if err != nil {
		o.Left(st.Leftover...)
		return nil, err
	}
	o.Remove(st.Result, func(ctx context.Context) error {
		return o.destroySnapshot(ctx, m, hypervisor.SnapshotID(st.Result.ID))
	})
	now, err := o.d.read(o.ctx, o.h, o.s, m.id)
	if err != nil {
		return nil, err
	}
	if now == nil {
		return nil, hypervisor.Errorf(hypervisor.ErrNotFound, m.id.Ref(), "the machine is gone")
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
	o.Phase("merging", -1)
	before, err := m.depths(o.ctx)
	if err != nil {
		return err
	}
	if err := o.destroySnapshot(o.ctx, m, hypervisor.SnapshotID(ownerOf(s.Str("InstanceID")))); err != nil {
		return err
	}
	return o.merged(m, before, 1)
}

// imagesOf maps the place of each disk (its InstanceID after the owner's
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

// placeOf returns the part of an InstanceID after the owner's GUID, which
// export and import keep.
func placeOf(i *cim.Instance) string {
	_, place, _ := strings.Cut(i.Str("InstanceID"), `\`)
	return strings.ToUpper(place)
}

// importDefinition makes a planned machine from a definition file.
func (o *op) importDefinition(file string, newID bool, tobe hypervisor.Ref, find func(context.Context) (string, error)) (*machine, error) {
	return o.define(tobe, !newID, find, "ImportSystemDefinition", cim.Arg{Name: "SystemDefinitionFile", Value: file},
		cim.Arg{Name: "SnapshotFolder", Value: ""}, cim.Arg{Name: "GenerateNewSystemIdentifier", Value: newID})
}

// importCopy imports a definition under a new identifier, and marks the copy
// as this task's. Before that, nothing distinguishes it from others of the
// same source.
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
	tobe := hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: src.name()} // its name until it is filled
	p, err := o.importDefinition(file, true, tobe, func(ctx context.Context) (string, error) { return o.strayCopy(ctx, src, before) })
	if err != nil {
		return nil, err
	}
	n := notes{Task: string(id), Unfinished: true}
	return p, p.modifyNow(o.ctx, append(o.h.roots(), "Notes", n.strings())...)
}

// copies are the planned machines that look like the source, as a copy does
// that was imported and not marked.
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
		// has the same notes except for that mark.
		if n := parseNotes(r.settings.Strs("Notes")); !n.Unfinished && n.Token == src.notes.Token && n.Task == src.notes.Task {
			out = append(out, id)
		}
	}
	return out, nil
}

// strayCopy finds the copy of a lost import, or "" if there is none. A copy
// that another process is making at this moment is marked soon, so only one
// that stays unchanged counts.
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
	return "", hypervisor.Errorf(hypervisor.ErrAmbiguous, src.id.Ref(), "several unfinished copies of it are on the host: %s", strings.Join(stray, ", "))
}

// realize turns a planned machine into a real one, once the host has found
// nothing against it. The order is that of os-win.
func (o *op) realize(p *machine) error {
	if _, err := o.call(p.repeat(), o.h.management(), "ValidatePlannedSystem", cim.Arg{Name: "PlannedSystem", Value: p.ref()}); err != nil {
		if refused(err) && o.d.ErrorKind(err) == hypervisor.ErrUnknown {
			err = hypervisor.Errorf(hypervisor.ErrIncompatible, p.id.Ref(), "the host can't realize the machine: %w", err)
		}
		return err
	}
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
	n := notes{Description: r.Description, Labels: r.Labels, Token: r.Token, GuestOS: src.notes.GuestOS, Task: string(id)}
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
	if r.Mode == hypervisor.CloneModeLinked {
		// The notes name the parents of the clone before it has them: whoever
		// deletes a checkpoint looks there.
		for _, from := range images {
			c, err := chain(o.ctx, o.s, img, from)
			if err != nil {
				return err
			}
			n.Bases = append(n.Bases, c...)
		}
		slices.Sort(n.Bases)
		n.Bases = slices.Compact(n.Bases)
		early := notes{Task: n.Task, Unfinished: true, Bases: n.Bases}
		if err := p.modifyNow(o.ctx, "Notes", early.strings()); err != nil {
			return err
		}
	}
	for _, disk := range rec.rows[rowDisks] {
		if disk.Str("ResourceSubType") != subVHD {
			continue
		}
		from := images[placeOf(disk)]
		if from == "" {
			return hypervisor.Errorf(hypervisor.ErrIncompatible, src.id.Ref(), "the exported definition has a disk at %s that the source (%s) has not", placeOf(disk), owner)
		}
		to := join(dir, fileName(r.Name)+".vhdx")
		if r.Mode == hypervisor.CloneModeLinked {
			o.Phase("making a differencing image", -1)
			err := o.newImage(to, "Type", vhdDifferencing, "ParentPath", from)
			if err != nil {
				return err
			}
		} else {
			o.Phase("copying "+base(from), -1)
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
	return p.modifyNow(o.ctx, "ElementName", r.Name, "Notes", n.strings(), "AutomaticSnapshotsEnabled", o.h.noAutomaticSnapshots())
}

// renewMACs gives adapters with a fixed address a new one from Microsoft's
// range. The host assigns addresses to the others.
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
		o.Note("the source's assigned device stays with the source")
	}
	return nil
}
