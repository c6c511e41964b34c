package xen

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapi"
)

// VDI.destroy only wakes the storage manager's garbage collector (cleanup.py
// of xapi-project/sm). The collector starts some minutes later, and merges
// each hidden image that has only one child: into the child if that is hidden
// too, and otherwise the child takes its place. XAPI has no task for it, so
// the images themselves are watched.

// mergeLimit is the time that a task waits while nothing is merged.
var mergeLimit = 30 * time.Minute

// baseRec holds the facts that decide whether an image will be merged.
type baseRec struct {
	UUID    string            `json:"uuid"`
	Managed bool              `json:"managed"`
	SM      map[string]string `json:"sm_config"`
	Other   map[string]string `json:"other_config"`
	OnBoot  string            `json:"on_boot"`
	Caching bool              `json:"allow_caching"`
}

// keepsParent reports whether a disk is never merged with its parent
// (gatherLeafCoalesceable).
func (b baseRec) keepsParent() bool {
	return b.Managed && (b.OnBoot == "reset" || b.Caching || b.Other["leaf-coalesce"] == "false")
}

// unmerged is a hidden image with at most one child.
type unmerged struct {
	base, child xapi.Ref // child may be empty
	leaf        bool     // child is a disk
}

// merging watches one datastore.
type merging struct {
	d       *driver
	sr      xapi.Ref
	watched map[string]bool // hidden images, by uuid, below those that were destroyed
	// images are the watched ones and all that depend on them.
	images map[xapi.Ref]baseRec
	listed time.Time // when all images of the pool were read
}

// merged waits until the images below the destroyed ones are merged, or adds
// a note that they aren't. The images are gone in any case, so it never
// fails, and a cancel ends only the waiting. Progress is the part from..1 of
// the whole.
func (j *poolJob) merged(ctx context.Context, gone map[xapi.Ref]vdiRec, from float64) {
	all := map[xapi.Ref]*merging{}
	for _, v := range gone {
		p := v.SM["vhd-parent"]
		if p == "" {
			continue
		}
		if all[v.SR] == nil {
			all[v.SR] = &merging{d: j.d, sr: v.SR, watched: map[string]bool{}}
		}
		all[v.SR].watched[p] = true
	}
	for _, m := range all {
		if note := m.wait(ctx, func(done float64) {
			j.Report(hypervisor.TaskState{Phase: "merging", Fraction: from + (1-from)*done})
		}); note != "" {
			j.Note(note)
		}
	}
}

// wait returns a note if not everything is merged.
func (m *merging) wait(ctx context.Context, report func(done float64)) string {
	var sr struct {
		Name  string            `json:"name_label"`
		Other map[string]string `json:"other_config"`
	}
	most, before, changed, token := 0, -1, time.Now(), ""
	for {
		left, err := m.left(ctx)
		if err == nil && len(left) == 0 {
			return ""
		}
		if err == nil && most == 0 {
			err = m.d.c.Call(ctx, &sr, "SR.get_record", m.sr)
		}
		if err == nil {
			if key := forbidden(sr.Other, left); key != "" {
				return fmt.Sprintf("datastore %q does not merge by itself (other_config:%s is false): %d hidden images stay that can be merged", sr.Name, key, len(left))
			}
			if most = max(most, len(left)); len(left) != before {
				before, changed = len(left), time.Now()
			}
			report(1 - float64(len(left))/float64(most))
			token, err = m.change(ctx, left, token, changed.Add(mergeLimit))
		}
		switch {
		case ctx.Err() != nil || err == nil && time.Since(changed) >= mergeLimit:
			return fmt.Sprintf("merging continues in the pool: datastore %q has %d hidden images left that can be merged", sr.Name, len(left))
		case err != nil:
			return fmt.Sprintf("merging continues in the pool, where it can't be watched: %v", err)
		}
	}
}

// readAgain is the time for which only the watched images and those on them
// are read. Others come to depend on a hidden image only through one of these.
const readAgain = 5 * time.Minute

