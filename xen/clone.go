package xen

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// Clone is VM.copy (full) or VM.clone (linked). Both want a machine that is
// off, a template or a snapshot: a running machine is cloned through a
// snapshot that is removed afterwards. A template with disks to be made
// (other_config:disks, as the default templates have) is provisioned.
//
// What is copied carries cloningKey meanwhile, and so does the copy, until it
// is what was asked for. With a token a repeated call, from any process, finds
// the copy under way by it, waits for it and finishes it.
func (d *driver) Clone(ctx context.Context, src hypervisor.VMID, r hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	return d.once(ctx, r.Token, func() (hypervisor.DriverTask, error) {
		vm, v, err := d.vm(ctx, src)
		if err != nil {
			return nil, err
		}
		on := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: v.Name}
		f, err := d.lookFor(ctx, r.Token)
		if err != nil || f.whole != nil {
			return f.done(), err
		}
		if err := d.planClone(ctx, on, r); err != nil {
			return nil, err
		}
		c := &cloning{r: r, vm: vm, source: vm, on: on, running: state(v.PowerState) != hypervisor.Off, other: v.Other}
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
		k := hypervisor.CloneFull
		if r.Mode == hypervisor.Linked {
			k = hypervisor.CloneLinked
		}
		return d.compose(ctx, "clone", on, k, r.Token, c.run)
	})
}

// planClone refuses what can't be done.
func (d *driver) planClone(ctx context.Context, on hypervisor.Ref, r hypervisor.CloneRequest) error {
	switch {
	case r.Mode == hypervisor.Instant:
		return hypervisor.Unsupported(on, hypervisor.CloneInstant, hypervisor.ReasonPlatform, instantDetail)
	case r.Customize != nil:
		return hypervisor.Unsupported(on, hypervisor.CloneCustomize, hypervisor.ReasonPlatform, customizeDetail)
	case r.Placement.Pool != "" || r.Placement.Folder != "":
		return hypervisor.Errorf(hypervisor.KindUnsupported, on, "a XAPI pool has neither resource pools nor folders: leave Placement.Pool and Placement.Folder out")
	case r.Mode == hypervisor.Linked && r.Placement.Datastore != "":
		return hypervisor.Errorf(hypervisor.KindInvalidArgument, on, "a linked clone stays on its source's datastore: leave Placement.Datastore out, or ask for a full clone")
	}
	return d.sizes(ctx, on, int64(r.CPUs), r.MemoryBytes)
}

// cloning is one clone under way.
type cloning struct {
	r        hypervisor.CloneRequest
	vm       xapi.Ref // the machine or template asked for
	source   xapi.Ref // it, or one of its snapshots
	on       hypervisor.Ref
	other    map[string]string // the source's other_config
	running  bool
	host, sr xapi.Ref
	key      string     // cloningKey and the token
	temp     []xapi.Ref // snapshots to remove
}

