//go:build cgo

package kvm

import (
	"context"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// resize gives a clone the requested CPUs and memory; 0 leaves them
// unchanged.
func resize(x *libvirtxml.Domain, cpus int, kib int64) {
	if cpus > 0 {
		if x.VCPU == nil {
			x.VCPU = &libvirtxml.DomainVCPU{}
		}
		x.VCPU.Current, x.VCPU.Value, x.VCPUs = uint(cpus), max(x.VCPU.Value, uint(cpus)), nil
	}
	if kib > 0 {
		resizeMemory(x, kib)
	}
}

// resizeMemory sets the memory of a definition, within its range if it has
// one.
func resizeMemory(x *libvirtxml.Domain, kib int64) {
	base := uint64(kib)
	if libvirtx.MemoryKiB(x) > libvirtx.CurrentKiB(x) && kib <= libvirtx.MemoryKiB(x) { // ballooned: the range stays
		base = uint64(libvirtx.MemoryKiB(x))
	}
	libvirtx.SetMemory(x, base, uint64(kib))
	libvirtx.SetOnlyCell(x, int64(base))
}

// currentCPUs is the number of CPUs that are online. libvirt leaves it out
// where it equals the maximum.
func currentCPUs(x *libvirtxml.Domain) uint {
	switch {
	case x.VCPU == nil:
		return 1
	case x.VCPU.Current == 0:
		return x.VCPU.Value
	}
	return x.VCPU.Current
}

func setCPUs(x *libvirtxml.Domain, now, limit int) {
	if x.VCPU == nil {
		x.VCPU = &libvirtxml.DomainVCPU{}
	}
	v, current := x.VCPU, currentCPUs(x)
	if now == 0 {
		now = int(current)
	}
	if limit == 0 {
		if limit = int(v.Value); current == v.Value { // there was no room for hot-plug before, and there is none now
			limit = now
		}
	}
	v.Current, v.Value = uint(now), uint(max(now, limit))
	x.VCPUs = nil
	if x.CPU != nil {
		x.CPU.Topology = nil // must match the number
		if x.CPU.Numa != nil && len(x.CPU.Numa.Cell) == 1 {
			x.CPU.Numa.Cell[0].CPUs = fmt.Sprintf("0-%d", v.Value-1)
		}
	}
}

// Reconfigure implements hypervisor.Reconfigurer.
func (d *driver) Reconfigure(ctx context.Context, id hypervisor.VMID, ch hypervisor.Changes) (hypervisor.DriverTask, error) {
	return d.Change(ctx, id, ch, func(_ *fleet.Host, c *libvirt.Connect, dom *libvirt.Domain, _ *libvirtx.Facts, s hypervisor.PowerState) error {
		if s == hypervisor.StateOff {
			return changeOff(c, dom, id, ch)
		}
		return changeLive(c, dom, id, ch)
	})
}

// apply writes changes into a definition.
func apply(x *libvirtxml.Domain, m *libvirtx.Mark, ch hypervisor.Changes, on hypervisor.Ref) error {
	if ch.CPUs > 0 || ch.MaxCPUs > 0 {
		if now := currentCPUs(x); ch.MaxCPUs > 0 && ch.CPUs == 0 && uint(ch.MaxCPUs) < now {
			return hypervisor.Errorf(hypervisor.ErrInvalidArgument, on, "MaxCPUs %d is below the machine's %d CPUs", ch.MaxCPUs, now)
		}
		setCPUs(x, ch.CPUs, ch.MaxCPUs)
	}
	if err := fleet.ApplyMemory(x, m, ch, on, resizeMemory); err != nil {
		return err
	}
	if ch.MaxMemoryBytes > 0 {
		if x.CPU == nil {
			x.CPU = &libvirtxml.DomainCPU{}
		}
		x.MaximumMemory = &libvirtxml.DomainMaxMemory{Value: uint(ch.MaxMemoryBytes >> 10), Unit: "KiB", Slots: dimmSlots}
		if x.CPU.Numa == nil {
			x.CPU.Numa = &libvirtxml.DomainNuma{Cell: []libvirtxml.DomainCell{{ID: ptr(uint(0)),
				CPUs: fmt.Sprintf("0-%d", x.VCPU.Value-1), Memory: uint(libvirtx.MemoryKiB(x)), Unit: "KiB"}}}
		}
	}
	if x.MaximumMemory != nil && libvirtx.MemoryKiB(x) > libvirtx.ToKiB(uint64(x.MaximumMemory.Value), x.MaximumMemory.Unit) {
		x.MaximumMemory.Value, x.MaximumMemory.Unit = uint(libvirtx.MemoryKiB(x)), "KiB"
	}
	if ch.Description != nil {
		x.Description = *ch.Description
	}
	return libvirtx.MarkDefinition(x, *m)
}

// changeOff redefines the machine. libvirt has a separate call for the name,
// which comes first: it can fail for a reason of its own.
func changeOff(c *libvirt.Connect, dom *libvirt.Domain, id hypervisor.VMID, ch hypervisor.Changes) error {
	x, m, err := libvirtx.Inactive(dom)
	if err != nil {
		return err
	}
	if err := apply(x, &m, ch, id.Ref()); err != nil {
		return err
	}
	old := x.Name
	if ch.Name != "" && ch.Name != old {
		if n, err := dom.SnapshotNum(0); err == nil && n > 0 {
			return hypervisor.Unsupported(id.Ref(), capability.Reconfigure, hypervisor.ReasonVMSnapshots, "libvirt does not rename machines that have snapshots: delete them first")
		}
		if err := dom.Rename(ch.Name, 0); err != nil {
			return err
		}
		x.Name = ch.Name
	}
	err = libvirtx.Define(c, x)
	if err != nil && x.Name != old {
		_ = dom.Rename(old, 0) // the first error counts
	}
	return err
}

// changeLive first checks whether everything can be done, then does it.
func changeLive(c *libvirt.Connect, dom *libvirt.Domain, id hypervisor.VMID, ch hypervisor.Changes) error {
	live, mark, err := libvirtx.Parse(dom, 0)
	if err != nil {
		return err
	}
	if ch.Name != "" && ch.Name != live.Name {
		return hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "libvirt renames only machines that are off: shut it down first")
	}
	later := hypervisor.Changes{} // at the next start
	refuse := func(k capability.Name, r hypervisor.ReasonCode, text string) error {
		return hypervisor.Unsupported(id.Ref(), k, r, text+"; set NextStart to have it at the next start")
	}
	now := currentCPUs(live)
	if ch.CPUs > 0 && uint(ch.CPUs) != now {
		switch {
		case uint(ch.CPUs) > live.VCPU.Value:
			if !ch.NextStart {
				return refuse(capability.CPUHotAdd, hypervisor.ReasonHotAddOff, fmt.Sprintf("the machine was made for at most %d CPUs", live.VCPU.Value))
			}
			later.CPUs, ch.CPUs = ch.CPUs, 0
		case uint(ch.CPUs) < now && live.Type == "qemu":
			if !ch.NextStart {
				return refuse(capability.CPUHotAdd, hypervisor.ReasonPlatform, "QEMU's emulated CPUs can't be taken away while they run")
			}
			later.CPUs, ch.CPUs = ch.CPUs, 0
		}
	} else {
		ch.CPUs = 0
	}
	var dimm int64
	if ch.MemoryBytes > 0 {
		base, limit := libvirtx.MemoryKiB(live), int64(0)
		if live.MaximumMemory != nil {
			limit = libvirtx.ToKiB(uint64(live.MaximumMemory.Value), live.MaximumMemory.Unit)
		}
		if want := ch.MemoryBytes >> 10; want > base {
			if want > limit {
				if !ch.NextStart {
					return refuse(capability.MemoryHotAdd, hypervisor.ReasonHotAddOff, fmt.Sprintf("the machine was made for at most %d MiB", max(base, limit)>>10))
				}
				later.MemoryBytes, ch.MemoryBytes = ch.MemoryBytes, 0
			} else if dimm = want - base; dimm%(128<<10) != 0 {
				return hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "memory is added to a running machine in steps of 128 MiB, which is what guests can take: %d KiB more is none", dimm)
			}
		}
	}
	if ch.MaxCPUs > 0 || ch.MaxMemoryBytes > 0 || ch.DynamicMemory != nil {
		if !ch.NextStart {
			return refuse(capability.Reconfigure, hypervisor.ReasonVMState, "limits can't change while the machine runs")
		}
		later.MaxCPUs, later.MaxMemoryBytes, later.DynamicMemory = ch.MaxCPUs, ch.MaxMemoryBytes, ch.DynamicMemory
	}
	if ch.MemoryBytes > 0 && mark.MinKiB > 0 && ch.MemoryBytes>>10 < int64(mark.MinKiB) {
		return hypervisor.Errorf(hypervisor.ErrInvalidArgument, id.Ref(), "MemoryBytes %d is below the machine's minimum of %d KiB", ch.MemoryBytes, mark.MinKiB)
	}
	// Changes for the next start are tried on a copy first, and written when
	// the rest is done: that changes the definition too.
	wait := func() (*libvirtxml.Domain, error) {
		x, m, err := libvirtx.Inactive(dom)
		if err == nil {
			err = apply(x, &m, later, id.Ref())
		}
		return x, err
	}
	if later != (hypervisor.Changes{}) {
		if _, err := wait(); err != nil {
			return err
		}
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
	switch {
	case dimm > 0:
		if err := fillBalloon(dom, id); err != nil {
			return err
		}
		doc, err := (&libvirtxml.DomainMemorydev{Model: "dimm", Target: &libvirtxml.DomainMemorydevTarget{
			Size: &libvirtxml.DomainMemorydevTargetSize{Value: uint(dimm), Unit: "KiB"},
			Node: &libvirtxml.DomainMemorydevTargetNode{Value: 0}}}).Marshal()
		if err != nil {
			return err
		}
		if err := dom.AttachDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_LIVE|libvirt.DOMAIN_DEVICE_MODIFY_CONFIG); err != nil {
			return err
		}
	case ch.MemoryBytes > 0:
		if err := dom.SetMemoryFlags(uint64(ch.MemoryBytes>>10), libvirt.DOMAIN_MEM_LIVE|libvirt.DOMAIN_MEM_CONFIG); err != nil {
			return err
		}
	}
	if later == (hypervisor.Changes{}) {
		return nil
	}
	x, err := wait()
	if err != nil {
		return err
	}
	return libvirtx.Define(c, x)
}

// balloonLimit is the time that a guest may take to get its memory back.
const balloonLimit = 30 * time.Second

// fillBalloon gives a guest all the memory that its machine has, so that more
// comes on top of it: libvirt counts a DIMM only for a guest that has it all.
func fillBalloon(dom *libvirt.Domain, id hypervisor.VMID) error {
	asked := false
	for end := time.Now().Add(balloonLimit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		x, _, err := libvirtx.Parse(dom, 0)
		if err != nil {
			return err
		}
		all := libvirtx.MemoryKiB(x)
		if libvirtx.CurrentKiB(x) >= all {
			return nil
		}
		if !asked {
			asked = true
			if err := dom.SetMemoryFlags(uint64(all), libvirt.DOMAIN_MEM_LIVE|libvirt.DOMAIN_MEM_CONFIG); err != nil {
				return err
			}
		}
	}
	return hypervisor.Errorf(hypervisor.ErrTimeout, id.Ref(), "the guest's balloon did not give its memory back within %v: does its virtio-balloon driver run?", balloonLimit)
}
