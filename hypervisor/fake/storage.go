package fake

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// addVolume makes an image and takes up its space.
func (b *Backend) addVolume(v *volume) *volume {
	if v.ID == "" {
		v.ID = hypervisor.VolumeID(b.number("vol"))
	}
	def(&v.Prov, hypervisor.ProvisioningThin)
	b.st.Volumes[v.ID] = v
	b.link(v)
	b.charge(v)
	return v
}

func (b *Backend) link(v *volume) {
	if v.Parent == "" {
		return
	}
	if b.kids[v.Parent] == nil {
		b.kids[v.Parent] = map[hypervisor.VolumeID]struct{}{}
	}
	b.kids[v.Parent][v.ID] = struct{}{}
}

func (b *Backend) unlink(v *volume) {
	if k := b.kids[v.Parent]; k != nil {
		if delete(k, v.ID); len(k) == 0 {
			delete(b.kids, v.Parent)
		}
	}
}

// charge updates the space that an image takes up.
func (b *Backend) charge(v *volume) {
	var n int64
	switch {
	case v.Prov == hypervisor.ProvisioningThick && v.Parent == "":
		n = v.Size
	case v.Data != nil:
		n = min((int64(len(*v.Data))/hypervisor.MiB+1)*hypervisor.MiB, v.Size)
	}
	if d, err := b.datastore(v.Datastore); err == nil {
		d.Used += n - v.Used
	}
	v.Used = n
}

func (b *Backend) removeVolume(v *volume) {
	v.Data, v.Prov, v.Size = nil, hypervisor.ProvisioningThin, 0
	b.charge(v)
	b.unlink(v)
	delete(b.st.Volumes, v.ID)
}

// content returns the content of an image, read through its parents.
func (b *Backend) content(id hypervisor.VolumeID) string {
	for v := b.st.Volumes[id]; v != nil; v = b.st.Volumes[v.Parent] {
		if v.Data != nil {
			return *v.Data
		}
	}
	return ""
}

// fits checks the space in a datastore that a host (empty: any) reaches.
func (b *Backend) fits(id hypervisor.DatastoreID, h hypervisor.HostID, size int64, prov hypervisor.Provisioning) error {
	s, err := b.datastore(id)
	switch {
	case err != nil:
		return err
	case h != "" && !reaches(s.Hosts, h):
		return hypervisor.Errorf(hypervisor.ErrIncompatible, id.Ref(), "host %s doesn't reach datastore %q", h, s.Name)
	case prov == hypervisor.ProvisioningThick && s.Used+size > s.CapacityBytes || size > s.CapacityBytes:
		return hypervisor.Errorf(hypervisor.ErrExhausted, id.Ref(), "datastore %q has %d MiB free, %d MiB are needed", s.Name, (s.CapacityBytes-s.Used)/hypervisor.MiB, size/hypervisor.MiB)
	}
	return nil
}

// dependants returns the machines that depend on an image, except one.
func (b *Backend) dependants(id hypervisor.VolumeID, but hypervisor.VMID) []hypervisor.Ref {
	var out []hypervisor.Ref
	var walk func(hypervisor.VolumeID)
	walk = func(id hypervisor.VolumeID) {
		for k := range b.kids[id] {
			v := b.st.Volumes[k]
			r := v.ref()
			if m := b.vms[v.Owner]; m != nil {
				r = m.ref()
			}
			if (v.Owner == "" || v.Owner != but) && !slices.Contains(out, r) {
				out = append(out, r)
			}
			walk(k)
		}
	}
	walk(id)
	slices.SortFunc(out, func(x, y hypervisor.Ref) int { return cmp.Compare(x.ID, y.ID) })
	return out
}

// stoodOn makes the error for images that others depend on.
func stoodOn(on hypervisor.Ref, deps []hypervisor.Ref) error {
	if len(deps) == 0 {
		return nil
	}
	return hypervisor.Errorf(hypervisor.ErrBusy, on, "linked clones depend on it: %v; delete or detach those first", deps)
}

// owned returns the images that belong to a machine.
func (b *Backend) owned(m *vm) []*volume {
	seen := map[hypervisor.VolumeID]bool{}
	var out []*volume
	add := func(id hypervisor.VolumeID) {
		for v := b.st.Volumes[id]; v != nil && !seen[v.ID]; v = b.st.Volumes[v.Parent] {
			seen[v.ID] = true
			if v.Owner == m.ID {
				out = append(out, v)
			}
		}
	}
	for _, d := range m.Disks {
		add(d.Volume)
	}
	for _, s := range m.Snaps {
		for _, d := range s.Disks {
			add(d.Volume)
		}
	}
	return out
}

