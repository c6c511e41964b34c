package xen

import (
	"context"
	"maps"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Clone is VM.copy (full) or VM.clone (linked). Both want a machine that is
// off, a template or a snapshot: a running machine is cloned through a
// snapshot that is removed afterwards.
func (d *driver) Clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	vm, v, err := d.vm(ctx, src)
	if err != nil {
		return nil, err
	}
	on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
	if ref, ok, err := d.findToken(ctx, r.Token); err != nil || ok {
		return done(ref), err
	}
	switch {
	case r.Mode == hypervisor.Instant:
		return nil, hypervisor.Unsupported(on, hypervisor.CloneInstant, hypervisor.ReasonPlatform, instantDetail)
	case r.Customize != nil:
		return nil, hypervisor.Unsupported(on, hypervisor.CloneCustomize, hypervisor.ReasonPlatform, customizeDetail)
	case r.Placement.Pool != "" || r.Placement.Folder != "":
		return nil, hypervisor.Errorf(hypervisor.KindUnsupported, on, "a XAPI pool has neither resource pools nor folders: leave Placement.Pool and Placement.Folder out")
	case r.Mode == hypervisor.Linked && r.Placement.Datastore != "":
		return nil, hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "a linked clone stays on its source's datastore: leave Placement.Datastore out, or ask for a full clone")
	}
	if err := d.sizes(ctx, on, int64(r.CPUs), r.MemoryBytes); err != nil {
		return nil, err
	}
	c := cloning{r: r, source: vm, on: on, running: state(v.PowerState) != hypervisor.Off}
	if r.From != "" {
		if c.source, _, err = d.snapshot(ctx, vm, r.From); err != nil {
			return nil, err
		}
		c.running = false
	}
	if c.host, err = d.byUUID(ctx, "host", string(r.Placement.Host)); err != nil {
		return nil, err
	}
	if c.sr, err = d.byUUID(ctx, "SR", string(r.Placement.Datastore)); err != nil {
		return nil, err
	}
	k := hypervisor.CloneFull
	if r.Mode == hypervisor.Linked {
		k = hypervisor.CloneLinked
	}
	return d.compose(ctx, "clone", on, k, c.run)
}

// cloning is one clone under way.
type cloning struct {
	r        hypervisor.CloneRequest
	source   xapi.Ref // machine, template or snapshot
	on       hypervisor.Ref
	running  bool
	host, sr xapi.Ref
}

func (c cloning) run(ctx context.Context, j *job) (_ hypervisor.Ref, err error) {
	d := j.d
	if c.running {
		args := []any{c.source, "anyvisor: clone to " + c.r.Name}
		if d.api >= 2021 {
			args = append(args, []xapi.Ref{})
		}
		snap, err := j.run(ctx, 0, 0.2, "VM.snapshot", args...)
		if err != nil {
			return hypervisor.Ref{}, err
		}
		c.source = snap
		defer func() {
			if derr := d.destroyWithDisks(context.WithoutCancel(ctx), snap); err == nil {
				err = derr
			}
		}()
	}
	method, args := "VM.copy", []any{c.source, c.r.Name, c.sr}
	if c.r.Mode == hypervisor.Linked {
		method, args = "VM.clone", args[:2]
	}
	ref, err := j.run(ctx, 0.2, 0.9, method, args...)
	if err != nil {
		return hypervisor.Ref{}, err
	}
	var v vmRec
	if err := d.c.Call(ctx, &v, "VM.get_record", ref); err != nil {
		return hypervisor.Ref{}, err
	}
	made := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: c.r.Name}
	j.mustUndo(made, func(ctx context.Context) error { return d.destroyWithDisks(ctx, ref) })
	if err := c.finish(ctx, d, ref, v); err != nil {
		return made, err
	}
	if c.r.Start {
		return j.started(ctx, made, ref, c.host)
	}
	return made, nil
}

