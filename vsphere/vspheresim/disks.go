package vspheresim

import (
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// A virtual disk is a chain of files: the one that the machine writes, its parent, and so on to the base. The backing of every file identifies its
// content (contentId), which changes when a machine that may write it runs.

// newContentID makes the identity of a new content. API reference: VirtualDiskFlatVer2BackingInfo.contentId
// "indicates the logical contents of the disk backing and its parents".
func newContentID() string {
	id := uuid.New()
	return hex.EncodeToString(id[:])
}

func disksOf(devices []types.BaseVirtualDevice) []*types.VirtualDisk {
	var out []*types.VirtualDisk
	for _, d := range devices {
		if disk, ok := d.(*types.VirtualDisk); ok {
			out = append(out, disk)
		}
	}
	return out
}

// fileBacking is the backing of a disk when it is a file that snapshots and clones can build on.
func fileBacking(d *types.VirtualDisk) *types.VirtualDiskFlatVer2BackingInfo {
	b, _ := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	return b
}

// independent reports whether snapshots leave a disk out. API reference: VirtualDiskMode, independent_persistent
// and independent_nonpersistent.
func independent(d *types.VirtualDisk) bool {
	b := fileBacking(d)
	return b == nil || strings.HasPrefix(b.DiskMode, "independent")
}

// independentMode reports whether the mode of a disk is an independent one.
func independentMode(d *types.VirtualDisk) bool {
	switch b := d.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		return strings.HasPrefix(b.DiskMode, "independent")
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		return strings.HasPrefix(b.DiskMode, "independent")
	}
	return false
}

// chainOf returns the files of a disk, the one that is written first.
func chainOf(d *types.VirtualDisk) []string {
	var out []string
	if b := fileBacking(d); b != nil {
		for ; b != nil; b = b.Parent {
			out = append(out, b.FileName)
		}
		return out
	}
	if b, ok := d.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
		out = append(out, b.GetVirtualDeviceFileBackingInfo().FileName)
	}
	return out
}

var deltaSuffix = regexp.MustCompile(`-\d{6}$`)

// child makes the backing of a new delta disk on top of another.
func child(parent *types.VirtualDiskFlatVer2BackingInfo, file string, ds ref) *types.VirtualDiskFlatVer2BackingInfo {
	p := clone(parent)
	c := &types.VirtualDiskFlatVer2BackingInfo{
		DiskMode: p.DiskMode, ThinProvisioned: types.NewBool(true), Uuid: p.Uuid, ContentId: p.ContentId,
		DeltaDiskFormat: "seSparseFormat", Parent: p, Sharing: p.Sharing, Split: types.NewBool(false),
		WriteThrough: types.NewBool(false), EagerlyScrub: types.NewBool(false), DigestEnabled: types.NewBool(false),
	}
	c.FileName, c.Datastore = file, &ds
	return c
}

// deltaName is the next free name of a delta of a disk in a folder: name-000001.vmdk.
func (s *Sim) deltaName(vm *simulator.VirtualMachine, base, dir string) string {
	d := dsPath(base)
	store := s.placeOf(vm).datastore
	stem := deltaSuffix.ReplaceAllString(strings.TrimSuffix(path.Base(d.Path), ".vmdk"), "")
	at := dsPath(dir)
	used := s.filesOf(vm)
	for i := 1; ; i++ {
		name := dsJoin(at.Datastore, at.Path, fmt.Sprintf("%s-%06d.vmdk", stem, i))
		k := fileKey(&store, name)
		if _, loose := s.loose[k]; !used[k] && !loose && len(s.heldBy(map[string]bool{k: true}, vm.Self)) == 0 {
			return name
		}
	}
}

// filesOf is the key of every disk file in the chains of a machine and of its snapshots.
func (s *Sim) filesOf(vm *simulator.VirtualMachine) map[string]bool {
	used := map[string]bool{}
	s.eachFile(vm, func(f string) { used[f] = true })
	return used
}

func (s *Sim) eachFile(vm *simulator.VirtualMachine, f func(key string)) {
	devices := func(list []types.BaseVirtualDevice) {
		for _, d := range disksOf(list) {
			for _, k := range keysOf(d) {
				f(k)
			}
		}
	}
	devices(vm.Config.Hardware.Device)
	for _, snap := range s.snapshotsOf(vm) {
		devices(snap.Config.Hardware.Device)
	}
}

// configsOf is the configuration of a machine and those of its snapshots.
func (s *Sim) configsOf(vm *simulator.VirtualMachine) []*types.VirtualMachineConfigInfo {
	out := []*types.VirtualMachineConfigInfo{vm.Config}
	for _, snap := range s.snapshotsOf(vm) {
		out = append(out, &snap.Config)
	}
	return out
}

// snapshotsOf is every snapshot of a machine.
func (s *Sim) snapshotsOf(vm *simulator.VirtualMachine) []*simulator.VirtualMachineSnapshot {
	var out []*simulator.VirtualMachineSnapshot
	if vm.Snapshot == nil {
		return nil
	}
	var walk func([]types.VirtualMachineSnapshotTree)
	walk = func(list []types.VirtualMachineSnapshotTree) {
		for _, t := range list {
			if snap, ok := s.registry().Get(t.Snapshot).(*simulator.VirtualMachineSnapshot); ok {
				out = append(out, snap)
			}
			walk(t.ChildSnapshotList)
		}
	}
	walk(vm.Snapshot.RootSnapshotList)
	return out
}

