//go:build cgo

package kvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// readSource reads the machine and its state.
func (m *move) readSource(ctx context.Context) error {
	on := m.id.Ref()
	_, err := fleet.OnHost(ctx, m.src, m.id, 8, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain) (struct{}, error) {
		var err error
		if m.live, m.mark, err = libvirtx.Parse(dom, 0); err != nil {
			return struct{}{}, err
		}
		if m.mark.Role != "" {
			return struct{}{}, hypervisor.Errorf(hypervisor.ErrNotFound, on, "no such machine")
		}
		if m.next, _, err = libvirtx.Inactive(dom); err != nil {
			return struct{}{}, err
		}
		if m.state, err = libvirtx.State(dom); err != nil {
			return struct{}{}, err
		}
		m.on = m.state == hypervisor.StateRunning || m.state == hypervisor.StatePaused
		if m.srcPools, err = libvirtx.Pools(c); err != nil {
			return struct{}{}, err
		}
		switch {
		case fleet.IsTemplate(m.live, m.mark):
			m.block(hypervisor.ReasonIsTemplate, on, "this is a template: turn it into a machine first, or deploy from it")
		case m.state == hypervisor.StateSuspended:
			m.block(hypervisor.ReasonVMState, on, "the machine is suspended and its saved RAM is bound to its host: resume it or power it off first")
		case m.r.Mode == hypervisor.MigrateModeLive && !m.on:
			m.block(hypervisor.ReasonVMState, on, fmt.Sprintf("the machine is %s: a live migration needs one that runs", m.state))
		case m.r.Mode == hypervisor.MigrateModeCold && m.on:
			m.block(hypervisor.ReasonVMState, on, fmt.Sprintf("the machine is %s: a cold migration needs one that is off", m.state))
		}
		if names, err := dom.SnapshotListNames(0); err != nil {
			return struct{}{}, err
		} else if len(names) > 0 {
			m.block(hypervisor.ReasonVMSnapshots, on, "the machine has snapshots, which libvirt does not move: delete them first: "+strings.Join(names, ", "))
		}
		for _, a := range attached("", m.live) {
			m.block(hypervisor.ReasonVMPassthrough, on, "the machine has its host's device "+string(a.ID)+", which stays there: detach it first")
		}
		if t, busy := m.d.JobTask(dom, string(m.id)); busy {
			m.block(hypervisor.ReasonVMBusy, t.Ref(), "libvirt runs a job on the machine: wait for it, or cancel it")
		}
		if u := (*hypervisor.UnsupportedError)(nil); m.r.Storage != "" && errors.As(libvirtx.Whole(m.live, on, capability.MigrateStorage), &u) {
			m.block(u.Support.Reason, on, u.Support.Detail)
		}
		for _, k := range libvirtx.Writable(m.live) {
			if !m.on {
				break
			}
			j, err := dom.GetBlockJobInfo(k.Target.Dev, 0)
			if err == nil && j.Type != 0 {
				m.block(hypervisor.ReasonVMBusy, hypervisor.DiskID(k.Target.Dev).Ref(), "a block job runs on disk "+k.Target.Dev+": wait for it, or cancel it")
			}
		}
		return struct{}{}, nil
	})
	return err
}

