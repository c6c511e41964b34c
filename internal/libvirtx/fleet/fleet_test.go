//go:build cgo

package fleet

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/job"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

func TestTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, ctx := &Fleet{}, t.Context()
		take := func(mode Lock) (func(), error) { return f.Take(ctx, "a", "work", mode) }
		must := func(mode Lock) func() {
			release, err := take(mode)
			if err != nil {
				t.Fatalf("Take(%d): %v", mode, err)
			}
			return release
		}
		busy := func(mode Lock, beside string) {
			if _, err := take(mode); !errors.Is(err, hypervisor.ErrBusy) {
				t.Errorf("Take(%d) beside %s: %v, want ErrBusy", mode, beside, err)
			}
		}
		long := must(LongWork)
		for _, m := range []Lock{ShortWork, LongWork, Reading} {
			busy(m, "long work")
		}
		if release, err := f.Take(ctx, "b", "work", LongWork); err != nil {
			t.Errorf("another machine: %v", err)
		} else {
			release()
		}
		long()
		long() // a second call does nothing
		first, second := must(Reading), must(Reading)
		first()
		busy(LongWork, "a reader")
		second()
		short := must(ShortWork)
		done := make(chan struct{})
		go func() {
			defer close(done)
			must(LongWork)()
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Error("long work did not wait for short work")
		default:
		}
		short()
		<-done
		short = must(ShortWork)
		defer short()
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := f.Take(gone, "a", "work", ShortWork); !errors.Is(err, context.Canceled) {
			t.Errorf("Take with a context that ended: %v", err)
		}
	})
}

func TestTaskIDs(t *testing.T) {
	const uuid = "0c0ffee0-0000-4000-8000-000000000000"
	f := &Fleet{platform: Platform{Name: "kvm"}}
	op, id, more, ok := f.SplitTaskID(f.TaskID("migrate", uuid, "x", "y"))
	if !ok || op != "migrate" || id != uuid || len(more) != 2 || more[1] != "y" {
		t.Errorf("split into %q %q %q %t", op, id, more, ok)
	}
	for _, bad := range []hypervisor.TaskID{"", "kvm", "libxl:create:" + uuid + ":1", "kvm:create:x:1", "kvm:create:" + libvirtx.ControlDomain + ":1"} {
		if _, _, _, ok := f.SplitTaskID(bad); ok {
			t.Errorf("%q passes for a task ID", bad)
		}
	}
}

func TestMerge(t *testing.T) {
	v := func(h hypervisor.HostID, s hypervisor.PowerState) []hypervisor.VMInfo {
		return []hypervisor.VMInfo{{ID: "a", Host: h, State: s}}
	}
	for _, c := range []struct{ one, two, want hypervisor.PowerState }{
		{hypervisor.StateOff, hypervisor.StateRunning, hypervisor.StateRunning},
		{hypervisor.StateRunning, hypervisor.StateOff, hypervisor.StateRunning},
		{hypervisor.StateRunning, hypervisor.StatePaused, hypervisor.StateRunning}, // arriving
		{hypervisor.StatePaused, hypervisor.StateRunning, hypervisor.StateRunning},
		{hypervisor.StatePaused, hypervisor.StateSuspended, hypervisor.StatePaused},
	} {
		got := merge([][]hypervisor.VMInfo{v("1", c.one), v("2", c.two)})
		if len(got) != 1 || got[0].State != c.want {
			t.Errorf("%s and %s are %+v, want one machine that is %s", c.one, c.two, got, c.want)
		}
	}
}

// TestDependants has image a, its overlay b, that of another machine c on b,
// and d on a, which nobody uses.
func TestDependants(t *testing.T) {
	vm := hypervisor.Ref{Kind: hypervisor.ObjectVM, ID: "other"}
	b := &Books{host: &Host{facts: &libvirtx.Facts{UUID: "host"}}, users: map[hypervisor.VolumeID][]User{},
		Images: libvirtx.Images{ByPath: map[string]libvirtx.Volume{}, Above: map[string][]string{"/a": {"/b", "/d"}, "/b": {"/c"}}}}
	for p, base := range map[string]string{"/a": "", "/b": "/a", "/c": "/b", "/d": "/a"} {
		b.Images.ByPath[p] = libvirtx.Volume{Name: p, Path: p, Backing: base}
	}
	b.users[libvirtx.ImageID(nil, "host", "/c")] = []User{{VM: vm}}
	names := func(refs []hypervisor.Ref) (out string) {
		for _, r := range refs {
			out += r.ID + r.Name + " "
		}
		return out
	}
	unused := b.Images.ByPath["/d"].Ref()
	if got, want := names(b.Dependants(Paths{"/a": true})), names([]hypervisor.Ref{unused, vm}); got != want {
		t.Errorf("on /a stand %q, want %q", got, want)
	}
	if got, want := names(b.Dependants(Paths{"/a": true, "/b": true, "/d": true})), names([]hypervisor.Ref{vm}); got != want {
		t.Errorf("on /a, /b and /d stand %q, want %q", got, want)
	}
	if got, want := names(b.Above("/a", Paths{"/b": true})), names([]hypervisor.Ref{unused}); got != want {
		t.Errorf("above /a but for /b stand %q, want %q", got, want)
	}
	if got := b.Above("/c", nil); got != nil {
		t.Errorf("above /c stands %v, want nothing", got)
	}
}

func TestThawFails(t *testing.T) {
	broken := errors.New("broken")
	k := &Cloning{Request: hypervisor.CloneRequest{CloneOptions: hypervisor.CloneOptions{Mode: hypervisor.CloneModeFull}}, Domain: &libvirtxml.Domain{Devices: &libvirtxml.DomainDeviceList{}},
		Freeze: func(context.Context, *libvirt.Connect, *Making) (func() error, error) {
			return func() error { return broken }, nil
		}}
	if err := k.images(t.Context(), nil, nil, job.New(job.Spec{}, nil)); !errors.Is(err, broken) {
		t.Errorf("an overlay of the source that can't be merged back: %v, want %v", err, broken)
	}
}
