//go:build cgo

package kvm

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestInternalSnapshots works with snapshots that virsh made inside the image.
func TestInternalSnapshots(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	c, err := Open(ctx, config(l.Hosts...), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	vm, err := c.CreateVM(ctx, spec(l, poolUUID(t, l.Hosts[0], "shared"))("internal")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeDisk(ctx, l, vm.ID(), "then"); err != nil {
		t.Fatal(err)
	}
	if _, err := virshOn(ctx, l, vm.ID(), "snapshot-create-as", "inside"); err != nil {
		t.Fatal(err)
	}
	if err := writeDisk(ctx, l, vm.ID(), "later"); err != nil {
		t.Fatal(err)
	}
	in, err := vm.FindSnapshot(ctx, "inside")
	if err != nil {
		t.Fatal(err)
	}
	if i, err := in.Info(ctx); err != nil || i.Kind != "internal" || i.Memory || !i.Current {
		t.Errorf("the snapshot is %+v (%v), want an internal one without RAM", i, err)
	}
	// What would cut it off or write under others is refused.
	for what, o := range map[string]*hypervisor.CloneOptions{"linked": {Mode: hypervisor.CloneModeLinked}, "from it": {From: in.ID()}} {
		if _, err := vm.Clone(ctx, "internal-clone", o).Wait(ctx); !errors.Is(err, hypervisor.ErrUnsupported) {
			t.Errorf("a clone (%s): %v, want ErrUnsupported", what, err)
		}
	}
	if _, err := in.Revert(ctx, nil).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if s, err := readDisk(ctx, l, vm.ID()); err != nil || s != "then" {
		t.Errorf("after Revert the disk holds %q (%v), want \"then\"", s, err)
	}
	// An external one on top: now the image with the internal one is a base.
	out, err := vm.CreateSnapshot(ctx, "outside", nil).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Revert(ctx, nil).Wait(ctx); !errors.Is(err, hypervisor.ErrBusy) {
		t.Errorf("Revert to an internal snapshot under an external one: %v, want ErrBusy", err)
	}
	if _, err := in.Delete(ctx, nil).Wait(ctx); !errors.Is(err, hypervisor.ErrBusy) {
		t.Errorf("Delete of an internal snapshot under an external one: %v, want ErrBusy", err)
	}
	if _, err := out.Delete(ctx, nil).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Delete(ctx, nil).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if s, err := readDisk(ctx, l, vm.ID()); err != nil || s != "then" {
		t.Errorf("after the deletes the disk holds %q (%v), want \"then\"", s, err)
	}
	if all, err := vm.Snapshots(ctx); err != nil || len(all) != 0 {
		t.Errorf("snapshots left: %+v (%v)", all, err)
	}
	if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
		t.Error(err)
	}
}
