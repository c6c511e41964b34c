package hvsim

import (
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// definition is a machine definition file (.vmcx): of a live machine, or exported.
type definition struct {
	live *machine // nil for an exported one
	cfg  *config  // exported settings; not stored in any host's classes
	// snaps are the exported checkpoints, parents first; at names the one that the settings stand on, -1 for none.
	snaps  []exported
	at     int
	memory map[string]string
	saved  bool
}

// exported is a checkpoint inside an exported definition.
type exported struct {
	cfg    *config
	parent int
	memory map[string]string
}

// exportDefaults are the properties of a machine's export settings [D: Msvm_VirtualSystemExportSettingData].
func exportDefaults(h *Host) *cimx.Instance {
	return h.virt.new("Msvm_VirtualSystemExportSettingData").Set("CopySnapshotConfiguration", 0).Set("CopyVmStorage", true).
		Set("CopyVmRuntimeInformation", true).Set("CreateVmExportSubdirectory", true).Set("CaptureLiveState", 1).Set("ExportForLiveMigration", false)
}

// exportSettings is the export setting instance of a machine, reached by Msvm_SystemExportSettingData [D: that class].
func (h *Host) exportSettings(m *machine) *cimx.Instance {
	i := exportDefaults(h)
	return i.Set("InstanceID", "Microsoft:"+m.id)
}

// exportClass makes the export settings of all machines.
func (h *Host) exportClass() virtual {
	return virtual{
		all: func() (out []*cimx.Instance) {
			for _, m := range h.order {
				out = append(out, h.exportSettings(m))
			}
			return out
		},
		byKey: func(r cimx.Ref) *cimx.Instance {
			if m := h.vms[strings.ToUpper(strings.TrimPrefix(r.Value("InstanceID"), "Microsoft:"))]; m != nil {
				return h.exportSettings(m)
			}
			return nil
		},
	}
}
