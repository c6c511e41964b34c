package vspheresim

import (
	"fmt"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// hostFront answers the calls on hosts.
type hostFront struct{ receiver }

// EnterMaintenanceModeTask moves the running machines away where DRS is fully automated, and otherwise waits until they are gone or
// the time is over. API reference: HostSystem.EnterMaintenanceMode_Task, "The task completes once there are no running virtual machines on
// the host and no provisioning operations in progress"; Timedout; "evacuatePoweredOffVms: … relocates powered off virtual machines".
func (f *hostFront) EnterMaintenanceModeTask(ctx *simulator.Context, req *types.EnterMaintenanceMode_Task) soap.HasFault {
	s := f.sim
	evacuate := req.EvacuatePoweredOffVms != nil && *req.EvacuatePoweredOffVms
	j := job{
		method: "EnterMaintenanceMode_Task", id: "HostSystem.enterMaintenanceMode", entity: req.This, owns: []ref{req.This}, cancel: true,
		check: func() types.BaseMethodFault {
			if s.host(req.This).Runtime.InMaintenanceMode {
				return new(types.InvalidState)
			}
			return nil
		},
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			h := s.host(req.This)
			s.post(ctx, &types.EnteringMaintenanceModeEvent{HostEvent: s.hostEvent(h)})
			s.evacuate(ctx, h, evacuate)
			return nil, nil
		},
	}
	j.until = func() bool { return !s.runsMachines(s.host(req.This)) }
	j.limit = time.Duration(req.Timeout) * time.Second
	j.after = func(ctx *simulator.Context) { s.setMaintenance(ctx, s.host(req.This), true) }
	return &methods.EnterMaintenanceMode_TaskBody{Res: &types.EnterMaintenanceMode_TaskResponse{Returnval: s.start(ctx, j)}}
}

func (f *hostFront) ExitMaintenanceModeTask(ctx *simulator.Context, req *types.ExitMaintenanceMode_Task) soap.HasFault {
	s := f.sim
	return &methods.ExitMaintenanceMode_TaskBody{Res: &types.ExitMaintenanceMode_TaskResponse{Returnval: s.start(ctx, job{
		method: "ExitMaintenanceMode_Task", id: "HostSystem.exitMaintenanceMode", entity: req.This, owns: []ref{req.This},
		check: func() types.BaseMethodFault {
			if !s.host(req.This).Runtime.InMaintenanceMode {
				return new(types.InvalidState)
			}
			return nil
		},
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			s.setMaintenance(ctx, s.host(req.This), false)
			return nil, nil
		},
	})}}
}

func (s *Sim) hostEvent(h *simulator.HostSystem) types.HostEvent {
	e := types.HostEvent{Event: types.Event{Host: s.hostArgument(h.Self)}}
	if dc := s.datacenterOf(h); dc != nil {
		e.Datacenter = &types.DatacenterEventArgument{EntityEventArgument: types.EntityEventArgument{Name: dc.Name}, Datacenter: dc.Self}
	}
	if c := s.computeOfHost(h); c != nil {
		e.ComputeResource = &types.ComputeResourceEventArgument{EntityEventArgument: types.EntityEventArgument{Name: c.Name}, ComputeResource: c.Self}
	}
	return e
}

func (s *Sim) setMaintenance(ctx *simulator.Context, h *simulator.HostSystem, in bool) {
	s.mutate(ctx, h, func() { h.Runtime.InMaintenanceMode = in })
	s.afterHostChange(ctx, h)
	if in {
		s.post(ctx, &types.EnteredMaintenanceModeEvent{HostEvent: s.hostEvent(h)})
	} else {
		s.post(ctx, &types.ExitMaintenanceModeEvent{HostEvent: s.hostEvent(h)})
	}
}

func (s *Sim) afterHostChange(ctx *simulator.Context, h *simulator.HostSystem) {
	if c := s.computeOfHost(h); c != nil {
		s.summarize(ctx, c)
	}
}

