package vspheresim_test

import (
	"testing"

	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"

	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

func TestThousandsOfMachines(t *testing.T) {
	w := start(t, vspheresim.Config{})
	if err := w.sim.AddVMs("many", 3000); err != nil {
		t.Fatal(err)
	}
	v, err := view.NewManager(w.client.Client).CreateContainerView(w.ctx, w.client.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	if err != nil {
		t.Fatal(err)
	}
	var list []mo.VirtualMachine
	if err := v.Retrieve(w.ctx, []string{"VirtualMachine"}, []string{"name", "runtime.powerState", "config.uuid"}, &list); err != nil {
		t.Fatal(err)
	}
	names, ids := map[string]bool{}, map[string]bool{}
	for _, vm := range list {
		names[vm.Name], ids[vm.Config.Uuid] = true, true
	}
	if len(names) != 3000 || len(ids) != 3000 {
		t.Errorf("%d names, %d UUIDs", len(names), len(ids))
	}
	w.done(w.vm("many2999").PowerOff(w.ctx))
}

func BenchmarkAddVMs(b *testing.B) {
	for b.Loop() {
		sim, err := vspheresim.Start(vspheresim.Config{})
		if err != nil {
			b.Fatal(err)
		}
		if err := sim.AddVMs("many", 10000); err != nil {
			b.Fatal(err)
		}
		sim.Close()
	}
}
