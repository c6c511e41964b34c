package schema

import (
	"slices"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	all, err := at(Newest)
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range all {
		for _, c := range ns.Order {
			if c.Super == nil {
				continue
			}
			if !c.IsA(c.Super.Name) || len(c.Props) < len(c.Super.Props) {
				t.Errorf("%s does not inherit from %s", c.Name, c.Super.Name)
			}
		}
	}
	for class, keys := range map[string]int{"Msvm_ComputerSystem": 2, "Msvm_VirtualSystemSettingData": 1, "Msvm_VirtualSystemManagementService": 4,
		"Msvm_ConcreteJob": 1, "Msvm_SettingsDefineState": 2, "Msvm_PciExpress": 4, "Msvm_PartitionableGpu": 2} {
		if c := Lookup("root/virtualization/v2", Newest).Class(class); c == nil || len(c.Keys) != keys {
			t.Errorf("%s has the wrong keys", class)
		}
	}
	if c := Lookup("ROOT/CIMV2", Newest).Class("win32_pnpentity"); c == nil || len(c.Keys) != 1 || c.Method("disable") == nil {
		t.Error("Win32_PnPEntity is wrong")
	}
	m := Lookup("root/virtualization/v2", Newest).Class("Msvm_VirtualSystemSnapshotService").Method("CreateSnapshot")
	if p := m.Param("ResultingSnapshot"); p == nil || !p.In || !p.Out || p.Type.Kind != Ref {
		t.Error("CreateSnapshot is wrong")
	}
}

// TestBuilds: a class table goes by the build of Windows.
func TestBuilds(t *testing.T) {
	for _, x := range []struct {
		class, property string
		builds          []int
	}{
		{"Msvm_VirtualSystemSettingData", "AutomaticSnapshotsEnabled", []int{17763, 20348, 26100}},
		{"Msvm_VirtualSystemSettingData", "HighMmioGapSize", []int{14393, 17763, 20348, 26100}},
		{"Msvm_GpuPartitionSettingData", "InstanceID", []int{17763, 20348, 26100}},
		{"Msvm_GpuPartitionSettingData", "NumaAwarePlacement", []int{26100}},
		{"Msvm_VirtualSystemSnapshotSettingData", "GuestBackupType", []int{17763, 20348, 26100}},
	} {
		for _, b := range []int{14393, 17763, 20348, 26100} {
			c := Lookup("root/virtualization/v2", b).Class(x.class)
			if has := c != nil && c.Prop(x.property) >= 0; has != slices.Contains(x.builds, b) {
				t.Errorf("%d: %s.%s: %v", b, x.class, x.property, has)
			}
		}
	}
	changes, err := later()
	if err != nil {
		t.Fatal(err)
	}
	all := Lookup("root/virtualization/v2", Newest)
	for k := range changes {
		class, member, _ := strings.Cut(k, " ")
		c := all.Class(class)
		if c == nil || member != "-" && c.Prop(member) < 0 && c.Method(member) == nil {
			t.Errorf("the table names %s and has no such thing", k)
		}
	}
}
