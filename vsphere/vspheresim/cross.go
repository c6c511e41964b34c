package vspheresim

import (
	"net/url"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// running holds the simulators of this process by host and port, so that a machine can move from one to another like from vCenter to vCenter.
var running sync.Map

// crossJob moves a machine to another vCenter. API reference: VirtualMachineRelocateSpec.service, ServiceLocator with instanceUuid, url, credential and
// sslThumbprint; InvalidLogin, HostConnectFault and its kinds, SSLVerifyFault. The destination checks what it would check for a move of its own.
func (s *Sim) crossJob(req *types.RelocateVM_Task) job {
	var to *Sim
	var at place
	return s.vmJob("RelocateVM_Task", "relocate", req.This, true,
		func(vm *simulator.VirtualMachine) (fault types.BaseMethodFault) {
			if to, fault = s.otherVCenter(req.Spec.Service); fault != nil {
				return fault
			}
			if firstPassthrough(vm.Config) != nil && vm.Runtime.PowerState == poweredOn {
				l := new(issues)
				s.checkLive(l, vm, s.host(*vm.Runtime.Host))
				return l.first()
			}
			if vm.Snapshot != nil && vm.Runtime.PowerState == poweredOn {
				return new(types.NotSupported) // believed
			}
			if !to.lockFrom() {
				return new(types.HostCommunication)
			}
			defer to.mu.Unlock()
			if req.Spec.Host == nil && req.Spec.Pool == nil || req.Spec.Datastore == nil {
				return invalid("spec") // API reference: host or pool, folder and datastore are required with a service
			}
			spec := &req.Spec
			pool, folder := spec.Pool, spec.Folder
			if pool == nil {
				if c := to.computeOfHost(to.host(*spec.Host)); c != nil {
					pool = c.ResourcePool
				}
			}
			if folder == nil {
				return invalid("spec.folder")
			}
			if at, fault = to.choose(place{}, folder, pool, spec.Host, spec.Datastore, vm.Config); fault != nil {
				return fault
			}
			if fault = to.checkDevices(spec.DeviceChange, vm.Config.Hardware.Device, vm.Runtime.PowerState, to.host(at.host), ref{}); fault != nil {
				return fault
			}
			return to.checkName(vm.Name, at.folder, ref{})
		},
		func(ctx *simulator.Context, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
			if !to.lockFrom() {
				return nil, new(types.HostCommunication)
			}
			defer to.mu.Unlock()
			other := to.newContext()
			m := to.copyOf(vm, vm.Config, vm.Name, at)
			m.Config.Uuid, m.Config.InstanceUuid = vm.Config.Uuid, vm.Config.InstanceUuid
			to.cloneDisks(m, &clonePlan{source: vm, at: at, from: s}, &types.VirtualMachineCloneSpec{})
			if net := to.firstNetwork(at.host); net != nil {
				for _, d := range m.Config.Hardware.Device {
					if card, ok := d.(types.BaseVirtualEthernetCard); ok {
						card.GetVirtualEthernetCard().Backing = &types.VirtualEthernetCardNetworkBackingInfo{
							VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: net.Name}, Network: &net.Self}
					}
				}
			}
			n := to.insert(other, m, at, true)
			st := to.stateOf(n.Self)
			st.guest = s.stateOf(vm.Self).guest
			if len(req.Spec.DeviceChange) > 0 {
				if fault := to.reconfigure(other, n, &types.VirtualMachineConfigSpec{DeviceChange: clone(req.Spec.DeviceChange)}); fault != nil {
					to.destroy(other, n)
					return nil, fault
				}
			}
			to.setPower(other, n, vm.Runtime.PowerState, vm.Runtime.BootTime)
			st.memory = s.stateOf(vm.Self).memory
			to.touchFiles(&n.VirtualMachine)
			s.destroy(ctx, vm)
			return nil, nil
		})
}

// lockFrom takes the lock of the other side of a move while the lock of this side is held. It gives up instead of waiting for a move in the other
// direction.
func (s *Sim) lockFrom() bool {
	for range 2000 {
		if s.mu.TryLock() {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

func (s *Sim) otherVCenter(l *types.ServiceLocator) (*Sim, types.BaseMethodFault) {
	u, err := url.Parse(l.Url)
	if err != nil {
		return nil, invalid("spec.service.url")
	}
	v, ok := running.Load(u.Host)
	if !ok || v.(*Sim) == s {
		return nil, new(types.HostConnectFault)
	}
	to := v.(*Sim)
	if to.cfg.TLS && l.SslThumbprint != "" && l.SslThumbprint != to.Thumbprint() {
		return nil, &types.SSLVerifyFault{Thumbprint: to.Thumbprint()}
	}
	c, ok := l.Credential.(*types.ServiceLocatorNamePassword)
	if !ok || c.Username != to.cfg.User || c.Password != to.cfg.Password {
		return nil, new(types.InvalidLogin)
	}
	if id := to.content().About.InstanceUuid; l.InstanceUuid != id {
		return nil, invalid("spec.service.instanceUuid")
	}
	return to, nil
}
