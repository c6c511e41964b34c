package hyperv

import (
	"cmp"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/ipaddr"
)

// state maps Msvm_ComputerSystem.EnabledState. Values above 32780 differ
// between versions of Windows, and all of them mean some problem.
func state(i *cim.Instance) hypervisor.PowerState {
	if i == nil {
		return hypervisor.StateOff // a planned machine
	}
	switch i.Uint("EnabledState") {
	case 2, 4, 10, 11, 32776, 32777, 32773, 32770, 32774:
		return hypervisor.StateRunning // also while starting or while changing to another state
	case 3:
		return hypervisor.StateOff
	case 6, 32769, 32779:
		return hypervisor.StateSuspended
	case 9, 32768:
		return hypervisor.StatePaused
	}
	return hypervisor.StateUnknown
}

// info makes the portable value of one machine.
func (inv *inventory) info(id string, full bool) hypervisor.VMInfo {
	r := inv.byID[id]
	n := parseNotes(r.settings.Strs("Notes"))
	v := hypervisor.VMInfo{
		ID: hypervisor.VMID(id), Name: r.settings.Str("ElementName"), State: state(r.system), Template: n.Template,
		Host: inv.h.id, ReadAt: inv.read,
	}
	if len(r.rows[rowCPU]) > 0 {
		v.CPUs = int(r.rows[rowCPU][0].Uint("VirtualQuantity"))
	}
	var mem *cim.Instance
	if len(r.rows[rowMemory]) > 0 {
		mem = r.rows[rowMemory][0]
		v.MemoryBytes = int64(mem.Uint("VirtualQuantity")) * hypervisor.MiB
	}
	if !full {
		return v
	}
	v.Description, v.Labels, v.Token, v.GuestOS = n.Description, n.Labels, n.Token, n.GuestOS
	v.Firmware, v.Machine = hypervisor.FirmwareBIOS, "generation 1"
	if r.settings.Str("VirtualSystemSubType") == generation2 {
		v.Firmware, v.Machine, v.SecureBoot = hypervisor.FirmwareUEFI, "generation 2", r.settings.Bool("SecureBootEnabled")
	}
	v.MaxCPUs = v.CPUs
	if mem != nil {
		v.MaxMemoryBytes = int64(mem.Uint("Limit")) * hypervisor.MiB
	}
	if mem != nil && mem.Bool("DynamicMemoryEnabled") {
		v.DynamicMemory = &hypervisor.MemoryRange{MinBytes: int64(mem.Uint("Reservation")) * hypervisor.MiB, MaxBytes: int64(mem.Uint("Limit")) * hypervisor.MiB}
	}
	v.CreatedAt = r.settings.Time("CreationTime")
	v.Placement = hypervisor.Placement{Host: inv.h.id, Pool: hypervisor.PoolID(inv.h.cluster)}
	v.Disks = disksOf(inv.h, r)
	if i := slices.IndexFunc(v.Disks, func(d hypervisor.DiskInfo) bool { return !d.CDROM && d.Datastore != "" }); i >= 0 {
		v.Placement.Datastore = v.Disks[i].Datastore
	}
	v.NICs = nicsOf(r)
	v.Devices = inv.devicesOf(r)
	v.Snapshots = len(userSnapshots(inv.snapshot[id]))
	v.CurrentSnapshot = r.current()
	for _, g := range r.rows[rowGuestNet] {
		v.Addresses = append(v.Addresses, ipaddr.Parse(g.Strs("IPAddresses")...)...)
	}
	return v
}

// userSnapshots leaves out the snapshots of backup and replication.
func userSnapshots(all []*cim.Instance) []*cim.Instance {
	var out []*cim.Instance
	for _, s := range all {
		if s.Str("VirtualSystemType") == typeSnapshot {
			out = append(out, s)
		}
	}
	return out
}

// current returns the snapshot that the machine's present state descends
// from.
func (r *record) current() hypervisor.SnapshotID {
	for _, a := range r.rows[rowCurrent] {
		if dep, ok := a.Ref("Dependent"); ok {
			if o := ownerOf(dep.Key("InstanceID")); o != "" {
				return hypervisor.SnapshotID(o)
			}
		}
	}
	return ""
}

