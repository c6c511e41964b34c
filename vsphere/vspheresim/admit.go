package vspheresim

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Checks of whether a host can take a running machine.

// admit checks what a power-on checks. API reference: VirtualMachine.PowerOnVM_Task lists InsufficientResourcesFault, InvalidState, VmConfigFault and
// FileFault. Which of their kinds is returned when is believed, after the descriptions of the kinds.
func (s *Sim) admit(vm *simulator.VirtualMachine, c *types.VirtualMachineConfigInfo, h *simulator.HostSystem) types.BaseMethodFault {
	if h.Runtime.InMaintenanceMode {
		return new(types.InvalidState)
	}
	if h.Runtime.ConnectionState != types.HostSystemConnectionStateConnected {
		return new(types.HostNotConnected)
	}
	if threads := int32(h.Summary.Hardware.NumCpuThreads); c.Hardware.NumCPU > threads {
		return &types.NotEnoughLogicalCpus{NotEnoughCpus: types.NotEnoughCpus{NumCpuDest: threads, NumCpuVm: c.Hardware.NumCPU}}
	}
	mem, cpu := s.reserved(h, vm)
	if want := memoryReservation(c); mem+want > h.Summary.Hardware.MemorySize>>20 {
		return &types.InsufficientMemoryResourcesFault{
			Unreserved: (h.Summary.Hardware.MemorySize>>20 - mem) << 20, Requested: want << 20,
		}
	}
	total := int64(h.Summary.Hardware.CpuMhz) * int64(h.Summary.Hardware.NumCpuCores)
	if want := int64(reservation(c.CpuAllocation)); cpu+want > total {
		return &types.InsufficientCpuResourcesFault{Unreserved: total - cpu, Requested: want}
	}
	if f := s.admitFailover(vm, c, h); f != nil {
		return f
	}
	if f := s.admitSwap(vm, c); f != nil {
		return f
	}
	if f := s.admitDisks(vm, c); f != nil {
		return f
	}
	return s.admitDevices(vm, c, h)
}

// memoryReservation is the reservation in MB; a machine that locks its reservation to its size reserves all.
func memoryReservation(c *types.VirtualMachineConfigInfo) int64 {
	if c.MemoryReservationLockedToMax != nil && *c.MemoryReservationLockedToMax {
		return int64(c.Hardware.MemoryMB)
	}
	return int64(reservation(c.MemoryAllocation))
}

// reserved is what the other running machines of a host have reserved, in MB and MHz.
func (s *Sim) reserved(h *simulator.HostSystem, except *simulator.VirtualMachine) (mem, cpu int64) {
	for _, r := range h.Vm {
		vm := s.vm(r)
		if vm == nil || vm == except || vm.Runtime.PowerState != poweredOn {
			continue
		}
		mem += memoryReservation(vm.Config)
		cpu += int64(reservation(vm.Config.CpuAllocation))
	}
	return mem, cpu
}

// admitSwap checks that the swap file fits on the datastore of the machine.
func (s *Sim) admitSwap(vm *simulator.VirtualMachine, c *types.VirtualMachineConfigInfo) types.BaseMethodFault {
	need := (int64(c.Hardware.MemoryMB) - memoryReservation(c)) << 20
	name := dsPath(c.Files.VmPathName).Datastore
	ds := s.datastoreByName(s.host(*vm.Runtime.Host), name)
	if ds != nil && need > ds.Summary.FreeSpace {
		return &types.NoDiskSpace{FileFault: types.FileFault{File: name}, Datastore: name}
	}
	return nil
}

// admitDisks refuses a disk that another running machine writes. API reference: FileLocked.
func (s *Sim) admitDisks(vm *simulator.VirtualMachine, c *types.VirtualMachineConfigInfo) types.BaseMethodFault {
	for _, d := range disksOf(c.Hardware.Device) {
		b := fileBacking(d)
		if b == nil || b.Sharing == string(types.VirtualDiskSharingSharingMultiWriter) {
			continue
		}
		for _, other := range s.holders(key(b), vm.Self) {
			if other.Runtime.PowerState != poweredOn {
				continue
			}
			for _, x := range disksOf(other.Config.Hardware.Device) {
				if y := fileBacking(x); y != nil && key(y) == key(b) {
					return &types.FileLocked{FileFault: types.FileFault{File: b.FileName}}
				}
			}
		}
	}
	return nil
}

// passthrough reports whether a device is a real one of the host, so that the machine cannot be saved or moved.
// A vGPU is not: its state can be saved (HostSharedGpuCapabilities).
func passthrough(d types.BaseVirtualDevice) bool {
	switch x := d.(type) {
	case *types.VirtualPCIPassthrough:
		switch x.Backing.(type) {
		case *types.VirtualPCIPassthroughVmiopBackingInfo:
			return false
		}
		return true
	case *types.VirtualSriovEthernetCard:
		return true
	}
	return false
}

