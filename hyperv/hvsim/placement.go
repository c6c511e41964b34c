package hvsim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

func (c *config) bySub(sub string) (out []*cimx.Instance) {
	for _, r := range c.res {
		if r.Class.Prop("ResourceSubType") >= 0 && r.Str("ResourceSubType") == sub {
			out = append(out, r)
		}
	}
	return out
}

// parent resolves a resource's Parent within the configuration.
func (c *config) parent(r *cimx.Instance) *cimx.Instance {
	ref, err := cimx.ParsePath(r.Str("Parent"))
	if err != nil {
		return nil
	}
	p := c.h.lookup(ref)
	if p == nil || !slices.Contains(c.res, p) {
		return nil
	}
	return p
}

// kids lists the resources whose Parent is r.
func (c *config) kids(r *cimx.Instance) (out []*cimx.Instance) {
	for _, x := range c.res {
		if x.Class.Prop("Parent") >= 0 && x.Get("Parent") != nil && c.parent(x) == r {
			out = append(out, x)
		}
	}
	return out
}

// placeDrive puts a drive on a controller: Parent, AddressOnParent [O: vmutils.attach_drive; G].
func (c *config) placeDrive(r *cimx.Instance, running bool) uint32 {
	ctl := c.parent(r)
	if ctl == nil {
		return rvInvalidParam
	}
	slots := 0
	switch ctl.Str("ResourceSubType") {
	case subSCSI:
		slots = 64
	case subIDE:
		slots = 2
		if running {
			return rvInvalidState // no hot plug on IDE
		}
	default:
		return rvInvalidParam
	}
	used := map[string]bool{}
	for _, k := range c.kids(ctl) {
		used[k.Str("AddressOnParent")] = true
	}
	at := r.Str("AddressOnParent")
	if at == "" {
		for n := 0; n < slots && at == ""; n++ {
			if s := strconv.Itoa(n); !used[s] {
				at = s
			}
		}
	}
	n, err := strconv.Atoi(at)
	if err != nil || n < 0 || n >= slots || used[at] {
		return rvInvalidParam
	}
	r.Set("AddressOnParent", at).Set("Parent", ctl.Ref().Path()).Set("InstanceID", fmt.Sprintf(`%s\%s\D`, ctl.Str("InstanceID"), at))
	return 0
}

// placeMedium puts a disk or image file into a drive.
func (c *config) placeMedium(r *cimx.Instance) uint32 {
	drive := c.parent(r)
	if drive == nil || len(c.kids(drive)) > 0 {
		return rvInvalidParam
	}
	vhd := r.Str("ResourceSubType") == subVHD
	if s := drive.Str("ResourceSubType"); vhd && s != subDisk || !vhd && s != subDVD {
		return rvInvalidParam
	}
	if rv := c.checkMedium(hostResource(r), vhd); rv != 0 {
		return rv
	}
	r.Set("Parent", drive.Ref().Path()).Set("InstanceID", strings.TrimSuffix(drive.Str("InstanceID"), `\D`)+`\L`)
	if r.Str("ElementName") == "" || r.Str("ElementName") == "Default" {
		r.Set("ElementName", "Hard Disk Image")
	}
	return 0
}

func (c *config) checkMedium(p string, vhd bool) uint32 {
	if c.vm.planned {
		return 0 // a planned machine may name files that don't exist yet [D: ImportSystemDefinition, ValidatePlannedSystem]
	}
	if !absolute(p) {
		return rvInvalidParam
	}
	f := c.h.file(p)
	if f == nil {
		return rvFileNotFound
	}
	if vhd && f.disk == nil {
		return rvInvalidParam
	}
	if vhd && c.vm.state() != stOff {
		if o := c.h.writer(p); o != nil && o != c.vm {
			return rvInUse
		}
	}
	return 0
}

// setMAC checks a static MAC address or assigns a dynamic one from Microsoft's range.
func (c *config) setMAC(r *cimx.Instance) uint32 {
	mac := strings.ToUpper(strings.NewReplacer("-", "", ":", "").Replace(r.Str("Address")))
	if r.Bool("StaticMacAddress") {
		n, err := strconv.ParseUint(mac, 16, 64)
		if err != nil || len(mac) != 12 || n>>40&1 == 1 {
			return rvInvalidParam
		}
		r.Set("Address", mac)
		return 0
	}
	c.h.macs++
	r.Set("Address", fmt.Sprintf("00155D%02X%04X", c.h.index+1, c.h.macs&0xffff))
	return 0
}

// switchOK checks that a connection names an existing switch, or none (disconnected).
func (c *config) switchOK(r *cimx.Instance) bool {
	p := hostResource(r)
	if p == "" {
		return true
	}
	ref, err := cimx.ParsePath(p)
	if err != nil {
		return false
	}
	sw := c.h.lookup(ref)
	if sw == nil || sw.Class.Name != "Msvm_VirtualEthernetSwitch" {
		return c.vm.planned
	}
	r.Set("HostResource", []any{sw.Ref().Path()}).Set("LastKnownSwitchName", sw.Str("ElementName"))
	return true
}

// checkQuantity checks memory and processor settings. old are the previous ones.
func (c *config) checkQuantity(r, old *cimx.Instance) uint32 {
	q, lo, hi := r.Uint("VirtualQuantity"), r.Uint("Reservation"), r.Uint("Limit")
	running := c.vm.state() != stOff
	if r.Class.Name == "Msvm_ProcessorSettingData" {
		top := uint64(64) // [D: "Plan for Hyper-V scalability"]: generation 1; generation 2 by version
		if c.vm.gen2() {
			top = 240
			if c.h.cfg.Build >= 20348 {
				top = 1024
			}
		}
		if q < 1 || q > top || lo > 100000 || hi > 100000 || r.Uint("Weight") > 10000 {
			return rvInvalidParam
		}
		if running && (q != old.Uint("VirtualQuantity") || r.Bool("LimitProcessorFeatures") != old.Bool("LimitProcessorFeatures") || r.Bool("ExposeVirtualizationExtensions") != old.Bool("ExposeVirtualizationExtensions")) {
			return rvInvalidState
		}
		return 0
	}
	dyn := r.Bool("DynamicMemoryEnabled")
	switch {
	case q < 32 || q > 12<<20 || q%2 != 0: // [O: memory values are kept even]
		return rvInvalidParam
	case dyn && (lo < 32 || lo > q || q > hi):
		return rvInvalidParam
	case dyn && r.Get("TargetMemoryBuffer") != nil && (r.Uint("TargetMemoryBuffer") < 5 || r.Uint("TargetMemoryBuffer") > 2000):
		return rvInvalidParam
	case dyn && c.hasPCI() && lo != q:
		return rvInvalidParam // [D: DDA guide: with dynamic memory, startup and minimum must be the same]
	}
	if !dyn {
		r.Set("Reservation", q)
		if hi < q {
			r.Set("Limit", q)
		}
	}
	if !running {
		return 0
	}
	if dyn != old.Bool("DynamicMemoryEnabled") {
		return rvInvalidState
	}
	if dyn && (q != old.Uint("VirtualQuantity") || lo > old.Uint("Reservation") || hi < old.Uint("Limit")) {
		return rvInvalidState // [D: dynamic memory: while running, minimum may go down and maximum up]
	}
	if !dyn && q > old.Uint("VirtualQuantity") && q-old.Uint("VirtualQuantity") > c.h.freeMemory() {
		return rvOutOfMemory
	}
	return 0
}
