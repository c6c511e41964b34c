//go:build cgo

package kvm

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab/rpcproxy"
)

// TestLostConnection cuts the connection between and during calls.
func TestLostConnection(t *testing.T) {
	l := theLab(t)
	ctx := t.Context()
	p := rpcproxy.New(t, "unix", l.Hosts[0].Socket)
	c, err := Open(ctx, Config{Hosts: []string{socketURI(p)}, DomainType: "qemu"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	vm, err := c.CreateVM(ctx, spec(l, poolUUID(t, l.Hosts[0], "default"))("lost")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan hypervisor.Event, 100)
	watching, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		for e, err := range c.Watch(watching, "") {
			if err != nil {
				ended <- err
				return
			}
			events <- e
		}
		ended <- nil
	}()
	wait := func(k hypervisor.EventType) {
		t.Helper()
		timeout := time.After(2 * time.Minute)
		for {
			select {
			case e := <-events:
				if e.Type == k {
					return
				}
			case err := <-ended:
				t.Fatalf("Watch ended: %v", err)
			case <-timeout:
				t.Fatalf("no event %s", k)
			}
		}
	}
	// stand returns when the watch hears what happens: a cut before that would
	// have nothing to report.
	stand := func() {
		t.Helper()
		for n := range 60 {
			if err := vm.SetLabels(ctx, map[string]string{"try": fmt.Sprint(n)}); err != nil {
				t.Fatal(err)
			}
			select {
			case <-events:
				return
			case err := <-ended:
				t.Fatalf("Watch ended: %v", err)
			case <-time.After(time.Second):
			}
		}
		t.Fatal("the watch hears nothing")
	}
	for range 3 {
		stand()
		p.Cut()
		if _, err := vm.Info(ctx); err != nil {
			t.Errorf("Info after the connection was cut: %v", err)
		}
		wait(hypervisor.EventResync)
	}
	if err := vm.SetLabels(ctx, map[string]string{"a": "b"}); err != nil {
		t.Errorf("SetLabels after the connection was renewed: %v", err)
	}
	wait(hypervisor.EventVMChanged)
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Watch after its context ended: %v", err)
	}
	if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
		t.Error(err)
	}
}

// TestDaemonRestart restarts and stops libvirtd under running work.
func TestDaemonRestart(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	h := l.Hosts[0]
	c, err := Open(ctx, config(l.Hosts...), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ds := poolUUID(t, h, "default") // only the first host has this one
	vm, err := c.CreateVM(ctx, spec(l, ds)("restart")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tpl, err := vm.Clone(ctx, "restart-template", nil).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tpl.MarkTemplate(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	before, err := uptime(ctx, l, vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	// Work in flight ends with success or a typed error, never with a hang.
	var tasks []*hypervisor.Task[*hypervisor.VM]
	for _, name := range []string{"restart-1", "restart-2"} {
		tasks = append(tasks, vm.Clone(ctx, name, &hypervisor.CloneOptions{Token: name}))
		if len(tasks) == 1 {
			if err := h.Kill(ctx); err != nil {
				t.Fatal(err)
			}
			if err := h.StartDaemon(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	named := map[string]bool{}
	for _, k := range tasks {
		m, err := k.Wait(ctx)
		var e *hypervisor.Error
		switch {
		case err == nil:
			if _, err := m.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
				t.Error(err)
			}
		case !errors.As(err, &e) || e.Kind == hypervisor.ErrUnknown:
			t.Errorf("a clone in the middle of a restart ended with the untyped %v", err)
		default:
			t.Logf("a clone in the middle of a restart: %v", err)
			for _, r := range e.Leftover {
				named[r.ID] = true
			}
		}
	}
	if i, err := vm.Info(ctx); err != nil || i.State != hypervisor.StateRunning {
		t.Errorf("after the restart the machine is %s (%v)", i.State, err)
	}
	if n, err := uptime(ctx, l, vm.ID()); err != nil || n < before {
		t.Errorf("after the restart the guest's counter is %d (%v), it was %d", n, err, before)
	}
	if out, err := h.Virsh(ctx, "start", string(tpl.ID())); err == nil {
		t.Errorf("virsh starts the template after a restart of libvirtd: %s", out)
	}
	if i, err := c.Template(hypervisor.TemplateID(tpl.ID())).Info(ctx); err != nil || i.MemoryBytes != 192*hypervisor.MiB {
		t.Errorf("after the restart the template is %+v (%v)", i, err)
	}

	// A host that is down hides its own machines only.
	if err := h.StopDaemon(ctx); err != nil {
		t.Fatal(err)
	}
	all, err := hypervisor.Collect(c.Hosts(ctx))
	if err != nil || len(all) != 2 {
		t.Fatalf("Hosts with one down: %+v, %v", all, err)
	}
	for _, i := range all {
		if want := map[bool]hypervisor.HostState{true: hypervisor.HostDown, false: hypervisor.HostUp}[string(i.ID) == h.UUID]; i.State != want {
			t.Errorf("host %s is %s (%s), want %s", i.Name, i.State, i.Detail, want)
		}
	}
	if _, err := hypervisor.Collect(c.VMs(ctx, nil)); err != nil {
		t.Errorf("VMs with one host down: %v", err)
	}
	if _, err := vm.Info(ctx); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("Info of a machine on a host that is down: %v, want ErrUnavailable", err)
	}
	if err := h.StartDaemon(ctx); err != nil {
		t.Fatal(err)
	}
	for _, v := range []*hypervisor.VM{vm, tpl} {
		if _, err := v.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx); err != nil {
			t.Error(err)
		}
	}
	left, err := hypervisor.Collect(c.Volumes(ctx, ds))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range left {
		if !named[string(v.ID)] {
			t.Errorf("left after the restart, and not named: %s", v.Name)
		}
	}
}
