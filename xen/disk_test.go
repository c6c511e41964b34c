package xen

import (
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestManyDisks keeps the disks in the order of their device numbers: the
// tenth comes after the ninth.
func TestManyDisks(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 1})
	s := hypervisor.VMSpec{Name: "many", MemoryBytes: hypervisor.GiB}
	for n := range 12 {
		s.Disks = append(s.Disks, hypervisor.DiskSpec{SizeBytes: int64(n+1) * hypervisor.GiB})
	}
	vm := ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, s).Wait(ctx))
	ok[hypervisor.DiskInfo](t)(vm.AttachDisk(ctx, hypervisor.DiskSpec{SizeBytes: 13 * hypervisor.GiB}).Wait(ctx))
	for n, d := range ok[hypervisor.VMInfo](t)(vm.Info(ctx)).Disks {
		if d.SizeBytes != int64(n+1)*hypervisor.GiB {
			t.Errorf("disk %d has %d GiB", n, d.SizeBytes/hypervisor.GiB)
		}
	}
}
