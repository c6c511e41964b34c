package vspheresim

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// choose determines the placement of a machine: the requested host, pool and datastore, and vCenter's choice for what was not requested. API
// reference: VirtualMachineRelocateSpec.host, .pool, .datastore. old is the machine's present place; its values are the defaults.
func (s *Sim) choose(old place, folder, pool, host, datastore *ref, c *types.VirtualMachineConfigInfo) (place, types.BaseMethodFault) {
	p := old
	if folder != nil {
		f := s.folder(*folder)
		if f == nil || !contains(f.ChildType, "VirtualMachine") {
			return p, &types.InvalidFolder{Target: *folder}
		}
		p.folder = *folder
	}
	if pool != nil {
		if s.poolOwner(*pool) == nil {
			return p, invalid("spec.pool")
		}
		p.pool = *pool
	}
	owner := s.poolOwner(p.pool)
	if owner == nil {
		return p, invalid("spec.pool")
	}
	if datastore != nil {
		if s.datastore(*datastore) == nil {
			return p, &types.InvalidDatastore{Datastore: datastore}
		}
		p.datastore = *datastore
	}
	switch {
	case host != nil:
		if !has(owner.Host, *host) {
			return p, invalid("spec.host") // the host and the pool are of different clusters
		}
		p.host = *host
	case !has(owner.Host, p.host) || p.host.Value == "":
		h := s.bestHost(owner, p.datastore, c)
		if h == nil {
			return p, new(types.NoCompatibleHost)
		}
		p.host = h.Self
	case !usable(s.host(p.host)):
		// No host was requested, so any other one of the cluster is suitable.
		if h := s.bestHost(owner, p.datastore, c); h != nil {
			p.host = h.Self
		}
	}
	h := s.host(p.host)
	if h.Runtime.ConnectionState != types.HostSystemConnectionStateConnected {
		return p, new(types.HostNotConnected)
	}
	if h.Runtime.InMaintenanceMode {
		return p, new(types.InvalidState)
	}
	if p.datastore.Value == "" {
		if len(h.Datastore) == 0 {
			return p, new(types.InvalidDatastore)
		}
		p.datastore = h.Datastore[0]
	}
	if !has(h.Datastore, p.datastore) {
		d := p.datastore
		return p, &types.InvalidDatastore{Datastore: &d, Name: s.datastore(d).Name}
	}
	return p, nil
}

// bestHost is the usable host of a cluster with the fewest machines that sees a datastore and has room.
func (s *Sim) bestHost(c *mo.ComputeResource, datastore ref, cfg *types.VirtualMachineConfigInfo) *simulator.HostSystem {
	var best *simulator.HostSystem
	for _, r := range c.Host {
		h := s.host(r)
		if h == nil || !usable(h) || datastore.Value != "" && !has(h.Datastore, datastore) {
			continue
		}
		if cfg != nil && !s.roomFor(h, cfg) {
			continue
		}
		if best == nil || len(h.Vm) < len(best.Vm) {
			best = h
		}
	}
	return best
}

// roomFor reports whether a host has the reservations and devices that a configuration needs.
func (s *Sim) roomFor(h *simulator.HostSystem, c *types.VirtualMachineConfigInfo) bool {
	mem, _ := s.reserved(h, nil)
	if mem+memoryReservation(c) > h.Summary.Hardware.MemorySize>>20 {
		return false
	}
	if !needsHostDevice(c) {
		return true
	}
	_, fault := s.freeDevices(h, nil).assign(c.Hardware.Device)
	return fault == nil
}

// placeOf returns the location of a machine.
func (s *Sim) placeOf(vm *simulator.VirtualMachine) place {
	p := place{host: *vm.Runtime.Host}
	if vm.Parent != nil {
		p.folder = *vm.Parent
	}
	if vm.ResourcePool != nil {
		p.pool = *vm.ResourcePool
	}
	if ds := s.datastoreByName(s.host(p.host), vmDir(&vm.VirtualMachine).Datastore); ds != nil {
		p.datastore = ds.Self
	}
	return p
}

// usedSpace is the space that the disks of a configuration take when they are copied.
func usedSpace(devices []types.BaseVirtualDevice) (n int64) {
	for _, d := range disksOf(devices) {
		if b := fileBacking(d); b != nil && isTrue(b.ThinProvisioned) {
			n += min(d.CapacityInBytes, thinSize)
			continue
		}
		n += d.CapacityInBytes
	}
	return n
}

// takeSpace changes the free space of a datastore by -n bytes.
func (s *Sim) takeSpace(ctx *simulator.Context, r ref, n int64) {
	ds := s.datastore(r)
	if ds == nil || n == 0 {
		return
	}
	s.lock(ctx, ds, func() {
		free := min(max(ds.Summary.FreeSpace-n, 0), ds.Summary.Capacity)
		ctx.Update(ds, []types.PropertyChange{{Name: "summary.freeSpace", Val: free}})
		ds.Info.GetDatastoreInfo().FreeSpace = free
	})
}
