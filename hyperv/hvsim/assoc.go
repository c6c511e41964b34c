package hvsim

import (
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wbem"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wql"
)

// link is one association: class, the roles of its ends, the ends.
type link struct {
	class string
	roles [2]string
	ends  [2]*cimx.Instance
	extra map[string]any
}

// Associations that the simulator keeps [D,G: the classes of these names].
var (
	aState     = [3]string{"Msvm_SettingsDefineState", "ManagedElement", "SettingData"}
	aComponent = [3]string{"Msvm_VirtualSystemSettingDataComponent", "GroupComponent", "PartComponent"}
	aDevice    = [3]string{"Msvm_SystemDevice", "GroupComponent", "PartComponent"}
	aSnapshot  = [3]string{"Msvm_SnapshotOfVirtualSystem", "Antecedent", "Dependent"}
	aCurrent   = [3]string{"Msvm_MostCurrentSnapshotInBranch", "Antecedent", "Dependent"}
	aApplied   = [3]string{"Msvm_LastAppliedSnapshot", "Antecedent", "Dependent"}
	aParent    = [3]string{"Msvm_ParentChildSettingData", "Parent", "Child"}
	aJob       = [3]string{"Msvm_AffectedJobElement", "AffectedElement", "AffectingElement"}
	aOwner     = [3]string{"Msvm_OwningJobElement", "OwningElement", "OwnedElement"}
	aFeature   = [3]string{"Msvm_EthernetPortSettingDataComponent", "GroupComponent", "PartComponent"}
	aHosted    = [3]string{"Msvm_HostedDependency", "Antecedent", "Dependent"}
	aExport    = [3]string{"Msvm_SystemExportSettingData", "ManagedElement", "SettingData"}
)

// processorLinks ties the computer to its processors [D: Win32_ComputerSystemProcessor].
func (h *Host) processorLinks(i *cimx.Instance) []link {
	var out []link
	cs := h.cimv2.only(h.cimv2.ns.Class("Win32_ComputerSystem"))
	h.cimv2.each(h.cimv2.ns.Class("Win32_Processor"), func(p *cimx.Instance) bool {
		if i == cs || i == p {
			out = append(out, tie([3]string{"Win32_ComputerSystemProcessor", "GroupComponent", "PartComponent"}, cs, p))
		}
		return true
	})
	return out
}

func tie(a [3]string, x, y *cimx.Instance) link {
	return link{class: a[0], roles: [2]string{a[1], a[2]}, ends: [2]*cimx.Instance{x, y}}
}

