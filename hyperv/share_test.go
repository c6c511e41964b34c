package hyperv

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestImagesOnShares: WMI sees no file of a share. An image there is attached
// and read through the image service; what would remove it is refused before
// the machine is touched.
func TestImagesOnShares(t *testing.T) {
	const share = `\\files\vms`
	s := startSite(t, hvsim.Config{})
	c, ctx := openSite(t, s), t.Context()
	spec := small("shared")
	spec.Placement.Datastore = share
	spec.Disks = []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}
	vm := create(t, c, spec)
	i, err := vm.Info(ctx)
	if err != nil || len(i.Disks) != 1 || !strings.HasPrefix(string(i.Disks[0].Volume), share) || i.Disks[0].SizeBytes != hypervisor.GiB {
		t.Fatalf("%+v, %v", i.Disks, err)
	}
	image := i.Disks[0].Volume
	there := func() bool { return slices.Contains(s.sim.Host(0).Files(), string(image)) }
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, hypervisor.ErrUnsupported) || !strings.Contains(err.Error(), string(image)) || !there() {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx)
	refused("Delete", err)
	_, err = vm.DetachDisk(ctx, i.Disks[0].ID, hypervisor.DeleteDisks).Wait(ctx)
	refused("DetachDisk", err)
	if now, err := vm.Info(ctx); err != nil || len(now.Disks) != 1 {
		t.Fatalf("%+v, %v", now.Disks, err)
	}
	if _, err := vm.DetachDisk(ctx, i.Disks[0].ID, hypervisor.KeepDisks).Wait(ctx); err != nil || !there() {
		t.Errorf("DetachDisk, KeepDisks: %v", err)
	}
	_, err = c.DeleteVolume(ctx, image).Wait(ctx)
	refused("DeleteVolume", err)
	if _, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{Volume: image}).Wait(ctx); err != nil {
		t.Errorf("AttachDisk of an image on a share: %v", err)
	}
	if _, err := vm.AttachDisk(ctx, hypervisor.DiskSpec{Volume: share + `\nothing.vhdx`}).Wait(ctx); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("AttachDisk of an image that is not there: %v", err)
	}
	if _, err := vm.Delete(ctx, hypervisor.KeepDisks, nil).Wait(ctx); err != nil || !there() {
		t.Errorf("Delete, KeepDisks: %v", err)
	}
	// What a failed call made there is named.
	s.sim.Inject(hvsim.Fault{Op: "Invoke", Target: "*.AddResourceSettings", Return: 32773, Skip: 2})
	_, err = c.CreateVM(ctx, spec).Wait(ctx)
	var e *hypervisor.Error
	if !errors.As(err, &e) || len(e.Leftover) != 1 || !strings.HasPrefix(e.Leftover[0].ID, share) {
		t.Errorf("a creation that failed: %v", err)
	}
}
