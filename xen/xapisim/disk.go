package xapisim

import (
	"maps"
	"slices"
)

// layer is a frozen or writable part of a disk's content: the differences from its parent. A snapshot freezes a disk's layer and gives both
// a fresh one above it. A copy has all layers of its own.
type layer struct {
	id     int
	parent *layer
	blocks map[int64]string
}

func (s *Sim) newLayer(parent *layer) *layer {
	s.layers++
	return &layer{id: s.layers, parent: parent, blocks: map[int64]string{}}
}

func (l *layer) content() map[int64]string {
	if l == nil {
		return map[int64]string{}
	}
	m := l.parent.content()
	maps.Copy(m, l.blocks)
	return m
}

func (l *layer) bases() []int {
	var out []int
	for ; l != nil; l = l.parent {
		out = append(out, l.id)
	}
	return out
}

// thick distinguishes SRs that reserve a disk's whole size from those that grow.
func thick(sr *object) bool { return sr.str("type") == "lvm" || sr.str("type") == "lvmoiscsi" }

// readOnlySR reports whether an SR holds no disks of its own.
func readOnlySR(sr *object) bool { return sr.str("type") == "iso" || sr.str("type") == "udev" }

const vhdStep = 2 << 20 // VHDs grow in blocks of 2 MiB

// srFull is the error of storage drivers when there is no room: the code that xapi looks for after a failed revert (xapi_vm_snapshot.ml).
// SR_FULL, which the data model names too, is available through a Fault.
const srFull = "SR_BACKEND_FAILURE_44"

// newVDI makes a disk in an SR, if it fits.
func (s *Sim) newVDI(sr *object, f map[string]any) (*object, error) {
	if readOnlySR(sr) {
		return nil, fail("SR_OPERATION_NOT_SUPPORTED", sr.ref)
	}
	if err := s.attachedSR(sr); err != nil {
		return nil, err
	}
	size, _ := f["virtual_size"].(int64)
	if size < 0 {
		return nil, fail("SR_BACKEND_FAILURE", "Disk too small", itoa(size), "0") // storage_smapiv1_wrapper.ml, and measured
	}
	size = max((size+vhdStep-1)/vhdStep*vhdStep, vhdStep)
	need := int64(0)
	if thick(sr) {
		need = size
	}
	if err := s.fits(sr, need); err != nil {
		return nil, err
	}
	row := map[string]any{"type": "user", "managed": true, "on_boot": "persist"}
	maps.Copy(row, f)
	row["SR"], row["virtual_size"], row["physical_utilisation"] = sr.ref, size, need
	row["location"] = randomUUID()
	row["uuid"] = row["location"]
	vdi := s.newObject("VDI", row)
	s.disks[vdi.ref] = s.newLayer(nil)
	s.account(sr)
	s.refreshVDI(vdi)
	return vdi, nil
}

// srOf returns a disk's SR. Each message that needs one that is gone fails with the SR's reference (exnHelper.ml).
func (s *Sim) srOf(vdi *object) (*object, error) { return s.get("SR", vdi.str("SR")) }

// attachedSR refuses what needs an SR if no host has it attached (recorded from a xapi 24.11).
func (s *Sim) attachedSR(sr *object) error {
	if sr == nil || slices.ContainsFunc(sr.refs("PBDs"), func(p string) bool { return s.look("PBD", p).is("currently_attached") }) {
		return nil
	}
	return fail("SR_HAS_NO_PBDS", sr.ref)
}

func (s *Sim) fits(sr *object, need int64) error {
	free := sr.num("physical_size") - sr.num("physical_utilisation")
	if s.full[sr.ref] || need > free {
		return fail(srFull, "", "There is insufficient space", "")
	}
	return nil
}

// account sums an SR's use.
func (s *Sim) account(sr *object) {
	if s.bulk {
		return
	}
	virtual, physical := int64(0), s.blocked[sr.ref]
	for _, r := range sr.refs("VDIs") {
		vdi := s.look("VDI", r)
		if vdi.is("managed") {
			virtual += vdi.num("virtual_size")
		}
		physical += vdi.num("physical_utilisation")
	}
	s.set(sr, "virtual_allocation", virtual)
	s.set(sr, "physical_utilisation", physical)
}

