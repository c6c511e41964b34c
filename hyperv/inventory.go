package hyperv

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// Values of Msvm_VirtualSystemSettingData.VirtualSystemType (Hyper-V WMI v2
// reference). They are the same in every language of Windows, unlike captions.
const (
	typeRealized   = "Microsoft:Hyper-V:System:Realized"
	typePlanned    = "Microsoft:Hyper-V:System:Planned"
	typeSnapshot   = "Microsoft:Hyper-V:Snapshot:Realized"
	generation1    = "Microsoft:Hyper-V:SubType:1"
	generation2    = "Microsoft:Hyper-V:SubType:2"
	snapshotPrefix = "Microsoft:Hyper-V:Snapshot:"
)

// The properties that a listing needs. Naming them makes the replies several
// times smaller.
var (
	settingProps = []string{"InstanceID", "ElementName", "VirtualSystemIdentifier", "VirtualSystemType", "VirtualSystemSubType", "Notes",
		"CreationTime", "Parent", "Version", "ConfigurationDataRoot", "UserSnapshotType", "AutomaticSnapshotsEnabled", "AutomaticShutdownAction",
		"LowMmioGapSize", "HighMmioGapSize", "GuestControlledCacheTypes", "IsSaved"}
	systemProps     = []string{"Name", "EnabledState", "HealthState", "OperationalStatus"}
	processorProps  = []string{"InstanceID", "VirtualQuantity"}
	memoryProps     = []string{"InstanceID", "VirtualQuantity", "Reservation", "Limit", "DynamicMemoryEnabled"}
	diskProps       = []string{"InstanceID", "ResourceSubType", "HostResource", "Parent", "Address", "Access"}
	resourceProps   = []string{"InstanceID", "ResourceSubType", "Parent", "Address", "AddressOnParent", "HostResource"}
	nicProps        = []string{"InstanceID", "Address", "StaticMacAddress", "ElementName"}
	connectionProps = []string{"InstanceID", "Parent", "HostResource", "EnabledState"}
	offloadProps    = []string{"InstanceID", "IOVOffloadWeight"}
	assignedProps   = []string{"InstanceID", "HostResource"}
	guestNetProps   = []string{"InstanceID", "IPAddresses"}
)

// table names a class and the properties to read from it.
type table struct {
	class string
	props []string
}

// The classes of a listing; the slices of rows have the same order.
const (
	rowSettings = iota
	rowSystems
	rowCPU
	rowMemory
	rowDisks
	rowResources
	rowNICs
	rowLegacyNICs
	rowConnections
	rowOffload
	rowPCI
	rowPartitions
	rowGuestNet
	rowCurrent
	rowTables
)

var tables = [rowTables]table{
	{"Msvm_VirtualSystemSettingData", settingProps},
	{"Msvm_ComputerSystem", systemProps},
	{"Msvm_ProcessorSettingData", processorProps},
	{"Msvm_MemorySettingData", memoryProps},
	{"Msvm_StorageAllocationSettingData", diskProps},
	{"Msvm_ResourceAllocationSettingData", resourceProps},
	{"Msvm_SyntheticEthernetPortSettingData", nicProps},
	{"Msvm_EmulatedEthernetPortSettingData", nicProps},
	{"Msvm_EthernetPortAllocationSettingData", connectionProps},
	{"Msvm_EthernetSwitchPortOffloadSettingData", offloadProps},
	{"Msvm_PciExpressSettingData", assignedProps},
	{"Msvm_GpuPartitionSettingData", assignedProps},
	{"Msvm_GuestNetworkAdapterConfiguration", guestNetProps},
	{"Msvm_MostCurrentSnapshotInBranch", nil},
}

// brief are the tables that a Brief listing reads.
var brief = []int{rowSettings, rowSystems, rowCPU, rowMemory}

// inventory is what whole-class queries told about one host, joined by the
// GUID in each InstanceID.
type inventory struct {
	h        *host
	read     time.Time
	rows     [rowTables][]*cim.Instance
	byID     map[string]*record
	snapshot map[string][]*cim.Instance // settings of snapshots by machine
}

// record collects the rows of one machine or of one snapshot.
type record struct {
	settings *cim.Instance
	system   *cim.Instance
	rows     [rowTables][]*cim.Instance
}

