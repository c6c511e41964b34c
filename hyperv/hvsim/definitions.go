package hvsim

import (
	"fmt"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

// Resource subtypes [O: os_win/constants; those of network and devices are believed].
const (
	subSCSI     = "Microsoft:Hyper-V:Synthetic SCSI Controller"
	subIDE      = "Microsoft:Hyper-V:Emulated IDE Controller"
	subDisk     = "Microsoft:Hyper-V:Synthetic Disk Drive"
	subPhysDisk = "Microsoft:Hyper-V:Physical Disk Drive"
	subDVD      = "Microsoft:Hyper-V:Synthetic DVD Drive"
	subVHD      = "Microsoft:Hyper-V:Virtual Hard Disk"
	subISO      = "Microsoft:Hyper-V:Virtual CD/DVD Disk"
	subNIC      = "Microsoft:Hyper-V:Synthetic Ethernet Port"
	subLegacy   = "Microsoft:Hyper-V:Emulated Ethernet Port"
	subConn     = "Microsoft:Hyper-V:Ethernet Connection"
	subSerial   = "Microsoft:Hyper-V:Serial Port"
	subProc     = "Microsoft:Hyper-V:Processor"
	subMem      = "Microsoft:Hyper-V:Memory"
	subPCI      = "Microsoft:Hyper-V:Virtual Pci Express Port"
	subGPUP     = "Microsoft:Hyper-V:Gpu Partition"
	subDisplay  = "Microsoft:Hyper-V:Synthetic Display Controller"
)

// kinds describes the resources that can be added: class, CIM resource type [G: ResourceAllocationSettingData_ResourceType].
type kind struct {
	class    string
	subtype  string
	restype  int
	defaults map[string]any
}

var kinds = []kind{
	{"Msvm_ProcessorSettingData", subProc, 3, map[string]any{"VirtualQuantity": 1, "Reservation": 0, "Limit": 100000, "Weight": 100, "MaxProcessorsPerNumaNode": 64,
		"MaxNumaNodesPerSocket": 1, "LimitProcessorFeatures": false, "ExposeVirtualizationExtensions": false, "HwThreadsPerCore": 0, "AllocationUnits": "percent / 1000", "VirtualQuantityUnits": "count"}},
	{"Msvm_MemorySettingData", subMem, 4, map[string]any{"VirtualQuantity": 1024, "Reservation": 1024, "Limit": 1048576, "Weight": 5000, "DynamicMemoryEnabled": false,
		"TargetMemoryBuffer": 20, "MaxMemoryBlocksPerNumaNode": 65536, "AllocationUnits": "byte * 2^20", "VirtualQuantityUnits": "byte * 2^20", "IsVirtualized": true}},
	{"Msvm_ResourceAllocationSettingData", subIDE, 5, nil},
	{"Msvm_ResourceAllocationSettingData", subSCSI, 6, nil},
	{"Msvm_ResourceAllocationSettingData", subDisk, 17, nil},
	{"Msvm_ResourceAllocationSettingData", subPhysDisk, 17, nil},
	{"Msvm_ResourceAllocationSettingData", subDVD, 16, nil},
	{"Msvm_StorageAllocationSettingData", subVHD, 31, map[string]any{"Access": 3, "VirtualResourceBlockSize": 512, "IOPSLimit": 0, "IOPSReservation": 0, "AllocationUnits": "count"}},
	{"Msvm_StorageAllocationSettingData", subISO, 31, map[string]any{"Access": 1}},
	{"Msvm_SyntheticEthernetPortSettingData", subNIC, 10, map[string]any{"StaticMacAddress": false, "ElementName": "Network Adapter", "DeviceNamingEnabled": false}},
	{"Msvm_EmulatedEthernetPortSettingData", subLegacy, 10, map[string]any{"StaticMacAddress": false, "ElementName": "Legacy Network Adapter"}},
	{"Msvm_EthernetPortAllocationSettingData", subConn, 33, map[string]any{"EnabledState": 2, "ElementName": "Dynamic Ethernet Switch Port"}},
	{"Msvm_SerialPortSettingData", subSerial, 21, nil},
	{"Msvm_SyntheticDisplayControllerSettingData", subDisplay, 24, nil},
	{"Msvm_PciExpressSettingData", subPCI, 32769, nil},
	{"Msvm_GpuPartitionSettingData", subGPUP, 32770, map[string]any{"MinPartitionVRAM": 0, "MaxPartitionVRAM": 0, "OptimalPartitionVRAM": 0}},
}

// features are per-port settings; their defaults end in \Default too.
var features = []string{"Msvm_EthernetSwitchPortOffloadSettingData", "Msvm_EthernetSwitchPortVlanSettingData", "Msvm_EthernetSwitchPortSecuritySettingData",
	"Msvm_EthernetSwitchPortBandwidthSettingData"}

// addDefinitions adds the template instances that clients copy: InstanceID Microsoft:Definition\<guid>\Default
// and its Minimum, Maximum and Increment [O: queries LIKE '%\\Default'; G skips paths with "Definition"].
func (h *Host) addDefinitions() {
	for n, k := range kinds {
		if (k.subtype == subPCI && h.cfg.Edition.client()) || (k.subtype == subGPUP && !h.gpuP()) {
			continue
		}
		if h.virt.ns.Class(k.class) == nil { // a later build added it
			continue
		}
		for _, role := range []string{"Default", "Minimum", "Maximum", "Increment"} {
			i := h.virt.new(k.class)
			i.Set("InstanceID", fmt.Sprintf(`Microsoft:Definition\00000000-0000-4000-9000-%012X\%s`, n+1, role)).
				Set("ResourceType", k.restype).Set("ResourceSubType", k.subtype).Set("ElementName", "Default").
				Set("AutomaticAllocation", true).Set("AutomaticDeallocation", true).Set("ConsumerVisibility", 3)
			for p, v := range k.defaults {
				i.Set(p, v)
			}
			h.virt.add(i)
		}
	}
	for n, f := range features {
		i := h.virt.new(f).Set("InstanceID", fmt.Sprintf(`Microsoft:Definition\00000000-0000-4000-9001-%012X\Default`, n+1))
		if f == features[0] {
			i.Set("IOVOffloadWeight", 0).Set("VMQOffloadWeight", 100).Set("IOVQueuePairsRequested", 1).Set("IOVInterruptModeration", 0).Set("IPSecOffloadLimit", 512)
		}
		h.virt.add(i)
	}
	exp := h.virt.new("Msvm_VirtualSystemExportSettingData").Set("InstanceID", `Microsoft:Definition\Export\Default`)
	exp.Merge(exportDefaults(h))
	h.virt.add(exp)
}

// kindOf finds the kind of an added resource: by subtype, or else by class and type.
func kindOf(i *cimx.Instance) *kind {
	if i.Class.Name == "Msvm_ResourceAllocationSettingData" && i.Str("ResourceSubType") == subVHD { // as libvirt sends an image [O]
		for n := range kinds {
			if kinds[n].subtype == subVHD {
				return &kinds[n]
			}
		}
	}
	for n := range kinds {
		if k := &kinds[n]; i.Class.Name == k.class && (i.Str("ResourceSubType") == k.subtype || i.Get("ResourceSubType") == nil && i.Class.Name != "Msvm_ResourceAllocationSettingData" && i.Class.Name != "Msvm_StorageAllocationSettingData") {
			return k
		}
	}
	return nil
}

// setIf sets a property where the class has it.
func setIf(i *cimx.Instance, name string, v any) {
	if i.Class.Prop(name) >= 0 {
		i.Set(name, v)
	}
}

// defaultNIC etc. are the fixed parts of InstanceIDs that Hyper-V uses (believed, seen in many listings).
const (
	idProcessor = `b637f346-6a0e-4dec-af52-bd70cb80a21d\0`
	idMemory    = `4764334d-e001-4176-82ee-5594ec9b530e`
	idIDE       = `83F8638B-8DCA-4152-9EDA-2CA8B33039B4\%d`
	idDisplay   = `9D1C6F3F-6F0E-4D5C-8A5E-0C8E1A3F2B11`
)

// components are the integration services: settings class, device class, device ID, on by default.
var components = []struct {
	settings, device, id string
	on                   bool
}{
	{"Msvm_ShutdownComponentSettingData", "Msvm_ShutdownComponent", "9F8233AC-BE49-4C79-8EE3-E7E1985B2077", true},
	{"Msvm_TimeSyncComponentSettingData", "Msvm_TimeSyncComponent", "2497F4DE-E9FA-4204-80E4-4B75C46419C0", true},
	{"Msvm_KvpExchangeComponentSettingData", "Msvm_KvpExchangeComponent", "2A34B1C2-FD73-4043-8A5B-DD2159BC743F", true},
	{"Msvm_HeartbeatComponentSettingData", "Msvm_HeartbeatComponent", "84EAAE65-2F2E-45F5-9BB5-0E857DC8EB47", true},
	{"Msvm_VssComponentSettingData", "Msvm_VssComponent", "5CED1297-4598-4915-A5FC-AD21BB4D02A4", true},
	{"Msvm_GuestServiceInterfaceComponentSettingData", "Msvm_GuestServiceInterfaceComponent", "6C09BB55-D683-4DA0-8931-C9BF705F6480", false},
}
