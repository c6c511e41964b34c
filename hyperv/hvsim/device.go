package hvsim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// pciDevice is a PCI Express function of a host.
type pciDevice struct {
	dev       Device
	gpu       *GPU // nil for other devices
	disabled  bool // in the host's Plug and Play
	dismount  bool
	pnp       *cimx.Instance // Win32_PnPEntity while the host has it
	express   *cimx.Instance // Msvm_PciExpress while it is dismounted
	assigned  *cimx.Instance // second Msvm_PciExpress while a machine has it [O]
	setting   *cimx.Instance // the Msvm_PciExpressSettingData that has it
	partition *cimx.Instance // Msvm_PartitionableGpu
}

// path is the Plug and Play instance path; a dismounted device's starts with PCIP [D: Get-VMHostAssignableDevice].
func (d *pciDevice) path(dismounted bool) string {
	p := "PCI"
	if dismounted {
		p = "PCIP"
	}
	slot := strings.NewReplacer("PCIROOT", "", "PCI", "", "(", "", ")", "", "#", "&").Replace(d.dev.Location)
	return fmt.Sprintf(`%s\VEN_%04X&DEV_%04X&SUBSYS_00000000&REV_A1\4&%s`, p, d.dev.Vendor, d.dev.Product, slot)
}

func (h *Host) addDevices() {
	add := func(d Device, g *GPU) {
		if d.Location == "" {
			d.Location = fmt.Sprintf("PCIROOT(0)#PCI(%02X00)#PCI(0000)", len(h.gpus)+1)
		}
		if d.Class == "" {
			d.Class = "Net"
			if g != nil {
				d.Class = "Display"
			}
		}
		p := &pciDevice{dev: d, gpu: g}
		h.gpus = append(h.gpus, p)
		h.showPnP(p)
		if g != nil && len(g.PartitionCounts) > 0 && h.gpuP() {
			h.addPartitionable(p)
		}
	}
	for n := range h.cfg.GPUs {
		add(h.cfg.GPUs[n].Device, &h.cfg.GPUs[n])
	}
	for _, d := range h.cfg.Devices {
		add(d, nil)
	}
}

// showPnP adds the host's own view of a device.
func (h *Host) showPnP(p *pciDevice) {
	v := h.cimv2
	code, status, name, class := 0, "OK", p.dev.Name, p.dev.Class
	if p.dismount { // [D: the DDA guide shows this name; O: the object has the dismounted path]
		name, class = "PCI Express Device - Dismounted", "System"
		if p.gpu != nil {
			name = "PCI Express Graphics Processing Unit - Dismounted"
		}
	} else if p.disabled {
		code, status = 22, "Error" // CM_PROB_DISABLED [D: Win32_PnPEntity.ConfigManagerErrorCode]
	}
	if p.pnp != nil {
		v.remove(p.pnp)
	}
	p.pnp = v.add(v.new("Win32_PnPEntity").Set("DeviceID", p.path(p.dismount)).Set("PNPDeviceID", p.path(p.dismount)).Set("Name", name).Set("Caption", name).
		Set("PNPClass", class).Set("Present", true).Set("Status", status).Set("ConfigManagerErrorCode", code).
		Set("CreationClassName", "Win32_PnPEntity").Set("SystemName", h.cfg.Name).Set("SystemCreationClassName", "Win32_ComputerSystem").
		Set("HardwareID", []any{fmt.Sprintf(`PCI\VEN_%04X&DEV_%04X&REV_A1`, p.dev.Vendor, p.dev.Product), fmt.Sprintf(`PCI\VEN_%04X&DEV_%04X`, p.dev.Vendor, p.dev.Product)}))
}

func (h *Host) deviceOf(i *cimx.Instance) *pciDevice {
	for _, p := range h.gpus {
		if p.pnp == i || p.express == i || p.partition == i {
			return p
		}
	}
	return nil
}

func (h *Host) deviceBy(instancePath, location string) *pciDevice {
	for _, p := range h.gpus {
		if location != "" && strings.EqualFold(p.dev.Location, location) ||
			instancePath != "" && (strings.EqualFold(p.path(false), instancePath) || strings.EqualFold(p.path(true), instancePath)) {
			return p
		}
	}
	return nil
}

