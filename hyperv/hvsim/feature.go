package hvsim

import (
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// Feature settings belong to a port connection: InstanceID <connection>\<feature> [G; the exact form is believed].

func addFeatureSettings(c *call) uint32 {
	conn := c.target("AffectedConfiguration")
	if conn == nil || conn.Class.Name != "Msvm_EthernetPortAllocationSettingData" {
		return rvInvalidParam
	}
	cfg := c.h.ofConfig(conn)
	if cfg == nil || cfg.snap != nil {
		return rvInvalidParam
	}
	var in, out []*cimx.Instance
	for _, s := range c.list("FeatureSettings") {
		f, good := c.embedded(s, "Msvm_EthernetSwitchPortFeatureSettingData")
		if !good || cfg.feature(conn, f.Class.Name) != nil || !featureOK(f) {
			return rvInvalidParam
		}
		in = append(in, f)
	}
	if len(in) == 0 {
		return rvInvalidParam
	}
	for _, f := range in {
		n := c.h.virt.new(f.Class.Name)
		n.Merge(f)
		n.Set("InstanceID", conn.Str("InstanceID")+`\`+c.h.sim.newID())
		out = append(out, cfg.add(n))
	}
	c.out["ResultingFeatureSettings"] = refs(out)
	return c.run(true, jobSpec{kind: jtModRes, caption: "Adding Feature Settings", vm: cfg.vm, affected: out, finish: ok})
}

// feature finds the settings of a class on a connection.
func (c *config) feature(conn *cimx.Instance, class string) *cimx.Instance {
	for _, f := range c.byClass(class) {
		if strings.HasPrefix(f.Str("InstanceID"), conn.Str("InstanceID")+`\`) {
			return f
		}
	}
	return nil
}

// featureOK checks ranges [D: Msvm_EthernetSwitchPortOffloadSettingData, Msvm_EthernetSwitchPortVlanSettingData].
func featureOK(f *cimx.Instance) bool {
	switch f.Class.Name {
	case "Msvm_EthernetSwitchPortOffloadSettingData":
		return f.Uint("IOVOffloadWeight") <= 100 && f.Uint("VMQOffloadWeight") <= 100
	case "Msvm_EthernetSwitchPortVlanSettingData":
		return f.Uint("AccessVlanId") <= 4094 && f.Uint("NativeVlanId") <= 4094
	}
	return true
}

func modifyFeatureSettings(c *call) uint32 {
	var out []*cimx.Instance
	var next []*cimx.Instance
	for _, s := range c.list("FeatureSettings") {
		in, good := c.embedded(s, "Msvm_EthernetSwitchPortFeatureSettingData")
		if !good {
			return rvInvalidParam
		}
		old := c.h.virt.get(in.Ref())
		if cfg := c.h.ofConfig(in); old == nil || cfg == nil || cfg.snap != nil || old.Class != in.Class {
			return rvInvalidParam
		}
		n := old.Copy()
		n.Merge(in)
		if !featureOK(n) {
			return rvInvalidParam
		}
		out, next = append(out, old), append(next, n)
	}
	if len(out) == 0 {
		return rvInvalidParam
	}
	for n := range out {
		out[n].Merge(next[n])
	}
	c.out["ResultingFeatureSettings"] = refs(out)
	return c.run(true, jobSpec{kind: jtModRes, caption: "Modifying Feature Settings", finish: ok})
}

func removeFeatureSettings(c *call) uint32 {
	l, given := c.targets("FeatureSettings")
	if given == 0 || len(l) != given {
		return rvInvalidParam
	}
	for _, f := range l {
		if cfg := c.h.ofConfig(f); cfg == nil || cfg.snap != nil {
			return rvInvalidParam
		}
	}
	for _, f := range l {
		c.h.ofConfig(f).remove(f)
	}
	return c.run(true, jobSpec{kind: jtModRes, caption: "Removing Feature Settings", finish: ok})
}
