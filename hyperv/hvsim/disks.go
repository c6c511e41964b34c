package hvsim

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

const defaultDiskDir = `C:\Users\Public\Documents\Hyper-V\Virtual Hard Disks`

// Types and formats of virtual disks [D: Msvm_VirtualHardDiskSettingData].
const (
	diskFixed, diskDynamic, diskDiff = 2, 3, 4
	formatVHD, formatVHDX            = 2, 3
)

// disks is a file system with a host's files: virtual disks, machine definitions and other files.
type disks struct {
	files map[string]*file // by lower-case path
}

// file is one file. Exactly one of disk and def may be set.
type file struct {
	path string
	disk *disk
	def  *definition
	size uint64 // of plain files
}

// disk is the content of a VHD or VHDX file. A cell represents a region that a guest wrote.
type disk struct {
	id           string // VirtualDiskId
	write        string // changes with every writer that opens the disk; a child records it (the data write GUID of MS-VHDX)
	kind, format uint16
	size         uint64
	parent, link string // parent path and its write GUID as the child noted it
	cells        map[string]string
}

func newDisks() *disks { return &disks{files: map[string]*file{}} }

func key(p string) string { return strings.ToLower(strings.ReplaceAll(p, "/", `\`)) }

// fs returns the file system that holds a path: UNC paths and cluster volumes are shared by all hosts.
func (h *Host) fs(p string) *disks {
	k := key(p)
	if strings.HasPrefix(k, `\\`) || h.sim.cluster != nil && strings.HasPrefix(k, key(h.sim.cluster.cfg.Root)+`\`) {
		return h.sim.shared
	}
	return h.files
}

func (h *Host) file(p string) *file { return h.fs(p).files[key(p)] }

func (h *Host) put(f *file) *file {
	h.fs(f.path).files[key(f.path)] = f
	return f
}

func (h *Host) drop(p string) { delete(h.fs(p).files, key(p)) }

// move renames a file; its parent link and children keep their paths.
func (h *Host) move(from, to string) {
	f := h.file(from)
	if f == nil || key(from) == key(to) {
		return
	}
	h.drop(from)
	f.path = to
	h.put(f)
}

// disk returns the virtual disk at a path, or nil if there is none.
func (h *Host) disk(p string) *disk {
	if f := h.file(p); f != nil {
		return f.disk
	}
	return nil
}

// chain lists the paths from a disk to its base, leaf first; ok is false if a parent is missing or is another disk.
func (h *Host) chain(p string) (paths []string, ok bool) {
	for n := 0; n < 1024; n++ {
		d := h.disk(p)
		if d == nil {
			return paths, false
		}
		paths = append(paths, p)
		if d.kind != diskDiff {
			return paths, true
		}
		if up := h.disk(d.parent); up == nil || up.write != d.link {
			return paths, false
		}
		p = d.parent
	}
	return paths, false
}

// content is what a guest sees on a disk: the cells of the backing chain, the leaf on top.
func (h *Host) content(p string) map[string]string {
	out := map[string]string{}
	paths, _ := h.chain(p)
	for _, q := range slices.Backward(paths) {
		maps.Copy(out, h.disk(q).cells)
	}
	return out
}

// children lists the files whose parent is p, on every file system that this host sees.
func (h *Host) children(p string) []string {
	var out []string
	for _, fs := range []*disks{h.files, h.sim.shared} {
		for _, f := range fs.files {
			if f.disk != nil && f.disk.kind == diskDiff && key(f.disk.parent) == key(p) {
				out = append(out, f.path)
			}
		}
	}
	slices.Sort(out)
	return out
}

// newDiff makes a differencing disk on top of parent.
func (h *Host) newDiff(p, parent string) *file {
	up := h.disk(parent)
	return h.put(&file{path: p, disk: &disk{id: h.sim.newID(), write: h.sim.newID(), kind: diskDiff, format: up.format, size: up.size, parent: parent, link: up.write, cells: map[string]string{}}})
}

// copyFile copies a file to another path, possibly on another host.
func (h *Host) copyFile(from string, to *Host, dst string) *file {
	f := h.file(from)
	if f == nil {
		return nil
	}
	n := &file{path: dst, size: f.size, def: f.def}
	if f.disk != nil {
		d := *f.disk
		d.cells = maps.Clone(d.cells)
		n.disk = &d
	}
	return to.put(n)
}

// bytes is the size of a file on disk: dynamic disks take 4 MiB and 2 MiB for each cell.
func (f *file) bytes() uint64 {
	switch {
	case f.disk == nil:
		return max(f.size, 1)
	case f.disk.kind == diskFixed:
		return f.disk.size
	}
	return 4<<20 + uint64(len(f.disk.cells))*(2<<20)
}

// base returns the last element of a Windows path, dir the rest, ext the extension with its dot.
func base(p string) string { return path.Base(strings.ReplaceAll(p, `\`, "/")) }
func dir(p string) string {
	i := strings.LastIndexAny(p, `\/`)
	if i < 0 {
		return ""
	}
	return p[:i]
}
func ext(p string) string  { return strings.ToLower(path.Ext(base(p))) }
func stem(p string) string { b := base(p); return strings.TrimSuffix(b, path.Ext(b)) }

func join(d, name string) string { return strings.TrimRight(d, `\/`) + `\` + name }

// absolute reports whether the services accept p: a drive or UNC path without forbidden characters.
func absolute(p string) bool {
	if len(p) < 3 {
		return false
	}
	drive := p[1] == ':' && (p[2] == '\\' || p[2] == '/')
	return (drive || strings.HasPrefix(p, `\\`)) && !strings.ContainsAny(p[2:], `<>"|?*`) && !strings.Contains(p[2:], ":")
}

// WriteDisk changes a region of a virtual disk file like a guest would, at the given path itself. As on a real host, a write to a
// disk that backs others breaks their chains.
func (h *Host) WriteDisk(path, region, value string) error {
	h.sim.mu.Lock()
	defer h.sim.mu.Unlock()
	d := h.disk(path)
	if d == nil {
		return fmt.Errorf("hvsim: no virtual disk at %s on %s", path, h.cfg.Name)
	}
	d.cells[region] = value
	d.write = h.sim.newID()
	return nil
}

// ReadDisk returns what a guest would see on the virtual disk at path, through its parents, or nil if a link of the chain is
// missing.
func (h *Host) ReadDisk(path string) map[string]string {
	h.sim.mu.Lock()
	defer h.sim.mu.Unlock()
	h.sim.tick()
	if _, ok := h.chain(path); !ok {
		return nil
	}
	return h.content(path)
}

// DiskChain returns the files of a virtual disk from the leaf to its base.
func (h *Host) DiskChain(path string) []string {
	h.sim.mu.Lock()
	defer h.sim.mu.Unlock()
	h.sim.tick()
	l, _ := h.chain(path)
	return l
}

// AddFile puts a plain file, such as an ISO image, on the host.
func (h *Host) AddFile(path string, size uint64) {
	h.sim.mu.Lock()
	defer h.sim.mu.Unlock()
	h.put(&file{path: path, size: size})
}

// Files lists the paths of all files that the host sees, sorted.
func (h *Host) Files() []string {
	h.sim.mu.Lock()
	defer h.sim.mu.Unlock()
	h.sim.tick()
	var out []string
	for _, fs := range []*disks{h.files, h.sim.shared} {
		for _, f := range fs.files {
			out = append(out, f.path)
		}
	}
	slices.Sort(out)
	return out
}
