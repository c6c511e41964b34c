package hvsim

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// Guest describes the operating system inside a machine. The zero value is a guest with integration services that
// boots at once, has no name and no address.
type Guest struct {
	NoTools         bool          // no integration services
	BootTime        time.Duration // until then its integration services are not ready
	ShutdownTime    time.Duration // time that a graceful shutdown takes
	Locked          bool          // a graceful shutdown needs Force
	IgnoresShutdown bool          // it accepts a graceful shutdown and does nothing
	FQDN            string
	OSName          string
	OSVersion       string
	IPv4, IPv6      []string
	ClockOffset     time.Duration // guest clock minus host clock; Hyper-V does not report it

	stopping bool
}

// plug makes the devices of a running machine match its settings: the integration services.
func (m *machine) plug() {
	if m.state() != stRunning && m.state() != stPaused {
		return
	}
	h := m.h
	ready := !m.guest.NoTools && h.sim.now().Sub(m.booted) >= m.guest.BootTime
	m.dropDevices()
	for _, k := range components {
		if !m.component(k.settings) {
			continue
		}
		status := 2
		if !ready {
			status = 12 // no contact
		}
		d := h.virt.new(k.device).Set("SystemCreationClassName", "Msvm_ComputerSystem").Set("SystemName", m.id).
			Set("CreationClassName", k.device).Set("DeviceID", "Microsoft:"+m.id+`\`+k.id).Set("ElementName", strings.TrimPrefix(k.device, "Msvm_")).
			Set("EnabledState", 2).Set("HealthState", 5).Set("OperationalStatus", []any{status})
		if k.device == "Msvm_KvpExchangeComponent" {
			d.Set("GuestIntrinsicExchangeItems", m.intrinsic(ready)).Set("GuestExchangeItems", []any{})
		}
		m.devices = append(m.devices, h.virt.add(d))
	}
	m.partitions()
	if !ready {
		return
	}
	for _, nic := range append(m.cfg.bySub(subNIC), m.cfg.bySub(subLegacy)...) {
		g := h.virt.new("Msvm_GuestNetworkAdapterConfiguration").
			Set("InstanceID", `Microsoft:GuestNetwork\`+strings.TrimPrefix(nic.Str("InstanceID"), "Microsoft:")). // form believed
			Set("DHCPEnabled", true).Set("IPAddresses", list(append(append([]string(nil), m.guest.IPv4...), m.guest.IPv6...)))
		m.devices = append(m.devices, h.virt.add(g))
		break // the guest's addresses are on its first adapter
	}
}

func list(l []string) []any {
	out := make([]any, len(l))
	for n, s := range l {
		out[n] = s
	}
	return out
}

func (m *machine) dropDevices() {
	for _, d := range m.devices {
		m.h.virt.remove(d)
	}
	m.devices = nil
}

// intrinsic lists the key-value pairs that a guest reports [D: Msvm_KvpExchangeComponent.GuestIntrinsicExchangeItems].
func (m *machine) intrinsic(ready bool) []any {
	if !ready {
		return []any{}
	}
	g := m.guest
	kv := map[string]string{"FullyQualifiedDomainName": g.FQDN, "OSName": g.OSName, "OSVersion": g.OSVersion, "CSDVersion": "",
		"NetworkAddressIPv4": strings.Join(g.IPv4, ";"), "NetworkAddressIPv6": strings.Join(g.IPv6, ";"), "IntegrationServicesVersion": "10.0.20348",
		"ProcessorArchitecture": "9"}
	if major, rest, good := strings.Cut(g.OSVersion, "."); good {
		minor, _, _ := strings.Cut(rest, ".")
		kv["OSMajorVersion"], kv["OSMinorVersion"] = major, minor
	}
	names := make([]string, 0, len(kv))
	for n := range kv {
		names = append(names, n)
	}
	sort.Strings(names)
	var out []any
	for _, n := range names {
		i := m.h.virt.new("Msvm_KvpExchangeDataItem").Set("Name", n).Set("Data", kv[n]).Set("Source", 2)
		out = append(out, cimx.Format(i))
	}
	return out
}

func init() {
	handle("Msvm_VirtualSystemManagementService", map[string]handler{
		"AddKvpItems":    func(c *call) uint32 { return kvpItems(c, false, false) },
		"ModifyKvpItems": func(c *call) uint32 { return kvpItems(c, true, false) },
		"RemoveKvpItems": func(c *call) uint32 { return kvpItems(c, true, true) },
		"SetGuestNetworkAdapterConfiguration": func(c *call) uint32 {
			m := c.machine("ComputerSystem")
			if m == nil {
				return rvInvalidParam
			}
			if m.state() != stRunning || m.guest.NoTools {
				return rvInvalidState
			}
			for _, s := range c.list("NetworkConfiguration") {
				i, good := c.embedded(s, "Msvm_GuestNetworkAdapterConfiguration")
				if !good {
					return rvInvalidParam
				}
				m.guest.IPv4 = i.Strings("IPAddresses")
			}
			return c.run(false, jobSpec{kind: jtModify, caption: "Setting Guest Network Configuration", vm: m, finish: func() *fail { m.plug(); return nil }})
		},
	})
}

// kvpItems changes host-to-guest items, those with Source 0 [H: libhvee; D: data of at most 1024 characters].
func kvpItems(c *call, exists, remove bool) uint32 {
	m := c.machine("TargetSystem")
	if m == nil {
		return rvInvalidParam
	}
	set := map[string]string{}
	for _, s := range c.list("DataItems") {
		i, good := c.embedded(s, "Msvm_KvpExchangeDataItem")
		if !good || i.Str("Name") == "" || len([]rune(i.Str("Data"))) > 1024 {
			return rvInvalidParam
		}
		if _, has := m.kvp[i.Str("Name")]; has != exists {
			return rvInvalidParam
		}
		set[i.Str("Name")] = i.Str("Data")
	}
	return c.run(false, jobSpec{kind: jtModify, caption: "Modifying KVP Items", vm: m, finish: func() *fail {
		for k, v := range set {
			if remove {
				delete(m.kvp, k)
			} else {
				m.kvp[k] = v
			}
		}
		m.showKVP()
		return nil
	}})
}

func (m *machine) showKVP() {
	var out []any
	names := make([]string, 0, len(m.kvp))
	for n := range m.kvp {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		out = append(out, cimx.Format(m.h.virt.new("Msvm_KvpExchangeDataItem").Set("Name", n).Set("Data", m.kvp[n]).Set("Source", 0)))
	}
	if s := m.cfg.one("Msvm_KvpExchangeComponentSettingData"); s != nil {
		s.Set("HostExchangeItems", out)
	}
}

// machineByID finds a machine anywhere in the simulation. The caller holds s.mu.
func (s *Sim) machineByID(id string) *machine {
	for _, h := range s.hosts {
		if m := h.vms[strings.ToUpper(id)]; m != nil {
			return m
		}
	}
	return nil
}

// SetGuest sets the guest inside a machine.
func (s *Sim) SetGuest(id string, g Guest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machineByID(id)
	if m == nil {
		return fmt.Errorf("hvsim: no machine %s", id)
	}
	m.guest = g
	m.plug()
	return nil
}
