package xen

import (
	"context"
	"errors"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestAs reaches every kind of object by its reference, which the session
// takes, and names those that are not there.
func TestAs(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	c := w.c
	s, err := hypervisor.As[*Session](ctx, c, c)
	if err != nil {
		t.Fatal(err)
	}
	is := func(class string, v interface{ Ref() hypervisor.Ref }) {
		t.Helper()
		ref, err := hypervisor.As[Ref](ctx, c, v)
		if err != nil {
			t.Errorf("As of %s: %v", v.Ref(), err)
			return
		}
		if class == "task" { // its ID is the reference
			if string(ref) != v.Ref().ID {
				t.Errorf("%s is %s", v.Ref(), ref)
			}
			return
		}
		var uuid string
		if err := s.Call(ctx, &uuid, class+".get_uuid", ref); err != nil || uuid != v.Ref().ID {
			t.Errorf("%s is the %s %q (%v)", v.Ref(), class, uuid, err)
		}
	}
	task := w.off.CreateSnapshot(ctx, "one", nil)
	snap, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	info, err := w.off.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	is("VM", w.off)
	is("VM", snap)
	is("VBD", info.Disks[0].ID)
	is("VDI", info.Disks[0].Volume)
	is("VIF", info.NICs[0].ID)
	is("network", info.NICs[0].Network)
	is("SR", info.Disks[0].Datastore)
	is("host", w.hosts(ctx)[0].ID)
	for d, err := range c.Devices(ctx, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if d.Kind == hypervisor.DeviceKindPCI {
			is("PCI", d.ID)
		}
	}
	start := w.off.Start(ctx)
	is("task", start.ID())
	if err := wait(ctx, start); err != nil {
		t.Fatal(err)
	}
	if err := wait(ctx, w.off.PowerOff(ctx)); err != nil {
		t.Fatal(err)
	}
	if err := wait(ctx, snap.Delete(ctx, nil)); err != nil {
		t.Fatal(err)
	}
	tpl, err := w.off.MarkTemplate(ctx).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	is("VM", tpl)

	for _, k := range []struct {
		v    hypervisor.Ref
		want error
	}{
		{snap.Ref(), hypervisor.ErrNotFound},
		{hypervisor.SnapshotID(tpl.ID()).Ref(), hypervisor.ErrNotFound}, // no snapshot
		{hypervisor.VMID("none").Ref(), hypervisor.ErrNotFound},
		{hypervisor.HostID("none").Ref(), hypervisor.ErrNotFound},
		{hypervisor.TaskID("OpaqueRef:none").Ref(), hypervisor.ErrNotFound},
		{hypervisor.TaskID("7").Ref(), hypervisor.ErrUnsupported},
		{hypervisor.PoolID("p").Ref(), hypervisor.ErrUnsupported},
		{c.Ref(), hypervisor.ErrUnsupported},
	} {
		if _, err := hypervisor.As[Ref](ctx, c, k.v); !errors.Is(err, k.want) {
			t.Errorf("As[Ref] of %s: %v, want %v", k.v, err, k.want)
		}
	}
	if _, err := hypervisor.As[*Session](ctx, c, tpl); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("the session of a template: %v", err)
	}
	gone, stop := context.WithCancel(ctx)
	stop()
	if _, err := hypervisor.As[Ref](gone, c, tpl); !errors.Is(err, context.Canceled) {
		t.Errorf("As with an ended context: %v", err)
	}
}

// TestSession: errors of messages have their class and the pool's own error.
func TestSession(t *testing.T) {
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{})
	c := w.open(t)
	s, err := hypervisor.As[*Session](ctx, c, c)
	if err != nil {
		t.Fatal(err)
	}
	var e *Error
	err = s.Call(ctx, nil, "VM.get_by_uuid", "none")
	if !errors.Is(err, hypervisor.ErrNotFound) || !errors.As(err, &e) || e.Code != "UUID_INVALID" {
		t.Errorf("a message that the pool refuses: %v", err)
	}
	w.sim.ExpireSessions()
	if err := s.Call(ctx, nil, "VM.get_all"); err != nil {
		t.Errorf("after the session has expired: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Call(ctx, nil, "VM.get_all"); !errors.Is(err, hypervisor.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
