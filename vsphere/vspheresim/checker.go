package vspheresim

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// checkerFront answers the calls on VirtualMachineProvisioningChecker and VirtualMachineCompatibilityChecker. The result of a check is a task's
// result: a list of CheckResult, with every error and not just the first.
type checkerFront struct{ receiver }

func (s *Sim) checkJob(method string, checker, vm ref, results func(vm *simulator.VirtualMachine) ([]types.CheckResult, types.BaseMethodFault)) job {
	return job{
		method: method, id: checker.Type + "." + lowerFirst(method[:len(method)-len("_Task")]), entity: vm,
		work: func(*simulator.Context) (types.AnyType, types.BaseMethodFault) {
			m := s.vm(vm)
			if m == nil {
				return nil, &types.ManagedObjectNotFound{Obj: vm}
			}
			list, fault := results(m)
			if fault != nil {
				return nil, fault
			}
			return types.ArrayOfCheckResult{CheckResult: list}, nil
		},
	}
}

func result(vm, host ref, l *issues) types.CheckResult {
	return types.CheckResult{Vm: &vm, Host: &host, Error: l.errors, Warning: l.warnings}
}

// CheckRelocateTask: API reference VirtualMachineProvisioningChecker.CheckRelocate_Task.
func (f *checkerFront) CheckRelocateTask(ctx *simulator.Context, req *types.CheckRelocate_Task) soap.HasFault {
	s := f.sim
	return &methods.CheckRelocate_TaskBody{Res: &types.CheckRelocate_TaskResponse{Returnval: s.start(ctx,
		s.checkJob("CheckRelocate_Task", req.This, req.Vm, func(vm *simulator.VirtualMachine) ([]types.CheckResult, types.BaseMethodFault) {
			return s.checkTargets(vm, &req.Spec)
		}))}}
}

// CheckMigrateTask: API reference VirtualMachineProvisioningChecker.CheckMigrate_Task; one of host and pool is required.
func (f *checkerFront) CheckMigrateTask(ctx *simulator.Context, req *types.CheckMigrate_Task) soap.HasFault {
	s := f.sim
	return &methods.CheckMigrate_TaskBody{Res: &types.CheckMigrate_TaskResponse{Returnval: s.start(ctx,
		s.checkJob("CheckMigrate_Task", req.This, req.Vm, func(vm *simulator.VirtualMachine) ([]types.CheckResult, types.BaseMethodFault) {
			if req.Host == nil && req.Pool == nil {
				return nil, invalid("host")
			}
			if req.State != "" && req.State != vm.Runtime.PowerState {
				l := new(issues)
				l.add(wrongPower(vm, req.State))
				return []types.CheckResult{result(vm.Self, *vm.Runtime.Host, l)}, nil
			}
			return s.checkTargets(vm, &types.VirtualMachineRelocateSpec{Host: req.Host, Pool: req.Pool})
		}))}}
}

// checkTargets checks the host of a specification, or every host of the cluster of its pool.
func (s *Sim) checkTargets(vm *simulator.VirtualMachine, spec *types.VirtualMachineRelocateSpec) ([]types.CheckResult, types.BaseMethodFault) {
	hosts := []ref{}
	switch {
	case spec.Host != nil:
		hosts = append(hosts, *spec.Host)
	case spec.Pool != nil:
		for _, h := range s.hostsOf(*spec.Pool) {
			hosts = append(hosts, h.Self)
		}
	default:
		hosts = append(hosts, *vm.Runtime.Host)
	}
	var out []types.CheckResult
	for _, h := range hosts {
		one := *spec
		one.Host = &h
		l := new(issues)
		m, fault := s.planMove(vm, &one)
		if fault != nil {
			l.add(fault)
		} else {
			l = s.checkMove(vm, m)
		}
		out = append(out, result(vm.Self, h, l))
	}
	return out, nil
}

// CheckCloneTask: API reference VirtualMachineProvisioningChecker.CheckClone_Task.
func (f *checkerFront) CheckCloneTask(ctx *simulator.Context, req *types.CheckClone_Task) soap.HasFault {
	s := f.sim
	return &methods.CheckClone_TaskBody{Res: &types.CheckClone_TaskResponse{Returnval: s.start(ctx,
		s.checkJob("CheckClone_Task", req.This, req.Vm, func(vm *simulator.VirtualMachine) ([]types.CheckResult, types.BaseMethodFault) {
			l := new(issues)
			host := *vm.Runtime.Host
			p, fault := s.planClone(&types.CloneVM_Task{This: req.Vm, Folder: req.Folder, Name: req.Name, Spec: req.Spec})
			l.add(fault)
			if p != nil {
				host = p.at.host
			}
			return []types.CheckResult{result(vm.Self, host, l)}, nil
		}))}}
}

