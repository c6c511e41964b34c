package xen

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Clone calls VM.copy (full) or VM.clone (linked). Both need a machine that
// is off, a template or a snapshot: a running machine is cloned through a
// snapshot that is removed afterwards. A template with a list of disks to
// make (other_config:disks, as the default templates have) is provisioned.
//
// The source carries cloningKey during the copy, and the copy carries it
// until it matches the request. With a token, a repeated call from any
// process finds the copy under way by it, waits for it and finishes it.
func (d *driver) Clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	return d.tokens.Once(ctx, r.Token, d, func() (hypervisor.DriverTask, error) {
		vm, v, err := d.machine(ctx, src)
		if err != nil {
			return nil, err
		}
		on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
		f, err := d.lookFor(ctx, r.Token)
		if err != nil || f.whole != nil {
			return f.done(), err
		}
		if err := d.planClone(ctx, on, r); err != nil {
			return nil, err
		}
		c := &cloning{r: r, vm: vm, source: vm, on: on, running: state(v.PowerState) != hypervisor.StateOff, other: v.Other, ill: v.ill()}
		if r.From != "" {
			var s vmRec
			if c.source, s, err = d.snapshot(ctx, vm, r.From); err != nil {
				return nil, err
			}
			c.running, c.other = false, s.Other
		}
		if c.host, err = d.byUUID(ctx, "host", string(r.Placement.Host)); err != nil {
			return nil, err
		}
		if c.sr, err = d.byUUID(ctx, "SR", string(r.Placement.Datastore)); err != nil {
			return nil, err
		}
		if list, ok := v.Other[disksKey]; ok && v.Template && r.From == "" {
			if c.disks, err = d.placeDisks(ctx, on, list, c.sr); err != nil {
				return nil, err
			}
		}
		k := capability.CloneFull
		if r.Mode == hypervisor.CloneModeLinked {
			k = capability.CloneLinked
		}
		return d.compose(ctx, "clone", on, k, r.Token, c.run)
	})
}

// planClone refuses what can't be done.
func (d *driver) planClone(ctx context.Context, on hypervisor.Ref, r hypervisor.CloneRequest) error {
	switch {
	case r.Mode == hypervisor.CloneModeInstant:
		return hypervisor.Unsupported(on, capability.CloneInstant, hypervisor.ReasonPlatform, instantDetail)
	case r.Customize != nil:
		return hypervisor.Unsupported(on, capability.CloneCustomize, hypervisor.ReasonPlatform, customizeDetail)
	case r.Mode == hypervisor.CloneModeLinked && r.Placement.Datastore != "":
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "a linked clone stays on its source's datastore: leave Placement.Datastore out, or ask for a full clone")
	}
	if err := d.place(on, capability.CloneFull, r.Placement); err != nil {
		return err
	}
	return d.sizes(ctx, on, int64(r.CPUs), r.MemoryBytes)
}

// cloning is one clone under way.
type cloning struct {
	r        hypervisor.CloneRequest
	vm       xapi.Ref // the requested machine or template
	source   xapi.Ref // vm, or one of its snapshots
	on       hypervisor.Ref
	other    map[string]string // the source's other_config
	running  bool
	ill      bool // whether vm is ill
	host, sr xapi.Ref
	disks    string     // that a template's copy gets, see disksKey
	key      string     // cloningKey and the token
	images   []xapi.Ref // the source's, marked with key
	made     xapi.Ref   // the copy
	temp     []xapi.Ref // snapshots to remove
}

func (c *cloning) run(ctx context.Context, j *poolJob) (hypervisor.Ref, error) {
	mark := c.r.Token
	if mark == "" {
		mark = string(j.task)
	}
	c.key = cloningKey + mark
	if c.ill {
		if err := j.repair(ctx, c.vm); err != nil {
			return hypervisor.Ref{}, err
		}
	}
	var err error
	if c.images, err = j.d.imagesOf(ctx, c.source); err != nil {
		return hypervisor.Ref{}, err
	}
	// A copy that somebody will request again by its token outlives this
	// process. Nobody would finish any other copy.
	j.Keep, j.Bound = c.r.Token != "", c.r.Token == ""
	ref, err := c.copied(ctx, j)
	if err != nil && j.Keep && job.Closed(ctx) {
		return hypervisor.Ref{}, err
	}
	if err != nil {
		for _, v := range c.sweep(ctx, j) {
			j.Left(hypervisor.VolumeID(v.UUID).Ref())
		}
	}
	c.made = ref
	made := hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: c.r.Name}
	if err == nil {
		j.Keep, j.Bound = false, true
		made.ID, err = c.finished(ctx, j, ref)
	}
	c.clearUp(ctx, j)
	if err != nil {
		return made, err
	}
	if c.r.Start {
		return j.started(ctx, made, ref, c.host)
	}
	return made, nil
}