// linksOf returns every association of an instance.
func (h *Host) linksOf(i *cimx.Instance) []link {
	var out []link
	add := func(a [3]string, x, y *cimx.Instance) {
		if x != nil && y != nil {
			out = append(out, tie(a, x, y))
		}
	}
	switch i.Class.Namespace {
	case nsVirt:
	case nsCIMV2:
		return h.processorLinks(i)
	default:
		return h.clusterLinks(i)
	}
	if m := h.vms[i.Str("Name")]; m != nil && m.cs == i {
		out = append(out, m.links()...)
	} else if cfg := h.byConf[i]; cfg != nil {
		out = append(out, cfg.links()...)
	} else if j := h.jobs[i]; j != nil {
		if j.vm != nil && h.vms[j.vm.id] == j.vm {
			add(aJob, j.vm.cs, i)
		}
		for _, a := range j.affected {
			if j.vm == nil || a != j.vm.cs {
				add(aJob, a, i)
			}
		}
		add(aOwner, h.vmms, i)
	} else if i == h.self {
		for _, m := range h.order {
			add(aHosted, i, m.cs)
		}
	} else if cfg := h.ofConfig(i); cfg != nil {
		switch {
		case slices.Contains(cfg.res, i):
			if i.Class.IsA("Msvm_EthernetSwitchPortFeatureSettingData") {
				for _, conn := range cfg.byClass("Msvm_EthernetPortAllocationSettingData") {
					if strings.HasPrefix(i.Str("InstanceID"), conn.Str("InstanceID")+`\`) {
						add(aFeature, conn, i)
					}
				}
				break
			}
			add(aComponent, cfg.sd, i)
			if i.Class.Name == "Msvm_EthernetPortAllocationSettingData" {
				for _, f := range cfg.byClass("Msvm_EthernetSwitchPortFeatureSettingData") {
					if strings.HasPrefix(f.Str("InstanceID"), i.Str("InstanceID")+`\`) {
						add(aFeature, i, f)
					}
				}
			}
		case i.Class.Name == "Msvm_VirtualSystemExportSettingData":
			add(aExport, cfg.vm.cs, i)
		case slices.Contains(cfg.vm.devices, i):
			add(aDevice, cfg.vm.cs, i)
		}
	}
	switch i.Class.Name {
	case "Msvm_VirtualEthernetSwitch":
		add(aState, i, h.virt.get(cimx.Ref{Class: "Msvm_VirtualEthernetSwitchSettingData", Keys: []cimx.KeyValue{{Name: "InstanceID", Value: "Microsoft:" + i.Str("Name")}}}))
	case "Msvm_VirtualEthernetSwitchSettingData":
		h.virt.each(h.virt.ns.Class("Msvm_VirtualEthernetSwitch"), func(sw *cimx.Instance) bool {
			if "Microsoft:"+sw.Str("Name") == i.Str("InstanceID") {
				add(aState, sw, i)
			}
			return true
		})
	}
	// Jobs that name this object.
	for ji, j := range h.jobs {
		if j.vm != nil && j.vm.cs == i || slices.Contains(j.affected, i) {
			add(aJob, i, ji)
		}
	}
	for n := range out {
		if out[n].class == aJob[0] {
			out[n].extra = map[string]any{"ElementEffects": []any{5}} // Create [G]
		}
	}
	return out
}

func (m *machine) links() []link {
	out := []link{tie(aState, m.cs, m.cfg.sd), tie(aHosted, m.h.self, m.cs), tie(aExport, m.cs, m.h.exportSettings(m))}
	for _, s := range m.snaps {
		out = append(out, tie(aSnapshot, m.cs, s.cfg.sd))
	}
	if m.parent != nil {
		out = append(out, tie(aCurrent, m.cs, m.parent.cfg.sd))
	}
	if m.applied != nil {
		out = append(out, tie(aApplied, m.cs, m.applied.cfg.sd))
	}
	for _, d := range m.devices {
		out = append(out, tie(aDevice, m.cs, d))
	}
	return out
}

func (c *config) links() []link {
	var out []link
	m := c.vm
	if c.snap == nil {
		out = append(out, tie(aState, m.cs, c.sd))
		if m.parent != nil {
			out = append(out, tie(aParent, m.parent.cfg.sd, c.sd))
		}
	} else {
		out = append(out, tie(aSnapshot, m.cs, c.sd))
		if m.parent == c.snap {
			out = append(out, tie(aCurrent, m.cs, c.sd), tie(aParent, c.sd, m.cfg.sd))
		}
		if m.applied == c.snap {
			out = append(out, tie(aApplied, m.cs, c.sd))
		}
		if c.snap.parent != nil {
			out = append(out, tie(aParent, c.snap.parent.cfg.sd, c.sd))
		}
		for _, s := range m.snaps {
			if s.parent == c.snap {
				out = append(out, tie(aParent, c.sd, s.cfg.sd))
			}
		}
	}
	for _, r := range c.res {
		if !r.Class.IsA("Msvm_FeatureSettingData") {
			out = append(out, tie(aComponent, c.sd, r))
		}
	}
	return out
}

// instance makes the association instance of a link.
func (l link) instance(sp *space) *cimx.Instance {
	i := sp.new(l.class)
	for n := range 2 {
		i.Set(l.roles[n], l.ends[n].Ref())
	}
	for k, v := range l.extra {
		setIf(i, k, v)
	}
	return i
}

// allLinks lists the instances of an association class.
func (h *Host) allLinks(sp *space, c *schema.Class) []*cimx.Instance {
	var out []*cimx.Instance
	for t := range sp.tables {
		if t.Association() {
			continue
		}
		for _, i := range sp.tables[t].order {
			if i == nil {
				continue
			}
			for _, l := range h.linksOf(i) {
				if l.ends[0] == i && sp.ns.Class(l.class).IsA(c.Name) {
					out = append(out, l.instance(sp))
				}
			}
		}
	}
	return out
}

// related answers ASSOCIATORS OF and REFERENCES OF.
func (h *Host) related(sp *space, q *wql.Query) ([]*cimx.Instance, error) {
	ref, err := cimx.ParsePath(q.Path)
	if err != nil {
		return nil, wbem.Errorf(wbem.InvalidObjectPath, "")
	}
	for _, c := range []string{q.AssocClass, q.ResultClass} {
		if c != "" && sp.ns.Class(c) == nil {
			return nil, wbem.Errorf(wbem.InvalidClass, "%s", c)
		}
	}
	src, err := h.resolve(sp, ref)
	if err != nil {
		return nil, err
	}
	var out []*cimx.Instance
	seen := map[*cimx.Instance]bool{}
	for _, l := range h.linksOf(src) {
		class := sp.ns.Class(l.class)
		for n := range 2 {
			if l.ends[n] != src || q.Role != "" && !strings.EqualFold(q.Role, l.roles[n]) {
				continue
			}
			other := l.ends[1-n]
			if q.Kind == wql.References {
				if q.ResultClass == "" || class.IsA(q.ResultClass) {
					out = append(out, l.instance(sp))
				}
				break
			}
			if q.AssocClass != "" && !class.IsA(q.AssocClass) || q.ResultClass != "" && !other.Class.IsA(q.ResultClass) ||
				q.ResultRole != "" && !strings.EqualFold(q.ResultRole, l.roles[1-n]) || seen[other] {
				continue
			}
			seen[other] = true
			out = append(out, other)
		}
	}
	return out, nil
}
