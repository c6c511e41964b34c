package vspheresim

import (
	"regexp"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// govmomi's simulator lets some of its tasks write objects whose lock they do not hold: createVM holds that of the folder and writes the machine
// (v0.55.0). So a call that it answers is one step of the world, with the task that it starts.

var taskPattern = regexp.MustCompile(`<returnval type="Task">([^<]+)<`)

// step runs one call. Calls that this package answers take the lock of the world themselves, where they need it.
func (f *front) step(method string, body []byte, rec *recorder, call func()) {
	s := f.sim
	switch method {
	case "WaitForUpdates", "WaitForUpdatesEx", "RetrieveProperties", "RetrievePropertiesEx", "ContinueRetrievePropertiesEx":
		call() // see collector
		return
	}
	if kind := kindPattern.FindSubmatch(body); kind != nil {
		if set, ok := s.fronts[string(kind[1])]; ok && set.names[goName(method)] {
			call()
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	call()
	if task := taskPattern.FindSubmatch(rec.body.Bytes()); task != nil && strings.HasSuffix(method, "_Task") {
		s.outlast(types.ManagedObjectReference{Type: "Task", Value: string(task[1])})
	}
}