// sweep removes images of a machine that nothing needs any more, from the
// candidates up their backing chains. Images kept by a disk, a snapshot or
// another image stay.
func (b *Backend) sweep(m *vm, candidates ...hypervisor.VolumeID) {
	used := map[hypervisor.VolumeID]bool{}
	for _, d := range m.Disks {
		used[d.Volume] = true
	}
	for _, s := range m.Snaps {
		for _, d := range s.Disks {
			used[d.Volume] = true
		}
	}
	for _, id := range candidates {
		for v := b.st.Volumes[id]; v != nil && v.Owner == m.ID && !used[v.ID] && len(b.kids[v.ID]) == 0; {
			up := b.st.Volumes[v.Parent]
			b.removeVolume(v)
			v = up
		}
	}
}

// overlay freezes an image and returns a new one on top.
func (b *Backend) overlay(base *volume, owner hypervisor.VMID, name string, ds hypervisor.DatastoreID) *volume {
	return b.addVolume(&volume{Name: name, Datastore: ds, Size: base.Size, Parent: base.ID, Owner: owner})
}

// merge removes an image from its backing chain: the images above it get its
// content.
func (b *Backend) merge(v *volume) {
	for k := range b.kids[v.ID] {
		c := b.st.Volumes[k]
		if c.Data == nil {
			c.Data = v.Data
		}
		c.Parent = v.Parent
		if v.Parent == "" {
			c.Prov = v.Prov
		}
		b.link(c)
		b.charge(c)
	}
	delete(b.kids, v.ID)
	b.removeVolume(v)
}

// Datastores lists all datastores.
func (d *Driver) Datastores(ctx context.Context) ([]hypervisor.DatastoreInfo, error) {
	if err := d.read(ctx, op.DatastoreList, hypervisor.Ref{}); err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.require(capability.DatastoreList, hypervisor.Ref{}, hypervisor.Ref{}); err != nil {
		return nil, err
	}
	var out []hypervisor.DatastoreInfo
	for _, s := range b.st.Datastores {
		i := hypervisor.DatastoreInfo{ID: s.ID, Name: s.Name, Type: s.Type, CapacityBytes: s.CapacityBytes, FreeBytes: max(s.CapacityBytes-s.Used, 0)}
		for _, h := range b.st.Hosts {
			if reaches(s.Hosts, h.ID) {
				i.Hosts = append(i.Hosts, h.ID)
				i.Accessible = i.Accessible || h.State != hypervisor.HostDown
			}
		}
		i.Shared = len(i.Hosts) > 1
		out = append(out, i)
	}
	return out, nil
}

// Networks lists all networks.
func (d *Driver) Networks(ctx context.Context) ([]hypervisor.NetworkInfo, error) {
	if err := d.read(ctx, op.NetworkList, hypervisor.Ref{}); err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.require(capability.NetworkList, hypervisor.Ref{}, hypervisor.Ref{}); err != nil {
		return nil, err
	}
	var out []hypervisor.NetworkInfo
	for _, n := range b.st.Networks {
		i := hypervisor.NetworkInfo{ID: n.ID, Name: n.Name, Type: "bridge", VLAN: n.VLAN, SRIOV: hypervisor.FactAbsent}
		for _, h := range b.st.Hosts {
			if reaches(n.Hosts, h.ID) {
				i.Hosts = append(i.Hosts, h.ID)
			}
		}
		out = append(out, i)
	}
	return out, nil
}

// Volumes lists the images of a datastore, or of all for the empty ID.
func (d *Driver) Volumes(ctx context.Context, ds hypervisor.DatastoreID) ([]hypervisor.VolumeInfo, error) {
	if err := d.read(ctx, op.VolumeList, ds.Ref()); err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.require(capability.VolumeManage, hypervisor.Ref{}, ds.Ref()); err != nil {
		return nil, err
	}
	if ds != "" {
		if _, err := b.datastore(ds); err != nil {
			return nil, err
		}
	}
	var out []hypervisor.VolumeInfo
	for _, v := range b.st.Volumes {
		if ds == "" || v.Datastore == ds {
			out = append(out, hypervisor.VolumeInfo{ID: v.ID, Name: v.Name, Datastore: v.Datastore, SizeBytes: v.Size, UsedBytes: v.Used, Provisioning: v.Prov, Format: "fake", Parent: v.Parent})
		}
	}
	slices.SortFunc(out, func(x, y hypervisor.VolumeInfo) int {
		return cmp.Or(cmp.Compare(len(x.ID), len(y.ID)), cmp.Compare(x.ID, y.ID))
	})
	return out, nil
}

