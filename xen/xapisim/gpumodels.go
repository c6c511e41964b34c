package xapisim

import "fmt"

// GPU is a graphics card to give to each host. Model is TeslaM60, H100, TeslaT4, S7150 or IntegratedGPU.
type GPU struct {
	Model      string
	Migratable bool // NVIDIA's driver reports compatibility metadata: machines with vGPUs on it can be suspended and migrated
}

// The cards that hosts can have: "M60" has two GPUs with GRID profiles, "H100" SR-IOV profiles, "S7150" AMD's MxGPU; "iGPU" is Intel's
// integrated one, the system's display; "T4" can only be passed through.
const (
	TeslaM60      = "M60"
	H100          = "H100"
	TeslaT4       = "T4"
	S7150         = "S7150"
	IntegratedGPU = "iGPU"
)

type gpuModel struct {
	vendorID, vendor, deviceID, device string
	subsystem, class, className        string
	functions                          int // physical GPUs on the card
	vfs                                int
	display                            bool
	kind                               string // implementation of the profiles
	profiles                           []gpuProfile
}

// gpuProfile is a vGPU type: its name, frame buffer in MiB, heads, resolution and how many fit on a GPU.
type gpuProfile struct {
	name       string
	fb         int64
	heads      int64
	x, y       int64
	max        int64
	multiPerVM bool
}

// gpuModels holds the cards' PCI identities (the PCI ID repository) and profiles (NVIDIA's and AMD's product tables).
var gpuModels = map[string]gpuModel{
	TeslaM60: {
		vendorID: "10de", vendor: "NVIDIA Corporation", deviceID: "13f2", device: "GM204GL [Tesla M60]", subsystem: "Tesla M60",
		class: "0300", className: "VGA compatible controller", functions: 2, kind: "nvidia",
		profiles: []gpuProfile{
			{"GRID M60-0B", 512, 2, 2560, 1600, 16, false}, {"GRID M60-0Q", 512, 2, 2560, 1600, 16, false}, {"GRID M60-1Q", 1024, 2, 4096, 2160, 8, false},
			{"GRID M60-2Q", 2048, 4, 4096, 2160, 4, false}, {"GRID M60-4Q", 4096, 4, 4096, 2160, 2, false}, {"GRID M60-8Q", 8192, 4, 4096, 2160, 1, true},
		},
	},
	H100: {
		vendorID: "10de", vendor: "NVIDIA Corporation", deviceID: "2331", device: "GH100 [H100 PCIe]", subsystem: "H100 PCIe",
		class: "0302", className: "3D controller", functions: 1, vfs: 20, kind: "nvidia_sriov",
		profiles: []gpuProfile{
			{"NVIDIA H100-4C", 4096, 1, 4096, 2160, 20, false}, {"NVIDIA H100-10C", 10240, 1, 4096, 2160, 8, false},
			{"NVIDIA H100-20C", 20480, 1, 4096, 2160, 4, false}, {"NVIDIA H100-40C", 40960, 1, 4096, 2160, 2, false},
			{"NVIDIA H100-80C", 81920, 1, 4096, 2160, 1, true},
		},
	},
	TeslaT4: {
		vendorID: "10de", vendor: "NVIDIA Corporation", deviceID: "1eb8", device: "TU104GL [Tesla T4]", subsystem: "Tesla T4",
		class: "0302", className: "3D controller", functions: 1,
	},
	S7150: {
		vendorID: "1002", vendor: "Advanced Micro Devices, Inc. [AMD/ATI]", deviceID: "6929", device: "Tonga XT GL [FirePro S7150]", subsystem: "FirePro S7150",
		class: "0300", className: "VGA compatible controller", functions: 1, vfs: 4, kind: "mxgpu",
		profiles: []gpuProfile{{"MxGPU Quarter GPU", 1920, 1, 4096, 2160, 4, false}},
	},
	IntegratedGPU: {
		vendorID: "8086", vendor: "Intel Corporation", deviceID: "193b", device: "Iris Pro Graphics P580", subsystem: "Iris Pro Graphics P580",
		class: "0300", className: "VGA compatible controller", functions: 1, display: true,
	},
}

// gpuState holds what the database's public fields don't show about PCI devices.
type gpuState struct {
	users   map[string]string   // PCI to the VM that has it
	vfs     map[string][]string // PCI of a physical function to its virtual ones
	hidden  map[string]bool     // PCI: hidden from dom0 since the last boot
	hide    map[string]bool     // PCI: to be hidden at the next
	types   map[string]*object  // VGPU types by model name
	onBoard map[string]string   // PCI of the boot disk by host
}

