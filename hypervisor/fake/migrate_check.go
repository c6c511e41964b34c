package fake

import (
	"slices"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// look plans a migration. Both backends are locked.
func (b *Backend) look(m *vm, r hypervisor.MigrateRequest, o *Backend) (*move, error) {
	v := &move{to: o}
	v.live = m.active() && r.Mode != hypervisor.MigrateModeCold
	if err := v.aim(m, r); err != nil {
		return nil, err
	}
	v.demands(r)
	v.Method = "cold"
	if v.live {
		v.Method = "live, pre-copy"
		if r.PostCopy {
			v.Method = "live, post-copy"
			v.Warnings = append(v.Warnings, hypervisor.Blocker{Reason: hypervisor.ReasonConfig, Object: m.ref(),
				Detail: "the machine is lost if the connection of the hosts breaks after it was switched over"})
		}
	}
	switch {
	case r.Mode == hypervisor.MigrateModeLive && !m.active(), r.Mode == hypervisor.MigrateModeCold && m.active(), m.Template && r.Mode == hypervisor.MigrateModeLive:
		v.state = true
		v.block(hypervisor.ReasonVMState, m.ref(), "the machine is %s: live migration needs a running one, cold migration one that is off or suspended", m.State)
	}
	if err := b.free(vmKey(m.ID), false); err != nil {
		v.block(hypervisor.ReasonVMBusy, m.ref(), "%v", err)
	}
	if h, err := b.host(m.Host); err == nil && h.State == hypervisor.HostDown && m.active() {
		v.block(hypervisor.ReasonHostDown, h.ref(), "the machine's host doesn't answer")
	}
	for _, a := range m.Devices {
		if v.host != nil || v.live {
			v.block(hypervisor.ReasonVMPassthrough, a.Device.Ref(), "the machine has the host device %s: detach it", a.Device)
		}
	}
	if v.host != nil {
		b.lookHost(v, m)
	}
	b.lookDisks(v, m, r)
	b.lookForeign(v, m)
	return v, nil
}

// aim finds the host and datastore of the destination.
func (v *move) aim(m *vm, r hypervisor.MigrateRequest) error {
	o := v.to
	same := r.To == nil
	if r.Storage != "" {
		if _, err := o.datastore(r.Storage); err != nil {
			return err
		}
		if !same || slices.ContainsFunc(m.Disks, func(d disk) bool {
			x := o.st.Volumes[d.Volume]
			return !d.ReadOnly && !d.apart() && x != nil && x.Datastore != r.Storage
		}) {
			v.store = r.Storage
		}
	}
	switch {
	case r.Host != "":
		h, err := o.host(r.Host)
		if err == nil && r.Pool != "" && h.Pool != r.Pool {
			err = hypervisor.Errorf(hypervisor.ErrInvalidArgument, h.ref(), "the host is in pool %q, not in %q", h.Pool, r.Pool)
		}
		if err != nil {
			return err
		}
		if same && h.ID == m.Host {
			if v.store == "" {
				v.block(hypervisor.ReasonSameHost, h.ref(), "the machine is on host %q already", h.Name)
			}
			return nil
		}
		v.host = h
	case r.Pool != "":
		p := hypervisor.Placement{Pool: r.Pool}
		if h, err := o.host(m.Host); same && err == nil && h.Pool == r.Pool {
			v.block(hypervisor.ReasonSameHost, h.ref(), "the machine is in the pool already")
			return nil
		}
		h, _, err := o.choose(p, m.ref())
		if err != nil {
			return err
		}
		v.host = h
	case v.store == "":
		v.block(hypervisor.ReasonSameHost, r.Storage.Ref(), "all disks are there already")
	}
	if !same && v.store == "" {
		for _, s := range o.st.Datastores {
			if reaches(s.Hosts, v.host.ID) {
				v.store = s.ID
				break
			}
		}
	}
	return nil
}

func (v *move) demands(r hypervisor.MigrateRequest) {
	add := func(k capability.Name) { v.needs = append(v.needs, k) }
	switch {
	case r.To != nil:
		add(capability.MigrateCross)
	case v.live && r.Host+hypervisor.HostID(r.Pool) != "" && r.Storage != "":
		add(capability.MigrateBoth)
	case v.live && r.Host+hypervisor.HostID(r.Pool) != "":
		add(capability.MigrateLive)
	case v.live:
		add(capability.MigrateLiveStorage)
	default:
		if r.Host+hypervisor.HostID(r.Pool) != "" && r.Mode != hypervisor.MigrateModeLive {
			add(capability.MigrateCold)
		}
		if r.Storage != "" {
			add(capability.MigrateStorage)
		}
		if r.Mode == hypervisor.MigrateModeLive {
			add(capability.MigrateLive)
		}
	}
	if r.PostCopy {
		add(capability.MigratePostCopy)
	}
	if r.Tuned() {
		add(capability.MigrateTuning)
	}
}

// lookHost checks whether the target host can take the machine.
func (b *Backend) lookHost(v *move, m *vm) {
	h := v.host
	switch h.State {
	case hypervisor.HostDown:
		v.block(hypervisor.ReasonHostDown, h.ref(), "host %q doesn't answer", h.Name)
	case hypervisor.HostMaintaining:
		v.block(hypervisor.ReasonMaintenance, h.ref(), "host %q is in maintenance", h.Name)
	}
	src, err := b.host(m.Host)
	if err == nil && v.live {
		if src.CPUVendor != h.CPUVendor {
			v.block(hypervisor.ReasonCPU, h.ref(), "host %q has a CPU by %s, the machine runs on one by %s: migrate it cold", h.Name, h.CPUVendor, src.CPUVendor)
		}
		for _, f := range src.CPUFeatures {
			if !slices.Contains(h.CPUFeatures, f) {
				v.block(hypervisor.ReasonCPU, h.ref(), "the CPU of host %q lacks %s: migrate the machine cold", h.Name, f)
			}
		}
		if older(h.Version, src.Version) {
			v.block(hypervisor.ReasonVersion, h.ref(), "host %q has version %s, older than %s: upgrade it or migrate cold", h.Name, h.Version, src.Version)
		}
	}
	if free := h.MemoryBytes - h.Used; m.active() && free < m.Mem {
		v.block(hypervisor.ReasonNoMemory, h.ref(), "host %q has %d MiB of memory free, the machine needs %d MiB", h.Name, free/hypervisor.MiB, m.Mem/hypervisor.MiB)
	}
	for _, n := range m.NICs {
		if x, err := v.to.network(n.Network); err != nil || !reaches(x.Hosts, h.ID) {
			v.block(hypervisor.ReasonNetworkMissing, n.Network.Ref(), "host %q is not on network %s", h.Name, n.Network)
		}
	}
	if v.to != b {
		if _, taken := v.to.vms[m.ID]; taken {
			v.block(hypervisor.ReasonIDTaken, m.ref(), "the other Client has a machine of this ID")
		}
		if err := v.to.nameFree(m.Name, nil); err != nil {
			v.block(hypervisor.ReasonNameTaken, m.ref(), "%v", err)
		}
	}
	if v.live {
		v.bytes += m.Mem
	}
}

// older compares versions by their numbers.
func older(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		var n, k int
		if i < len(x) {
			n, _ = strconv.Atoi(x[i])
		}
		if i < len(y) {
			k, _ = strconv.Atoi(y[i])
		}
		if n != k {
			return n < k
		}
	}
	return false
}

