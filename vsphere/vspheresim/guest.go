package vspheresim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Guest is the behaviour of the guest of a machine.
type Guest struct {
	// Tools reports whether VMware Tools run when the machine is on.
	Tools bool
	// HostName and IP are what Tools report; empty values are made up.
	HostName, IP string
	// Deaf makes the guest ignore a request to shut down or reboot.
	Deaf bool
	// User and Password are the login of guest operations; any login is accepted when User is empty.
	User, Password string
	// Run is the behaviour of a program started by guest operations; nil means that it ends at once with 0 and no output.
	Run func(path, arguments string) Result
	// Files are the files that guest operations may read, by path.
	Files map[string]string
}

// SetGuest sets the behaviour of the guests of the machines with a name, from now on.
func (s *Sim) SetGuest(name string, g Guest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, found := s.newContext(), false
	for _, vm := range s.allVMs() {
		if vm.Name != name {
			continue
		}
		found = true
		st := s.stateOf(vm.Self)
		st.guest = g
		s.mutate(ctx, vm, func() {
			s.applyGuest(vm)
			s.derive(&vm.VirtualMachine)
		})
	}
	if !found {
		return fmt.Errorf("vspheresim: no machine named %q", name)
	}
	return nil
}

// applyGuest sets vm.guest to what the guest of a machine in its power state reports. API reference: GuestInfo. The caller holds the lock of the
// machine.
func (s *Sim) applyGuest(vm *simulator.VirtualMachine) {
	st := s.stateOf(vm.Self)
	on := vm.Runtime.PowerState == poweredOn
	g := clone(*vm.Guest)
	g.Net = guestNICs(vm, g.Net)
	switch {
	case !st.guest.Tools:
		// Values from the SET.guest options of govmomi's simulator stay as long as the machine is on.
		if g.ToolsRunningStatus != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) || !on {
			g.ToolsStatus, g.ToolsVersionStatus2 = types.VirtualMachineToolsStatusToolsNotInstalled, string(types.VirtualMachineToolsVersionStatusGuestToolsNotInstalled)
			g.ToolsRunningStatus, g.ToolsVersion = string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning), "0"
			g.HostName, g.IpAddress = "", ""
		}
	case on:
		g.ToolsStatus, g.ToolsVersionStatus2 = types.VirtualMachineToolsStatusToolsOk, string(types.VirtualMachineToolsVersionStatusGuestToolsCurrent)
		g.ToolsRunningStatus, g.ToolsVersion = string(types.VirtualMachineToolsRunningStatusGuestToolsRunning), "12389"
		g.GuestId, g.GuestFullName = vm.Config.GuestId, vm.Config.GuestFullName
		g.GuestFamily = guestFamily(vm.Config.GuestId)
		g.HostName, g.IpAddress = st.hostName(vm), st.address(vm)
		for i := range g.Net {
			if i == 0 && g.IpAddress != "" {
				g.Net[0].IpAddress = []string{g.IpAddress}
				g.Net[0].IpConfig = &types.NetIpConfigInfo{IpAddress: []types.NetIpConfigInfoIpAddress{{IpAddress: g.IpAddress, PrefixLength: 24}}}
			}
		}
	default:
		g.ToolsStatus, g.ToolsVersionStatus2 = types.VirtualMachineToolsStatusToolsNotRunning, string(types.VirtualMachineToolsVersionStatusGuestToolsCurrent)
		g.ToolsRunningStatus = string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)
		g.HostName, g.IpAddress = "", ""
	}
	running := on && g.ToolsRunningStatus == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	g.GuestState, g.GuestOperationsReady, g.InteractiveGuestOperationsReady = "notRunning", &running, new(bool)
	if running {
		g.GuestState = "running"
	}
	for i := range g.Net {
		g.Net[i].Connected = on
		if !running {
			g.Net[i].IpAddress, g.Net[i].IpConfig = nil, nil
		}
	}
	vm.Guest = &g
	vm.GuestHeartbeatStatus = types.ManagedEntityStatusGray
	if running {
		vm.GuestHeartbeatStatus = types.ManagedEntityStatusGreen
	}
	vm.Summary.QuickStats.GuestHeartbeatStatus = vm.GuestHeartbeatStatus
}

func guestNICs(vm *simulator.VirtualMachine, old []types.GuestNicInfo) []types.GuestNicInfo {
	var out []types.GuestNicInfo
	for _, d := range vm.Config.Hardware.Device {
		card, ok := d.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		c := card.GetVirtualEthernetCard()
		n := types.GuestNicInfo{DeviceConfigId: c.Key, MacAddress: c.MacAddress}
		for _, o := range old {
			if o.DeviceConfigId == c.Key {
				n = o
				n.MacAddress = c.MacAddress
			}
		}
		if b, ok := c.Backing.(*types.VirtualEthernetCardNetworkBackingInfo); ok {
			n.Network = b.DeviceName
		}
		out = append(out, n)
	}
	return out
}

