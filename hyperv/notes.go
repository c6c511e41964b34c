package hyperv

import (
	"encoding/json"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// marker begins the line of a machine's notes that holds this package's data.
// The text before it is the description.
const marker = "anyvisor:"

// notes are the parts of Msvm_VirtualSystemSettingData.Notes.
type notes struct {
	Description string            `json:"-"`
	Labels      map[string]string `json:"labels,omitempty"`
	Token       string            `json:"token,omitempty"`
	Task        string            `json:"task,omitempty"` // the task that made the machine
	GuestOS     string            `json:"guestOS,omitempty"`
	// Template marks a planned machine as a template, and Definition is the
	// file that it was imported from.
	Template   bool   `json:"template,omitempty"`
	Definition string `json:"definition,omitempty"`
	// Bases are the frozen images that back this linked clone.
	Bases []string `json:"bases,omitempty"`
	// State and Quiesced describe the machine at the time of a snapshot.
	State    hypervisor.PowerState `json:"state,omitempty"`
	Quiesced bool                  `json:"quiesced,omitempty"`
	// Base marks a snapshot that was made as the base of a linked clone. It
	// is removed with the last clone.
	Base bool `json:"base,omitempty"`
	// Unfinished marks a machine that is being made.
	Unfinished bool `json:"unfinished,omitempty"`
}

// parseNotes reads the property, which is an array of usually one text.
func parseNotes(v []string) notes {
	text := strings.Join(v, "\n")
	var n notes
	i := strings.LastIndexByte(text, '\n') + 1 // JSON has no line breaks
	if data, ok := strings.CutPrefix(text[i:], marker); ok && json.Unmarshal([]byte(data), &n) == nil {
		n.Description = strings.TrimSuffix(text[:i], "\n")
		if !definition.MatchString(n.Definition) { // it would be removed with the machine
			n.Definition = ""
		}
		return n
	}
	return notes{Description: text}
}

// strings formats the property.
func (n notes) strings() []string {
	text := n.Description
	data, err := json.Marshal(n)
	if err == nil && string(data) != "{}" { // a struct of texts always marshals
		if text != "" {
			text += "\n"
		}
		text += marker + string(data)
	}
	return []string{text}
}
