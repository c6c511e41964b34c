package main

import (
	"log"
	"strings"
)

// keysOf names the key properties of the topmost class that has them; subclasses inherit [D: each class's reference page].
var keysOf = map[string]string{
	"CIM_SettingData":                       "InstanceID",
	"CIM_System":                            "CreationClassName,Name",
	"CIM_Service":                           "SystemCreationClassName,SystemName,CreationClassName,Name",
	"CIM_ServiceAccessPoint":                "SystemCreationClassName,SystemName,CreationClassName,Name",
	"CIM_LogicalDevice":                     "SystemCreationClassName,SystemName,CreationClassName,DeviceID",
	"CIM_ConcreteJob":                       "InstanceID",
	"CIM_Capabilities":                      "InstanceID",
	"CIM_ResourcePool":                      "InstanceID",
	"CIM_Collection":                        "InstanceID",
	"CIM_SoftwareElement":                   "Name,Version,SoftwareElementState,SoftwareElementID,TargetOperatingSystem",
	"CIM_View":                              "InstanceID",
	"Msvm_GuestNetworkAdapterConfiguration": "InstanceID",
	"Msvm_NumaNode":                         "NodeID",
	"CIM_BaseMetricDefinition":              "Id",
	"CIM_BaseMetricValue":                   "InstanceId",
	"Msvm_VirtualSystemReferencePoint":      "InstanceID",
	"Msvm_PhysicalGPUInfo":                  "Id",
	"Msvm_KvpExchangeDataItem":              "Name",
	"CIM_Dependency":                        "Antecedent,Dependent",
	"CIM_ElementSettingData":                "ManagedElement,SettingData",
	"CIM_Component":                         "GroupComponent,PartComponent",
	"CIM_AffectedJobElement":                "AffectedElement,AffectingElement",
	"CIM_OwningJobElement":                  "OwningElement,OwnedElement",
	"CIM_SettingsDefineState":               "ManagedElement,SettingData",
	"CIM_ConcreteComponent":                 "GroupComponent,PartComponent",
	"CIM_MemberOfCollection":                "Collection,Member",
	"CIM_ElementCapabilities":               "ManagedElement,Capabilities",
	"CIM_LastAppliedSnapshot":               "Antecedent,Dependent",
	"CIM_MostCurrentSnapshotInBranch":       "Antecedent,Dependent",
	"CIM_LogicalIdentity":                   "SystemElement,SameElement",
	"Msvm_ParentChildSettingData":           "Parent,Child",
	"CIM_SettingsDefineCapabilities":        "GroupComponent,PartComponent",
	"CIM_ServiceAffectsElement":             "AffectedElement,AffectingElement",
	"Win32_ComputerSystemProduct":           "Name,IdentifyingNumber,Version",
	"Win32_OperatingSystem":                 "Name",
	"CIM_OperatingSystem":                   "",
	"Win32_ComputerSystem":                  "Name",
	"Win32_Processor":                       "DeviceID",
	"Win32_PnPEntity":                       "DeviceID",
	"Win32_LogicalDisk":                     "DeviceID",
	"CIM_LogicalFile":                       "Name",
	"Win32_BIOS":                            "Name,SoftwareElementID,SoftwareElementState,TargetOperatingSystem,Version",
	"MSCluster_Cluster":                     "Name",
	"MSCluster_Node":                        "Name",
	"MSCluster_Resource":                    "Name",
	"MSCluster_ResourceGroup":               "Name",
	"MSCluster_ClusterSharedVolume":         "Name",
	"MSCluster_DiskPartition":               "Path",
	"MSCluster_NodeToActiveGroup":           "GroupComponent,PartComponent",
	"MSCluster_ResourceGroupToResource":     "GroupComponent,PartComponent",
}