// copied finds the copy that another call with the token started, or makes
// one.
func (c *cloning) copied(ctx context.Context, j *poolJob) (xapi.Ref, error) {
	if _, again := c.other[c.key]; !again {
		err := j.d.c.Call(ctx, nil, "VM.add_to_other_config", c.source, c.key, c.r.Name)
		if again = xapi.Code(err) == "MAP_DUPLICATE_KEY"; !again {
			if err != nil {
				return "", err
			}
			return c.copy(ctx, j)
		}
	}
	ref, err := c.adopt(ctx, j)
	if err != nil || ref != "" {
		return ref, err
	}
	for _, v := range c.sweep(ctx, j) {
		j.Note("image " + v.UUID + " (" + v.Name + ") is left of an earlier copy with this token")
	}
	return c.copy(ctx, j)
}

func (c *cloning) copy(ctx context.Context, j *poolJob) (xapi.Ref, error) {
	if err := c.mark(ctx, j.d); err != nil {
		return "", err
	}
	source := c.source
	if c.running {
		known := slices.Clone(c.temp)
		snap, err := j.runTo(ctx, 0, 0.2, goal{vm: c.vm, there: func(ctx context.Context) (xapi.Ref, bool, error) {
			_, err := c.find(ctx, j.d)
			for _, s := range c.temp {
				if !slices.Contains(known, s) {
					return s, true, err
				}
			}
			return "", false, err
		}}, "VM.snapshot", c.source, tempName(c.r.Name))
		if err != nil {
			return "", err
		}
		if !slices.Contains(c.temp, snap) {
			c.temp = append(c.temp, snap)
		}
		source = snap
	}
	if !c.sr.IsNull() { // VM.copy to a datastore that is gone copies to the source's datastore
		if err := j.d.c.Call(ctx, nil, "SR.get_uuid", c.sr); err != nil {
			return "", err
		}
	}
	method, args := "VM.copy", []any{source, c.r.Name, c.sr}
	if c.r.Mode == hypervisor.CloneModeLinked {
		method, args = "VM.clone", args[:2]
	}
	return j.runTo(ctx, 0.2, 0.85, goal{vm: source, there: func(ctx context.Context) (xapi.Ref, bool, error) {
		ref, err := c.find(ctx, j.d)
		return ref, ref != "", err
	}}, method, args...)
}

// adopt waits for the work that an earlier call with the token started, and
// returns the copy, if there is one.
func (c *cloning) adopt(ctx context.Context, j *poolJob) (xapi.Ref, error) {
	var tasks map[xapi.Ref]xapi.Task
	if err := j.d.c.Call(ctx, &tasks, "task.get_all_records"); err != nil {
		return "", err
	}
	var made xapi.Ref
	for _, method := range []string{"VM.snapshot", "VM.copy", "VM.clone"} {
		for ref, t := range tasks {
			if t.Label != "Async."+method || t.Other[tokenKey] != c.r.Token || t.Status == "failure" || t.Status == "cancelled" {
				continue
			}
			r, err := j.wait(ctx, 0.2, 0.85, ref)
			switch {
			case ctx.Err() != nil:
				return "", err
			case err == nil && method != "VM.snapshot":
				made = r
			}
		}
		// The earlier caller may have died before it could mark the task.
		unmarked := func(t xapi.Task) bool { _, ok := t.Other[tokenKey]; return !ok }
		if err := j.d.settle(ctx, c.source, method, unmarked); err != nil {
			return "", err
		}
	}
	ref, err := c.find(ctx, j.d)
	if made != "" && err == nil { // the task's result is more reliable
		ref = made
	}
	return ref, err
}

// find looks for the copy that carries the key, and for snapshots made on the
// way to it. Copies of the source that others make meanwhile carry the key
// too, so the name must match.
func (c *cloning) find(ctx context.Context, d *driver) (xapi.Ref, error) {
	var all map[xapi.Ref]vmRec
	if err := d.c.Call(ctx, &all, "VM.get_all_records"); err != nil {
		return "", err
	}
	copied := xapi.Ref("")
	c.temp = nil
	for _, ref := range slices.Sorted(maps.Keys(all)) {
		v := all[ref]
		if _, ok := v.Other[c.key]; !ok || ref == c.vm || ref == c.source {
			continue
		}
		switch {
		case v.IsSnapshot && v.SnapshotOf == c.vm && v.Name == tempName(c.r.Name):
			c.temp = append(c.temp, ref)
		case !v.IsSnapshot && v.Name == c.r.Name && copied == "":
			copied = ref
		}
	}
	return copied, nil
}

