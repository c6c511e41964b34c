//go:build cgo

package libxl

import (
	"context"
	"fmt"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// resize gives a clone the requested CPUs and memory; 0 leaves them
// unchanged.
func resize(x *libvirtxml.Domain, n int, kib int64) {
	if n > 0 {
		if x.VCPU == nil {
			x.VCPU = &libvirtxml.DomainVCPU{Value: 1}
		}
		setCPUs(x, n, 0)
	}
	if kib > 0 {
		resizeMemory(x, kib)
	}
}

// resizeMemory sets the memory of a definition, within its range if it has one.
func resizeMemory(x *libvirtxml.Domain, kib int64) {
	limit := uint64(kib)
	if libvirtx.MemoryKiB(x) > libvirtx.CurrentKiB(x) && kib <= libvirtx.MemoryKiB(x) { // ballooned: the range stays
		limit = uint64(libvirtx.MemoryKiB(x))
	}
	libvirtx.SetMemory(x, limit, uint64(kib))
}

func setCPUs(x *libvirtxml.Domain, now, limit int) {
	current, old := cpus(x), max(x.VCPU.Value, 1)
	if now == 0 {
		now = current
	}
	if limit == 0 {
		if limit = int(old); current == limit { // there was no room for hot-plug before, and there is none now
			limit = now
		}
	}
	x.VCPU.Current, x.VCPU.Value, x.VCPUs = uint(now), uint(max(now, limit)), nil
}

// Reconfigure implements hypervisor.Reconfigurer.
func (d *driver) Reconfigure(ctx context.Context, id hypervisor.VMID, ch hypervisor.Changes) (hypervisor.DriverTask, error) {
	return d.Change(ctx, id, ch, func(h *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain, f *libvirtx.Facts, s hypervisor.PowerState) error {
		if s == hypervisor.StateOff {
			return changeOff(context.WithoutCancel(ctx), h, c, dom, id, ch)
		}
		return changeLive(c, dom, f, id, ch)
	})
}

// apply writes changes into a definition.
func apply(x *libvirtxml.Domain, m *libvirtx.Mark, ch hypervisor.Changes, on hypervisor.Ref) error {
	if x.VCPU == nil {
		x.VCPU = &libvirtxml.DomainVCPU{Value: 1}
	}
	if ch.CPUs > 0 || ch.MaxCPUs > 0 {
		if ch.MaxCPUs > 0 && ch.CPUs == 0 && ch.MaxCPUs < cpus(x) {
			return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "MaxCPUs %d is below the machine's %d CPUs", ch.MaxCPUs, cpus(x))
		}
		setCPUs(x, ch.CPUs, ch.MaxCPUs)
	}
	if err := fleet.ApplyMemory(x, m, ch, on, resizeMemory); err != nil {
		return err
	}
	if limit := ch.MaxMemoryBytes >> 10; limit > 0 {
		now := libvirtx.CurrentKiB(x)
		if limit < now {
			return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "MaxMemoryBytes %d is below the machine's memory of %d KiB", ch.MaxMemoryBytes, now)
		}
		libvirtx.SetMemory(x, uint64(limit), uint64(now))
	}
	if ch.Description != nil {
		x.Description = *ch.Description
	}
	return libvirtx.MarkDefinition(x, *m)
}

// changeOff redefines the machine. libvirt's Xen driver has no Rename, and
// refuses a definition that changes the name of a UUID. With a new name, the
// old definition is removed first, and restored if the new one is refused.
func changeOff(ctx context.Context, h *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain, id hypervisor.VMID, ch hypervisor.Changes) error {
	x, m, err := libvirtx.Inactive(dom)
	if err != nil {
		return err
	}
	if err := apply(x, &m, ch, id.Ref()); err != nil {
		return err
	}
	if ch.Name == "" || ch.Name == x.Name {
		return libvirtx.Define(c, x)
	}
	if other, err := c.LookupDomainByName(ch.Name); err == nil {
		_ = other.Free() // a local reference
		return hypervisor.Errorf(hypervisor.ErrExists, hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: ch.Name}, "the name is taken: libvirt wants unique names")
	}
	old, _, err := libvirtx.Inactive(dom)
	if err != nil {
		return err
	}
	x.Name = ch.Name
	disks := diskRefs(c, old)
	err = h.Undefine(ctx, id, func(dom *libvirt.Domain) error { return dom.UndefineFlags(0) })
	if err != nil && libvirtx.KindOf(err) != hypervisor.ErrUnavailable {
		return err
	}
	if err == nil {
		if err = h.Define(ctx, x); err == nil {
			return nil
		}
	}
	if again := h.Define(ctx, old); again != nil {
		return &hypervisor.Error{Kind: libvirtx.KindOf(err), Object: id.Ref(), Leftover: disks,
			Err: fmt.Errorf("the machine could not be renamed (%w), and its old definition not be restored (%w)", err, again)}
	}
	return err
}

