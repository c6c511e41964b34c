package schema

import "testing"

func TestTable(t *testing.T) {
	all, err := parse()
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
		if c := Lookup("root/virtualization/v2").Class(class); c == nil || len(c.Keys) != keys {
			t.Errorf("%s has the wrong keys", class)
		}
	}
	if c := Lookup("ROOT/CIMV2").Class("win32_pnpentity"); c == nil || len(c.Keys) != 1 || c.Method("disable") == nil {
		t.Error("Win32_PnPEntity is wrong")
	}
	m := Lookup("root/virtualization/v2").Class("Msvm_VirtualSystemSnapshotService").Method("CreateSnapshot")
	if p := m.Param("ResultingSnapshot"); p == nil || !p.In || !p.Out || p.Type.Kind != Ref {
		t.Error("CreateSnapshot is wrong")
	}
}