func firstPassthrough(c *types.VirtualMachineConfigInfo) types.BaseVirtualDevice {
	for _, d := range c.Hardware.Device {
		if passthrough(d) {
			return d
		}
	}
	return nil
}

func label(d types.BaseVirtualDevice) string {
	if info := d.GetVirtualDevice().DeviceInfo; info != nil {
		return info.GetDescription().Label
	}
	return fmt.Sprintf("device %d", d.GetVirtualDevice().Key)
}

// deviceNotSupported is the fault for a device that prevents an operation. API reference: DeviceNotSupported, "A DeviceNotSupported fault is thrown
// if the virtual machine uses a virtual device that is not supported on the host".
func deviceNotSupported(d types.BaseVirtualDevice) *types.DeviceNotSupported {
	return &types.DeviceNotSupported{Device: label(d), Reason: "passthrough"}
}

// admitDevices finds the devices of a host for those that the machine requests.
func (s *Sim) admitDevices(vm *simulator.VirtualMachine, c *types.VirtualMachineConfigInfo, h *simulator.HostSystem) types.BaseMethodFault {
	if !needsHostDevice(c) {
		return nil
	}
	// vSphere documentation of DirectPath I/O and of vGPU: all memory of the machine must be reserved.
	if memoryReservation(c) < int64(c.Hardware.MemoryMB) {
		f := &types.GenericVmConfigFault{Reason: fmt.Sprintf(
			"Invalid memory setting: memory reservation (sched.mem.min) should be equal to memsize(%d).", c.Hardware.MemoryMB)}
		f.FaultCause = &types.LocalizedMethodFault{Fault: &types.SystemErrorFault{Reason: f.Reason}, LocalizedMessage: f.Reason}
		return f
	}
	pool := s.freeDevices(h, vm)
	_, fault := pool.assign(c.Hardware.Device)
	return fault
}

func needsHostDevice(c *types.VirtualMachineConfigInfo) bool {
	for _, d := range c.Hardware.Device {
		switch d.(type) {
		case *types.VirtualPCIPassthrough, *types.VirtualSriovEthernetCard:
			return true
		}
	}
	return false
}

// devicePool holds the free devices of a host.
type devicePool struct {
	host  *simulator.HostSystem
	gpus  []GPU
	whole map[string]bool     // given to a machine as a whole
	parts map[string][]string // assigned vGPU profiles, by GPU
	vfs   map[string]int      // assigned virtual functions, by physical function
}

// function takes a virtual function for an SR-IOV adapter. Without a physical function in its backing, which means any, it is not counted.
func (p *devicePool) function(card *types.VirtualSriovEthernetCard) types.BaseMethodFault {
	if card.SriovBacking == nil || card.SriovBacking.PhysicalFunctionBacking == nil {
		return nil
	}
	id := card.SriovBacking.PhysicalFunctionBacking.Id
	for _, b := range p.host.Config.PciPassthruInfo {
		v, ok := b.(*types.HostSriovInfo)
		if !ok || v.Id != id || !v.SriovActive {
			continue
		}
		if p.vfs[id] >= int(v.NumVirtualFunction) {
			return &types.ResourceInUse{Type: "VirtualFunction", Name: id}
		}
		p.vfs[id]++
		return nil
	}
	return &types.DeviceBackingNotSupported{DeviceNotSupported: *deviceNotSupported(card), Backing: id}
}

func (s *Sim) freeDevices(h *simulator.HostSystem, except *simulator.VirtualMachine) *devicePool {
	p := &devicePool{host: h, whole: map[string]bool{}, parts: map[string][]string{}, vfs: map[string]int{}}
	if st := s.hosts[h.Self]; st != nil {
		p.gpus = st.gpus
	}
	for _, r := range h.Vm {
		if vm := s.vm(r); vm != nil && vm != except && vm.Runtime.PowerState == poweredOn {
			_, _ = p.assign(vm.Config.Hardware.Device)
		}
	}
	return p
}

// active reports whether a host has a PCI device ready to be passed through.
func active(h *simulator.HostSystem, id string) (known, ready bool) {
	for _, b := range h.Config.PciPassthruInfo {
		i := b.GetHostPciPassthruInfo()
		if i.Id == id {
			return true, i.PassthruActive
		}
	}
	return false, false
}

