package xen

import (
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestUnknownValues: a newer server has values of enumerations that nobody
// here knows, and a record may refer to an object that is gone. Everything can
// still be read.
func TestUnknownValues(t *testing.T) {
	for _, class := range []string{"VM", "VM_metrics", "VM_guest_metrics", "VBD", "VDI", "VIF", "VGPU", "SR", "PBD", "network", "PIF", "host", "PCI", "PGPU", "pool"} {
		for _, f := range xapidata.Load().Class(class).Fields {
			value := map[xapidata.Kind]string{xapidata.Enum: "nobody knows this", xapidata.Ref: "OpaqueRef:11111111-1111-4111-8111-111111111111"}[f.Type.Kind]
			if value == "" {
				continue
			}
			t.Run(class+"."+f.Name, func(t *testing.T) {
				w, ctx := newWorld(t, xapisim.Config{Hosts: 2, GPUs: faultPool.GPUs}), settled(t)
				want := len(ok[[]hypervisor.VMInfo](t)(hypervisor.Collect(w.c.VMs(ctx, nil))))
				for _, r := range w.sim.Refs(class) {
					if err := w.sim.SetField(class, r, f.Name, value); err != nil {
						t.Fatal(err)
					}
				}
				vms := ok[[]hypervisor.VMInfo](t)(hypervisor.Collect(w.c.VMs(ctx, nil)))
				if len(vms) != want {
					t.Errorf("%d machines of %d", len(vms), want)
				}
				for _, vm := range vms {
					if i := ok[hypervisor.VMInfo](t)(w.c.VM(vm.ID).Info(ctx)); class == "VM" && f.Name == "power_state" && i.State != hypervisor.StateUnknown {
						t.Errorf("%s is %s", i.Name, i.State)
					}
					ok[[]hypervisor.SnapshotInfo](t)(w.c.VM(vm.ID).Snapshots(ctx))
				}
				ok[[]hypervisor.HostInfo](t)(hypervisor.Collect(w.c.Hosts(ctx)))
				ok[[]hypervisor.DatastoreInfo](t)(hypervisor.Collect(w.c.Datastores(ctx)))
				ok[[]hypervisor.NetworkInfo](t)(hypervisor.Collect(w.c.Networks(ctx)))
				ok[[]hypervisor.DeviceInfo](t)(hypervisor.Collect(w.c.Devices(ctx, nil)))
				ok[[]hypervisor.VolumeInfo](t)(hypervisor.Collect(w.c.Volumes(ctx, "")))
			})
		}
	}
}
