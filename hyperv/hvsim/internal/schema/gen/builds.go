package main

import (
	"bufio"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// since are classes, and properties of classes, that were added after Windows Server 2016 (build 14393), by build. "-" is the
// class itself.
//
// [D: the notes "Added in Windows 10, version …" of the reference pages, and "RS2 Classes", "RS3 Classes"; 1703 is build 15063,
// 1709 is 16299, 1803 is 17134.] The pages of 1703 name much that Server 2016 has: device assignment, nested virtualization,
// shielded machines, Msvm_VirtualSystemSettingData.HighMmioGapSize (Set-VM -HighMemoryMappedIoSpace is in the module of 2016).
// That is left out here. Everything else that is new in 1703 is believed to be absent on 14393.
var since = []struct {
	build          int
	class, members string
}{
	{15063, "Msvm_GpuPartition", "-"},
	{15063, "Msvm_GpuPartitionSettingData", "-"},
	{15063, "Msvm_PartitionableGpu", "-"},
	{15063, "Msvm_NetworkConnectionDiagnosticInformation", "-"},
	{15063, "Msvm_NetworkConnectionDiagnosticSettingData", "-"},
	{15063, "Msvm_SystemComponentSettingData", "-"},
	{15063, "Msvm_EthernetSwitchPortTeamMappingSettingData", "-"},
	{15063, "Msvm_CollectionReferencePointExportJob", "-"},
	{15063, "Msvm_VirtualSystemReferencePointExportJob", "-"},
	{15063, "Msvm_VirtualSystemSnapshotSettingData", "GuestBackupType"},
	{15063, "Msvm_ProcessorSettingData", "CpuGroupId HideHypervisorPresent HwThreadsPerCore"},
	{15063, "Msvm_StorageAllocationSettingData", "WriteHardeningMethod"},
	{15063, "Msvm_KvpExchangeComponentSettingData", "DisableHostKVPItems"},
	{15063, "Msvm_SettingsDefineCapabilities", "SupportStatement"},
	{15063, "Msvm_SyntheticDisplayControllerSettingData", "ResolutionType"},
	{15063, "Msvm_VirtualSystemMigrationSettingData", "AllowOverwriteExistingFile"},
	{15063, "Msvm_VirtualSystemManagementService", "AddSystemComponentSettings ModifySystemComponentSettings RemoveSystemComponentSettings DiagnoseNetworkConnection"},
	{16299, "Msvm_Battery", "-"},
	{16299, "Msvm_BatterySettingData", "-"},
	{16299, "Msvm_PersistentMemoryController", "-"},
	{16299, "Msvm_VirtualSystemSettingData", "Architecture AutomaticSnapshotsEnabled GuestStateDataRoot GuestStateFile IsAutomaticSnapshot"},
	{16299, "Msvm_VirtualHardDiskSettingData", "DataAlignment IsPmemCompatible PmemAddressAbstractionType"},
	{16299, "Msvm_VirtualSystemExportSettingData", "DisableDifferentialOfIgnoredStorage ExcludedVirtualHardDisks"},
	{16299, "Msvm_VirtualSystemMigrationSettingData", "CancelIfBlackoutThresholdExceeded CPUCappingMagnitude"},
	{16299, "Msvm_VirtualSystemManagementServiceSettingData", "HypervisorRootSchedulerEnabled"},
	{17134, "Msvm_VirtualSystemSettingData", "EnhancedSessionTransportType"},
}

// only23H2 is the build of the newer class list. Classes that the list of Server 2019 lacks were added after 17763. No list of
// 20348 is available, so they are believed to be absent there.
const only23H2 = 25398

// builds writes an "s" line for every class and member that older builds lack.
func builds(w *bufio.Writer, root string, s source) {
	if s.namespace != "root/virtualization/v2" {
		return // clients see nothing of the other namespaces that differs
	}
	for _, x := range since {
		for _, m := range strings.Fields(x.members) {
			fmt.Fprintln(w, "s", x.build, x.class, m)
		}
	}
	files, _ := filepath.Glob(filepath.Join(root, s.dir, "*.go")) // emit has found some
	for _, f := range files {
		c, ok := parse(f)
		if !ok || !s.keep(c.name) {
			continue
		}
		old, ok := parse(filepath.Join(root, strings.Replace(s.dir, "server23h2", "server2019", 1), c.name+".go"))
		if !ok {
			fmt.Fprintln(w, "s", only23H2, c.name, "-")
			continue
		}
		for _, l := range c.lines {
			if !slices.ContainsFunc(old.lines, func(o string) bool { return member(o) == member(l) }) {
				fmt.Fprintln(w, "s", only23H2, c.name, member(l))
			}
		}
	}
}

// member is the name in a "p" or "m" line.
func member(line string) string { return strings.Fields(line)[1] }
