package vsphere

import (
	"context"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/ipaddr"
)

// guestReady refuses a machine that is off or has no tools running.
func (d *driver) guestReady(ctx context.Context, id hypervisor.VMID, k capability.Name, paths ...string) (propMap, error) {
	p, err := d.one(ctx, vmRef(id), append(paths, "runtime.powerState", "guest.toolsRunningStatus")...)
	if err != nil {
		return nil, err
	}
	if s := stateOf(get[types.VirtualMachinePowerState](p, "runtime.powerState")); s != hypervisor.StateRunning {
		return nil, invalidState(id.Ref(), "the machine is %s: its guest can't be asked", s)
	}
	if p.str("guest.toolsRunningStatus") != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) {
		return nil, hypervisor.Unsupported(id.Ref(), k, hypervisor.ReasonToolsMissing, toolsMissing)
	}
	return p, nil
}

// GuestInfo reads what VMware Tools reported.
func (d *driver) GuestInfo(ctx context.Context, id hypervisor.VMID) (hypervisor.GuestInfo, error) {
	p, err := d.guestReady(ctx, id, capability.GuestFacts, "guest.guestFamily", "guest.guestFullName", "guest.hostName", "guest.net", "guest.ipAddress", "guest.toolsVersion")
	if err != nil {
		return hypervisor.GuestInfo{}, err
	}
	g := hypervisor.GuestInfo{OSVersion: p.str("guest.guestFullName"), HostName: p.str("guest.hostName"), Tools: strings.TrimSpace("VMware Tools " + p.str("guest.toolsVersion"))}
	switch f := p.str("guest.guestFamily"); f {
	case string(types.VirtualMachineGuestOsFamilyLinuxGuest):
		g.OS = "linux"
	case string(types.VirtualMachineGuestOsFamilyWindowsGuest):
		g.OS = "windows"
	default:
		g.OS = strings.TrimSuffix(f, "Guest")
	}
	for _, n := range get[types.ArrayOfGuestNicInfo](p, "guest.net").GuestNicInfo {
		g.Addresses = append(g.Addresses, ipaddr.Parse(n.IpAddress...)...)
	}
	if len(g.Addresses) == 0 {
		g.Addresses = ipaddr.Parse(p.str("guest.ipAddress"))
	}
	return g, nil
}

// GuestClock: see noGuestClock.
func (d *driver) GuestClock(_ context.Context, id hypervisor.VMID) (hypervisor.ClockReading, error) {
	return hypervisor.ClockReading{}, hypervisor.Unsupported(id.Ref(), capability.GuestClock, hypervisor.ReasonPlatform, noGuestClock)
}

// SetGuestClock: see noGuestClock.
func (d *driver) SetGuestClock(_ context.Context, id hypervisor.VMID, _ time.Time) error {
	return hypervisor.Unsupported(id.Ref(), capability.GuestClock, hypervisor.ReasonPlatform, noGuestClock)
}
