package xen

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/ipaddr"
)

// GuestInfo reads class VM_guest_metrics, which the XenServer VM Tools fill
// in.
func (d *driver) GuestInfo(ctx context.Context, id hypervisor.VMID) (hypervisor.GuestInfo, error) {
	_, v, err := d.vm(ctx, id)
	if err != nil {
		return hypervisor.GuestInfo{}, err
	}
	on := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: v.UUID, Name: v.Name}
	if st := state(v.PowerState); st != hypervisor.StateRunning {
		return hypervisor.GuestInfo{}, hypervisor.Errorf(hypervisor.ErrInvalidState, on, "the machine is %s: only a running guest can be asked", st)
	}
	var g guestMetricsRec
	if !v.GuestMetrics.IsNull() {
		if err := d.c.Call(ctx, &g, "VM_guest_metrics.get_record", v.GuestMetrics); err != nil {
			return hypervisor.GuestInfo{}, err
		}
	}
	if len(g.OS) == 0 && len(g.PVDrivers) == 0 {
		return hypervisor.GuestInfo{}, hypervisor.Unsupported(on, capability.GuestFacts, hypervisor.ReasonToolsMissing, toolsDetail)
	}
	i := hypervisor.GuestInfo{OS: g.OS["distro"], OSVersion: g.OS["name"], HostName: g.OS["hostname"]}
	if i.OS == "" {
		i.OS = g.OS["name"]
	}
	if len(g.PVDrivers) > 0 {
		i.Tools = "XenServer VM Tools " + g.PVDrivers["major"] + "." + g.PVDrivers["minor"] + "." + g.PVDrivers["micro"]
	}
	i.Addresses = g.addresses()
	return i, nil
}

// addresses are those of all adapters. Newer tools report the first one of an
// adapter twice, as 0/ip and 0/ipv4/0.
func (g guestMetricsRec) addresses() []netip.Addr {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(g.Networks)) {
		out = append(out, g.Networks[k])
	}
	return ipaddr.Parse(out...)
}

// Exec is refused: XAPI has no message for it.
func (d *driver) Exec(_ context.Context, id hypervisor.VMID, _ hypervisor.ExecRequest) (hypervisor.ExecResult, error) {
	return hypervisor.ExecResult{}, hypervisor.Unsupported(id.Ref(), capability.GuestExec, hypervisor.ReasonPlatform, guestDetail)
}

// GuestClock is refused: the tools don't report the guest's clock.
func (d *driver) GuestClock(_ context.Context, id hypervisor.VMID) (hypervisor.ClockReading, error) {
	return hypervisor.ClockReading{}, hypervisor.Unsupported(id.Ref(), capability.GuestClock, hypervisor.ReasonPlatform, guestDetail)
}

// SetGuestClock is refused like GuestClock.
func (d *driver) SetGuestClock(_ context.Context, id hypervisor.VMID, _ time.Time) error {
	return hypervisor.Unsupported(id.Ref(), capability.GuestClock, hypervisor.ReasonPlatform, guestDetail)
}
