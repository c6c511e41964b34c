package vsphere

import (
	"context"
	"reflect"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// A linked clone needs a snapshot as its base, and vSphere can't take one of
// a template. A template that was made without a snapshot is therefore turned
// into a machine for a moment. A mark records this meanwhile: a line in its
// notes, the only thing that vSphere allows to change on a template, and,
// while it is a machine, an option too, because the snapshot keeps the notes
// for its clones. Mark and option name the template, so that copies that
// others make of it are not mistaken for it.

const (
	baseKey    = "anyvisor.base"
	basePath   = `config.extraConfig["` + baseKey + `"]`
	notePath   = "config.annotation"
	markBefore = "anyvisor: the base of linked machines is being made ("
	markAfter  = ")"
)

// baseState is the state of a template and its base in one reading.
type baseState struct {
	parent, host ref
	template     bool
	state        hypervisor.PowerState
	note         string // without the mark
	marked       bool   // the base is being made
	option       bool   // marked by the option
	owner        string // of the Client that makes it; empty while any Client may
	version      string
	base         ref // the current snapshot, if the template has not changed since
}

// ready reports whether linked clones can be made at once.
func (b baseState) ready() bool { return b.template && !b.marked && b.base.Value != "" }

// baseSelf names a template uniquely among those of all vCenters.
func (d *driver) baseSelf(vm ref) string {
	return vm.Value + "@" + d.vc.ServiceContent.About.InstanceUuid
}

// markOf returns the line that marks a template whose base is being made.
func markOf(self, owner string) string {
	return markBefore + strings.TrimSpace(self+" "+owner) + markAfter
}

// splitNote removes the mark from notes. Blanks mean no notes, because an
// empty element of a specification means no change.
func splitNote(note string) (text, self, owner string) {
	text = note
	if i := strings.LastIndex(note, markBefore); i >= 0 {
		if mark, rest, ok := strings.Cut(note[i+len(markBefore):], markAfter); ok {
			self, owner, _ = strings.Cut(mark, " ")
			text = strings.TrimSuffix(note[:i], "\n") + rest
		}
	}
	if strings.TrimSpace(text) == "" {
		text = ""
	}
	return text, self, owner
}

// joinNote is the inverse of splitNote. Without a mark it returns the form of
// these notes in a specification.
func joinNote(text, mark string) string {
	switch {
	case text == "" && mark == "":
		return " "
	case text == "" || mark == "":
		return text + mark
	}
	return text + "\n" + mark
}

// baseMark reports from a machine's notes and option whether its base is
// being made, and by whom.
func (d *driver) baseMark(vm ref, note, option string) (marked bool, owner string) {
	if self, by, _ := strings.Cut(option, " "); self == d.baseSelf(vm) {
		return true, by
	}
	_, self, owner := splitNote(note)
	return self == d.baseSelf(vm), owner
}

// isTemplate is for readings of summary.config.template, notePath and
// basePath. A template whose base is being made counts as a template.
func (d *driver) isTemplate(vm ref, p propMap) bool {
	marked, _ := d.baseMark(vm, p.str(notePath), optionValue(p[basePath]))
	return marked || get[bool](p, "summary.config.template")
}

// readBase reads a template and its snapshots in one call.
func (d *driver) readBase(ctx context.Context, id hypervisor.VMID) (baseState, error) {
	below := &types.SelectionSpec{Name: "below"}
	list, err := d.all(ctx, types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{{Obj: vmRef(id), SelectSet: []types.BaseSelectionSpec{
			&types.TraversalSpec{Type: "VirtualMachine", Path: "rootSnapshot", SelectSet: []types.BaseSelectionSpec{below}},
			&types.TraversalSpec{SelectionSpec: *below, Type: "VirtualMachineSnapshot", Path: "childSnapshot", SelectSet: []types.BaseSelectionSpec{below}},
		}}},
		PropSet: []types.PropertySpec{
			{Type: "VirtualMachine", PathSet: []string{"parent", "runtime.host", "runtime.powerState", "summary.config.template", "config.changeVersion",
				"config.hardware", "snapshot", notePath, basePath}},
			{Type: "VirtualMachineSnapshot", PathSet: []string{"config.hardware"}},
		},
	})
	if _, gone := faultOf(err).(*types.ManagedObjectNotFound); gone || err == nil && len(list) == 0 {
		return baseState{}, notFound(id.Ref())
	}
	var b baseState
	var now types.VirtualHardware
	var current *ref
	then := map[ref]types.VirtualHardware{}
	for _, o := range list {
		p := props(o)
		if o.Obj != vmRef(id) {
			then[o.Obj] = get[types.VirtualHardware](p, "config.hardware")
			continue
		}
		now, current = get[types.VirtualHardware](p, "config.hardware"), get[types.VirtualMachineSnapshotInfo](p, "snapshot").CurrentSnapshot
		option := optionValue(p[basePath])
		b = baseState{parent: p.ref("parent"), host: p.ref("runtime.host"), version: p.str("config.changeVersion"), template: get[bool](p, "summary.config.template"),
			state: stateOf(get[types.VirtualMachinePowerState](p, "runtime.powerState"))}
		b.note, _, _ = splitNote(p.str(notePath))
		b.marked, b.owner = d.baseMark(o.Obj, p.str(notePath), option)
		b.option = b.marked && strings.HasPrefix(option, d.baseSelf(o.Obj)+" ")
	}
	if current != nil {
		if at, ok := then[*current]; ok && sameMachine(now, at) {
			b.base = *current
		}
	}
	return b, err
}

// sameMachine reports whether a machine is unchanged since its snapshot:
// others may have turned a template into a machine, changed it, and marked it
// again. A content ID identifies the content of a disk and its backing chain
// (API reference, VirtualDiskFlatVer2BackingInfo.contentId), so a new child
// has its parent's content ID until it is written.
func sameMachine(now, then types.VirtualHardware) bool {
	if now.NumCPU != then.NumCPU || now.MemoryMB != then.MemoryMB || len(now.Device) != len(then.Device) {
		return false
	}
	was := map[int32]types.BaseVirtualDevice{}
	for _, dev := range then.Device {
		was[dev.GetVirtualDevice().Key] = dev
	}
	for _, dev := range now.Device {
		old := was[dev.GetVirtualDevice().Key]
		if reflect.TypeOf(dev) != reflect.TypeOf(old) {
			return false
		}
		if x, ok := dev.(*types.VirtualDisk); ok && !sameDisk(x, old.(*types.VirtualDisk)) {
			return false
		}
	}
	return true
}

func sameDisk(now, then *types.VirtualDisk) bool {
	a, b := contentOf(now.Backing), contentOf(then.Backing)
	if a != "" || b != "" {
		return a == b && capacity(now) == capacity(then)
	}
	// No content IDs: the disk's parent is the image that the snapshot keeps.
	c, k := chain(now.Backing), chain(then.Backing)
	return len(k) > 0 && (len(c) > 1 && c[1].id == k[0].id || len(c) > 0 && c[0].id == k[0].id)
}

func contentOf(b types.BaseVirtualDeviceBackingInfo) string {
	switch x := b.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		return x.ContentId
	case *types.VirtualDiskSeSparseBackingInfo:
		return x.ContentId
	case *types.VirtualDiskSparseVer2BackingInfo:
		return x.ContentId
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		return x.ContentId
	}
	return ""
}