func (s *Sim) runsMachines(h *simulator.HostSystem) bool {
	for _, r := range h.Vm {
		if vm := s.vm(r); vm != nil && vm.Runtime.PowerState == poweredOn {
			return true
		}
	}
	return false
}

// evacuate moves what can be moved by DRS to the other hosts of the cluster.
func (s *Sim) evacuate(ctx *simulator.Context, h *simulator.HostSystem, off bool) {
	c := s.cluster(*h.Parent)
	if c == nil {
		return
	}
	if behavior, on := s.drs(c); !on || behavior != types.DrsBehaviorFullyAutomated {
		return
	}
	for _, r := range append([]ref(nil), h.Vm...) {
		vm := s.vm(r)
		if vm == nil || vm.Runtime.PowerState == poweredOff && !off || s.busy[r] != nil {
			continue
		}
		for _, t := range c.Host {
			if t == h.Self {
				continue
			}
			m, fault := s.planMove(vm, &types.VirtualMachineRelocateSpec{Host: &t})
			if fault == nil && s.checkMove(vm, m).first() == nil {
				_ = s.move(ctx, vm, m, nil)
				break
			}
		}
	}
}

// DisconnectHostTask and ReconnectHostTask: API reference HostSystem.DisconnectHost_Task, HostSystem.ReconnectHost_Task; the machines of a host
// that is not connected are disconnected, and calls on them give HostNotConnected.
func (f *hostFront) DisconnectHostTask(ctx *simulator.Context, req *types.DisconnectHost_Task) soap.HasFault {
	return &methods.DisconnectHost_TaskBody{Res: &types.DisconnectHost_TaskResponse{Returnval: f.connectionJob(ctx, "DisconnectHost_Task", "disconnect", req.This,
		types.HostSystemConnectionStateDisconnected)}}
}

func (f *hostFront) ReconnectHostTask(ctx *simulator.Context, req *types.ReconnectHost_Task) soap.HasFault {
	return &methods.ReconnectHost_TaskBody{Res: &types.ReconnectHost_TaskResponse{Returnval: f.connectionJob(ctx, "ReconnectHost_Task", "reconnect", req.This,
		types.HostSystemConnectionStateConnected)}}
}

func (f *hostFront) connectionJob(ctx *simulator.Context, method, id string, r ref, state types.HostSystemConnectionState) ref {
	s := f.sim
	return s.start(ctx, job{method: method, id: "HostSystem." + id, entity: r, owns: []ref{r},
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			s.setConnection(ctx, s.host(r), state)
			return nil, nil
		}})
}

func (s *Sim) setConnection(ctx *simulator.Context, h *simulator.HostSystem, state types.HostSystemConnectionState) {
	s.mutate(ctx, h, func() { h.Runtime.ConnectionState = state })
	vmState := types.VirtualMachineConnectionStateConnected
	if state != types.HostSystemConnectionStateConnected {
		vmState = types.VirtualMachineConnectionStateDisconnected
	}
	for _, r := range h.Vm {
		if vm := s.vm(r); vm != nil {
			s.mutate(ctx, vm, func() {
				vm.Runtime.ConnectionState = vmState
				vm.Summary.Runtime = vm.Runtime
			})
		}
	}
	s.afterHostChange(ctx, h)
}

