package vspheresim

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// datacenterFront answers the calls on datacenters.
type datacenterFront struct{ receiver }

// PowerOnMultiVMTask: API reference Datacenter.PowerOnMultiVM_Task; the result names a task for each machine that was attempted, and a fault for each that was not.
func (f *datacenterFront) PowerOnMultiVMTask(ctx *simulator.Context, req *types.PowerOnMultiVM_Task) soap.HasFault {
	s := f.sim
	if s.cfg.Model == ESXi {
		return &methods.PowerOnMultiVM_TaskBody{Fault_: soapFault(new(types.NotSupported))}
	}
	front := &vmFront{receiver{sim: s}}
	// The tasks of the machines start before the task that names them ends.
	res := types.ClusterPowerOnVmResult{}
	for _, r := range req.Vm {
		vm := s.vm(r)
		if vm == nil || vm.Runtime.PowerState == poweredOn {
			fault := types.BaseMethodFault(&types.InvalidPowerState{RequestedState: poweredOn, ExistingState: poweredOn})
			res.NotAttempted = append(res.NotAttempted, types.ClusterNotAttemptedVmInfo{Vm: r, Fault: types.LocalizedMethodFault{Fault: fault, LocalizedMessage: faultText(fault)}})
			continue
		}
		body := front.PowerOnVMTask(ctx, &types.PowerOnVM_Task{This: r}).(*methods.PowerOnVM_TaskBody)
		res.Attempted = append(res.Attempted, types.ClusterAttemptedVmInfo{Vm: r, Task: &body.Res.Returnval})
	}
	return &methods.PowerOnMultiVM_TaskBody{Res: &types.PowerOnMultiVM_TaskResponse{Returnval: s.start(ctx, job{
		method: "PowerOnMultiVM_Task", id: "Datacenter.powerOnVm", entity: req.This,
		work: func(*simulator.Context) (types.AnyType, types.BaseMethodFault) { return res, nil },
	})}}
}

// AddHostTask and AddStandaloneHostTask give the new host the same properties as the others.
func (f *clusterFront) AddHostTask(ctx *simulator.Context, req *types.AddHost_Task) soap.HasFault {
	s := f.sim
	return &methods.AddHost_TaskBody{Res: &types.AddHost_TaskResponse{Returnval: s.start(ctx, job{
		method: "AddHost_Task", id: "ClusterComputeResource.addHost", entity: req.This, owns: []ref{req.This},
		check: func() types.BaseMethodFault { return s.checkNewHost(req.Spec.HostName) },
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			c := s.cluster(req.This)
			if b, ok := s.registry().Get(*c.EnvironmentBrowser).(*simulator.EnvironmentBrowser); ok {
				b.QueryConfigOptionDescriptorResponse.Returnval = nil // it cannot read the version of hosts that are furnished
			}
			body := c.AddHostTask(ctx, req)
			res, fault := s.native(ctx, body, func() ref { return body.(*methods.AddHost_TaskBody).Res.Returnval })
			return s.welcome(ctx, res, fault)
		},
	})}}
}

func (f *folderFront) AddStandaloneHostTask(ctx *simulator.Context, req *types.AddStandaloneHost_Task) soap.HasFault {
	s := f.sim
	folder, ok := s.registry().Get(req.This).(*simulator.Folder)
	if !ok || !contains(folder.ChildType, "ComputeResource") {
		return &methods.AddStandaloneHost_TaskBody{Fault_: soapFault(new(types.NotSupported))}
	}
	return &methods.AddStandaloneHost_TaskBody{Res: &types.AddStandaloneHost_TaskResponse{Returnval: s.start(ctx, job{
		method: "AddStandaloneHost_Task", id: "Folder.addStandaloneHost", entity: req.This,
		check: func() types.BaseMethodFault { return s.checkNewHost(req.Spec.HostName) },
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			body := folder.AddStandaloneHostTask(ctx, req)
			res, fault := s.native(ctx, body, func() ref { return body.(*methods.AddStandaloneHost_TaskBody).Res.Returnval })
			return s.welcome(ctx, res, fault)
		},
	})}}
}

// checkNewHost: API reference ClusterComputeResource.AddHost_Task; DuplicateName "if another host in the same cluster has the name",
// AlreadyConnected "if the host is already being managed".
func (s *Sim) checkNewHost(name string) types.BaseMethodFault {
	if name == "" {
		return new(types.NoHost)
	}
	for _, h := range s.allHosts() {
		if h.Name == name {
			return &types.DuplicateName{Name: name, Object: h.Self}
		}
	}
	return nil
}

