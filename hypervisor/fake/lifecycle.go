package fake

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// limits of a machine on every host.
var limits = hypervisor.Limits{CPUs: 256, MemoryBytes: 4 * hypervisor.TiB, Disks: 64, NICs: 16, VMs: 1024}

// repeated finds the work or the machine that has a token.
func (d *Driver) repeated(token string) (hypervisor.DriverTask, bool) {
	b := d.b
	if token == "" {
		return nil, false
	}
	if t, ok := b.made[token]; ok {
		return &watch{d: d, t: t, seen: -1, lost: t.lost}, true
	}
	id, ok := b.tokens[token]
	if !ok {
		return nil, false
	}
	return hypervisor.DoneTask(hypervisor.TaskID(b.number("task")), hypervisor.TaskState{Phase: "done", Result: id.Ref()}), true
}

func (b *Backend) nameFree(name string, but *vm) error {
	if !b.cfg.UniqueNames || b.names[name] == 0 || but != nil && but.Name == name {
		return nil
	}
	return hypervisor.Errorf(hypervisor.ErrExists, hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: name}, "a machine of this name exists: choose another")
}

// choose picks the host for a machine: the requested one, or else the one
// with the most free memory that reaches the datastore and is in the pool.
func (b *Backend) choose(p hypervisor.Placement, on hypervisor.Ref) (*host, hypervisor.DatastoreID, error) {
	if p.Datastore != "" {
		if _, err := b.datastore(p.Datastore); err != nil {
			return nil, "", err
		}
	}
	if p.Pool != "" && !slices.ContainsFunc(b.st.Hosts, func(h *host) bool { return h.Pool == p.Pool }) {
		return nil, "", hypervisor.Errorf(hypervisor.ErrNotFound, hypervisor.Ref{Kind: hypervisor.ObjectPool, ID: string(p.Pool)}, "no such pool")
	}
	store := func(h *host) hypervisor.DatastoreID {
		for _, s := range b.st.Datastores {
			if reaches(s.Hosts, h.ID) && (p.Datastore == "" || p.Datastore == s.ID) {
				return s.ID
			}
		}
		return ""
	}
	if p.Host != "" {
		h, err := b.host(p.Host)
		if err == nil {
			err = h.usable()
		}
		if err == nil && store(h) == "" {
			err = hypervisor.Errorf(hypervisor.ErrIncompatible, on, "host %q doesn't reach datastore %q", h.Name, p.Datastore)
		}
		if err != nil {
			return nil, "", err
		}
		return h, store(h), nil
	}
	var best *host
	for _, h := range b.st.Hosts {
		if h.usable() == nil && store(h) != "" && (p.Pool == "" || p.Pool == h.Pool) &&
			(best == nil || h.MemoryBytes-h.Used > best.MemoryBytes-best.Used) {
			best = h
		}
	}
	if best == nil {
		return nil, "", hypervisor.Errorf(hypervisor.ErrExhausted, on, "no host is up and fits the placement %+v", p)
	}
	return best, store(best), nil
}

func (b *Backend) sizes(on hypervisor.Ref, cpus int, mem int64) error {
	switch {
	case cpus > limits.CPUs:
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "%d CPUs: at most %d are possible", cpus, limits.CPUs)
	case mem > limits.MemoryBytes:
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "%d bytes of memory: at most %d are possible", mem, limits.MemoryBytes)
	}
	return nil
}

func (b *Backend) macFree(mac string) error {
	for _, m := range b.order {
		for _, n := range m.NICs {
			if strings.EqualFold(n.MAC, mac) {
				return hypervisor.Errorf(hypervisor.ErrExists, m.ref(), "it has the MAC %s already", mac)
			}
		}
	}
	return nil
}

// newNIC makes an adapter. The backend is locked.
func (b *Backend) newNIC(m *vm, s hypervisor.NICSpec) (hypervisor.NICInfo, error) {
	var n Network
	var err error
	if s.Network == "" {
		for _, x := range b.st.Networks {
			if reaches(x.Hosts, m.Host) {
				n = x
				break
			}
		}
		if n.ID == "" {
			err = hypervisor.Errorf(hypervisor.ErrNotFound, m.ref(), "host %s has no network", m.Host)
		}
	} else if n, err = b.network(s.Network); err == nil && !reaches(n.Hosts, m.Host) {
		err = hypervisor.Errorf(hypervisor.ErrIncompatible, n.ID.Ref(), "host %s is not on network %q", m.Host, n.Name)
	}
	if err == nil && s.MAC != "" {
		err = b.macFree(s.MAC)
	}
	if err == nil && len(m.NICs) >= limits.NICs {
		err = hypervisor.Errorf(hypervisor.ErrExhausted, m.ref(), "it has %d adapters, the most", limits.NICs)
	}
	if err != nil {
		return hypervisor.NICInfo{}, err
	}
	id := b.number("nic")
	i := hypervisor.NICInfo{ID: hypervisor.NICID(id), Network: n.ID, MAC: s.MAC, Model: s.Model, Connected: true}
	def(&i.Model, "virtio")
	if i.MAC == "" {
		i.MAC = b.newMAC()
	}
	m.Guest.Addresses = append(m.Guest.Addresses, netip.AddrFrom4([4]byte{10, byte(b.st.Serial >> 16), byte(b.st.Serial >> 8), byte(b.st.Serial)}))
	return i, nil
}