// lookDisks checks whether the disks can move to their destination.
func (b *Backend) lookDisks(v *move, m *vm, r hypervisor.MigrateRequest) {
	at := m.Host
	if v.host != nil {
		at = v.host.ID
	}
	var size int64
	for _, d := range m.Disks {
		x := b.st.Volumes[d.Volume]
		if x == nil {
			continue
		}
		if v.store == "" || d.ReadOnly {
			if s, err := v.to.datastore(x.Datastore); v.to != b || err != nil || !reaches(s.Hosts, at) {
				v.block(hypervisor.ReasonDiskUnreachable, d.ID.Ref(), "host %s doesn't reach the image %s in datastore %s: move it too (Storage)", at, x.ID, x.Datastore)
			}
			continue
		}
		if d.Shared {
			continue
		}
		size += x.Size
		if x.Parent != "" && len(m.Snaps) == 0 {
			v.Warnings = append(v.Warnings, hypervisor.Blocker{Reason: hypervisor.ReasonVMLinked, Object: d.ID.Ref(), Detail: "the disk depends on another image; moved, it is independent"})
		}
	}
	if v.store == "" {
		return
	}
	v.bytes += size
	s, err := v.to.datastore(v.store)
	switch {
	case err != nil || !reaches(s.Hosts, at):
		v.block(hypervisor.ReasonDiskUnreachable, v.store.Ref(), "host %s doesn't reach datastore %s", at, v.store)
	case s.Used+size > s.CapacityBytes:
		v.block(hypervisor.ReasonNoSpace, v.store.Ref(), "datastore %q has %d MiB free, %d MiB are needed", s.Name, (s.CapacityBytes-s.Used)/hypervisor.MiB, size/hypervisor.MiB)
	}
	if len(m.Snaps) > 0 {
		v.block(hypervisor.ReasonVMSnapshots, m.ref(), "disks with snapshots can't be moved: delete the snapshots %s, or move the machine alone", m.snapNames())
	}
	for _, x := range b.owned(m) {
		if deps := b.dependants(x.ID, m.ID); len(deps) > 0 && !r.KeepSource {
			v.block(hypervisor.ReasonVMLinked, x.ref(), "linked clones depend on it: %v", deps)
		}
	}
}