// buildGPUs gives each host its PCI devices: the boot disk's controller, network cards and the configured GPUs.
func (s *Sim) buildGPUs() error {
	s.gpu = gpuState{map[string]string{}, map[string][]string{}, map[string]bool{}, map[string]bool{}, map[string]*object{}, map[string]string{}}
	for _, h := range s.all("host") {
		boot := s.newPCI(h, "0000:00:1f.2", "0106", "SATA controller", "8086", "Intel Corporation", "8d02", "C610/X99 series chipset 6-Port SATA Controller", "")
		s.gpu.onBoard[h.ref] = boot.ref
		for n := range s.cfg.Networks {
			s.newPCI(h, fmt.Sprintf("0000:03:00.%d", n), "0200", "Ethernet controller", "8086", "Intel Corporation", "1521", "I350 Gigabit Network Connection", "")
		}
		if s.cfg.SRIOVNetwork {
			s.buildSRIOV(h)
		}
		bus := 0x10
		for _, g := range s.cfg.GPUs {
			m, ok := gpuModels[g.Model]
			if !ok {
				return fmt.Errorf("xapisim: no GPU model %q", g.Model)
			}
			for range m.functions {
				at := fmt.Sprintf("0000:%02x:00.0", bus)
				if m.display {
					at = "0000:00:02.0"
				}
				s.buildGPU(h, g, m, at)
				bus++
			}
		}
	}
	return nil
}

func (s *Sim) newPCI(h *object, at, class, className, vendorID, vendor, deviceID, device, subsystem string) *object {
	return s.newObject("PCI", map[string]any{
		"host": h.ref, "pci_id": at, "class_id": class, "class_name": className, "vendor_id": vendorID, "vendor_name": vendor,
		"device_id": deviceID, "device_name": device, "subsystem_vendor_name": vendor, "subsystem_device_name": subsystem,
	})
}

func (s *Sim) buildGPU(h *object, g GPU, m gpuModel, at string) {
	pci := s.newPCI(h, at, m.class, m.className, m.vendorID, m.vendor, m.deviceID, m.device, m.subsystem)
	name := "Group of " + m.vendor + " " + m.device + " GPUs"
	var group *object
	for _, o := range s.all("GPU_group") {
		if o.str("name_label") == name {
			group = o
		}
	}
	if group == nil {
		group = s.newObject("GPU_group", map[string]any{"name_label": name, "GPU_types": []any{m.vendorID + "/" + m.deviceID}, "allocation_algorithm": "depth_first"})
	}
	types, caps := []any{}, map[string]any{}
	add := func(t *object, n int64) {
		types = append(types, t.ref)
		caps[t.ref] = n
	}
	add(s.vgpuType("", "passthrough", "passthrough", gpuProfile{multiPerVM: true}), 1)
	for _, p := range m.profiles {
		add(s.vgpuType(m.vendor, p.name, m.kind, p), p.max)
	}
	meta := map[string]any{}
	if g.Migratable {
		meta["nvidia"] = "compat:" + m.deviceID
	}
	access := "enabled"
	pgpu := s.newObject("PGPU", map[string]any{
		"PCI": pci.ref, "GPU_group": group.ref, "host": h.ref, "supported_VGPU_types": types, "enabled_VGPU_types": types,
		"supported_VGPU_max_capacities": caps, "is_system_display_device": m.display, "dom0_access": access, "compatibility_metadata": meta,
	})
	for n := range m.vfs {
		vf := s.newPCI(h, fmt.Sprintf("%s:%02x.%d", at[:7], 1+n/8, n%8), m.class, m.className, m.vendorID, m.vendor, m.deviceID, m.device, m.subsystem)
		s.gpu.vfs[pci.ref] = append(s.gpu.vfs[pci.ref], vf.ref)
	}
	for _, t := range types {
		o := s.look("VGPU_type", t.(string))
		for _, f := range []string{"supported_on_PGPUs", "enabled_on_PGPUs"} {
			s.set(o, f, anys(append(o.refs(f), pgpu.ref)))
		}
	}
	s.updateGroup(group)
}

// vgpuType finds a type by its name or makes it.
func (s *Sim) vgpuType(vendor, name, kind string, p gpuProfile) *object {
	if t := s.gpu.types[name]; t != nil {
		return t
	}
	t := s.newObject("VGPU_type", map[string]any{
		"vendor_name": vendor, "model_name": name, "framebuffer_size": p.fb << 20, "max_heads": p.heads, "max_resolution_x": p.x,
		"max_resolution_y": p.y, "implementation": kind, "identifier": kind + ":" + name,
	})
	if p.multiPerVM {
		s.set(t, "compatible_types_in_vm", []any{t.ref})
	}
	s.gpu.types[name] = t
	return t
}