// newMAC makes a locally administered address.
func (b *Backend) newMAC() string {
	x := b.rnd.Uint64()
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", x&0xff, x>>8&0xff, x>>16&0xff)
}

// CreateVM makes a machine. Its images exist from the start of the task, the
// machine itself from the end.
func (d *Driver) CreateVM(ctx context.Context, s hypervisor.VMSpec) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: s.Name}
	f, err := d.enter(ctx, op.VMCreate, on, s)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if t, ok := d.repeated(s.Token); ok {
		return t, nil
	}
	needs := []capability.Name{capability.VMCreate}
	if s.Boot != nil {
		needs = append(needs, capability.BootDirect)
	}
	if s.DynamicMemory != nil {
		needs = append(needs, capability.MemoryDynamic)
	}
	if s.MaxCPUs > s.CPUs {
		needs = append(needs, capability.CPUHotAdd)
	}
	if s.MaxMemoryBytes > s.MemoryBytes {
		needs = append(needs, capability.MemoryHotAdd)
	}
	if len(s.Labels) > 0 {
		needs = append(needs, capability.Labels)
	}
	for _, k := range needs {
		if err := b.require(k, hypervisor.Ref{}, on); err != nil {
			return nil, err
		}
	}
	if err := b.nameFree(s.Name, nil); err != nil {
		return nil, err
	}
	if err := b.sizes(on, max(s.CPUs, s.MaxCPUs), max(s.MemoryBytes, s.MaxMemoryBytes)); err != nil {
		return nil, err
	}
	h, ds, err := b.choose(s.Placement, on)
	if err != nil {
		return nil, err
	}
	m := &vm{ID: hypervisor.VMID(b.uuid()), Name: s.Name, Desc: s.Description, State: hypervisor.StateOff, Host: h.ID, Datastore: ds, Folder: s.Placement.Folder,
		CPUs: max(s.CPUs, 1), MaxCPU: max(s.MaxCPUs, s.CPUs, 1), Mem: s.MemoryBytes, MaxMem: max(s.MaxMemoryBytes, s.MemoryBytes), Dynamic: cloneRange(s.DynamicMemory),
		Firmware: s.Firmware, SecureBoot: s.SecureBoot, GuestOS: s.GuestOS, Machine: s.Machine, Boot: s.Boot, Labels: cloneLabels(s.Labels), Token: s.Token,
		Guest: guest{Tools: !b.cfg.NoTools, HostName: hostName(s.Name)}}
	def(&m.Firmware, hypervisor.FirmwareBIOS)
	if s.SecureBoot {
		m.Firmware = hypervisor.FirmwareUEFI
	}
	def(&m.Machine, "fake-1")
	for _, n := range s.NICs {
		i, err := b.newNIC(m, n)
		if err != nil {
			return nil, err
		}
		m.NICs = append(m.NICs, i)
	}
	w := work{op: op.VMCreate, on: m.ref(), result: hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: string(m.ID), Name: m.Name}, token: s.Token, phases: []string{"allocating disks", "registering"}}
	var adds []*newDisk
	undo := func() {
		for _, a := range adds {
			a.undo()
		}
	}
	for _, ds := range s.Disks {
		a, err := b.newDisk(m, ds)
		if err == nil && slices.ContainsFunc(adds, func(o *newDisk) bool { return o.v == a.v && !(ds.ReadOnly || ds.CDROM) }) {
			err = hypervisor.Errorf(hypervisor.ErrInvalidArgument, a.v.ref(), "the image is named twice")
		}
		if err != nil {
			undo()
			return nil, err
		}
		adds = append(adds, a)
		w.shared, w.excl, w.bytes = append(w.shared, a.shared...), append(w.excl, a.excl...), w.bytes+a.bytes
		m.Disks = append(m.Disks, a.disk)
	}
	w.undo = undo
	w.made = func() (out []hypervisor.Ref) {
		for _, a := range adds {
			if a.made {
				out = append(out, a.v.ref())
			}
		}
		return out
	}
	w.finish = func(st *hypervisor.TaskState) error {
		for _, a := range adds {
			a.done(m)
		}
		m.Created = b.now()
		b.register(m)
		if !s.Start {
			return nil
		}
		if err := b.start(m); err != nil {
			st.Leftover = []hypervisor.Ref{m.ref()}
			return fmt.Errorf("the machine was made and can't be started: %w", err)
		}
		return nil
	}
	return d.run(f, w)
}