func (c *cloning) run(ctx context.Context, j *job) (hypervisor.Ref, error) {
	mark := c.r.Token
	if mark == "" {
		mark = string(j.task)
	}
	c.key = cloningKey + mark
	// A copy that somebody will ask for again by its token outlives this
	// process; another would have nobody to finish it.
	j.keep, j.bound = c.r.Token != "", c.r.Token == ""
	ref, err := c.copied(ctx, j)
	if err != nil && j.keep && j.closed(ctx) {
		return hypervisor.Ref{}, err
	}
	made := hypervisor.Ref{Kind: hypervisor.KindOfVM, Name: c.r.Name}
	if err == nil {
		j.keep, j.bound = false, true
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

// copied finds the copy that another call with the token began, or makes one.
func (c *cloning) copied(ctx context.Context, j *job) (xapi.Ref, error) {
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
	return c.copy(ctx, j)
}

func (c *cloning) copy(ctx context.Context, j *job) (xapi.Ref, error) {
	source := c.source
	if c.running {
		args := []any{c.source, tempName(c.r.Name)}
		if j.d.api >= 2021 {
			args = append(args, []xapi.Ref{})
		}
		known := slices.Clone(c.temp)
		snap, err := j.runTo(ctx, 0, 0.2, goal{vm: c.vm, there: func(ctx context.Context) (xapi.Ref, bool, error) {
			_, err := c.find(ctx, j.d)
			for _, s := range c.temp {
				if !slices.Contains(known, s) {
					return s, true, err
				}
			}
			return "", false, err
		}}, "VM.snapshot", args...)
		if err != nil {
			return "", err
		}
		if !slices.Contains(c.temp, snap) {
			c.temp = append(c.temp, snap)
		}
		source = snap
	}
	method, args := "VM.copy", []any{source, c.r.Name, c.sr}
	if c.r.Mode == hypervisor.Linked {
		method, args = "VM.clone", args[:2]
	}
	return j.runTo(ctx, 0.2, 0.85, goal{vm: source, there: func(ctx context.Context) (xapi.Ref, bool, error) {
		ref, err := c.find(ctx, j.d)
		return ref, ref != "", err
	}}, method, args...)
}

// adopt waits for what an earlier call with the token set going, and returns
// the copy, if there is one.
func (c *cloning) adopt(ctx context.Context, j *job) (xapi.Ref, error) {
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
			r, err := j.wait(ctx, 0.2, 0.85, method, ref)
			switch {
			case ctx.Err() != nil:
				return "", err
			case err == nil && method != "VM.snapshot":
				made = r
			}
		}
		// The caller before may have gone before it could mark the task.
		unmarked := func(t xapi.Task) bool { _, ok := t.Other[tokenKey]; return !ok }
		if err := j.d.settle(ctx, c.source, method, unmarked); err != nil {
			return "", err
		}
	}
	ref, err := c.find(ctx, j.d)
	if made != "" && err == nil { // the task knows better
		ref = made
	}
	return ref, err
}

// find looks for the copy that carries the key, and for snapshots made on the
// way to it. Copies of the source that others make meanwhile carry the key
// too, so the name must be right.
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

// clearUp takes the mark off the source and removes the snapshots.
func (c *cloning) clearUp(ctx context.Context, j *job) {
	ctx, stop := late(ctx)
	defer stop()
	if err := j.d.c.Call(ctx, nil, "VM.remove_from_other_config", c.source, c.key); err != nil && kindOf(err) != hypervisor.KindNotFound {
		j.notes = append(j.notes, "the mark "+c.key+" could not be taken off the source: "+err.Error())
	}
	for _, s := range c.temp {
		if err := j.d.destroyWithDisks(ctx, s); err != nil {
			j.notes = append(j.notes, "the snapshot "+tempName(c.r.Name)+" of the source could not be removed: "+err.Error())
		}
	}
}

// finished makes the copy what was asked for. Each step may have been done
// already; the last one makes it a machine of its own.
func (c *cloning) finished(ctx context.Context, j *job, ref xapi.Ref) (string, error) {
	after, stop := late(ctx)
	defer stop()
	var v vmRec
	if err := j.d.c.Call(after, &v, "VM.get_record", ref); err != nil {
		return "", err
	}
	made := hypervisor.Ref{Kind: hypervisor.KindOfVM, ID: v.UUID, Name: c.r.Name}
	j.mustUndo(made, func(ctx context.Context) error { return j.d.destroyWithDisks(ctx, ref) })
	if err := c.provision(ctx, j, ref, &v); err != nil {
		return v.UUID, err
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

// provision makes the disks that a template wants (VM.provision).
func (c *cloning) provision(ctx context.Context, j *job, ref xapi.Ref, v *vmRec) error {
	wish, ok := v.Other[disksKey]
	if !ok || !v.Template || v.IsSnapshot || c.source != c.vm {
		return nil
	}
	if !c.sr.IsNull() {
		placed, err := placeDisks(wish, string(c.r.Placement.Datastore))
		if err != nil {
			return hypervisor.Errorf(hypervisor.KindUnsupported, c.on, "the template's list of disks: %w", err)
		}
		other := maps.Clone(v.Other)
		other[disksKey] = placed
		if err := j.d.c.Call(ctx, nil, "VM.set_other_config", ref, other); err != nil {
			return err
		}
	}
	if _, err := j.run(ctx, 0.85, 0.95, "VM.provision", ref); err != nil {
		return err
	}
	return j.d.c.Call(ctx, v, "VM.get_record", ref)
}

// steps leads from a fresh copy to what was asked for.
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
	// The token last: from then on a repeated call finds a whole machine.
	other := map[string]string{}
	for k, val := range v.Other {
		own := k == tokenKey || k == madeKey || strings.HasPrefix(k, makingKey) || strings.HasPrefix(k, cloningKey)
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