func (s *Sim) welcome(ctx *simulator.Context, res types.AnyType, fault types.BaseMethodFault) (types.AnyType, types.BaseMethodFault) {
	if fault != nil {
		return nil, fault
	}
	if r, ok := res.(ref); ok {
		if h := s.host(r); h != nil {
			s.furnishHost(ctx, h)
			s.furnishBrowsers()
		}
	}
	return res, nil
}

// DestroyTask of a folder destroys the machines in it. API reference: ManagedEntity.Destroy_Task, "Destroys this object, deleting its contents and
// removing it from its parent folder"; InvalidPowerState for a machine in it that is on. govmomi's simulator leaves the machines behind.
func (f *folderFront) DestroyTask(ctx *simulator.Context, req *types.Destroy_Task) soap.HasFault {
	s := f.sim
	native, ok := s.registry().Get(req.This).(*simulator.Folder)
	if !ok {
		return &methods.Destroy_TaskBody{Fault_: soapFault(new(types.NotSupported))}
	}
	return &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{Returnval: s.start(ctx, job{
		method: "Destroy_Task", id: "Folder.destroy", entity: req.This,
		check: func() types.BaseMethodFault {
			parent, ok := s.registry().Get(*native.Parent).(mo.Entity)
			if !ok || parent.Reference().Type == "Datacenter" {
				return new(types.NotSupported) // the folders with which a datacenter begins
			}
			for _, vm := range s.machinesIn(req.This) {
				if vm.Runtime.PowerState == poweredOn {
					return wrongPower(vm, poweredOff)
				}
				if b := s.busy[vm.Self]; b != nil {
					return &types.TaskInProgress{Task: b.task}
				}
			}
			return nil
		},
		work: func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			for _, vm := range s.machinesIn(req.This) {
				s.destroy(ctx, vm)
			}
			body := native.DestroyTask(ctx, req)
			return s.native(ctx, body, func() ref { return body.(*methods.Destroy_TaskBody).Res.Returnval })
		},
	})}}
}

func (s *Sim) machinesIn(folder ref) []*simulator.VirtualMachine {
	var out []*simulator.VirtualMachine
	f := s.folder(folder)
	if f == nil {
		return nil
	}
	for _, r := range f.ChildEntity {
		if vm := s.vm(r); vm != nil {
			out = append(out, vm)
		} else if r.Type == "Folder" {
			out = append(out, s.machinesIn(r)...)
		}
	}
	return out
}

// CheckVmConfigTask: API reference VirtualMachineCompatibilityChecker.CheckVmConfig_Task; one of vm, host and pool is required.
func (f *checkerFront) CheckVmConfigTask(ctx *simulator.Context, req *types.CheckVmConfig_Task) soap.HasFault {
	s := f.sim
	var entity ref
	switch {
	case req.Vm != nil:
		entity = *req.Vm
	case req.Host != nil:
		entity = *req.Host
	case req.Pool != nil:
		entity = *req.Pool
	default:
		return &methods.CheckVmConfig_TaskBody{Fault_: soapFault(invalid("vm"))}
	}
	return &methods.CheckVmConfig_TaskBody{Res: &types.CheckVmConfig_TaskResponse{Returnval: s.start(ctx, job{
		method: "CheckVmConfig_Task", id: "VirtualMachineCompatibilityChecker.checkVmConfig", entity: entity,
		work: func(*simulator.Context) (types.AnyType, types.BaseMethodFault) {
			var hosts []*simulator.HostSystem
			var cfg *types.VirtualMachineConfigInfo
			var devices []types.BaseVirtualDevice
			state := poweredOff
			switch {
			case req.Host != nil:
				hosts = append(hosts, s.host(*req.Host))
			case req.Pool != nil:
				hosts = s.hostsOf(*req.Pool)
			default:
				hosts = append(hosts, s.host(*s.vm(*req.Vm).Runtime.Host))
			}
			if req.Vm != nil {
				vm := s.vm(*req.Vm)
				cfg, devices, state = vm.Config, vm.Config.Hardware.Device, vm.Runtime.PowerState
			}
			var out []types.CheckResult
			for _, h := range hosts {
				l := new(issues)
				l.add(s.checkSpec(&req.Spec, cfg, state, h))
				l.add(s.checkDevices(req.Spec.DeviceChange, devices, state, h, ref{}))
				host := h.Self
				out = append(out, types.CheckResult{Vm: req.Vm, Host: &host, Error: l.errors, Warning: l.warnings})
			}
			return types.ArrayOfCheckResult{CheckResult: out}, nil
		},
	})}}
}

