//go:build cgo

package kvm

import (
	"fmt"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab/rpcproxy"
)

// TestCalls pins the number of requests on the wire.
func TestCalls(t *testing.T) {
	l := theLab(t)
	ctx := t.Context()
	h := l.Hosts[0]
	p := rpcproxy.New(t, "unix", h.Socket)
	c, err := Open(ctx, Config{Hosts: []string{socketURI(p)}, DomainType: "qemu"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := spec(l, poolUUID(t, h, "default"))
	var vms []*hypervisor.VM
	add := func() {
		vm, err := c.CreateVM(ctx, s(fmt.Sprintf("calls-%d", len(vms)))).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		vms = append(vms, vm)
	}
	list := func(d hypervisor.Detail) int64 {
		return p.During(func() {
			if _, err := hypervisor.Collect(c.VMs(ctx, &hypervisor.ListOptions{Detail: d})); err != nil {
				t.Fatal(err)
			}
		})
	}
	add()
	brief, full := list(hypervisor.DetailBrief), list(hypervisor.DetailFull)
	add()
	add()
	// Statistics, and who has a saved state.
	if n := list(hypervisor.DetailBrief); n != 2 || brief != n {
		t.Errorf("a brief listing sends %d requests for one machine, %d for three; want 2", brief, n)
	}
	// One request for each machine's definition: libvirt has none for all.
	if n := list(hypervisor.DetailFull); n-full != 2 || full-2 > 2+3*2 {
		t.Errorf("a full listing sends %d requests for one machine, %d for three; want one more for each", full, n)
	}
	// look-up by UUID twice, statistics, definition, saved state, snapshots (2),
	// pools (2 each of 2, and the list), the disk's image (3), the job
	info := p.During(func() {
		if _, err := vms[0].Info(ctx); err != nil {
			t.Fatal(err)
		}
	})
	if info > 18 {
		t.Errorf("Info sends %d requests, want at most 18", info)
	}
	if n := p.During(func() {
		if _, err := vms[0].PowerOff(ctx).Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}); n > 4 {
		t.Errorf("PowerOff of a machine that is off sends %d requests, want at most 4", n)
	}
	if n := p.During(func() { c.VM(vms[0].ID()); c.Describe() }); n != 0 {
		t.Errorf("a handle costs %d requests", n)
	}
	for _, vm := range vms {
		if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
			t.Error(err)
		}
	}
}
