package hvsim

import (
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// folders are the directories that exports made, by key. Others exist where a file is, and are not shown.
type folders map[string]string

func (h *Host) mkdir(p string) { h.folders[key(p)] = p }

// folder shows a directory as Win32_Directory [D: Win32_Directory; its Name is the full path].
func (h *Host) folder(p string) *cimx.Instance {
	if p == "" || strings.HasPrefix(p, `\\`) {
		return nil
	}
	return h.cimv2.new("Win32_Directory").Set("Name", p).Set("Caption", p).Set("FileName", base(p)).Set("Drive", strings.ToLower(p[:2])).
		Set("Path", strings.ToLower(dir(p)[2:])+`\`).Set("CreationClassName", "CIM_LogicalFile").Set("CSName", h.cfg.Name).Set("Status", "OK")
}

func (h *Host) addFolders() {
	h.cimv2.virtual[h.cimv2.ns.Class("Win32_Directory")] = virtual{
		all: func() []*cimx.Instance {
			var out []*cimx.Instance
			for _, p := range h.folders {
				if i := h.folder(p); i != nil {
					out = append(out, i)
				}
			}
			return out
		},
		byKey: func(r cimx.Ref) *cimx.Instance { return h.folder(h.folders[key(r.Value("Name"))]) },
	}
}

// Folders lists the directories that exports made and nobody removed.
func (h *Host) Folders() []string {
	h.sim.mu.Lock()
	defer h.sim.mu.Unlock()
	h.sim.tick()
	var out []string
	for _, p := range h.folders {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

const folderNotEmpty = 14 // [D: "Delete method of the Win32_Directory class"]

func init() {
	handle("Win32_Directory", map[string]handler{"Delete": func(c *call) uint32 {
		p := c.obj.Str("Name")
		inside := key(p) + `\`
		for k := range c.h.folders {
			if strings.HasPrefix(k, inside) {
				return folderNotEmpty
			}
		}
		for k := range c.h.fs(p).files {
			if strings.HasPrefix(k, inside) {
				return folderNotEmpty
			}
		}
		delete(c.h.folders, key(p))
		return fileOK
	}})
}