func guestFamily(id string) string {
	if strings.HasPrefix(id, "win") {
		return string(types.VirtualMachineGuestOsFamilyWindowsGuest)
	}
	return string(types.VirtualMachineGuestOsFamilyLinuxGuest)
}

func (st *vmState) hostName(vm *simulator.VirtualMachine) string {
	if st.customized.hostName != "" {
		return st.customized.hostName
	}
	if st.guest.HostName != "" {
		return st.guest.HostName
	}
	return strings.ToLower(strings.ReplaceAll(vm.Config.Name, "_", "-"))
}

func (st *vmState) address(vm *simulator.VirtualMachine) string {
	if st.customized.ip != "" {
		return st.customized.ip
	}
	if st.guest.IP != "" {
		return st.guest.IP
	}
	var n int
	_, _ = fmt.Sscanf(vm.Self.Value, "vm-%d", &n)
	return fmt.Sprintf("10.%d.%d.%d", n>>16&0xff, n>>8&0xff, n&0xff)
}

// toolsFault is the fault of a request to the guest. API reference: VirtualMachine.ShutdownGuest, ToolsUnavailable "if VMware Tools is not running";
// govmomi's simulator shuts such a guest down.
func (s *Sim) toolsFault(vm *simulator.VirtualMachine) types.BaseMethodFault {
	if vm.Runtime.PowerState != poweredOn {
		return wrongPower(vm, poweredOn)
	}
	if vm.Guest.ToolsRunningStatus != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) {
		return new(types.ToolsUnavailable)
	}
	return nil
}

// ask sends a request to the guest, which acts later on its own.
func (s *Sim) ask(ctx *simulator.Context, r ref, method string, requested func(types.VmEvent) types.BaseEvent,
	act func(ctx *simulator.Context, vm *simulator.VirtualMachine)) *soap.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, fault := s.live(r)
	if fault == nil {
		fault = s.toolsFault(vm)
	}
	if fault == nil {
		if b := s.busy[r]; b != nil && b.owners > 0 {
			fault = &types.TaskInProgress{Task: b.task}
		}
	}
	if fault != nil {
		return soapFault(fault)
	}
	gctx := s.fork(ctx)
	s.event(gctx, vm, requested)
	if s.stateOf(r).guest.Deaf {
		return nil
	}
	s.tasks.Go(func() {
		t := time.NewTimer(s.taskDelay(method))
		defer t.Stop()
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if vm := s.vm(r); vm != nil && vm.Runtime.PowerState == poweredOn {
			act(gctx, vm)
		}
	})
	return nil
}

func (f *vmFront) ShutdownGuest(ctx *simulator.Context, req *types.ShutdownGuest) soap.HasFault {
	body := &methods.ShutdownGuestBody{}
	if body.Fault_ = f.sim.ask(ctx, req.This, "ShutdownGuest",
		func(e types.VmEvent) types.BaseEvent { return &types.VmGuestShutdownEvent{VmEvent: e} }, f.sim.powerOff); body.Fault_ == nil {
		body.Res = new(types.ShutdownGuestResponse)
	}
	return body
}

func (f *vmFront) RebootGuest(ctx *simulator.Context, req *types.RebootGuest) soap.HasFault {
	s, body := f.sim, &methods.RebootGuestBody{}
	if body.Fault_ = s.ask(ctx, req.This, "RebootGuest",
		func(e types.VmEvent) types.BaseEvent { return &types.VmGuestRebootEvent{VmEvent: e} },
		func(ctx *simulator.Context, vm *simulator.VirtualMachine) {
			s.setPower(ctx, vm, poweredOn, vm.Runtime.BootTime)
		}); body.Fault_ == nil {
		body.Res = new(types.RebootGuestResponse)
	}
	return body
}

func (f *vmFront) StandbyGuest(ctx *simulator.Context, req *types.StandbyGuest) soap.HasFault {
	body := &methods.StandbyGuestBody{}
	if body.Fault_ = f.sim.ask(ctx, req.This, "StandbyGuest",
		func(e types.VmEvent) types.BaseEvent { return &types.VmGuestStandbyEvent{VmEvent: e} }, f.sim.suspend); body.Fault_ == nil {
		body.Res = new(types.StandbyGuestResponse)
	}
	return body
}

// furnishGuestOperations adds the managers that govmomi's simulator lacks.
func (s *Sim) furnishGuestOperations() {
	reg := s.registry()
	content := s.content()
	if content.GuestOperationsManager == nil {
		return
	}
	m, ok := reg.Get(*content.GuestOperationsManager).(*simulator.GuestOperationsManager)
	if !ok || m.AuthManager != nil {
		return
	}
	auth := new(mo.GuestAuthManager)
	auth.Self = ref{Type: "GuestAuthManager", Value: "guestOperationsAuthManager"}
	reg.Put(auth)
	m.AuthManager = &auth.Self
}

// GuestFiles are the files of the guest of a machine, by path, sorted.
func (s *Sim) GuestFiles(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, vm := range s.allVMs() {
		if vm.Name == name {
			return slices.Sorted(maps.Keys(s.stateOf(vm.Self).guest.Files))
		}
	}
	return nil
}
