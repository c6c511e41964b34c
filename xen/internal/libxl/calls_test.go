//go:build cgo

package libxl

import (
	"context"
	"fmt"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestCalls pins the number of requests on the wire.
func TestCalls(t *testing.T) {
	w := newWorld(t, false)
	p := throughProxy(t, w.l.Hosts[0])
	c, err := Open(w.ctx, Config{Hosts: []string{proxyURI(p)}}, nil)
	w.ok(err, "open through the proxy")
	defer c.Close()
	w.c.Close() // the machines go through the proxy
	w.c = c
	list := func(d hypervisor.Detail) int64 {
		t.Helper()
		var err error
		n := p.During(func() { _, err = hypervisor.Collect(c.VMs(w.ctx, &hypervisor.ListOptions{Detail: d})) })
		w.ok(err, "VMs")
		return n
	}
	var vms []*hypervisor.VM
	add := func() {
		t.Helper()
		vm, err := c.CreateVM(w.ctx, guest(pvh, fmt.Sprintf("calls-%d", len(vms)), w.ds)).Wait(w.ctx)
		w.ok(err, "create")
		vms = append(vms, vm)
	}
	add()
	brief, full := list(hypervisor.DetailBrief), list(hypervisor.DetailFull)
	add()
	add()
	// Three lists of domains, and a definition for each.
	if n := list(hypervisor.DetailBrief); brief != 3+1 || n != 3+3 {
		t.Errorf("a brief listing sends %d requests for one machine, %d for three; want 4 and 6", brief, n)
	}
	// The pools too, and for each machine its definition and its disk's image
	// (pool, volume, description).
	if n := list(hypervisor.DetailFull); n-full != 2*4 || full > 3+5+4 {
		t.Errorf("a full listing sends %d requests for one machine, %d for three; want at most 12, and 4 more for each", full, n)
	}
	for what, f := range map[string]struct {
		most int64
		call func(context.Context) error
	}{
		"Info":                         {14, func(ctx context.Context) error { _, err := vms[0].Info(ctx); return err }},
		"PowerOff of one that is off":  {4, func(ctx context.Context) error { _, err := vms[0].PowerOff(ctx).Wait(ctx); return err }},
		"a handle and its description": {0, func(context.Context) error { c.VM(vms[0].ID()); c.Describe(); return nil }},
	} {
		n := p.During(func() { err = f.call(w.ctx) })
		w.ok(err, what)
		if n > f.most {
			t.Errorf("%s sends %d requests, want at most %d", what, n, f.most)
		}
	}
	for _, vm := range vms {
		w.do(vm.Delete(w.ctx, hypervisor.DeleteDisks, nil), "Delete")
	}
}