// holders returns the other machines whose disks are backed by a file.
func (s *Sim) holders(file string, except ref) []*simulator.VirtualMachine {
	var out []*simulator.VirtualMachine
	for _, vm := range s.allVMs() {
		if vm.Self == except {
			continue
		}
		held := false
		s.eachFile(vm, func(f string) { held = held || f == file })
		if held {
			out = append(out, vm)
		}
	}
	return out
}

// heldBy returns those of some files that back machines other than one.
func (s *Sim) heldBy(files map[string]bool, except ref) map[string]bool {
	out := map[string]bool{}
	for _, vm := range s.allVMs() {
		if vm.Self != except {
			s.eachFile(vm, func(f string) {
				if files[f] {
					out[f] = true
				}
			})
		}
	}
	return out
}

// forest holds the disk files of the world for a merge, by their keys, with their parents.
type forest struct {
	info   map[string]types.VirtualDiskFlatVer2BackingInfo // without Parent
	parent map[string]string
	own    map[string]bool // files that only this machine has in a chain
	tops   map[string]bool // files that something writes or a snapshot shows
	merged [][2]string     // the merges, in their order: a file and the parent that got its content
}

func (s *Sim) forestOf(vm *simulator.VirtualMachine) *forest {
	f := &forest{info: map[string]types.VirtualDiskFlatVer2BackingInfo{}, parent: map[string]string{}, own: map[string]bool{}, tops: map[string]bool{}}
	add := func(v *simulator.VirtualMachine, mine bool) {
		for _, c := range s.configsOf(v) {
			for _, d := range disksOf(c.Hardware.Device) {
				b := fileBacking(d)
				if b == nil {
					continue
				}
				f.tops[key(b)] = true
				for ; b != nil; b = b.Parent {
					i, k := *b, key(b)
					i.Parent = nil
					f.info[k] = i
					if !mine {
						f.own[k] = false
					} else if _, ok := f.own[k]; !ok {
						f.own[k] = true
					}
					if b.Parent != nil {
						f.parent[k] = key(b.Parent)
					}
				}
			}
		}
	}
	add(vm, true)
	mine := s.filesOf(vm)
	for _, other := range s.allVMs() {
		if other.Self == vm.Self {
			continue
		}
		shares := false
		s.eachFile(other, func(f string) { shares = shares || mine[f] })
		if shares {
			add(other, false)
		}
	}
	return f
}

func (f *forest) build(file string) *types.VirtualDiskFlatVer2BackingInfo {
	b := f.info[file]
	if p, ok := f.parent[file]; ok {
		b.Parent = f.build(p)
	}
	return &b
}

// merge collapses every file that no snapshot shows any more into its only child, like the consolidation of disks: the file of the parent stays and
// gets the content. It returns what the files became.
func (f *forest) merge() map[string]string {
	became := map[string]string{}
	for again := true; again; {
		again = false
		children := map[string][]string{}
		for c, p := range f.parent {
			children[p] = append(children[p], c)
		}
		for p, cs := range children {
			if f.tops[p] || len(cs) != 1 || !f.own[p] || !f.own[cs[0]] {
				continue
			}
			c := cs[0]
			info := f.info[p]
			info.ContentId, info.ChangeId = f.info[c].ContentId, f.info[c].ChangeId
			info.DiskMode = f.info[c].DiskMode
			f.info[p] = info
			became[c] = p
			f.merged = append(f.merged, [2]string{c, p})
			for x, y := range became {
				if y == c {
					became[x] = p
				}
			}
			for x, y := range f.parent {
				if y == c {
					f.parent[x] = p
				}
			}
			delete(f.parent, c)
			delete(f.info, c)
			if f.tops[c] {
				delete(f.tops, c)
				f.tops[p] = true
			}
			again = true
			break
		}
	}
	return became
}

// consolidate merges those disks of a machine that can be merged and reports whether anything changed. The caller holds the lock of the machine.
func (s *Sim) consolidate(ctx *simulator.Context, vm *simulator.VirtualMachine) bool {
	f := s.forestOf(vm)
	before := s.filesOf(vm)
	became := f.merge()
	if len(became) == 0 {
		return false
	}
	for _, m := range f.merged {
		if content, ok := s.blocks[m[0]]; ok {
			s.blocks[m[1]] = content
			delete(s.blocks, m[0])
		}
	}
	rebuild := func(devices []types.BaseVirtualDevice) []types.BaseVirtualDevice {
		devices = clone(devices)
		for _, d := range disksOf(devices) {
			b := fileBacking(d)
			if b == nil {
				continue
			}
			top := key(b)
			if p, ok := became[top]; ok {
				top = p
			}
			d.Backing = f.build(top)
		}
		return devices
	}
	vm.Config.Hardware.Device = rebuild(vm.Config.Hardware.Device)
	for _, snap := range s.snapshotsOf(vm) {
		s.lock(ctx, snap, func() { snap.Config.Hardware.Device = rebuild(snap.Config.Hardware.Device) })
	}
	s.removeUnused(&vm.VirtualMachine, before, s.filesOf(vm))
	return true
}

// needsConsolidation reports whether a consolidation would merge something. API reference: VirtualMachineRuntimeInfo.consolidationNeeded.
func (s *Sim) needsConsolidation(vm *simulator.VirtualMachine) bool {
	return len(s.forestOf(vm).merge()) > 0
}

// removeUnused deletes the files that were in a chain and no longer are, unless another machine needs them.
func (s *Sim) removeUnused(vm *mo.VirtualMachine, before, after map[string]bool) {
	gone := map[string]bool{}
	for f := range before {
		if !after[f] {
			gone[f] = true
		}
	}
	if len(gone) == 0 {
		return
	}
	held := s.heldBy(gone, vm.Self)
	for f := range gone {
		if !held[f] {
			s.deleteDiskFile(f)
		}
	}
}