// HideDatastore takes a datastore away from a host, or gives it back, so that not all hosts see the same storage.
func (s *Sim) HideDatastore(host, datastore string, hide bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.allHosts() {
		if h.Name != host {
			continue
		}
		dc := s.datacenterOf(h)
		for _, r := range dc.Datastore {
			d := s.datastore(r)
			if d == nil || d.Name != datastore {
				continue
			}
			list := without(h.Datastore, r)
			if !hide {
				list = append(list, r)
			}
			ctx := s.newContext()
			s.setList(ctx, h, "datastore", list)
			s.mutate(ctx, d, func() {
				var mounts []types.DatastoreHostMount
				for _, m := range d.Host {
					if m.Key != h.Self {
						mounts = append(mounts, m)
					}
				}
				if !hide {
					yes := true
					mounts = append(mounts, types.DatastoreHostMount{Key: h.Self, MountInfo: types.HostMountInfo{
						AccessMode: string(types.HostMountModeReadWrite), Mounted: &yes, Accessible: &yes}})
				}
				d.Host = mounts
			})
			return nil
		}
	}
	return fmt.Errorf("vspheresim: no host %q with a datastore %q", host, datastore)
}

// HideNetwork takes a network away from a host, or gives it back.
func (s *Sim) HideNetwork(host, network string, hide bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx := s.newContext()
	for _, h := range s.allHosts() {
		if h.Name != host {
			continue
		}
		for _, r := range s.networksOf(h) {
			e, ok := s.registry().Get(r).(mo.Entity)
			if !ok || s.entityName(ctx, e) != network {
				continue
			}
			list := without(h.Network, r)
			if !hide {
				list = append(list, r)
			}
			s.setList(ctx, h, "network", list)
			s.tellNetworks(ctx)
			return nil
		}
	}
	return fmt.Errorf("vspheresim: no host %q with a network %q", host, network)
}

// tellNetworks makes standard networks report which hosts have them. API reference: Network.host, "Hosts attached to this network."; govmomi's
// simulator leaves it empty.
func (s *Sim) tellNetworks(ctx *simulator.Context) {
	for _, e := range s.registry().All("Network") {
		n, ok := e.(*mo.Network)
		if !ok {
			continue
		}
		var hosts []ref
		for _, h := range s.allHosts() {
			if has(h.Network, n.Self) {
				hosts = append(hosts, h.Self)
			}
		}
		s.mutate(ctx, n, func() { n.Host = hosts })
	}
}

// addOpaque makes the opaque networks, which are on all hosts. API reference: OpaqueNetwork, "This interface defines an opaque network, in the
// sense that the detail and configuration of the network is unknown to vSphere and is managed by a management plane outside of vSphere";
// OpaqueNetworkSummary.opaqueNetworkId is the ID that this plane gave it, in whatever datacenter.
func (s *Sim) addOpaque(ctx *simulator.Context) error {
	for i := range s.cfg.OpaqueNetworks {
		id := uuid.NewString()
		for _, e := range s.registry().All("Datacenter") {
			dc, ok := e.(*simulator.Datacenter)
			if !ok {
				continue
			}
			folder := s.registry().Get(dc.NetworkFolder).(*simulator.Folder)
			// Adapters on networks of another type (nsx.LogicalSwitch) are moved to distributed port groups by govmomi's simulator.
			if err := folder.AddOpaqueNetwork(ctx, types.OpaqueNetworkSummary{OpaqueNetworkId: id, OpaqueNetworkType: "nsx.network",
				NetworkSummary: types.NetworkSummary{Name: dc.Name + "_NSX" + itoa(i)}}); err != nil {
				return fmt.Errorf("vspheresim: add an opaque network: %w", err)
			}
		}
	}
	for _, e := range s.registry().All("OpaqueNetwork") {
		n, ok := e.(*mo.OpaqueNetwork)
		if !ok {
			continue
		}
		var hosts []ref
		for _, h := range s.allHosts() {
			if s.datacenterOf(h) != s.datacenterOf(n) {
				continue
			}
			hosts = append(hosts, h.Self)
			s.setList(ctx, h, "network", append(without(h.Network, n.Self), n.Self))
			if c := s.computeOfHost(h); c != nil && !has(c.Network, n.Self) {
				s.setList(ctx, s.registry().Get(c.Self), "network", append(without(c.Network, n.Self), n.Self))
			}
		}
		s.mutate(ctx, n, func() { n.Host = hosts })
	}
	return nil
}

// opaqueOf is the opaque network with an ID of NSX that a host has.
func (s *Sim) opaqueOf(h *simulator.HostSystem, id string) *mo.OpaqueNetwork {
	if h == nil {
		return nil
	}
	for _, r := range h.Network {
		if n, ok := s.registry().Get(r).(*mo.OpaqueNetwork); ok {
			if x, ok := n.Summary.(*types.OpaqueNetworkSummary); ok && x.OpaqueNetworkId == id {
				return n
			}
		}
	}
	return nil
}
