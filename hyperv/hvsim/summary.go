package hvsim

import (
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

func init() {
	handle("Msvm_VirtualSystemManagementService", map[string]handler{"GetSummaryInformation": getSummary, "FormatError": formatError})
}

// summaryProps maps each information code to its property [D: GetSummaryInformation].
var summaryProps = map[uint32]string{
	0: "Name", 1: "ElementName", 2: "CreationTime", 3: "Notes", 4: "NumberOfProcessors", 8: "AllocatedGPU", 9: "VirtualSwitchNames", 10: "Version", 11: "Shielded",
	100: "EnabledState", 101: "ProcessorLoad", 102: "ProcessorLoadHistory", 103: "MemoryUsage", 104: "Heartbeat", 105: "UpTime", 106: "GuestOperatingSystem",
	107: "Snapshots", 108: "AsynchronousTasks", 109: "HealthState", 110: "OperationalStatus", 111: "StatusDescriptions", 112: "MemoryAvailable",
	113: "AvailableMemoryBuffer", 114: "ReplicationMode", 115: "ReplicationState", 116: "ReplicationHealth", 117: "ApplicationHealth",
	118: "ReplicationStateEx", 119: "ReplicationHealthEx", 120: "SwapFilesInUse", 121: "IntegrationServicesVersionState", 122: "ReplicationProviderId", 123: "MemorySpansPhysicalNumaNodes",
}

func getSummary(c *call) uint32 {
	var want []string
	codes, _ := c.in["RequestedInformation"].([]any)
	for _, v := range codes {
		n := v.(uint32)
		p, known := summaryProps[n]
		switch {
		case known:
			want = append(want, p)
		case n >= 5 && n <= 7: // thumbnails, which the simulator lacks
		default:
			return rvInvalidParam
		}
	}
	if len(codes) == 0 {
		return rvInvalidParam
	}
	var all []*config
	if c.in["SettingData"] == nil {
		for _, m := range c.h.order { // NULL: every machine [D]
			if !m.planned {
				all = append(all, m.cfg)
			}
		}
	} else {
		l, given := c.targets("SettingData")
		if len(l) != given {
			return rvInvalidParam
		}
		for _, i := range l {
			cfg := c.h.byConf[i]
			if cfg == nil {
				return rvInvalidParam
			}
			all = append(all, cfg)
		}
	}
	out := make([]any, len(all))
	for n, cfg := range all {
		full := c.h.summary(cfg)
		s := c.h.virt.new("Msvm_SummaryInformation")
		for _, p := range append([]string{"InstanceID"}, want...) {
			setIf(s, p, full.Get(p))
		}
		out[n] = s
	}
	c.out["SummaryInformation"] = out
	return rvOK
}

// summary makes the whole summary of a machine or checkpoint.
func (h *Host) summary(c *config) *cimx.Instance {
	m := c.vm
	s := h.virt.new("Msvm_SummaryInformation")
	setIf(s, "InstanceID", c.sd.Str("InstanceID"))
	s.Set("Name", c.id).Set("ElementName", c.sd.Str("ElementName")).Set("CreationTime", c.sd.Get("CreationTime")).Set("Notes", strings.Join(c.sd.Strings("Notes"), "\n")).
		Set("Version", c.sd.Get("Version")).Set("HostComputerSystemName", h.cfg.Name).Set("VirtualSystemSubType", c.sd.Get("VirtualSystemSubType")).
		Set("NumberOfProcessors", c.one("Msvm_ProcessorSettingData").Uint("VirtualQuantity")).Set("Shielded", false)
	var sw []any
	for _, conn := range c.bySub(subConn) {
		if hostResource(conn) != "" {
			sw = append(sw, conn.Str("LastKnownSwitchName"))
		}
	}
	s.Set("VirtualSwitchNames", sw)
	if c.snap != nil {
		return s
	}
	s.Set("EnabledState", m.cs.Get("EnabledState")).Set("HealthState", m.cs.Get("HealthState")).Set("OperationalStatus", m.cs.Get("OperationalStatus")).
		Set("StatusDescriptions", m.cs.Get("StatusDescriptions")).Set("UpTime", m.uptime()).
		Set("ReplicationMode", m.cs.Get("ReplicationMode")).Set("ReplicationState", m.cs.Get("ReplicationState")).Set("ReplicationHealth", m.cs.Get("ReplicationHealth"))
	var snaps, tasks []any
	for _, x := range m.snaps {
		snaps = append(snaps, x.cfg.sd.Ref())
	}
	for _, j := range h.sim.pending {
		if j.vm == m && j.inst != nil {
			tasks = append(tasks, j.inst.Ref())
		}
	}
	s.Set("Snapshots", snaps).Set("AsynchronousTasks", tasks)
	if m.memory == nil || m.state() == stSaved {
		return s
	}
	mem := m.needMemory()
	beat := 12 // no contact
	if !m.guest.NoTools && h.sim.now().Sub(m.booted) >= m.guest.BootTime {
		beat = 2
		s.Set("GuestOperatingSystem", m.guest.OSName).Set("IntegrationServicesVersionState", 1)
	}
	if m.component("Msvm_HeartbeatComponentSettingData") {
		s.Set("Heartbeat", beat)
	}
	s.Set("ProcessorLoad", 0).Set("ProcessorLoadHistory", []any{0, 0, 0}).Set("MemoryUsage", mem).Set("MemoryAvailable", 50).Set("AvailableMemoryBuffer", 50).
		Set("SwapFilesInUse", false).Set("MemorySpansPhysicalNumaNodes", false)
	return s
}

// summaryClass shows the summaries as a class that can be queried (believed).
func (h *Host) summaryClass() virtual {
	return virtual{all: func() (out []*cimx.Instance) {
		for _, m := range h.order {
			if !m.planned {
				out = append(out, h.summary(m.cfg))
			}
		}
		return out
	}}
}

// formatError joins the messages of embedded Msvm_Error objects [D: FormatError].
func formatError(c *call) uint32 {
	var l []string
	for _, s := range c.list("Errors") {
		i, good := c.embedded(s, "CIM_Error")
		if !good {
			return rvInvalidParam
		}
		l = append(l, i.Str("Message"))
	}
	c.out["ErrorMessage"] = strings.Join(l, "\n")
	return rvOK
}