// RebootHostTask and ShutdownHostTask: API reference HostSystem.RebootHost_Task, InvalidState "if the host is not in maintenance mode and
// the force flag is not specified". A passthrough configuration that waits for a restart becomes active.
func (f *hostFront) RebootHostTask(ctx *simulator.Context, req *types.RebootHost_Task) soap.HasFault {
	s := f.sim
	return &methods.RebootHost_TaskBody{Res: &types.RebootHost_TaskResponse{Returnval: s.start(ctx, job{
		method: "RebootHost_Task", id: "HostSystem.reboot", entity: req.This, owns: []ref{req.This},
		check: func() types.BaseMethodFault { return s.mayStop(req.This, req.Force) },
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			h := s.host(req.This)
			s.stopMachines(ctx, h)
			s.mutate(ctx, h, func() {
				h.Runtime.BootTime = types.NewTime(time.Now())
				info := clone(h.Config.PciPassthruInfo)
				for _, b := range info {
					i := b.GetHostPciPassthruInfo()
					i.PassthruActive = i.PassthruEnabled
					if v, ok := b.(*types.HostSriovInfo); ok {
						v.SriovActive, v.NumVirtualFunction = v.SriovEnabled, v.NumVirtualFunctionRequested
					}
				}
				h.Config.PciPassthruInfo = info
			})
			s.publishPassthrough(ctx, h)
			return nil, nil
		},
	})}}
}

func (f *hostFront) ShutdownHostTask(ctx *simulator.Context, req *types.ShutdownHost_Task) soap.HasFault {
	s := f.sim
	return &methods.ShutdownHost_TaskBody{Res: &types.ShutdownHost_TaskResponse{Returnval: s.start(ctx, job{
		method: "ShutdownHost_Task", id: "HostSystem.shutdown", entity: req.This, owns: []ref{req.This},
		check: func() types.BaseMethodFault { return s.mayStop(req.This, req.Force) },
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			h := s.host(req.This)
			s.stopMachines(ctx, h)
			s.setConnection(ctx, h, types.HostSystemConnectionStateNotResponding)
			return nil, nil
		},
	})}}
}

func (s *Sim) mayStop(r ref, force bool) types.BaseMethodFault {
	if !s.host(r).Runtime.InMaintenanceMode && !force {
		return new(types.InvalidState)
	}
	return nil
}

func (s *Sim) stopMachines(ctx *simulator.Context, h *simulator.HostSystem) {
	for _, r := range append([]ref(nil), h.Vm...) {
		if vm := s.vm(r); vm != nil && vm.Runtime.PowerState == poweredOn {
			s.powerOff(ctx, vm)
		}
	}
}

// SetHostCPU gives a host another processor, "Intel" or "AMD". A running machine can't move between the two.
func (s *Sim) SetHostCPU(name, vendor, model string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.allHosts() {
		if h.Name != name {
			continue
		}
		s.mutate(s.newContext(), h, func() {
			hw := clone(*h.Summary.Hardware)
			hw.CpuModel = model
			h.Summary.Hardware = &hw
			full := clone(*h.Hardware)
			for i := range full.CpuPkg {
				full.CpuPkg[i].Vendor, full.CpuPkg[i].Description = lowerFirst(vendor), model
			}
			h.Hardware = &full
			list := []types.HostFeatureCapability{{Key: "cpuid." + vendor, FeatureName: "cpuid." + vendor, Value: "1"}}
			if vendor == "AMD" {
				list[0].Key, list[0].FeatureName = "cpuid.AMD", "cpuid.AMD"
				list = append(list, types.HostFeatureCapability{Key: "cpuid.SVM", FeatureName: "cpuid.SVM", Value: "1"})
			} else {
				list = append(list, types.HostFeatureCapability{Key: "cpuid.VMX", FeatureName: "cpuid.VMX", Value: "1"})
			}
			h.Config.FeatureCapability = append(list, types.HostFeatureCapability{Key: "hv.capable", FeatureName: "hv.capable", Value: "1"})
		})
		return nil
	}
	return fmt.Errorf("vspheresim: no host named %q", name)
}

// DropHost makes a host stop answering, like a host that lost its power or its network. Its machines are disconnected. With up true the host is back.
func (s *Sim) DropHost(name string, up bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.allHosts() {
		if h.Name == name {
			state := types.HostSystemConnectionStateNotResponding
			if up {
				state = types.HostSystemConnectionStateConnected
			}
			s.setConnection(s.newContext(), h, state)
			return nil
		}
	}
	return fmt.Errorf("vspheresim: no host named %q", name)
}
