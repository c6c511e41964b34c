//go:build cgo

package kvm

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// TestHelperPoolLeft: a pool that a killed process left for a folder is no
// datastore, and the images of the folder are seen through it all the same.
func TestHelperPoolLeft(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	c, err := Open(ctx, config(l.Hosts...), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	vm, err := c.CreateVM(ctx, spec(l, poolUUID(t, l.Hosts[0], "shared"))("left")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	o := otherTool{l}
	child, err := o.child(ctx, vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	h, err := o.host(ctx, vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	name := libvirtx.HelperPrefix + "killed"
	if _, err := h.Virsh(ctx, "pool-create-as", name, "dir", "--target", filepath.Join(l.Dir, "nopool")); err != nil {
		t.Fatal(err)
	}
	ds, err := hypervisor.Collect(c.Datastores(ctx))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range ds {
		if strings.HasPrefix(d.Name, libvirtx.HelperPrefix) {
			t.Errorf("a pool of the driver's own is listed: %+v", d)
		}
	}
	if err := ended(ctx, vm.Delete(ctx, hypervisor.DeleteDisks, nil)); hypervisor.KindOf(err) != hypervisor.ErrBusy || !strings.Contains(err.Error(), child.Names[0]) {
		t.Errorf("Delete of what %s needs: %v, want ErrBusy that names it", child.Names[0], err)
	}
	_, err = h.Virsh(ctx, "pool-destroy", name)
	if err := errors.Join(err, child.Remove(ctx), ended(ctx, vm.Delete(ctx, hypervisor.DeleteDisks, nil))); err != nil {
		t.Error(err)
	}
}