// hostName makes a guest's host name from a machine's name.
func hostName(name string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name), "-")
}

// DeleteVM removes a machine or template.
func (d *Driver) DeleteVM(ctx context.Context, id hypervisor.VMID, r hypervisor.DeleteRequest) (hypervisor.DriverTask, error) {
	name := called(ctx, op.VMDelete, op.TemplateDelete)
	f, err := d.enter(ctx, name, id.Ref(), r)
	if err != nil {
		return nil, err
	}
	b := d.b
	b.mu.Lock()
	defer b.mu.Unlock()
	m, err := b.vm(id)
	if err != nil {
		return nil, err
	}
	if err := b.require(capability.VMDelete, m.ref(), m.ref()); err != nil {
		return nil, err
	}
	if err := b.free(vmKey(id), false); err != nil {
		return nil, err
	}
	if m.State != hypervisor.StateOff && !r.Force {
		return nil, hypervisor.Errorf(hypervisor.ErrInvalidState, m.ref(), "the machine is %s: power it off first, or set Force", m.State)
	}
	stands := func() error {
		if r.Disks != hypervisor.DeleteDisks {
			return nil
		}
		var deps []hypervisor.Ref
		for _, v := range b.owned(m) {
			deps = append(deps, b.dependants(v.ID, m.ID)...)
		}
		return stoodOn(m.ref(), slices.CompactFunc(deps, func(x, y hypervisor.Ref) bool { return x == y }))
	}
	if err := stands(); err != nil {
		return nil, err
	}
	var notes []string
	if r.Disks == hypervisor.DeleteDisks {
		notes = m.apart("is kept")
		for _, k := range m.Disks {
			notes = append(notes, k.kept()...)
		}
	}
	return d.run(f, work{op: name, on: m.ref(), notes: notes, excl: []hypervisor.Ref{vmKey(id)}, phases: []string{"deleting"}, finish: func(*hypervisor.TaskState) error {
		if err := stands(); err != nil {
			return err
		}
		b.halt(m)
		b.remove(m, r.Disks)
		return nil
	}})
}

// remove removes a machine that is off, with or without its images.
func (b *Backend) remove(m *vm, p hypervisor.DiskPolicy) {
	for _, a := range m.Devices {
		b.freeDevice(a)
	}
	owned := b.owned(m)
	if p == hypervisor.DeleteDisks {
		for _, v := range owned {
			up := v.Parent
			b.removeVolume(v)
			b.pruneBase(up)
		}
	} else {
		b.flatten(m, owned)
	}
	b.drop(m)
}

// flatten leaves only a machine's present images, each independent unless
// other images also depend on a base, and releases them.
func (b *Backend) flatten(m *vm, owned []*volume) {
	keep := map[hypervisor.VolumeID]bool{}
	for _, d := range m.Disks {
		keep[d.Volume] = true
	}
	for _, v := range owned {
		switch others := b.dependants(v.ID, m.ID); {
		case keep[v.ID] || len(others) > 0:
			v.Owner = ""
		case len(b.kids[v.ID]) > 0:
			b.merge(v)
		default:
			b.removeVolume(v) // only a snapshot had it
		}
	}
}

// pruneBase tidies up a base that only a clone, now gone, had kept. If its
// owner no longer uses the base, it is removed. If only the owner's own
// overlay depends on it, the two are merged.
func (b *Backend) pruneBase(id hypervisor.VolumeID) {
	v := b.st.Volumes[id]
	if v == nil || v.Owner == "" {
		return
	}
	o := b.vms[v.Owner]
	if o == nil || len(b.users(id)) > 0 {
		return
	}
	if len(b.kids[id]) == 0 {
		b.sweep(o, id)
		return
	}
	for k := range b.kids[id] {
		if len(b.kids[id]) == 1 && b.st.Volumes[k].Owner == o.ID {
			b.merge(v)
		}
	}
}
