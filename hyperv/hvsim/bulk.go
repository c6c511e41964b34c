package hvsim

import (
	"fmt"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// Machine describes a machine to put on a host directly, without calls and jobs.
type Machine struct {
	Name       string
	Generation int      // 2
	Processors int      // 1
	MemoryMB   uint64   // 1024
	Disks      []string // paths of new dynamic disks of 20 GiB, on a SCSI controller
	Switch     string   // name of a switch to connect a network adapter to; empty for no adapter
	Notes      []string
	Running    bool
	Guest      Guest
}

// Add puts machines on the host and returns their GUIDs. It is fast enough for ten thousand of them. A running one is not checked
// against the host's memory.
func (h *Host) Add(machines ...Machine) ([]string, error) {
	h.sim.mu.Lock()
	defer h.sim.mu.Unlock()
	if h.virt == nil {
		return nil, fmt.Errorf("hvsim: %s has no Hyper-V", h.cfg.Name)
	}
	out := make([]string, 0, len(machines))
	for _, d := range machines {
		m, err := h.addOne(d)
		if err != nil {
			return out, err
		}
		out = append(out, m.id)
	}
	return out, nil
}

func (h *Host) addOne(d Machine) (*machine, error) {
	sd := h.defaultSettings().Set("ElementName", d.Name).Set("CreationTime", cimx.Datetime(h.sim.now()))
	if d.Generation != 1 {
		sd.Set("VirtualSystemSubType", "Microsoft:Hyper-V:SubType:2").Set("SecureBootEnabled", true)
	}
	if d.Notes != nil {
		sd.Set("Notes", list(d.Notes))
	}
	id := h.sim.newID()
	sd.Set("ConfigurationID", id).Set("BIOSGUID", "{"+id+"}")
	m := h.newMachine(id, false, sd)
	m.guest = d.Guest
	m.addDefaults()
	m.saveDefinition()
	if d.Processors > 0 {
		m.cfg.one("Msvm_ProcessorSettingData").Set("VirtualQuantity", d.Processors)
	}
	if d.MemoryMB > 0 {
		m.cfg.one("Msvm_MemorySettingData").Set("VirtualQuantity", d.MemoryMB).Set("Reservation", d.MemoryMB)
	}
	add := func(sub string, kv ...any) (*cimx.Instance, error) {
		i := h.virt.new(subKind(sub).class).Set("ResourceSubType", sub)
		for n := 0; n < len(kv); n += 2 {
			i.Set(kv[n].(string), kv[n+1])
		}
		r, rv := m.cfg.addResource(i)
		if rv != 0 {
			m.destroy()
			return nil, fmt.Errorf("hvsim: machine %q: %s refused with %d", d.Name, sub, rv)
		}
		return r, nil
	}
	if len(d.Disks) > 0 {
		ctl, err := add(subSCSI)
		if err != nil {
			return nil, err
		}
		for _, p := range d.Disks {
			if h.file(p) == nil {
				h.put(&file{path: p, disk: &disk{id: h.sim.newID(), write: h.sim.newID(), kind: diskDynamic, format: formatVHDX, size: 20 << 30, cells: map[string]string{}}})
			}
			drive, err := add(subDisk, "Parent", ctl.Ref().Path())
			if err != nil {
				return nil, err
			}
			if _, err := add(subVHD, "Parent", drive.Ref().Path(), "HostResource", []any{p}); err != nil {
				return nil, err
			}
		}
	}
	if d.Switch != "" {
		nic, err := add(subNIC)
		if err != nil {
			return nil, err
		}
		var path string
		h.virt.each(h.virt.ns.Class("Msvm_VirtualEthernetSwitch"), func(sw *cimx.Instance) bool {
			if sw.Str("ElementName") == d.Switch {
				path = sw.Ref().Path()
			}
			return path == ""
		})
		if path == "" {
			m.destroy()
			return nil, fmt.Errorf("hvsim: %s has no switch %q", h.cfg.Name, d.Switch)
		}
		if _, err := add(subConn, "Parent", nic.Ref().Path(), "HostResource", []any{path}); err != nil {
			return nil, err
		}
	}
	if d.Running {
		m.boot()
	}
	return m, nil
}
