package vspheresim

import (
	"slices"
	"text/template"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// collector is the property collector of one session.
type collector struct {
	pc      *simulator.PropertyCollector
	session *simulator.Session
}

// collectorOf gives each session a property collector that the registry can tell from those of other sessions. govmomi's simulator
// registers them all under one name, so that a second client that waits for updates takes them away from the first.
func (s *Sim) collectorOf(ctx *simulator.Context) ref {
	if v, ok := s.collectors.Load(ctx.Session.Key); ok {
		return v.(*collector).pc.Self
	}
	pc := new(simulator.PropertyCollector)
	ctx.Session.Put(pc)
	v, loaded := s.collectors.LoadOrStore(ctx.Session.Key, &collector{pc: pc, session: ctx.Session})
	if loaded {
		ctx.Session.Remove(ctx, pc.Self)
	}
	return v.(*collector).pc.Self
}

// forgetSession stops telling a session that is gone of changes.
func (s *Sim) forgetSession(id string) {
	v, ok := s.collectors.LoadAndDelete(id)
	if !ok {
		return
	}
	c := v.(*collector)
	for _, r := range slices.Clone(c.pc.Filter) {
		if f, ok := c.session.Get(r).(*simulator.PropertyFilter); ok {
			s.registry().RemoveHandler(f)
		}
	}
	s.registry().RemoveHandler(c.pc)
}

// repairEvents replaces the texts of events that are no valid templates: govmomi's simulator panics when such an event is posted.
func (s *Sim) repairEvents() {
	m := s.registry().EventManager()
	m.Description.EventInfo = slices.Clone(m.Description.EventInfo)
	for i := range m.Description.EventInfo {
		info := &m.Description.EventInfo[i]
		if _, err := template.New(info.Key).Parse(info.FullFormat); err != nil {
			info.FullFormat = info.Description
		}
		if _, err := template.New(info.Key).Parse(info.FullFormat); err != nil {
			info.FullFormat = info.Key
		}
	}
	known := map[string]bool{}
	for _, info := range m.Description.EventInfo {
		known[info.Key] = true
	}
	if !known["TaskEvent"] {
		m.Description.EventInfo = append(m.Description.EventInfo, types.EventDescriptionEventDetail{Key: "TaskEvent", Description: "Task event", Category: "info", FullFormat: "Task: {{.Info.Name}}"})
	}
}