// destroyVDI removes a disk with its content. Layers that others depend on stay.
func (s *Sim) destroyVDI(vdi *object) {
	for _, r := range vdi.refs("VBDs") {
		if vbd := s.look("VBD", r); vbd != nil {
			if vbd.str("type") == "CD" {
				s.set(vbd, "VDI", nullRef)
				s.set(vbd, "empty", true)
			} else {
				s.remove(vbd)
			}
		}
	}
	sr := s.look("SR", vdi.str("SR"))
	delete(s.disks, vdi.ref)
	delete(s.memory, vdi.ref)
	s.remove(vdi)
	if sr != nil {
		s.kickGC(sr)
		s.account(sr)
	}
}

// hiddenBase makes the image that backs a disk and its new branch from now on: xapi-project/sm's VHD drivers introduce it as an unmanaged
// VDI called "base copy" and name it in both children's sm_config:vhd-parent.
func (s *Sim) hiddenBase(sr, vdi *object) string {
	row := map[string]any{"type": "user", "managed": false, "on_boot": "persist", "read_only": true, "name_label": baseName, "SR": sr.ref,
		"virtual_size": vdi.val("virtual_size"), "physical_utilisation": int64(0), "location": randomUUID()}
	row["uuid"] = row["location"]
	if p := vdi.entry("sm_config", "vhd-parent"); p != "" {
		row["sm_config"] = dictOf("vhd-parent", p)
	}
	base := s.newObject("VDI", row)
	s.disks[base.ref] = s.newLayer(s.disks[vdi.ref])
	s.refreshVDI(base)
	return base.str("uuid")
}

// branch makes a second disk from one in the same SR that shares all content up to now.
func (s *Sim) branch(vdi *object, f map[string]any) (*object, error) {
	sr, err := s.srOf(vdi)
	if err != nil {
		return nil, err
	}
	row := map[string]any{}
	for _, k := range []string{"name_label", "name_description", "type", "virtual_size", "sharable", "read_only", "other_config", "xenstore_data", "on_boot", "tags"} {
		row[k] = vdi.val(k)
	}
	base := s.hiddenBase(sr, vdi)
	row["sm_config"] = dictOf("vhd-parent", base)
	maps.Copy(row, f)
	out, err := s.newVDI(sr, row)
	if err != nil {
		s.kickGC(sr) // the base that was made for it
		return nil, err
	}
	sm := maps.Clone(vdi.val("sm_config").(map[string]any))
	sm["vhd-parent"] = base
	s.set(vdi, "sm_config", sm)
	layer := s.disks[vdi.ref]
	s.disks[vdi.ref], s.disks[out.ref] = s.newLayer(layer), s.newLayer(layer)
	if m, ok := s.memory[vdi.ref]; ok {
		s.memory[out.ref] = m
	}
	return out, nil
}

// fullCopy makes a disk with the same content and nothing in common, in any SR.
func (s *Sim) fullCopy(vdi, sr *object, f map[string]any) (*object, error) {
	row := map[string]any{}
	for _, k := range []string{"name_label", "name_description", "type", "virtual_size", "other_config", "tags"} {
		row[k] = vdi.val(k)
	}
	if err := s.fits(sr, s.bytes(vdi)); err != nil {
		return nil, err
	}
	maps.Copy(row, f)
	out, err := s.newVDI(sr, row)
	if err != nil {
		return nil, err
	}
	s.disks[out.ref].blocks = s.disks[vdi.ref].content()
	if m, ok := s.memory[vdi.ref]; ok {
		s.memory[out.ref] = m
	}
	s.set(out, "physical_utilisation", max(s.bytes(out), out.num("physical_utilisation")))
	s.account(sr)
	return out, nil
}

// bytes is the space that the content of a disk takes where only used blocks take room.
func (s *Sim) bytes(vdi *object) int64 { return int64(len(s.disks[vdi.ref].content())) * vhdStep }

// vdisOf returns the disks of a VM, including CDs but not empty drives.
func (s *Sim) vdisOf(vm *object) []*object {
	var out []*object
	for _, r := range vm.refs("VBDs") {
		vbd := s.look("VBD", r)
		if vdi := s.look("VDI", vbd.str("VDI")); vdi != nil && !vbd.is("empty") {
			out = append(out, vdi)
		}
	}
	return out
}