// finish makes the copy what was asked for.
func (c cloning) finish(ctx context.Context, d *driver, ref xapi.Ref, v vmRec) error {
	call := func(method string, args ...any) error {
		return d.c.Call(ctx, nil, method, append([]any{ref}, args...)...)
	}
	// The token first: from then on a repeated call finds the clone.
	other := maps.Clone(v.Other)
	if other == nil {
		other = map[string]string{}
	}
	maps.DeleteFunc(other, func(k, _ string) bool {
		return k == tokenKey || c.r.Labels != nil && strings.HasPrefix(k, labelKey)
	})
	for k, l := range c.r.Labels {
		other[labelKey+k] = l
	}
	if c.r.Token != "" {
		other[tokenKey] = c.r.Token
	}
	if err := call("VM.set_other_config", other); err != nil {
		return err
	}
	if v.Template { // copies of templates and snapshots are templates
		if err := call("VM.set_is_a_template", false); err != nil {
			return err
		}
	}
	if state(v.PowerState) != hypervisor.Off { // of a checkpoint or a suspended machine: its RAM is not part of the clone
		if err := call("VM.hard_shutdown"); err != nil {
			return err
		}
	}
	if c.r.Description != v.Description {
		if err := call("VM.set_name_description", c.r.Description); err != nil {
			return err
		}
	}
	if !c.host.IsNull() {
		if err := call("VM.set_affinity", c.host); err != nil {
			return err
		}
	}
	steps, err := d.offSteps(ctx, c.on, v, hypervisor.Changes{CPUs: c.r.CPUs, MemoryBytes: c.r.MemoryBytes})
	if err != nil {
		return err
	}
	for _, s := range steps {
		if err := call(s.method, s.args...); err != nil {
			return err
		}
	}
	return nil
}

// Dependencies tells which images share a hidden base (sm_config:vhd-parent)
// with those of the machine. The storage manager keeps a base as long as one
// of them is there, so nothing breaks when another is deleted.
func (d *driver) Dependencies(ctx context.Context, id hypervisor.VMID) (hypervisor.Dependencies, error) {
	vm, _, err := d.vm(ctx, id)
	if err != nil {
		return hypervisor.Dependencies{}, err
	}
	inv, err := d.load(ctx, hypervisor.Full)
	if err != nil {
		return hypervisor.Dependencies{}, err
	}
	owners := map[xapi.Ref][]hypervisor.Ref{} // of images
	for _, b := range inv.vbds {
		v, ok := inv.vms[b.VM]
		if !ok || b.VM == vm {
			continue
		}
		r := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
		if v.IsSnapshot {
			r.Kind = hypervisor.KindOfSnapshot
		}
		owners[b.VDI] = append(owners[b.VDI], r)
	}
	byUUID := map[string]vdiRec{}
	for _, img := range inv.vdis {
		byUUID[img.UUID] = img
	}
	base := func(img vdiRec) string { // the deepest image known
		for range len(inv.vdis) {
			p := img.SM["vhd-parent"]
			if p == "" {
				return img.UUID
			}
			next, ok := byUUID[p]
			if !ok {
				return p
			}
			img = next
		}
		return img.UUID
	}
	var out hypervisor.Dependencies
	for _, disk := range inv.disks(inv.vms[vm]) {
		img := byUUID[string(disk.Volume)]
		dep := hypervisor.VolumeDependency{Volume: disk.Volume, Disk: disk.ID, Parent: disk.Parent, SizeBytes: img.Used}
		for p := img.SM["vhd-parent"]; p != "" && dep.Depth <= len(inv.vdis); p = byUUID[p].SM["vhd-parent"] {
			dep.Depth++
		}
		for ref, other := range inv.vdis {
			if other.UUID != img.UUID && base(other) == base(img) {
				dep.Dependants = append(dep.Dependants, owners[ref]...)
			}
		}
		out.Volumes = append(out.Volumes, dep)
	}
	return out, nil
}