// ownerOf takes the GUID out of "Microsoft:<GUID>\...", in upper case.
// Msvm_GuestNetworkAdapterConfiguration has "Microsoft:GuestNetwork\<GUID>\...".
func ownerOf(instanceID string) string {
	s, ok := strings.CutPrefix(instanceID, "Microsoft:")
	if !ok {
		return ""
	}
	s = strings.TrimPrefix(s, `GuestNetwork\`)
	s, _, _ = strings.Cut(s, `\`)
	return strings.ToUpper(s)
}

// readInventory runs the queries of some tables; where narrows each of them
// and may be nil.
func readInventory(ctx context.Context, h *host, s cim.Session, which []int, where func(t int) []string) (*inventory, error) {
	inv := &inventory{h: h, read: time.Now(), byID: map[string]*record{}, snapshot: map[string][]*cim.Instance{}}
	var g errgroup.Group
	for _, t := range which {
		g.Go(func() error {
			var cond []string
			if where != nil {
				cond = where(t)
			}
			rows, err := cim.Collect(s.Query(ctx, cim.Virtualization, cim.Select(tables[t].class, tables[t].props, cond...)))
			inv.rows[t] = rows
			// A host before Windows 10 has no GPU partitions, one before
			// Server 2016 no PCI Express settings.
			if (t == rowPartitions || t == rowPCI) && missingClass(err) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	inv.join()
	return inv, nil
}

func missingClass(err error) bool {
	e, ok := err.(*cim.Error)
	return ok && e.HResult == cim.WBEMInvalidClass
}

func allTables() []int {
	out := make([]int, rowTables)
	for i := range out {
		out[i] = i
	}
	return out
}

func (inv *inventory) join() {
	for _, r := range inv.rows[rowSettings] {
		switch t := r.Str("VirtualSystemType"); {
		case t == typeRealized, t == typePlanned:
			inv.record(strings.ToUpper(r.Str("VirtualSystemIdentifier"))).settings = r
		case strings.HasPrefix(t, snapshotPrefix):
			vm := strings.ToUpper(r.Str("VirtualSystemIdentifier"))
			inv.snapshot[vm] = append(inv.snapshot[vm], r)
		}
	}
	for _, r := range inv.rows[rowSystems] {
		if n := r.Str("Name"); guid.MatchString(n) {
			inv.record(strings.ToUpper(n)).system = r
		}
	}
	for t := rowCPU; t < rowCurrent; t++ {
		for _, r := range inv.rows[t] {
			id := r.Str("InstanceID")
			if strings.HasSuffix(id, `\Default`) || strings.HasPrefix(id, "Microsoft:Definition") {
				continue // a template of the class, not of a machine
			}
			if o := ownerOf(id); o != "" {
				rec := inv.record(o)
				rec.rows[t] = append(rec.rows[t], r)
			}
		}
	}
	for _, r := range inv.rows[rowCurrent] {
		vm, ok := r.Ref("Antecedent")
		if ok {
			rec := inv.record(strings.ToUpper(vm.Key("Name")))
			rec.rows[rowCurrent] = append(rec.rows[rowCurrent], r)
		}
	}
}

func (inv *inventory) record(id string) *record {
	r := inv.byID[id]
	if r == nil {
		r = &record{}
		inv.byID[id] = r
	}
	return r
}

// machines returns the records of machines in the order of their GUIDs. A
// machine that vanished between two queries is left out.
func (inv *inventory) machines() []string {
	out := make([]string, 0, len(inv.byID))
	for id, r := range inv.byID {
		if r.settings == nil || (r.system == nil && r.settings.Str("VirtualSystemType") == typeRealized) {
			continue
		}
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// state maps Msvm_ComputerSystem.EnabledState. Values above 32780 differ
// between versions of Windows and mean trouble of one kind or another.
func state(i *cim.Instance) hypervisor.PowerState {
	if i == nil {
		return hypervisor.Off // a planned machine
	}
	switch i.Uint("EnabledState") {
	case 2, 4, 10, 11, 32776, 32777, 32773, 32770, 32774:
		return hypervisor.Running // and on its way from or to somewhere else
	case 3:
		return hypervisor.Off
	case 6, 32769, 32779:
		return hypervisor.Suspended
	case 9, 32768:
		return hypervisor.Paused
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
	v.Description, v.Labels, v.Token = n.Description, n.Labels, n.Token
	v.Firmware, v.Machine = hypervisor.BIOS, "generation 1"
	if r.settings.Str("VirtualSystemSubType") == generation2 {
		v.Firmware, v.Machine = hypervisor.UEFI, "generation 2"
	}
	v.MaxCPUs = v.CPUs
	if mem != nil {
		v.MaxMemoryBytes = int64(mem.Uint("Limit")) * hypervisor.MiB
	}
	if mem != nil && mem.Bool("DynamicMemoryEnabled") {
		v.DynamicMemory = &hypervisor.MemoryRange{MinBytes: int64(mem.Uint("Reservation")) * hypervisor.MiB, MaxBytes: int64(mem.Uint("Limit")) * hypervisor.MiB}
	}
	v.CreatedAt = r.settings.Time("CreationTime")
	v.Placement = hypervisor.Placement{Host: inv.h.id}
	v.Disks = disksOf(inv.h, r)
	if len(v.Disks) > 0 {
		v.Placement.Datastore = v.Disks[0].Datastore
	}
	v.NICs = nicsOf(r)
	v.Devices = inv.devicesOf(r)
	v.Snapshots = len(userSnapshots(inv.snapshot[id]))
	v.CurrentSnapshot = r.current()
	for _, g := range r.rows[rowGuestNet] {
		v.Addresses = append(v.Addresses, g.Strs("IPAddresses")...)
	}
	return v
}

// userSnapshots leaves out what backup and replication keep for themselves.
func userSnapshots(all []*cim.Instance) []*cim.Instance {
	var out []*cim.Instance
	for _, s := range all {
		if s.Str("VirtualSystemType") == typeSnapshot {
			out = append(out, s)
		}
	}
	return out
}

// current is the snapshot that the machine's present state descends from.
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

// disksOf joins images with their drives and controllers.
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
	for _, s := range r.rows[rowDisks] {
		path := s.Str("HostResource")
		d := hypervisor.DiskInfo{ID: hypervisor.DiskID(s.Str("InstanceID")), Format: formatOf(path)}
		if path != "" {
			d.Volume, d.Datastore = h.volume(path), h.datastoreOf(path)
		}
		if s.Str("ResourceSubType") == subDVD {
			d.CDROM, d.ReadOnly = true, true
		}
		drive := parent(s)
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

// colonMAC prints "00155D010203" with colons; no address yet is empty.
func colonMAC(s string) string {
	if len(s) != 12 || s == "000000000000" {
		return ""
	}
	s = strings.ToLower(s)
	return s[0:2] + ":" + s[2:4] + ":" + s[4:6] + ":" + s[6:8] + ":" + s[8:10] + ":" + s[10:12]
}