func tempName(clone string) string { return "anyvisor: clone to " + clone }

// clearUp removes the mark from the source and all images, and the snapshots.
func (c *cloning) clearUp(ctx context.Context, j *poolJob) {
	ctx, stop := job.Late(ctx)
	defer stop()
	unmark := func(class string, ref xapi.Ref, of string) {
		if err := j.d.c.Call(ctx, nil, class+".remove_from_other_config", ref, c.key); err != nil && kindOf(err) != hypervisor.ErrNotFound {
			j.Note("the mark " + c.key + " could not be taken off " + of + ": " + err.Error())
		}
	}
	unmark("VM", c.source, "the source")
	for _, r := range c.images {
		unmark("VDI", r, "an image of the source")
	}
	copies, err := j.d.imagesOf(ctx, c.made)
	if err != nil {
		j.Note("the mark " + c.key + " could not be taken off the copy's images: " + err.Error())
	}
	for _, r := range copies {
		if !slices.Contains(c.images, r) {
			unmark("VDI", r, "an image of the copy")
		}
	}
	for _, s := range c.temp {
		if err := j.d.destroyWithDisks(ctx, s); err != nil {
			j.Note("the snapshot " + tempName(c.r.Name) + " of the source could not be removed: " + err.Error())
		}
	}
}

// finished turns the copy into what was requested. Each step may have been
// done already. The last one makes it a machine of its own.
func (c *cloning) finished(ctx context.Context, j *poolJob, ref xapi.Ref) (string, error) {
	after, stop := job.Late(ctx)
	defer stop()
	var v vmRec
	err := j.d.c.Call(after, &v, "VM.get_record", ref)
	made := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: c.r.Name}
	j.Remove(made, func(ctx context.Context) error { return j.d.destroyWithDisks(ctx, ref) })
	if err != nil {
		return "", err
	}
	if err := c.provision(ctx, j, ref, &v); err != nil {
		return v.UUID, err
	}
	if p := v.Other[pciKey]; p != "" {
		j.Note("PCI functions are not cloned: " + strings.Join(addresses(p), ", "))
	}
	steps, err := c.steps(after, j.d, v)
	if err != nil {
		return v.UUID, err
	}
	for _, s := range steps {
		if err := j.d.c.Call(after, nil, s.method, append([]any{ref}, s.args...)...); err != nil {
			return v.UUID, err
		}
	}
	return v.UUID, nil
}

// provision makes the disks that a template lists (VM.provision).
func (c *cloning) provision(ctx context.Context, j *poolJob, ref xapi.Ref, v *vmRec) error {
	if _, ok := v.Other[disksKey]; !ok || !v.Template || c.disks == "" {
		return nil
	}
	if v.Other[disksKey] != c.disks {
		other := maps.Clone(v.Other)
		other[disksKey] = c.disks
		if err := j.d.c.Call(ctx, nil, "VM.set_other_config", ref, other); err != nil {
			return err
		}
	}
	if _, err := j.run(ctx, 0.85, 0.95, "VM.provision", ref); err != nil {
		return err
	}
	return j.d.c.Call(ctx, v, "VM.get_record", ref)
}

// steps returns the steps from a fresh copy to what was requested.
func (c *cloning) steps(ctx context.Context, d *driver, v vmRec) ([]step, error) {
	var out []step
	if v.Template { // copies of templates and snapshots are templates
		out = append(out, step{method: "VM.set_is_a_template", args: []any{false}})
	}
	if c.r.Description != v.Description {
		out = append(out, step{method: "VM.set_name_description", args: []any{c.r.Description}})
	}
	if !c.host.IsNull() {
		out = append(out, step{method: "VM.set_affinity", args: []any{c.host}})
	}
	sizes, err := d.offSteps(ctx, c.on, v, hypervisor.Changes{CPUs: c.r.CPUs, MemoryBytes: c.r.MemoryBytes})
	if err != nil {
		return nil, err
	}
	out = append(out, sizes...)
	// The token comes last: from then on a repeated call finds a complete
	// machine.
	other := map[string]string{}
	for k, val := range v.Other {
		own := k == tokenKey || k == madeKey || k == pciKey || strings.HasPrefix(k, makingKey) || strings.HasPrefix(k, cloningKey)
		if !own && (c.r.Labels == nil || !strings.HasPrefix(k, labelKey)) {
			other[k] = val
		}
	}
	for k, l := range c.r.Labels {
		other[labelKey+k] = l
	}
	if c.r.Token != "" {
		other[tokenKey] = c.r.Token
	}
	return append(out, step{method: "VM.set_other_config", args: []any{other}}), nil
}
