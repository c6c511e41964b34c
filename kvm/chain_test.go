//go:build cgo

package kvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestLongChain refuses another image on a disk whose backing chain has so many that its
// machine would soon not start any more.
func TestLongChain(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	c, err := Open(ctx, config(l.Hosts...), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	vm, err := c.CreateVM(ctx, spec(l, poolUUID(t, l.Hosts[0], "shared"))("long")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	base, err := firstDisk(ctx, l, vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	o := otherTool{l}
	top := base
	for n := range maxDepth {
		over := filepath.Join(l.Shared, fmt.Sprintf("%s.vda.long%d.qcow2", vm.ID(), n))
		if err := run(ctx, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", top, "-F", "qcow2", over, "64M"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(over) })
		top = over
	}
	if err := o.edit(ctx, vm.ID(), func(doc string) string { return strings.Replace(doc, base, top, 1) }); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"a snapshot":     ended(ctx, vm.CreateSnapshot(ctx, "s", nil)),
		"a linked clone": ended(ctx, vm.Clone(ctx, "long-2", &hypervisor.CloneOptions{Mode: hypervisor.CloneModeLinked})),
	} {
		if !errors.Is(err, hypervisor.ErrExhausted) || !strings.Contains(err.Error(), "full clone") {
			t.Errorf("%s: %v, want ErrExhausted with the remedy", what, err)
		}
	}
	if is, err := firstDisk(ctx, l, vm.ID()); err != nil || is != top {
		t.Errorf("the machine writes to %s (%v), want %s", is, err, top)
	}
	if err := ended(ctx, vm.Delete(ctx, hypervisor.DeleteDisks, nil)); err != nil {
		t.Error(err)
	}
}
