package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// scene holds everything that did not exist before a trial began.
type scene struct {
	machines map[hypervisor.VMID]hypervisor.VMInfo // templates too
	images   []string
	lines    []string // all of it, without what differs from run to run
}

func (s scene) shape() string {
	return fmt.Sprintf("%s\nimages: %d", strings.Join(s.lines, "\n"), len(s.images))
}

// frozen reports whether the scene is as before, except for images that
// machines now have above a frozen base.
func (s scene) frozen(before scene) bool {
	const above = " above another"
	now, was := strings.Join(s.lines, "\n"), strings.Join(before.lines, "\n")
	return strings.ReplaceAll(now, above, "") == strings.ReplaceAll(was, above, "") &&
		len(s.images)-len(before.images) <= strings.Count(now, above)-strings.Count(was, above)
}

// loose returns the images that did not exist before and that no machine
// reports as its own.
func (s scene) loose(before scene) []string {
	used := map[string]bool{}
	for _, m := range s.machines {
		for _, d := range m.Disks {
			used[string(d.Volume)], used[string(d.Parent)] = true, true
		}
	}
	return slices.DeleteFunc(slices.Clone(s.images), func(i string) bool { return used[i] || slices.Contains(before.images, i) })
}

// base is what existed before a trial began.
type base struct {
	machines map[hypervisor.VMID]bool
	images   []string
	hidden   int
}

// everyVM lists the machines, and the templates if they matter.
func (e *env) everyVM(templates bool) (out []hypervisor.VMID) {
	e.Helper()
	for v, err := range e.calm().VMs(e.ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}) {
		e.ok(err, "VMs")
		out = append(out, v.ID)
	}
	if !templates || !e.has(capability.Templates) {
		return out
	}
	for t, err := range e.calm().Templates(e.ctx) {
		e.ok(err, "Templates")
		out = append(out, hypervisor.VMID(t.ID))
	}
	return out
}

func (e *env) base() base {
	e.Helper()
	all := e.everyVM(true)
	b := base{map[hypervisor.VMID]bool{}, e.listImages(), e.hidden(len(all))}
	for _, id := range all {
		b.machines[id] = true
	}
	return b
}

// hidden returns how many machines the platform has beside those that are
// listed.
func (e *env) hidden(listed int) int {
	e.Helper()
	if e.Break.Machines == nil {
		return 0
	}
	n, err := e.Break.Machines(e.ctx)
	e.ok(err, "Break.Machines")
	return n - listed
}

// scene reads everything that is not in the base.
func (k *breaking) scene(s *stage, templates bool) scene {
	s.Helper()
	out := scene{machines: map[hypervisor.VMID]hypervisor.VMInfo{}, images: s.added(k.base.images)}
	all := s.everyVM(templates)
	for _, id := range all {
		if k.base.machines[id] {
			continue
		}
		v, err := s.calm().VM(id).Info(s.ctx)
		s.ok(err, "Info(%s)", id)
		out.machines[id], s.known[id] = v, true
		out.lines = append(out.lines, s.line(v, k.placed))
	}
	slices.Sort(out.lines)
	if n := s.hidden(len(all)) - k.base.hidden; n > 0 && (templates || k.templates()) {
		out.lines = append(out.lines, fmt.Sprintf("%d machines that are hidden", n))
	}
	if k.extra != nil {
		out.lines = append(out.lines, k.extra(s))
	}
	return out
}

// line describes a machine or template.
func (s *stage) line(i hypervisor.VMInfo, placed bool) string {
	s.Helper()
	var b strings.Builder
	kind := "machine"
	if i.Template {
		kind = "template"
	}
	fmt.Fprintf(&b, "%s %q %s, %d CPUs, %d MiB, %q, labels %v, token %q", kind, i.Name, i.State, i.CPUs, i.MemoryBytes>>20, i.Description, i.Labels, i.Token)
	if s.State != nil {
		if st, err := s.State(s.ctx, i.ID); err != nil || st != i.State {
			fmt.Fprintf(&b, " (the platform's own tool says %s, %v)", st, err)
		}
	}
	if placed {
		fmt.Fprintf(&b, ", on %s", i.Host)
	}
	for _, d := range i.Disks {
		fmt.Fprintf(&b, ", disk of %d MiB", d.SizeBytes>>20)
		if d.Parent != "" {
			b.WriteString(" above another") // see frozen
		}
		if placed {
			fmt.Fprintf(&b, " in %s", d.Datastore)
		}
	}
	for _, n := range i.NICs {
		fmt.Fprintf(&b, ", adapter on %q", n.Network)
	}
	for _, d := range i.Devices {
		fmt.Fprintf(&b, ", device %s%s:%s", d.Profile, d.Vendor, d.Product)
	}
	for _, p := range s.snapshotsOf(i) {
		fmt.Fprintf(&b, ", snapshot %q of depth %d, memory %t, current %t", p.Name, p.Depth, p.Memory, p.Current)
	}
	if i.State == hypervisor.StateOff && s.ReadDisk != nil && len(i.Disks) > 0 {
		content, err := s.ReadDisk(s.ctx, i.ID)
		fmt.Fprintf(&b, ", holds %q %v", content, err)
	}
	return strings.ReplaceAll(b.String(), s.name, "it")
}

func (s *stage) snapshotsOf(i hypervisor.VMInfo) []hypervisor.SnapshotInfo {
	s.Helper()
	if i.Snapshots == 0 {
		return nil
	}
	all, err := s.calm().VM(i.ID).Snapshots(s.ctx)
	s.ok(err, "Snapshots(%s)", i.ID)
	if len(all) != i.Snapshots {
		s.Errorf("Info counts %d snapshots, Snapshots lists %d", i.Snapshots, len(all))
	}
	return all
}

// clear removes everything that is not in the base: the objects in the scenes
// or, after a failure, whatever exists.
func (s *stage) clear(b base, failed bool) error {
	ctx := context.WithoutCancel(s.ctx)
	var errs []error
	for _, f := range slices.Backward(s.undo) {
		errs = append(errs, f())
	}
	s.undo = nil
	if failed {
		for _, id := range s.everyVM(true) {
			s.known[id] = true
		}
	}
	var last []error
	for range 3 { // clones before their bases, whatever the order
		last = nil
		for id := range s.known {
			if b.machines[id] {
				continue
			}
			err := done(ctx, s.calm().VM(id).Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}))
			if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
				last = append(last, err)
				continue
			}
			delete(s.known, id)
		}
		if len(last) == 0 {
			break
		}
	}
	errs = append(errs, last...)
	return errors.Join(append(errs, s.clearVolumes(b))...)
}

// clearVolumes removes the images that are left once the machines are gone.
// Those that back others come last.
func (s *stage) clearVolumes(b base) error {
	ctx := context.WithoutCancel(s.ctx)
	for {
		left := s.added(b.images)
		if len(left) == 0 {
			return nil
		}
		var errs []error
		for ds, err := range s.calm().Datastores(ctx) {
			if err != nil {
				return err
			}
			all, err := hypervisor.Collect(s.calm().Volumes(ctx, ds.ID))
			if errors.Is(err, hypervisor.ErrUnsupported) {
				continue // of this datastore
			}
			errs = append(errs, err)
			for _, v := range all {
				if slices.Contains(left, string(v.ID)) {
					errs = append(errs, done(ctx, s.calm().DeleteVolume(ctx, v.ID)))
				}
			}
		}
		if len(s.added(b.images)) == len(left) {
			return errors.Join(append(errs, fmt.Errorf("images are left: %v", left))...)
		}
	}
}