// readDestination reads the destination of the machine.
func (m *move) readDestination(ctx context.Context) error {
	if !m.crossHost && m.r.Storage == "" {
		m.block(hypervisor.ReasonSameHost, m.dst.ID().Ref(), "the machine is on this host already")
		return nil
	}
	sf, err := m.src.Identify(ctx)
	if err != nil {
		return err
	}
	err = m.askDestination(ctx, sf)
	if m.crossHost && libvirtx.KindOf(err) == hypervisor.ErrUnavailable {
		m.block(hypervisor.ReasonHostDown, m.dst.ID().Ref(), "the host does not answer: "+err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	return m.checkDisks(ctx)
}

// askDestination finds the datastore, and what the host lacks.
func (m *move) askDestination(ctx context.Context, sf *libvirtx.Facts) error {
	f, err := m.dst.Identify(ctx)
	if err != nil {
		return err
	}
	_, err = libvirtx.Do(ctx, m.dst.Conn, 6, func(c *libvirt.Connect) (struct{}, error) {
		var err error
		if m.dstPools, err = libvirtx.Pools(c); err != nil {
			return struct{}{}, err
		}
		if m.r.Storage != "" {
			pool, ok := fleet.ChoosePool(m.dstPools, m.r.Storage)
			if !ok {
				return struct{}{}, hypervisor.Errorf(hypervisor.ErrNotFound, m.r.Storage.Ref(), "host %s has no such datastore", f.Name)
			}
			m.pool = pool
		}
		if m.crossHost {
			if err := m.checkHost(c, sf, f); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	return err
}

// checkHost checks what the destination lacks.
func (m *move) checkHost(c *libvirt.Connect, sf, f *libvirtx.Facts) error {
	host := m.dst.ID().Ref()
	x := m.live
	if dom, err := c.LookupDomainByName(x.Name); err == nil {
		id, _ := dom.GetUUIDString() // local
		on, _ := dom.IsActive()      // the rest assumes that it is off
		_ = dom.Free()               // a local reference
		switch {
		case id != x.UUID:
			m.block(hypervisor.ReasonNameTaken, hypervisor.VMID(id).Ref(), fmt.Sprintf("another machine on host %s is named %q: rename one of them", f.Name, x.Name))
		case on || m.dd != m.d:
			m.block(hypervisor.ReasonIDTaken, hypervisor.VMID(id).Ref(), fmt.Sprintf("host %s has a machine of the same ID", f.Name))
		}
	} else if !libvirtx.NotFound(err) {
		return err
	} else if dom, err := c.LookupDomainByUUIDString(x.UUID); err == nil {
		_ = dom.Free() // a local reference
		m.block(hypervisor.ReasonIDTaken, m.id.Ref(), fmt.Sprintf("host %s has a machine of the same ID under another name", f.Name))
	}
	if x.Type == "kvm" && !f.KVM {
		m.block(hypervisor.ReasonCPU, host, fmt.Sprintf("host %s has no KVM", f.Name))
	}
	if sf.Arch != f.Arch {
		m.block(hypervisor.ReasonCPU, host, fmt.Sprintf("host %s is %s, the machine's is %s", f.Name, f.Arch, sf.Arch))
	}
	if x.OS != nil && x.OS.Type != nil && len(f.Machines) > 0 && !f.Machines[x.OS.Type.Machine] {
		m.block(hypervisor.ReasonVersion, host, fmt.Sprintf("QEMU %s on host %s has no machine type %s: update it", f.Version, f.Name, x.OS.Type.Machine))
	} else if libvirtx.Older(f.Version, sf.Version) {
		m.warn(hypervisor.ReasonVersion, host, fmt.Sprintf("QEMU %s on host %s is older than %s at the source", f.Version, f.Name, sf.Version))
	}
	if m.on && x.Type == "kvm" {
		if err := m.checkCPU(c, f, sf); err != nil {
			return err
		}
	}
	free, err := libvirtx.FreeMemory(c)
	if err != nil {
		return err
	}
	if need := uint64(libvirtx.MemoryKiB(x)) << 10; m.on && free < need {
		m.block(hypervisor.ReasonNoMemory, host, fmt.Sprintf("host %s has %d MiB of free memory, the machine takes %d MiB", f.Name, free>>20, need>>20))
	}
	known, err := m.dst.Networks(c)
	if err != nil {
		return err
	}
	for i := range x.Devices.Interfaces {
		if fleet.IsGuard(&x.Devices.Interfaces[i]) {
			continue // a template's, on a network that nobody defines
		}
		n := fleet.NICInfo(&x.Devices.Interfaces[i])
		has := false
		for _, k := range known {
			has = has || k.ID == n.Network
		}
		if strings.HasPrefix(string(n.Network), fleet.LibvirtNetwork) && !has {
			m.block(hypervisor.ReasonNetworkMissing, n.Network.Ref(), fmt.Sprintf("host %s has no libvirt network of this name: define it there", f.Name))
		}
	}
	if x.OS != nil && x.OS.Kernel != "" {
		m.warn(hypervisor.ReasonConfig, host, "the machine boots a kernel from its host's files, which must be at the same path there for its next start")
	}
	if x.OS != nil && x.OS.NVRam != nil && !m.on {
		m.block(hypervisor.ReasonConfig, m.id.Ref(), "its UEFI variables are in a file of its host, which libvirt moves only live: start it first")
	}
	return nil
}

// checkCPU compares the guest's present CPU with the destination.
func (m *move) checkCPU(c *libvirt.Connect, f, sf *libvirtx.Facts) error {
	cpu := m.live.CPU
	if cpu == nil {
		return nil
	}
	host := m.dst.ID().Ref()
	if cpu.Mode == "host-passthrough" || cpu.Mode == "maximum" {
		if f.CPU.Model != sf.CPU.Model {
			m.block(hypervisor.ReasonCPU, host, fmt.Sprintf("the guest has all of its host's CPU (%s), host %s has %s: use mode host-model", sf.CPU.Model, f.Name, f.CPU.Model))
		}
		return nil
	}
	doc, err := cpu.Marshal()
	if err != nil {
		return err
	}
	r, err := c.CompareCPU(doc, 0)
	if err == nil && r == libvirt.CPU_COMPARE_INCOMPATIBLE {
		m.block(hypervisor.ReasonCPU, host, fmt.Sprintf("host %s lacks features of the guest's CPU", f.Name))
	}
	return nil // if a CPU can't be compared, libvirt itself refuses it
}

// checkDisks checks whether the destination reaches the disks, or has room.
func (m *move) checkDisks(ctx context.Context) error {
	if m.pool.UUID != "" && m.inPool(m.srcPools, m.pool.UUID) {
		if !m.crossHost {
			m.block(hypervisor.ReasonSameHost, m.r.Storage.Ref(), "the disks are on this datastore already")
			return nil
		}
		m.pool = libvirtx.Pool{} // a shared one, on which they stay
	}
	if m.pool.UUID != "" && (!m.pool.Files() || !m.pool.Active) {
		m.block(hypervisor.ReasonDiskFormat, m.r.Storage.Ref(), fmt.Sprintf("datastore %s is of type %s or not active: images are made in active pools of files", m.pool.Name, m.pool.Type))
		return nil
	}
	var need int64
	for i := range m.live.Devices.Disks {
		k := &m.live.Devices.Disks[i]
		p := libvirtx.DiskPath(k)
		if p == "" {
			continue
		}
		disk := hypervisor.DiskID(k.Target.Dev).Ref()
		moves := m.pool.UUID != "" && isWritable(m.live, k)
		v, err := libvirtx.Do(ctx, m.src.Conn, 2, func(c *libvirt.Connect) (libvirtx.Volume, error) { return libvirtx.FindImage(c, m.srcPools, p) })
		if err != nil && libvirtx.KindOf(err) != hypervisor.ErrInvalidState && libvirtx.KindOf(err) != hypervisor.ErrNotFound {
			return err
		}
		switch {
		case moves && err != nil:
			m.block(hypervisor.ReasonDiskUnreachable, disk, fmt.Sprintf("image %s is in no storage pool of its host: define a pool for its folder", p))
		case moves:
			need += v.Allocation
		case m.crossHost:
			m.checkReach(ctx, disk, p)
		}
	}
	if need > m.pool.Free && m.pool.UUID != "" {
		m.block(hypervisor.ReasonNoSpace, m.r.Storage.Ref(), fmt.Sprintf("datastore %s has %d MiB free, the disks take %d MiB", m.pool.Name, m.pool.Free>>20, need>>20))
	}
	return nil
}

func (m *move) inPool(pools []libvirtx.Pool, uuid string) bool {
	all := libvirtx.Writable(m.live)
	for _, k := range all {
		p, ok := libvirtx.PoolOf(pools, libvirtx.DiskPath(k))
		if !ok || p.UUID != uuid {
			return false
		}
	}
	return len(all) > 0
}

func isWritable(x *libvirtxml.Domain, k *libvirtxml.DomainDisk) bool {
	for _, w := range libvirtx.Writable(x) {
		if w == k {
			return true
		}
	}
	return false
}

// checkReach checks that the destination sees an image and its backing chain.
func (m *move) checkReach(ctx context.Context, disk hypervisor.Ref, image string) {
	for depth := 0; image != "" && depth < 256; depth++ {
		p, ok := libvirtx.PoolOf(m.srcPools, image)
		there, same := libvirtx.PoolOf(m.dstPools, image)
		switch {
		case !ok || !same || there.UUID != p.UUID:
			m.block(hypervisor.ReasonNoSharedStorage, disk, fmt.Sprintf("image %s is not on a datastore that both hosts have (pools of one UUID): give Storage to copy the disks", image))
			return
		case !there.Active:
			m.block(hypervisor.ReasonDiskUnreachable, disk, fmt.Sprintf("datastore %s is not active on the destination: start it", there.Name))
			return
		}
		v, err := libvirtx.Do(ctx, m.dst.Conn, 3, func(c *libvirt.Connect) (libvirtx.Volume, error) { return libvirtx.FindImage(c, m.dstPools, image) })
		if err != nil {
			m.block(hypervisor.ReasonDiskUnreachable, disk, fmt.Sprintf("the destination does not see image %s: %v", image, err))
			return
		}
		if !slices.ContainsFunc(m.shared, func(s libvirtx.Pool) bool { return s.UUID == p.UUID }) {
			m.shared = append(m.shared, p)
		}
		image = v.Backing
	}
}

// proveShared makes an image at one end and looks for it at the other. Equal
// UUIDs are only a promise, and libvirt is told that the migration is safe.
func (m *move) proveShared(ctx context.Context) error {
	for _, p := range m.shared {
		name := "anyvisor-probe-" + libvirtx.Nonce() + ".raw"
		v, err := libvirtx.Do(ctx, m.src.Conn, 2, func(c *libvirt.Connect) (libvirtx.Volume, error) {
			return libvirtx.CreateVolume(c, m.srcPools, libvirtx.VolumeSpec{Pool: p.UUID, Name: name, Capacity: 4096, Format: "raw"})
		})
		var seen error
		if err == nil {
			_, seen = libvirtx.Do(ctx, m.dst.Conn, 3, func(c *libvirt.Connect) (libvirtx.Volume, error) { return libvirtx.FindVolume(c, p.UUID, name) })
		}
		if v.Name != "" {
			gone := m.src.Again(ctx, func(bool) error {
				_, err := libvirtx.Do(ctx, m.src.Conn, 2, func(c *libvirt.Connect) (struct{}, error) {
					return struct{}{}, libvirtx.DeleteVolume(c, v.Pool, v.Name)
				})
				return err
			})
			if gone != nil {
				m.j.Left(v.Ref())
			}
			err = errors.Join(err, gone)
		}
		if err != nil {
			return err
		}
		if seen != nil && !libvirtx.NotFound(seen) {
			return seen
		}
		if seen != nil {
			b := hypervisor.Blocker{Reason: hypervisor.ReasonNoSharedStorage, Object: hypervisor.DatastoreID(p.UUID).Ref(),
				Detail: fmt.Sprintf("the pools %s of both hosts have one UUID and are not one storage: give them different UUIDs, and Storage to copy the disks", p.Name)}
			return hypervisor.Errorf(hypervisor.ErrIncompatible, m.id.Ref(), "%w", &hypervisor.BlockedError{Blockers: []hypervisor.Blocker{b}})
		}
	}
	return nil
}
