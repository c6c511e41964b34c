package hvsim

import (
	"fmt"
	"maps"
	"slices"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

func init() {
	handle("Msvm_ImageManagementService", map[string]handler{
		"CreateVirtualHardDisk":         createDisk,
		"GetVirtualHardDiskSettingData": diskSettings,
		"GetVirtualHardDiskState":       diskState,
		"ResizeVirtualHardDisk":         resizeDisk,
		"MergeVirtualHardDisk":          mergeDisk,
		"ConvertVirtualHardDisk":        convertDisk,
		"CompactVirtualHardDisk":        compactDisk,
		"SetParentVirtualHardDisk":      setParent,
		"ValidateVirtualHardDisk":       validateDisk,
	})
}

// Job types of Msvm_StorageJob [D: that class; numbers believed].
const (
	sjCreate, sjCompact, sjResize, sjMerge, sjConvert, sjSetParent, sjValidate = 1, 3, 4, 5, 6, 10, 9
)

func (c *call) storage(kind int, caption string, finish func() *fail) uint32 {
	return c.run(false, jobSpec{class: "Msvm_StorageJob", kind: kind, caption: caption, finish: finish, cancel: func() {}})
}

// Limits of sizes [D: Msvm_VirtualHardDiskSettingData.MaxInternalSize; "Plan for Hyper-V scalability"].
const (
	minDisk = 3 << 20
	maxVHD  = 2040 << 30
	maxVHDX = 64 << 40
)

func notFound(p string) *fail {
	return &fail{code: rvFileNotFound, text: "The system failed to open '" + p + "': The system cannot find the file specified. (0x80070002)"}
}

// wantedDisk reads and checks disk settings.
func (c *call) wantedDisk(text string) (s *cimx.Instance, rv uint32) {
	s, good := c.embedded(text, "Msvm_VirtualHardDiskSettingData")
	if !good || !absolute(s.Str("Path")) {
		return nil, rvInvalidParam
	}
	kind, format := s.Uint("Type"), s.Uint("Format")
	wantExt := map[uint64][]string{formatVHD: {".vhd", ".avhd"}, formatVHDX: {".vhdx", ".avhdx"}}[format]
	if kind < diskFixed || kind > diskDiff || !slices.Contains(wantExt, ext(s.Str("Path"))) {
		return nil, rvInvalidParam
	}
	size := s.Uint("MaxInternalSize")
	if kind == diskDiff {
		if s.Str("ParentPath") == "" {
			return nil, rvInvalidParam
		}
	} else if !sizeOK(size, uint16(format)) {
		return nil, rvInvalidParam
	}
	return s, 0
}

func sizeOK(size uint64, format uint16) bool {
	top := uint64(maxVHDX)
	if format == formatVHD {
		top = maxVHD
	}
	return size >= minDisk && size <= top && size%512 == 0
}

func createDisk(c *call) uint32 {
	h := c.h
	s, rv := c.wantedDisk(c.str("VirtualDiskSettingData"))
	if rv != 0 {
		return rv
	}
	p := s.Str("Path")
	return c.storage(sjCreate, "Creating Virtual Hard Disk", func() *fail {
		if h.file(p) != nil {
			return &fail{code: rvFailed, text: "Failed to create the virtual hard disk. The file '" + p + "' exists. (0x80070050)"}
		}
		d := &disk{id: h.sim.newID(), write: h.sim.newID(), kind: uint16(s.Uint("Type")), format: uint16(s.Uint("Format")), size: s.Uint("MaxInternalSize"), cells: map[string]string{}}
		if d.kind == diskDiff {
			up := h.disk(s.Str("ParentPath"))
			if up == nil {
				return notFound(s.Str("ParentPath"))
			}
			if up.format != d.format {
				return &fail{code: rvFailed, text: "The format of the parent differs."}
			}
			if _, good := h.chain(s.Str("ParentPath")); !good {
				return corrupt(s.Str("ParentPath"))
			}
			d.parent, d.link, d.size = h.file(s.Str("ParentPath")).path, up.write, up.size
		} else if d.kind == diskFixed && d.size > h.freeDisk(p) {
			return &fail{code: rvFailed, text: "There is not enough space on the disk. (0x80070070)"}
		}
		h.put(&file{path: p, disk: d})
		return nil
	})
}

func corrupt(p string) *fail {
	return &fail{code: rvFailed, text: "The chain of virtual hard disks is corrupted at '" + p + "'. There is a mismatch in the identifiers of the parent virtual hard disk and differencing disk. (0xC03A000E)"}
}

// freeDisk is the room on the volume of a path.
func (h *Host) freeDisk(p string) uint64 {
	var used uint64
	for _, f := range h.fs(p).files {
		used += f.bytes()
	}
	size := h.cfg.DiskMB << 20
	return size - min(size, used)
}

func diskSettings(c *call) uint32 {
	p := c.str("Path")
	f := c.h.file(p)
	if f == nil {
		return rvFileNotFound
	}
	if f.disk == nil {
		return rvInvalidParam
	}
	d := f.disk
	i := c.h.virt.new("Msvm_VirtualHardDiskSettingData").Set("InstanceID", f.path).Set("ElementName", stem(p)).Set("Path", f.path).Set("Type", d.kind).Set("Format", d.format).
		Set("MaxInternalSize", d.size).Set("VirtualDiskId", d.id).Set("LogicalSectorSize", 512).Set("PhysicalSectorSize", 4096).Set("BlockSize", 0)
	if d.kind != diskFixed {
		i.Set("BlockSize", 32<<20)
	}
	if d.kind == diskDiff {
		i.Set("ParentPath", d.parent).Set("ParentIdentifier", d.link)
	}
	c.out["SettingData"] = cimx.Format(i)
	return rvOK
}

func diskState(c *call) uint32 {
	p := c.str("Path")
	f := c.h.file(p)
	if f == nil {
		return rvFileNotFound
	}
	if f.disk == nil {
		return rvInvalidParam
	}
	i := c.h.virt.new("Msvm_VirtualHardDiskState").Set("FileSize", f.bytes()).Set("InUse", c.h.open(p)).Set("MinInternalSize", f.disk.least()).
		Set("FragmentationPercentage", 0).Set("PhysicalSectorSize", 4096).Set("Alignment", 1)
	c.out["State"] = cimx.Format(i)
	return rvOK
}

// least returns the smallest size to which a disk can shrink.
func (d *disk) least() uint64 { return 4<<20 + uint64(len(d.cells))*(2<<20) }

func resizeDisk(c *call) uint32 {
	h, p := c.h, c.str("Path")
	size, _ := c.in["MaxInternalSize"].(uint64)
	d := h.disk(p)
	switch {
	case h.file(p) == nil:
		return rvFileNotFound
	case d == nil || !sizeOK(size, d.format):
		return rvInvalidParam
	case d.kind == diskDiff && size < d.size, d.format == formatVHD && size < d.size: // [D: Resize-VHD: only VHDX shrinks]
		return rvNotSupported
	case size < d.least():
		return rvInvalidParam
	}
	if m := h.writer(p); m != nil && (d.format == formatVHD || m.onIDE(p)) { // [D: Resize-VHD: online only for VHDX on SCSI]
		return rvInUse
	}
	return c.storage(sjResize, "Resizing Virtual Hard Disk", func() *fail {
		if h.disk(p) != d {
			return notFound(p)
		}
		d.size, d.write = size, h.sim.newID() // children that depend on it no longer match
		return nil
	})
}

func (m *machine) onIDE(p string) bool {
	for _, r := range m.cfg.disks() {
		if key(hostResource(r)) == key(p) {
			drive := m.cfg.parent(r)
			return drive != nil && onIDE(m.cfg, drive)
		}
	}
	return false
}

// mergeDisk merges a differencing disk into one of its ancestors. The merged files are removed [D: MergeVirtualHardDisk,
// Merge-VHD].
func mergeDisk(c *call) uint32 {
	h, src, dst := c.h, c.str("SourcePath"), c.str("DestinationPath")
	if h.file(src) == nil || h.file(dst) == nil {
		return rvFileNotFound
	}
	if h.open(src) || h.open(dst) {
		return rvInUse
	}
	if d := h.disk(src); d == nil || d.kind != diskDiff {
		return rvInvalidParam
	}
	return c.storage(sjMerge, "Merging Virtual Hard Disk", func() *fail {
		paths, good := h.chain(src)
		at := slices.IndexFunc(paths, func(p string) bool { return key(p) == key(dst) })
		if !good && at < 0 {
			return corrupt(src)
		}
		if at <= 0 {
			return &fail{code: rvInvalidParam, text: "The destination is no parent of the source."}
		}
		h.fold(paths[:at+1])
		return nil
	})
}

// fold merges a chain, leaf first, into its last element.
func (h *Host) fold(paths []string) {
	to := h.disk(paths[len(paths)-1])
	for _, p := range slices.Backward(paths[:len(paths)-1]) {
		maps.Copy(to.cells, h.disk(p).cells)
		to.size = h.disk(p).size
	}
	to.write = h.disk(paths[0]).write // the children of the leaf now depend on the merged disk
	for _, kid := range h.children(paths[0]) {
		h.disk(kid).parent = paths[len(paths)-1]
	}
	for _, p := range paths[:len(paths)-1] {
		h.drop(p)
	}
}

func convertDisk(c *call) uint32 {
	h, src := c.h, c.str("SourcePath")
	s, rv := c.wantedConversion(src)
	if rv != 0 {
		return rv
	}
	p := s.Str("Path")
	return c.storage(sjConvert, "Converting Virtual Hard Disk", func() *fail {
		if _, good := h.chain(src); !good {
			return corrupt(src)
		}
		if h.file(p) != nil {
			return &fail{code: rvFailed, text: "The file '" + p + "' exists. (0x80070050)"}
		}
		h.put(&file{path: p, disk: &disk{id: h.sim.newID(), write: h.sim.newID(), kind: uint16(s.Uint("Type")), format: uint16(s.Uint("Format")), size: h.disk(src).size, cells: h.content(src)}})
		return nil
	})
}

func (c *call) wantedConversion(src string) (*cimx.Instance, uint32) {
	d := c.h.disk(src)
	if c.h.file(src) == nil {
		return nil, rvFileNotFound
	}
	s, good := c.embedded(c.str("VirtualDiskSettingData"), "Msvm_VirtualHardDiskSettingData")
	if d == nil || !good {
		return nil, rvInvalidParam
	}
	if c.h.writer(src) != nil {
		return nil, rvInUse
	}
	s.Set("MaxInternalSize", d.size) // the size is the source's
	if s.Uint("Type") == diskDiff {
		return nil, rvNotSupported
	}
	return c.wantedDisk(cimx.Format(s))
}

func compactDisk(c *call) uint32 {
	p := c.str("Path")
	d := c.h.disk(p)
	if c.h.file(p) == nil {
		return rvFileNotFound
	}
	if m, _ := c.in["Mode"].(uint16); d == nil || d.kind == diskFixed || m > 4 {
		return rvInvalidParam
	}
	if c.h.writer(p) != nil {
		return rvInUse
	}
	return c.storage(sjCompact, "Compacting Virtual Hard Disk", ok)
}

func setParent(c *call) uint32 {
	h, child, parent := c.h, c.str("ChildPath"), c.str("ParentPath")
	d, up := h.disk(child), h.disk(parent)
	switch {
	case h.file(child) == nil || h.file(parent) == nil:
		return rvFileNotFound
	case d == nil || up == nil || d.kind != diskDiff || d.format != up.format:
		return rvInvalidParam
	case h.open(child):
		return rvInUse
	}
	ignore := c.flag("IgnoreIDMismatch")
	return c.storage(sjSetParent, "Setting Parent of Virtual Hard Disk", func() *fail {
		if d.link != up.write && !ignore {
			return corrupt(child)
		}
		if d.size < up.size {
			return &fail{code: rvFailed, text: fmt.Sprintf("There is a mismatch in the virtual size of '%s'.", parent)}
		}
		d.parent, d.link = h.file(parent).path, up.write
		return nil
	})
}

func validateDisk(c *call) uint32 {
	p := c.str("Path")
	if c.h.file(p) == nil {
		return rvFileNotFound
	}
	if c.h.disk(p) == nil {
		return rvInvalidParam
	}
	return c.storage(sjValidate, "Validating Virtual Hard Disk", func() *fail {
		if _, good := c.h.chain(p); !good {
			return corrupt(p)
		}
		return nil
	})
}
