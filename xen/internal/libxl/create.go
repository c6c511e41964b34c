//go:build cgo

package libxl

import (
	"context"

	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
	"github.com/anyvisor/anyvisor/internal/libvirtx/fleet"
)

// CreateVM implements hypervisor.Lifecycle.
func (d *driver) CreateVM(ctx context.Context, s hypervisor.VMSpec) (hypervisor.DriverTask, error) {
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, Name: s.Name}
	return d.Create(ctx, s, func(at fleet.Site, uuid string, mark libvirtx.Mark) (*libvirtxml.Domain, error) {
		kind, err := machineKind(on, s)
		if err != nil {
			return nil, err
		}
		return newDomain(at.Facts, s, kind, uuid, mark)
	})
}

// fits refuses a machine that Xen on the host could never run.
func fits(f *libvirtx.Facts, on hypervisor.Ref, s hypervisor.VMSpec) error {
	if hot := cpuHotAdd(f); s.MaxCPUs > max(s.CPUs, 1) && hot.Level == hypervisor.LevelNo {
		return hypervisor.Unsupported(on, capability.CPUHotAdd, hot.Reason, hot.Detail)
	}
	if limit := max(s.MaxMemoryBytes, rangeMax(s.DynamicMemory)); limit > f.MemoryBytes {
		return hypervisor.Errorf(hypervisor.ErrExhausted, on, "up to %d MiB of memory: host %s has %d MiB", limit/hypervisor.MiB, f.Name, f.MemoryBytes/hypervisor.MiB)
	}
	return nil
}

func rangeMax(r *hypervisor.MemoryRange) int64 {
	if r == nil {
		return 0
	}
	return r.MaxBytes
}