func init() {
	pnp := func(disable bool) handler {
		return func(c *call) uint32 {
			p := c.h.deviceOf(c.obj)
			if p == nil {
				return 1
			}
			p.disabled = disable
			c.h.showPnP(p)
			c.out["rebootNeeded"] = false
			return 0
		}
	}
	handle("Win32_PnPEntity", map[string]handler{"Enable": pnp(false), "Disable": pnp(true), "GetDeviceProperties": deviceProperties})
	handle("Msvm_AssignableDeviceService", map[string]handler{"DismountAssignableDevice": dismount, "MountAssignableDevice": mount})
}

// deviceProperties returns the location paths of a device [D: GetDeviceProperties of Win32_PnPEntity].
func deviceProperties(c *call) uint32 {
	p := c.h.deviceOf(c.obj)
	if p == nil {
		return 1
	}
	keys := c.list("devicePropertyKeys")
	all := []struct {
		key string
		val any
	}{
		{"DEVPKEY_Device_LocationPaths", []any{p.dev.Location}},
		{"DEVPKEY_Device_InstanceId", p.path(p.dismount)},
		{"DEVPKEY_Device_DeviceDesc", p.dev.Name},
		{"DEVPKEY_Device_LocationInfo", fmt.Sprintf("PCI bus %d, device 0, function 0", slices.Index(c.h.gpus, p)+1)},
		{"DEVPKEY_Device_Address", uint32(0)},
	}
	out := []any{}
	for _, a := range all {
		if len(keys) > 0 && !containsFold(keys, a.key) {
			continue
		}
		class := "Win32_PnPDevicePropertyString"
		switch a.val.(type) {
		case []any:
			class = "Win32_PnPDevicePropertyStringArray"
		case uint32:
			class = "Win32_PnPDevicePropertyUint32"
		}
		i := c.sp.new(class).Set("KeyName", a.key).Set("DeviceID", p.path(p.dismount))
		setIf(i, "Data", a.val)
		out = append(out, i)
	}
	c.out["deviceProperties"] = out
	return 0
}

func containsFold(l []string, s string) bool {
	for _, x := range l {
		if strings.EqualFold(x, s) {
			return true
		}
	}
	return false
}

// dismount removes a device from the host [D: DismountAssignableDevice].
func dismount(c *call) uint32 {
	h := c.h
	s, good := c.embedded(c.str("DismountSettingData"), "Msvm_AssignableDeviceDismountSettingData")
	if !good {
		return rvInvalidParam
	}
	p := h.deviceBy(s.Str("DeviceInstancePath"), s.Str("DeviceLocationPath"))
	acs := s.Get("RequireAcsSupport") == nil || s.Bool("RequireAcsSupport")
	switch {
	case p == nil:
		return rvFileNotFound // 32779: not found [D]
	case p.dismount:
		return rvInvalidState
	case h.cfg.NoIOMMU:
		return rvNotSupported // needs interrupt and DMA remapping [D: DDA machine requirements]
	case p.dev.NoACS && acs:
		return rvNotSupported // Access Control Services [D: same page]
	case !p.disabled:
		return rvInUse // Microsoft's guide disables it first; the code is believed
	}
	c.out["DismountedDeviceInstancePath"] = p.path(true)
	return c.run(false, jobSpec{kind: jtModRes, caption: "Dismounting Assignable Device", finish: func() *fail {
		if p.dismount {
			return &fail{code: rvInvalidState, text: "The device is dismounted already."}
		}
		p.dismount = true
		h.showPnP(p)
		if p.partition != nil {
			h.virt.remove(p.partition)
			p.partition = nil
		}
		p.express = h.virt.add(h.express(p, h.cfg.Name, `Microsoft:`+p.path(true)))
		return nil
	}})
}