// assign takes devices for the requests of a machine. It returns the address given to each device key.
func (p *devicePool) assign(devices []types.BaseVirtualDevice) (map[int32]string, types.BaseMethodFault) {
	given := map[int32]string{}
	for _, d := range devices {
		if card, ok := d.(*types.VirtualSriovEthernetCard); ok {
			if fault := p.function(card); fault != nil {
				return nil, fault
			}
			continue
		}
		x, ok := d.(*types.VirtualPCIPassthrough)
		if !ok {
			continue
		}
		switch b := x.Backing.(type) {
		case *types.VirtualPCIPassthroughDeviceBackingInfo:
			known, ready := active(p.host, b.Id)
			if !known || !ready {
				return nil, &types.DeviceBackingNotSupported{DeviceNotSupported: *deviceNotSupported(d), Backing: b.Id}
			}
			if p.whole[b.Id] || len(p.parts[b.Id]) > 0 {
				return nil, &types.ResourceInUse{Type: "PCIDevice", Name: b.Id}
			}
			p.whole[b.Id] = true
			given[x.Key] = b.Id
		case *types.VirtualPCIPassthroughDynamicBackingInfo:
			id := p.match(b)
			if id == "" {
				return nil, new(types.InsufficientGraphicsResourcesFault)
			}
			p.whole[id] = true
			given[x.Key] = id
		case *types.VirtualPCIPassthroughVmiopBackingInfo:
			id := p.share(b.Vgpu)
			if id == "" {
				return nil, new(types.InsufficientGraphicsResourcesFault)
			}
			p.parts[id] = append(p.parts[id], b.Vgpu)
			given[x.Key] = id
		}
	}
	return given, nil
}

// showDevices makes the host and the machine report which device the machine has. API reference: HostGraphicsInfo.vm, "Virtual machines using this
// graphics device"; VirtualPCIPassthroughDynamicBackingInfo.assignedId, set while the machine is on.
func (s *Sim) showDevices(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	h := s.host(*vm.Runtime.Host)
	if h == nil || len(h.Config.GraphicsInfo) == 0 || !needsHostDevice(vm.Config) {
		return
	}
	users := map[string][]ref{}
	pool := s.freeDevices(h, nil)
	pool.whole, pool.parts, pool.vfs = map[string]bool{}, map[string][]string{}, map[string]int{}
	var mine map[int32]string
	for _, r := range h.Vm {
		x := s.vm(r)
		if x == nil || x.Runtime.PowerState != poweredOn {
			continue
		}
		given, _ := pool.assign(x.Config.Hardware.Device)
		for _, id := range given {
			users[id] = append(users[id], r)
		}
		if x == vm {
			mine = given
		}
	}
	s.mutate(ctx, vm, func() {
		devices := clone(vm.Config.Hardware.Device)
		for _, d := range devices {
			if p, ok := d.(*types.VirtualPCIPassthrough); ok {
				if b, ok := p.Backing.(*types.VirtualPCIPassthroughDynamicBackingInfo); ok {
					b.AssignedId = mine[p.Key]
				}
			}
		}
		vm.Config.Hardware.Device = devices
	})
	s.mutate(ctx, h, func() {
		info := clone(h.Config.GraphicsInfo)
		for i := range info {
			info[i].Vm = users[info[i].PciId]
		}
		h.Config.GraphicsInfo = info
	})
}

func (p *devicePool) match(b *types.VirtualPCIPassthroughDynamicBackingInfo) string {
	for _, d := range p.host.Hardware.PciDevice {
		if _, ready := active(p.host, d.Id); !ready || p.whole[d.Id] || len(p.parts[d.Id]) > 0 {
			continue
		}
		if b.CustomLabel != "" && b.CustomLabel != hardwareLabel(p.host, d.Id) {
			continue
		}
		for _, a := range b.AllowedDevice {
			if uint16(a.VendorId) == uint16(d.VendorId) && uint16(a.DeviceId) == uint16(d.DeviceId) {
				return d.Id
			}
		}
	}
	return ""
}

func hardwareLabel(h *simulator.HostSystem, id string) string {
	for _, b := range h.Config.PciPassthruInfo {
		if i := b.GetHostPciPassthruInfo(); i.Id == id {
			return i.HardwareLabel
		}
	}
	return ""
}

// share finds a GPU that can hold one more vGPU. Time-sliced vGPUs of one GPU all have the same type (NVIDIA vGPU
// documentation, equal-size mode, which is the default).
func (p *devicePool) share(profile string) string {
	for _, g := range p.gpus {
		if !contains(g.Profiles, profile) || p.whole[g.Address] {
			continue
		}
		if _, ready := active(p.host, g.Address); ready {
			continue // it is passed through as a whole
		}
		parts := p.parts[g.Address]
		if len(parts) > 0 && parts[0] != profile || len(parts) >= g.instances(profile) {
			continue
		}
		return g.Address
	}
	return ""
}

// instances is the number of vGPUs of a profile that fit on the device: its memory divided by the gigabytes in the name of the profile
// ("grid_h100-40c").
func (g GPU) instances(profile string) int {
	i := strings.LastIndexByte(profile, '-')
	n, err := strconv.Atoi(strings.TrimRight(profile[i+1:], "abcdefghijklmnopqrstuvwxyz"))
	if err != nil || n == 0 || g.MemoryMB == 0 {
		return 1
	}
	return max(1, int(g.MemoryMB/1024)/n)
}