// disksOf joins images with their drives and controllers, and adds the disks
// of the host.
func disksOf(h *host, r *record) []hypervisor.DiskInfo {
	byID := map[string]*cim.Instance{}
	for _, x := range r.rows[rowResources] {
		byID[strings.ToUpper(x.Str("InstanceID"))] = x
	}
	parent := func(i *cim.Instance) *cim.Instance {
		if i == nil {
			return nil
		}
		ref, _ := i.Ref("Parent")
		return byID[strings.ToUpper(ref.Key("InstanceID"))]
	}
	type placed struct {
		key  string
		info hypervisor.DiskInfo
	}
	var out []placed
	put := func(d hypervisor.DiskInfo, drive *cim.Instance) {
		ctl := parent(drive)
		key := "9"
		if ctl != nil {
			switch ctl.Str("ResourceSubType") {
			case subSCSI:
				d.Bus, key = "scsi", "1"
			case subIDE:
				d.Bus, key = "ide", "0"
			}
			key += ctl.Str("Address") + "/" + pad(drive.Str("AddressOnParent"))
		}
		out = append(out, placed{key, d})
	}
	for _, s := range r.rows[rowDisks] {
		path := s.Str("HostResource")
		d := hypervisor.DiskInfo{ID: hypervisor.DiskID(s.Str("InstanceID")), Format: formatOf(path)}
		if path != "" {
			d.Volume, d.Datastore = h.volume(path), h.datastoreOf(path)
		}
		if s.Str("ResourceSubType") == subDVD {
			d.CDROM, d.ReadOnly = true, true
		}
		put(d, parent(s))
	}
	for _, drive := range r.physical() {
		put(hypervisor.DiskInfo{ID: hypervisor.DiskID(drive.Str("InstanceID")), Format: "raw"}, drive)
	}
	slices.SortFunc(out, func(a, b placed) int {
		return cmp.Or(strings.Compare(a.key, b.key), strings.Compare(string(a.info.ID), string(b.info.ID)))
	})
	var disks []hypervisor.DiskInfo
	for _, p := range out {
		disks = append(disks, p.info)
	}
	return disks
}

func pad(s string) string { return strings.Repeat("0", max(0, 4-len(s))) + s }

// nicsOf joins adapters with their connections.
func nicsOf(r *record) []hypervisor.NICInfo {
	conn := map[string]*cim.Instance{}
	for _, c := range r.rows[rowConnections] {
		if p, ok := c.Ref("Parent"); ok {
			conn[strings.ToUpper(p.Key("InstanceID"))] = c
		}
	}
	var out []hypervisor.NICInfo
	for _, t := range []int{rowNICs, rowLegacyNICs} {
		for _, n := range r.rows[t] {
			i := hypervisor.NICInfo{ID: hypervisor.NICID(n.Str("InstanceID")), MAC: colonMAC(n.Str("Address")), Model: "synthetic"}
			if t == rowLegacyNICs {
				i.Model = "legacy"
			}
			if c := conn[strings.ToUpper(n.Str("InstanceID"))]; c != nil {
				if sw := c.Get("HostResource").Refs(); len(sw) > 0 {
					i.Network = hypervisor.NetworkID(strings.ToUpper(sw[0].Key("Name")))
				}
				i.Connected = c.Uint("EnabledState") == 2 && i.Network != ""
				for _, f := range r.rows[rowOffload] {
					if f.Uint("IOVOffloadWeight") > 0 && strings.HasPrefix(strings.ToUpper(f.Str("InstanceID")), strings.ToUpper(c.Str("InstanceID"))+`\`) {
						i.Model = modelSRIOV
					}
				}
			}
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b hypervisor.NICInfo) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out
}

// colonMAC formats "00155D010203" with colons. A missing address is empty.
func colonMAC(s string) string {
	if len(s) != 12 || s == "000000000000" {
		return ""
	}
	s = strings.ToLower(s)
	return s[0:2] + ":" + s[2:4] + ":" + s[4:6] + ":" + s[6:8] + ":" + s[8:10] + ":" + s[10:12]
}