func (h *Host) express(p *pciDevice, system, id string) *cimx.Instance {
	return h.virt.new("Msvm_PciExpress").Set("SystemCreationClassName", "Msvm_ComputerSystem").Set("SystemName", system).
		Set("CreationClassName", "Msvm_PciExpress").Set("DeviceID", id).Set("ElementName", p.dev.Name).Set("Name", p.dev.Name).
		Set("DeviceInstancePath", p.path(true)).Set("LocationPath", p.dev.Location).Set("FunctionNumber", 0).Set("EnabledState", 2)
}

// mount gives a device back to the host [D: MountAssignableDevice].
func mount(c *call) uint32 {
	h := c.h
	p := h.deviceBy(c.str("DeviceInstancePath"), c.str("DeviceLocationPath"))
	switch {
	case p == nil || !p.dismount:
		return rvFileNotFound
	case p.setting != nil:
		return rvInUse
	}
	c.out["MountedDeviceInstancePath"] = p.path(false)
	return c.run(false, jobSpec{kind: jtModRes, caption: "Mounting Assignable Device", finish: func() *fail {
		if p.setting != nil {
			return &fail{code: rvInUse, text: "The device is assigned to a virtual machine."}
		}
		p.dismount = false
		h.virt.remove(p.express)
		p.express = nil
		h.showPnP(p)
		if p.gpu != nil && len(p.gpu.PartitionCounts) > 0 && h.gpuP() {
			h.addPartitionable(p)
		}
		return nil
	}})
}

// hasPCI reports whether a whole device is assigned.
func (c *config) hasPCI() bool { return len(c.byClass("Msvm_PciExpressSettingData")) > 0 }

// placePCI checks an assignment [D: "Deploy graphics devices by using Discrete Device Assignment"].
func (c *config) placePCI(r *cimx.Instance, running bool) uint32 {
	ref, err := cimx.ParsePath(hostResource(r))
	if err != nil {
		return rvInvalidParam
	}
	i := c.h.lookup(ref)
	mem := c.one("Msvm_MemorySettingData")
	switch {
	case running:
		return rvInvalidState
	case i == nil || i.Class.Name != "Msvm_PciExpress":
		return rvInvalidParam
	case c.sd.Uint("AutomaticShutdownAction") != 2:
		return rvInvalidState
	case mem.Bool("DynamicMemoryEnabled") && mem.Uint("Reservation") != mem.Uint("VirtualQuantity"):
		return rvInvalidState
	case len(c.vm.snaps) > 0:
		return rvInvalidState // checkpoints and assigned devices exclude each other (believed)
	}
	p := c.h.deviceOf(i)
	if p == nil || p.setting != nil {
		return rvInUse
	}
	r.Set("HostResource", []any{i.Ref().Path()})
	if r.Get("VirtualFunctions") == nil {
		r.Set("VirtualFunctions", []any{0})
	}
	p.setting = r
	p.assigned = c.h.virt.add(c.h.express(p, c.id, "Microsoft:"+c.id+`\`+p.path(true)))
	return 0
}

// release releases what a resource holds on the host.
func (c *config) release(r *cimx.Instance) {
	for _, p := range c.h.gpus {
		if p.setting == r {
			p.setting = nil
			c.h.virt.remove(p.assigned)
			p.assigned = nil
		}
	}
}

// pinned returns why a machine cannot be saved, checkpointed or moved. It is empty if nothing holds it (believed: DDA pages list
// these as not supported).
func (m *machine) pinned() string {
	if m.cfg.hasPCI() {
		return "a physical device is assigned to it"
	}
	if len(m.cfg.byClass("Msvm_GpuPartitionSettingData")) > 0 && m.h.cfg.Build < 26100 { // Server 2025 added live migration with partitions
		return "a GPU partition is assigned to it"
	}
	return ""
}

// devicesFree checks at the start of a machine that its devices are available.
func (m *machine) devicesFree() *fail {
	for _, r := range m.cfg.byClass("Msvm_PciExpressSettingData") {
		found := false
		for _, p := range m.h.gpus {
			found = found || p.setting == r && p.dismount
		}
		if !found {
			return &fail{code: rvFileNotFound, text: "The assigned PCI Express device was not found on the host."}
		}
	}
	return m.partitionsFree()
}