// change waits for a change of the images.
func (m *merging) change(ctx context.Context, left []unmerged, token string, limit time.Time) (string, error) {
	var refs []xapi.Ref
	for _, u := range left {
		if refs = append(refs, u.base); u.child != "" {
			refs = append(refs, u.child)
		}
	}
	return m.d.changed(ctx, refs, token, limit)
}

// list reads all images of the pool and keeps those that matter.
func (m *merging) list(ctx context.Context) error {
	all := map[xapi.Ref]baseRec{}
	if err := m.d.c.Call(ctx, &all, "VDI.get_all_records"); err != nil {
		return err
	}
	byUUID, children := family(all)
	for id := range maps.Clone(m.watched) {
		for range len(all) {
			if id = all[byUUID[id]].SM["vhd-parent"]; id == "" || m.watched[id] {
				break
			}
			m.watched[id] = true
		}
	}
	m.images, m.listed = map[xapi.Ref]baseRec{}, time.Now()
	var add func(id string)
	add = func(id string) {
		ref, there := byUUID[id]
		if _, had := m.images[ref]; had || !there {
			return
		}
		m.images[ref] = all[ref]
		for _, c := range children[id] {
			add(all[c].UUID)
		}
	}
	for id := range m.watched {
		add(id)
	}
	return nil
}

// read reads the images that matter again. A new snapshot or clone puts a
// hidden image between two of them.
func (m *merging) read(ctx context.Context) (err error) {
	m.images, err = records[baseRec](ctx, m.d, "VDI", slices.Collect(maps.Keys(m.images)))
	seen := map[string]bool{}
	for again := true; again && err == nil; {
		again = false
		byUUID, _ := family(m.images)
		for _, b := range m.images {
			p := b.SM["vhd-parent"]
			if _, known := byUUID[p]; known || p == "" || seen[p] {
				continue
			}
			seen[p] = true
			var rec baseRec
			ref, err := m.d.byUUID(ctx, "VDI", p)
			if err == nil {
				err = m.d.c.Call(ctx, &rec, "VDI.get_record", ref)
			}
			if kindOf(err) == hypervisor.ErrNotFound { // merged meanwhile
				continue
			}
			if err != nil {
				return err
			}
			m.images[ref], again = rec, true
			break // the map has changed
		}
	}
	return err
}

// family finds images by their uuids, and the images that depend on them.
func family(images map[xapi.Ref]baseRec) (byUUID map[string]xapi.Ref, children map[string][]xapi.Ref) {
	byUUID, children = map[string]xapi.Ref{}, map[string][]xapi.Ref{}
	for ref, b := range images {
		byUUID[b.UUID] = ref
		if p := b.SM["vhd-parent"]; p != "" {
			children[p] = append(children[p], ref)
		}
	}
	return byUUID, children
}

// left reads which images are still to be merged. These may be the images
// below the destroyed ones, and the parents of those images too.
func (m *merging) left(ctx context.Context) ([]unmerged, error) {
	read := m.read
	if time.Since(m.listed) >= readAgain {
		read = m.list
	}
	if err := read(ctx); err != nil {
		return nil, err
	}
	byUUID, children := family(m.images)
	images := m.images
	var out []unmerged
	for id := range m.watched {
		ref, there := byUUID[id]
		kids := children[id]
		switch {
		case !there || images[ref].Managed || len(kids) > 1:
		case len(kids) == 0:
			out = append(out, unmerged{base: ref})
		case !images[kids[0]].keepsParent():
			out = append(out, unmerged{base: ref, child: kids[0], leaf: images[kids[0]].Managed})
		}
	}
	return out, nil
}

// forbidden returns the key of a datastore's other_config that prevents any
// merge of what is left, if there is one.
func forbidden(other map[string]string, left []unmerged) (key string) {
	for _, u := range left {
		switch {
		case other["gc"] == "false":
			key = "gc"
		case other["coalesce"] == "false" && u.child != "":
			key = "coalesce"
		case other["leaf-coalesce"] == "false" && u.leaf:
			key = "leaf-coalesce"
		default:
			return ""
		}
	}
	return key
}