// CreateVolume makes an image, blank or a copy.
func (d *Driver) CreateVolume(ctx context.Context, s hypervisor.VolumeSpec) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.ObjectVolume, Name: s.Name}
	f, err := d.enter(ctx, op.VolumeCreate, on, s)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.require(capability.VolumeManage, hypervisor.Ref{}, on); err != nil {
		return nil, err
	}
	for _, v := range b.st.Volumes {
		if v.Name == s.Name && v.Datastore == s.Datastore {
			return nil, hypervisor.Errorf(hypervisor.ErrExists, v.ref(), "the datastore has an image of this name")
		}
	}
	v := &volume{Name: s.Name, Datastore: s.Datastore, Size: s.SizeBytes, Prov: s.Provisioning, Partial: true}
	w := work{op: op.VolumeCreate, on: on, phases: []string{"allocating"}}
	if s.From != "" {
		from, err := b.volume(s.From)
		if err != nil {
			return nil, err
		}
		if v.Size == 0 {
			v.Size = from.Size
		}
		if v.Size < from.Size {
			return nil, hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "SizeBytes %d is below the source's %d", v.Size, from.Size)
		}
		data := b.content(from.ID)
		v.Data = &data
		w.shared, w.phases, w.bytes = []hypervisor.Ref{s.From.Ref()}, []string{"copying"}, from.Size
	}
	if err := b.fits(s.Datastore, "", v.Size, s.Provisioning); err != nil {
		return nil, err
	}
	b.addVolume(v)
	w.result = v.ref()
	w.made = func() []hypervisor.Ref { return []hypervisor.Ref{v.ref()} }
	w.undo = func() { b.removeVolume(v) }
	w.finish = func(*hypervisor.TaskState) error { v.Partial = false; return nil }
	return d.run(f, w)
}

// DeleteVolume removes an image that nobody uses.
func (d *Driver) DeleteVolume(ctx context.Context, id hypervisor.VolumeID) (hypervisor.DriverTask, error) {
	f, err := d.enter(ctx, op.VolumeDelete, id.Ref(), nil)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	v, err := b.volume(id)
	if err != nil {
		return nil, err
	}
	if err := b.require(capability.VolumeManage, hypervisor.Ref{}, v.ref()); err != nil {
		return nil, err
	}
	idle := func() error {
		if deps := b.dependants(id, ""); len(deps) > 0 {
			return stoodOn(v.ref(), deps)
		}
		if u := b.users(id); len(u) > 0 {
			return hypervisor.Errorf(hypervisor.ErrBusy, v.ref(), "it is a disk of %v: detach it first", u)
		}
		return nil
	}
	if err := idle(); err != nil {
		return nil, err
	}
	return d.run(f, work{op: op.VolumeDelete, on: v.ref(), excl: []hypervisor.Ref{id.Ref()}, finish: func(*hypervisor.TaskState) error {
		if err := idle(); err != nil {
			return err
		}
		b.removeVolume(v)
		return nil
	}})
}

// users returns the machines that have an image as a disk or in a snapshot.
func (b *Backend) users(id hypervisor.VolumeID) []hypervisor.Ref {
	has := func(d disk) bool { return d.Volume == id }
	uses := func(m *vm) bool {
		return slices.ContainsFunc(m.Disks, has) ||
			slices.ContainsFunc(m.Snaps, func(s *snapshot) bool { return slices.ContainsFunc(s.Disks, has) })
	}
	v := b.st.Volumes[id]
	if v.Owner != "" {
		if m := b.vms[v.Owner]; m != nil && uses(m) {
			return []hypervisor.Ref{m.ref()}
		}
	}
	var out []hypervisor.Ref
	for _, m := range b.order { // read-only images have several users and no owner
		if uses(m) {
			out = append(out, m.ref())
		}
	}
	return out
}

// Dependencies lists the backing chains of a machine's disks.
func (d *Driver) Dependencies(ctx context.Context, id hypervisor.VMID) (hypervisor.Dependencies, error) {
	var out hypervisor.Dependencies
	if err := d.read(ctx, op.VMDependencies, id.Ref()); err != nil {
		return out, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return out, err
	}
	seen := map[hypervisor.VolumeID]int{}
	add := func(dk disk, snap *snapshot) {
		for v := b.st.Volumes[dk.Volume]; v != nil; v = b.st.Volumes[v.Parent] {
			i, ok := seen[v.ID]
			if !ok {
				i = len(out.Volumes)
				seen[v.ID] = i
				depth := 0
				for p := b.st.Volumes[v.Parent]; p != nil; p = b.st.Volumes[p.Parent] {
					depth++
				}
				out.Volumes = append(out.Volumes, hypervisor.VolumeDependency{Volume: v.ID, Disk: dk.ID, Parent: v.Parent, Depth: depth,
					SizeBytes: v.Used, Dependants: b.dependants(v.ID, m.ID)})
			}
			if snap != nil {
				out.Volumes[i].Dependants = append(out.Volumes[i].Dependants, hypervisor.Ref{Kind: hypervisor.ObjectSnapshot, ID: string(snap.ID), Name: snap.Name})
			}
		}
	}
	for _, dk := range m.Disks {
		add(dk, nil)
	}
	for _, s := range m.Snaps {
		for _, dk := range s.Disks {
			add(dk, s)
		}
	}
	return out, nil
}

// diskName returns the name for the image of a machine's disk.
func diskName(m *vm, id hypervisor.DiskID) string { return fmt.Sprintf("%s-%s", m.Name, id) }
