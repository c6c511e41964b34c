package hyperv

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
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
// times smaller. All of them are in Windows Server 2016: a query that names a
// property that the host lacks fails as a whole.
var (
	settingProps = []string{"InstanceID", "ElementName", "VirtualSystemIdentifier", "VirtualSystemType", "VirtualSystemSubType", "Notes", "SecureBootEnabled",
		"CreationTime", "Parent", "Version", "ConfigurationDataRoot", "UserSnapshotType", "AutomaticShutdownAction", "IsSaved"}
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

// inventory is the result of whole-class queries on one host, joined by the
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

// ownerOf extracts the GUID from "Microsoft:<GUID>\...", in upper case.
// Msvm_GuestNetworkAdapterConfiguration has
// "Microsoft:GuestNetwork\<GUID>\...".
func ownerOf(instanceID string) string {
	s, ok := strings.CutPrefix(instanceID, "Microsoft:")
	if !ok {
		return ""
	}
	s = strings.TrimPrefix(s, `GuestNetwork\`)
	s, _, _ = strings.Cut(s, `\`)
	return strings.ToUpper(s)
}

// readInventory runs the queries of some tables. where narrows each of them
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

// missingClass reports whether the host has no such class, or no such
// namespace.
func missingClass(err error) bool {
	var e *cim.Error
	return errors.As(err, &e) && (e.HResult == cim.WBEMInvalidClass || e.HResult == cim.WBEMInvalidNamespace)
}

// unclustered reports whether a query for the failover cluster failed because
// there is none, or none that this user may see.
func unclustered(err error) bool {
	return missingClass(err) || isGone(err) || cim.KindOf(err) == cim.Permission
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