// diskRefs names the images of a definition.
func diskRefs(c *libvirt.Connect, x *libvirtxml.Domain) []hypervisor.Ref {
	var out []hypervisor.Ref
	pools, _ := libvirtx.Pools(c) // without them the paths are used
	for _, k := range libvirtx.Writable(x) {
		p := libvirtx.DiskPath(k)
		out = append(out, hypervisor.Ref{Kind: hypervisor.ObjectVolume, ID: string(libvirtx.ImageID(pools, "", p)), Name: p})
	}
	return out
}

// changeLive first checks whether everything can be done, then does it.
func changeLive(c *libvirt.Connect, dom *libvirt.Domain, f *libvirtx.Facts, id hypervisor.VMID, ch hypervisor.Changes) error {
	live, mark, err := libvirtx.Parse(dom, 0)
	if err != nil {
		return err
	}
	if ch.Name != "" && ch.Name != live.Name {
		return hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "only machines that are off can be renamed: shut it down first")
	}
	later := hypervisor.Changes{} // at the next start
	wait := func(s hypervisor.Support, k capability.Name) error {
		if ch.NextStart {
			return nil
		}
		return hypervisor.Unsupported(id.Ref(), k, s.Reason, s.Detail+"; set NextStart to have it at the next start")
	}
	if ch.CPUs == cpus(live) {
		ch.CPUs = 0
	}
	if ch.CPUs > 0 {
		s, bad := cpuHotAdd(f), true
		if s.Level != hypervisor.LevelNo {
			s, bad = onMachine(capability.CPUHotAdd, hypervisor.StateRunning, live, mark)
			bad = bad && ch.CPUs > int(live.VCPU.Value)
			if !bad && ch.CPUs > f.CPU.Threads {
				s, bad = no(hypervisor.ReasonConfig, "libvirt gives a running machine at most as many CPUs as the host has, %d", f.CPU.Threads), true
			}
		}
		if bad {
			if err := wait(s, capability.CPUHotAdd); err != nil {
				return err
			}
			later.CPUs, ch.CPUs = ch.CPUs, 0
		}
	}
	if want := ch.MemoryBytes >> 10; want > libvirtx.MemoryKiB(live) {
		s := no(hypervisor.ReasonHotAddOff, "the machine was made for at most %d MiB", libvirtx.MemoryKiB(live)>>10)
		if err := wait(s, capability.MemoryHotAdd); err != nil {
			return err
		}
		later.MemoryBytes, ch.MemoryBytes = ch.MemoryBytes, 0
	} else if ch.MemoryBytes > 0 && want < int64(mark.MinKiB) {
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "MemoryBytes %d is below the machine's minimum of %d KiB", ch.MemoryBytes, mark.MinKiB)
	}
	if ch.MaxCPUs > 0 || ch.MaxMemoryBytes > 0 || ch.DynamicMemory != nil {
		if err := wait(no(hypervisor.ReasonVMState, "limits can't change while the machine runs"), capability.Reconfigure); err != nil {
			return err
		}
		later.MaxCPUs, later.MaxMemoryBytes, later.DynamicMemory = ch.MaxCPUs, ch.MaxMemoryBytes, ch.DynamicMemory
	}
	const both = libvirt.DOMAIN_AFFECT_LIVE | libvirt.DOMAIN_AFFECT_CONFIG
	if ch.Description != nil {
		if err := dom.SetMetadata(libvirt.DOMAIN_METADATA_DESCRIPTION, *ch.Description, "", "", both); err != nil {
			return err
		}
	}
	if ch.CPUs > 0 {
		if err := dom.SetVcpusFlags(uint(ch.CPUs), libvirt.DOMAIN_VCPU_LIVE|libvirt.DOMAIN_VCPU_CONFIG); err != nil {
			return err
		}
	}
	if ch.MemoryBytes > 0 {
		if err := dom.SetMemoryFlags(uint64(ch.MemoryBytes>>10), libvirt.DOMAIN_MEM_LIVE|libvirt.DOMAIN_MEM_CONFIG); err != nil {
			return err
		}
	}
	if later == (hypervisor.Changes{}) {
		return nil
	}
	x, m, err := libvirtx.Inactive(dom)
	if err != nil {
		return err
	}
	if err := apply(x, &m, later, id.Ref()); err != nil {
		return err
	}
	return libvirtx.Define(c, x)
}
