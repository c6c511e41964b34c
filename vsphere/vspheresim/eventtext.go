package vspheresim

import (
	"slices"
	"text/template"

	"github.com/vmware/govmomi/vim25/types"
)

// repairEvents replaces the texts of events that are not valid templates: govmomi's simulator panics when such an event is posted.
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
