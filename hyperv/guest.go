package hyperv

import (
	"context"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/ipaddr"
)

// GuestInfo implements hypervisor.GuestAgent with the items that the guest's
// data exchange service (KVP) publishes.
func (d *driver) GuestInfo(ctx context.Context, id hypervisor.VMID) (hypervisor.GuestInfo, error) {
	m, err := d.machine(ctx, id)
	if err != nil {
		return hypervisor.GuestInfo{}, err
	}
	if m.state != hypervisor.StateRunning {
		return hypervisor.GuestInfo{}, hypervisor.Errorf(hypervisor.ErrInvalidState, id.Ref(), "the machine is %s, so its guest can't answer", m.state)
	}
	missing := hypervisor.Unsupported(id.Ref(), capability.GuestFacts, hypervisor.ReasonToolsMissing,
		"the guest's data exchange service does not answer (integration services missing, switched off, or not started yet)")
	c, err := cim.First(m.s.Query(ctx, cim.Virtualization, cim.Select("Msvm_KvpExchangeComponent", nil, "SystemName = "+cim.Quote(string(m.id)))), "the data exchange service")
	if isGone(err) {
		return hypervisor.GuestInfo{}, missing
	}
	if err != nil {
		return hypervisor.GuestInfo{}, err
	}
	items := map[string]string{}
	for _, i := range c.Insts("GuestIntrinsicExchangeItems") {
		items[i.Str("Name")] = i.Str("Data")
	}
	if len(items) == 0 {
		return hypervisor.GuestInfo{}, missing
	}
	g := hypervisor.GuestInfo{HostName: items["FullyQualifiedDomainName"], OSVersion: items["OSVersion"], Tools: "Hyper-V integration services " + items["IntegrationServicesVersion"]}
	switch name := items["OSName"]; {
	case strings.Contains(strings.ToLower(name), "windows"):
		g.OS = "windows"
	case name != "":
		g.OS = "linux"
	}
	if items["OSName"] != "" {
		g.OSVersion = strings.TrimSpace(items["OSName"] + " " + items["OSVersion"])
	}
	for _, k := range []string{"NetworkAddressIPv4", "NetworkAddressIPv6"} {
		g.Addresses = append(g.Addresses, ipaddr.Parse(strings.Split(items[k], ";")...)...)
	}
	return g, nil
}

// Exec implements hypervisor.GuestAgent. It is refused: the WMI provider runs
// no programs in guests (PowerShell Direct does, over a socket of the host).
func (d *driver) Exec(_ context.Context, id hypervisor.VMID, _ hypervisor.ExecRequest) (hypervisor.ExecResult, error) {
	return hypervisor.ExecResult{}, d.refuse(id.Ref(), capability.GuestExec)
}

// GuestClock implements hypervisor.GuestAgent. It is refused: the host does
// not report the guest's clock, which its time synchronisation service sets.
func (d *driver) GuestClock(_ context.Context, id hypervisor.VMID) (hypervisor.ClockReading, error) {
	return hypervisor.ClockReading{}, d.refuse(id.Ref(), capability.GuestClock)
}

// SetGuestClock implements hypervisor.GuestAgent; see GuestClock.
func (d *driver) SetGuestClock(_ context.Context, id hypervisor.VMID, _ time.Time) error {
	return d.refuse(id.Ref(), capability.GuestClock)
}