// datetimes are the properties and parameters that are CIM datetimes; the generated Go shows them as strings [D].
var datetimes = fields(`InstallDate CreationTime TimeOfLastStateChange StartTime ElapsedTime TimeBeforeRemoval TimeSubmitted
	TimeOfLastConfigurationChange LastReplicationTime LastApplicationConsistentReplicationTime LastApplicationTime ScheduledStartTime
	UntilTime AutomaticStartupActionDelay AutomaticCriticalErrorActionTimeout RunStartInterval TimeoutPeriod LastSuccessfulBackupTime
	LastBootUpTime LocalDateTime LastAccessed LastModified CreationDate ReleaseDate StartStatisticTime EndStatisticTime LastTestFailoverInitiatedTime`)

// embedded are the class-typed places that hold the object itself and not a reference to it [D].
var embedded = fields(`GetSummaryInformation.SummaryInformation GetDefinitionFileSummaryInformation.SummaryInformation GetDeviceProperties.deviceProperties`)

// widths are enumerations that are not uint16 [D]; "string" where the value map has strings for keys.
var widths = map[string]string{
	"VirtualSystemSettingData_VirtualSystemSubType":               "string",
	"SummaryInformationBase_VirtualSystemSubType":                 "string",
	"EthernetSwitchPortOffloadSettingData_IOVInterruptModeration": "uint32",
	"EthernetSwitchFeatureCapabilities_Applicability":             "uint8",
	"StorageSettingData_ThreadCountPerChannel":                    "uint16",
	"VirtualSystemSnapshotSettingData_ConsistencyLevel":           "uint8", // its reference page says uint8
	"VirtualSystemSnapshotSettingData_GuestBackupType":            "uint8", // likewise
	"OperatingSystem_OperatingSystemSKU":                          "uint32",
	"OperatingSystem_ProductType":                                 "uint32",
	"OperatingSystem_SuiteMask":                                   "uint32",
	"ComputerSystem_ResetCapability":                              "uint16",
	"LogicalDisk_DriveType":                                       "uint32",
	"LogicalDisk_MediaType":                                       "uint32",
	"Error_CIMStatusCode":                                         "uint32",
	"VirtualSystemManagementService_SecretEncoding":               "uint16",
	"Resource_State":                                              "uint32",
	"ResourceGroup_State":                                         "uint32",
	"Node_State":                                                  "uint32",
}

func fields(s string) map[string]bool {
	m := map[string]bool{}
	for _, f := range strings.Fields(s) {
		m[f] = true
	}
	return m
}

var plain = map[string]string{"string": "string", "bool": "boolean", "uint8": "uint8", "uint16": "uint16", "uint32": "uint32",
	"uint64": "uint64", "int8": "sint8", "int16": "sint16", "int32": "sint32", "int64": "sint64", "float32": "real32", "float64": "real64", "interface{}": "object"}

func cimType(class, method, name, t string) string {
	suffix := ""
	if strings.HasPrefix(t, "[]") {
		suffix, t = "[]", t[2:]
	}
	if t == "string" && datetimes[name] {
		return "datetime" + suffix
	}
	if p, ok := plain[t]; ok {
		return p + suffix
	}
	for _, p := range []string{"CIM_", "Msvm_", "Win32_", "MSCluster_", "Msft_"} {
		if strings.HasPrefix(t, p) {
			if embedded[method+"."+name] {
				return "object(" + t + ")" + suffix
			}
			return "ref(" + t + ")" + suffix
		}
	}
	if w, ok := widths[t]; ok {
		return w + suffix
	}
	if strings.Contains(t, "_") {
		return "uint16" + suffix
	}
	log.Printf("%s.%s%s: type %s taken as string", class, method, name, t)
	return "string" + suffix
}

// missing are parameters that the generated methods leave out [D].
var missing = map[string]string{
	"CIM_EnabledLogicalElement.RequestStateChange": " TimeoutPeriod:datetime:in",
	"Win32_PnPEntity.GetDeviceProperties":          " devicePropertyKeys:string[]:in",
}