// CheckInstantCloneTask: API reference VirtualMachineProvisioningChecker.CheckInstantClone_Task.
func (f *checkerFront) CheckInstantCloneTask(ctx *simulator.Context, req *types.CheckInstantClone_Task) soap.HasFault {
	s := f.sim
	return &methods.CheckInstantClone_TaskBody{Res: &types.CheckInstantClone_TaskResponse{Returnval: s.start(ctx,
		s.checkJob("CheckInstantClone_Task", req.This, req.Vm, func(vm *simulator.VirtualMachine) ([]types.CheckResult, types.BaseMethodFault) {
			l := new(issues)
			_, fault := s.planInstant(req.Vm, &req.Spec)
			l.add(fault)
			return []types.CheckResult{result(vm.Self, *vm.Runtime.Host, l)}, nil
		}))}}
}

// CheckPowerOnTask: API reference VirtualMachineCompatibilityChecker.CheckPowerOn_Task.
func (f *checkerFront) CheckPowerOnTask(ctx *simulator.Context, req *types.CheckPowerOn_Task) soap.HasFault {
	s := f.sim
	return &methods.CheckPowerOn_TaskBody{Res: &types.CheckPowerOn_TaskResponse{Returnval: s.start(ctx,
		s.checkJob("CheckPowerOn_Task", req.This, req.Vm, func(vm *simulator.VirtualMachine) ([]types.CheckResult, types.BaseMethodFault) {
			return s.eachHost(vm, req.Host, req.Pool, func(l *issues, h *simulator.HostSystem) {
				if vm.Runtime.PowerState == poweredOn {
					l.add(wrongPower(vm, poweredOn))
				}
				l.add(s.admit(vm, vm.Config, h))
			}), nil
		}))}}
}

// CheckCompatibilityTask: API reference VirtualMachineCompatibilityChecker.CheckCompatibility_Task.
func (f *checkerFront) CheckCompatibilityTask(ctx *simulator.Context, req *types.CheckCompatibility_Task) soap.HasFault {
	s := f.sim
	return &methods.CheckCompatibility_TaskBody{Res: &types.CheckCompatibility_TaskResponse{Returnval: s.start(ctx,
		s.checkJob("CheckCompatibility_Task", req.This, req.Vm, func(vm *simulator.VirtualMachine) ([]types.CheckResult, types.BaseMethodFault) {
			return s.eachHost(vm, req.Host, req.Pool, func(l *issues, h *simulator.HostSystem) {
				s.checkStorage(l, vm, move{to: place{datastore: s.placeOf(vm).datastore}}, h)
				s.checkNetworks(l, vm, h)
				if needsHostDevice(vm.Config) {
					_, fault := s.freeDevices(h, vm).assign(vm.Config.Hardware.Device)
					l.add(fault)
				}
			}), nil
		}))}}
}

func (s *Sim) eachHost(vm *simulator.VirtualMachine, host, pool *ref, check func(*issues, *simulator.HostSystem)) []types.CheckResult {
	hosts := []*simulator.HostSystem{s.host(*vm.Runtime.Host)}
	switch {
	case host != nil:
		hosts = []*simulator.HostSystem{s.host(*host)}
	case pool != nil:
		hosts = s.hostsOf(*pool)
	}
	var out []types.CheckResult
	for _, h := range hosts {
		l := new(issues)
		check(l, h)
		out = append(out, result(vm.Self, h.Self, l))
	}
	return out
}

// QueryVMotionCompatibilityExTask: API reference VirtualMachineProvisioningChecker.QueryVMotionCompatibilityEx_Task, for every pair of machine
// and host.
func (f *checkerFront) QueryVMotionCompatibilityExTask(ctx *simulator.Context, req *types.QueryVMotionCompatibilityEx_Task) soap.HasFault {
	s := f.sim
	if len(req.Vm) == 0 {
		return &methods.QueryVMotionCompatibilityEx_TaskBody{Fault_: soapFault(invalid("vm"))}
	}
	return &methods.QueryVMotionCompatibilityEx_TaskBody{Res: &types.QueryVMotionCompatibilityEx_TaskResponse{Returnval: s.start(ctx,
		s.checkJob("QueryVMotionCompatibilityEx_Task", req.This, req.Vm[0], func(*simulator.VirtualMachine) ([]types.CheckResult, types.BaseMethodFault) {
			var out []types.CheckResult
			for _, r := range req.Vm {
				vm := s.vm(r)
				if vm == nil {
					return nil, &types.ManagedObjectNotFound{Obj: r}
				}
				for _, h := range req.Host {
					list, fault := s.checkTargets(vm, &types.VirtualMachineRelocateSpec{Host: &h})
					if fault != nil {
						return nil, fault
					}
					out = append(out, list...)
				}
			}
			return out, nil
		}))}}
}
