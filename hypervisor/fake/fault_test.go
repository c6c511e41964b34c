package fake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

func open(t *testing.T, b *fake.Backend) *hypervisor.Client {
	t.Helper()
	c, err := b.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func create(t *testing.T, c *hypervisor.Client, name string, change ...func(*hypervisor.VMSpec)) *hypervisor.VM {
	t.Helper()
	s := hypervisor.VMSpec{Name: name, MemoryBytes: hypervisor.GiB, Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}, NICs: []hypervisor.NICSpec{{}}}
	for _, f := range change {
		f(&s)
	}
	vm, err := c.CreateVM(t.Context(), s).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func wait[T any](t *testing.T, k *hypervisor.Task[T]) T {
	t.Helper()
	v, err := k.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func demand(t *testing.T, err, want error, what string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func TestFaults(t *testing.T) {
	space := &fake.NativeError{Kind: hypervisor.ErrExhausted, Text: "no space"}
	clone := func(c *hypervisor.Client, vm *hypervisor.VM, o *hypervisor.CloneOptions) error {
		_, err := vm.Clone(context.Background(), "copy", o).Wait(context.Background())
		return err
	}
	t.Run("nth call", func(t *testing.T) {
		b := fake.New(fake.Config{})
		c := open(t, b)
		vm := create(t, c, "a")
		b.Fail(fake.Fault{Op: op.VMClone, Nth: 2, Err: space})
		for n, want := range []error{nil, hypervisor.ErrExhausted, nil} {
			if err := clone(c, vm, nil); !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("call %d: %v, want %v", n+1, err, want)
			}
		}
	})
	t.Run("one object", func(t *testing.T) {
		b := fake.New(fake.Config{})
		c := open(t, b)
		x, y := create(t, c, "x"), create(t, c, "y")
		b.Fail(fake.Fault{Op: "vm.*", Object: "y", Count: -1, Err: space})
		wait(t, x.Start(t.Context()))
		_, err := y.Start(t.Context()).Wait(t.Context())
		demand(t, err, hypervisor.ErrExhausted, "Start of y")
		b.Heal()
		wait(t, y.Start(t.Context()))
	})
	for name, crash := range map[string]bool{"cleans up": false, "crashes": true} {
		t.Run("in the middle, "+name, func(t *testing.T) {
			b := fake.New(fake.Config{})
			c := open(t, b)
			vm := create(t, c, "a")
			before := b.Images()
			b.Fail(fake.Fault{Op: op.VMClone, Err: space, After: 0.4, Leftover: crash})
			err := clone(c, vm, nil)
			demand(t, err, space, "Clone")
			var e *hypervisor.Error
			errors.As(err, &e)
			var left []hypervisor.VolumeID
			for _, id := range b.Images() {
				if !slices.Contains(before, id) {
					left = append(left, id)
				}
			}
			if crash != (len(left) == 1) || len(e.Leftover) != len(left) || crash && e.Leftover[0].ID != string(left[0]) {
				t.Errorf("images %v are left, named are %v", left, e.Leftover)
			}
			if e.Task == "" || e.Retryable() {
				t.Errorf("task %q, retryable %v", e.Task, e.Retryable())
			}
		})
	}
	t.Run("crash without an error of its own", func(t *testing.T) {
		b := fake.New(fake.Config{})
		c := open(t, b)
		b.Fail(fake.Fault{Op: op.VMCreate, Leftover: true})
		_, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "a", MemoryBytes: hypervisor.GiB, Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}}).Wait(t.Context())
		demand(t, err, hypervisor.ErrUnavailable, "CreateVM")
		var e *hypervisor.Error
		if errors.As(err, &e); len(e.Leftover) != 1 || e.Leftover[0].Kind != hypervisor.ObjectVolume {
			t.Errorf("left: %v", e.Leftover)
		}
	})
	t.Run("connection lost before sending", func(t *testing.T) {
		b := fake.New(fake.Config{})
		c := open(t, b)
		vm := create(t, c, "a")
		b.Fail(fake.Fault{Op: op.VMStart, Lost: fake.BeforeSend})
		wait(t, vm.Start(t.Context())) // renewed by the driver
		b.Fail(fake.Fault{Op: op.VMPowerOff, Lost: fake.BeforeSend, Count: -1})
		_, err := vm.PowerOff(t.Context()).Wait(t.Context())
		demand(t, err, hypervisor.ErrUnavailable, "PowerOff")
		var e *hypervisor.Error
		if errors.As(err, &e); !e.Retryable() {
			t.Errorf("what was never sent may be repeated")
		}
	})
	t.Run("answer lost", func(t *testing.T) {
		b := fake.New(fake.Config{})
		c := open(t, b)
		vm := create(t, c, "a")
		b.Fail(fake.Fault{Op: op.VMClone, Lost: fake.AfterSend})
		o := &hypervisor.CloneOptions{Token: "t1"}
		err := clone(c, vm, o)
		demand(t, err, hypervisor.ErrUnavailable, "Clone")
		var e *hypervisor.Error
		if errors.As(err, &e); e.Retryable() {
			t.Errorf("what the platform may have done must not be repeated blindly")
		}
		if err := clone(c, vm, o); err != nil {
			t.Errorf("Clone with the same token: %v", err)
		}
		if all, _ := hypervisor.Collect(c.VMs(t.Context(), nil)); len(all) != 2 {
			t.Errorf("%d machines, want the source and one clone", len(all))
		}
		b.Fail(fake.Fault{Op: op.VMInfo, Lost: fake.AfterSend})
		if _, err := vm.Info(t.Context()); err != nil {
			t.Errorf("a read is asked for again: %v", err)
		}
	})
	t.Run("lost while watching", func(t *testing.T) {
		b := fake.New(fake.Config{})
		c := open(t, b)
		vm := create(t, c, "a")
		b.Fail(fake.Fault{Op: op.VMClone, Lost: fake.Watching, After: 0.5})
		k := vm.Clone(t.Context(), "copy", nil)
		_, err := k.Wait(t.Context())
		var d *hypervisor.DetachedError
		if !errors.As(err, &d) || d.Task != k.ID() {
			t.Errorf("got %v, want a DetachedError", err)
		}
		again, err := c.Task(t.Context(), k.ID())
		if err != nil {
			t.Fatal(err)
		}
		wait(t, again)
	})
	t.Run("session expired", func(t *testing.T) {
		b := fake.New(fake.Config{})
		c := open(t, b)
		vm := create(t, c, "a")
		b.Fail(fake.Fault{Op: op.VMStart, Expire: true})
		wait(t, vm.Start(t.Context()))
		b.Fail(fake.Fault{Op: op.VMInfo, Expire: true})
		b.Fail(fake.Fault{Op: op.ClientLogin, Err: errors.New("account locked")})
		_, err := vm.Info(t.Context())
		demand(t, err, hypervisor.ErrUnauthenticated, "Info with a session that can't be renewed")
		b.Heal()
		b.Fail(fake.Fault{Op: op.VMInfo, Expire: true, Count: 2})
		_, err = vm.Info(t.Context())
		demand(t, err, hypervisor.ErrUnauthenticated, "Info with a session that expires at once")
	})
}

// An hour of migration is watched step by step, and the guest continues.
func TestHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fake.New(fake.Config{Delays: map[op.Name]time.Duration{op.VMMigrate: time.Hour}})
		c := open(t, b)
		vm := create(t, c, "a")
		wait(t, vm.Start(t.Context()))
		_ = b.WriteMemory(vm.ID(), "state")
		begin := time.Now()
		k := vm.Migrate(t.Context(), hypervisor.MigrateOptions{Host: "host-2", Storage: "ds-archive", MaxDowntime: 10 * time.Millisecond})
		_, err := vm.PowerOff(t.Context()).Wait(t.Context())
		demand(t, err, hypervisor.ErrBusy, "PowerOff during the migration")
		_ = b.WriteDisk(vm.ID(), 0, "written while it moves")
		n, last := 0, -1.0
		for p, err := range k.Progress(t.Context()) {
			if err != nil || p.Fraction < last {
				t.Fatalf("%+v, %v", p, err)
			}
			n, last = n+1, p.Fraction
		}
		r := wait(t, k)
		if n != 11 || time.Since(begin) != time.Hour || r.Total != time.Hour || r.Downtime != 10*time.Millisecond || r.Host != "host-2" {
			t.Errorf("%d states in %v, result %+v", n, time.Since(begin), r)
		}
		ram, _ := b.ReadMemory(vm.ID())
		disk, _ := b.ReadDisk(vm.ID(), 0)
		if ram != "state" || disk != "written while it moves" {
			t.Errorf("memory %q, disk %q", ram, disk)
		}
	})
}

func TestCancelPhases(t *testing.T) {
	for step := range 11 {
		synctest.Test(t, func(t *testing.T) {
			b := fake.New(fake.Config{Delays: map[op.Name]time.Duration{op.VMMigrate: time.Minute}})
			c := open(t, b)
			vm := create(t, c, "a")
			wait(t, vm.Start(t.Context()))
			free := func() (out []int64) {
				for h, err := range c.Hosts(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
					out = append(out, h.FreeBytes)
				}
				return out
			}
			before, images := free(), len(b.Images())
			k := vm.Migrate(t.Context(), hypervisor.MigrateOptions{Host: "host-2", Storage: "ds-archive"})
			time.Sleep(time.Duration(step) * 6 * time.Second)
			synctest.Wait()
			if err := k.Cancel(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err := k.Wait(t.Context())
			i, _ := vm.Info(t.Context())
			switch {
			case step < 10:
				demand(t, err, hypervisor.ErrCanceled, "Migrate")
				if i.Host != "host-1" || i.State != hypervisor.StateRunning || !slices.Equal(free(), before) {
					t.Errorf("cancelled in step %d: %s on %s, free %v, before %v", step, i.State, i.Host, free(), before)
				}
			case err != nil || i.Host != "host-2":
				t.Errorf("the work had won: %v, on %s", err, i.Host)
			}
			if n := len(b.Images()); n != images {
				t.Errorf("step %d: %d images, want %d", step, n, images)
			}
		})
	}
}

func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fake.New(fake.Config{Delays: map[op.Name]time.Duration{op.VMMigrate: time.Hour}})
		c := open(t, b)
		vm := create(t, c, "a")
		wait(t, vm.Start(t.Context()))
		_, err := vm.Migrate(t.Context(), hypervisor.MigrateOptions{Host: "host-2", Timeout: time.Minute}).Wait(t.Context())
		demand(t, err, hypervisor.ErrTimeout, "Migrate with a limit")
		if i, _ := vm.Info(t.Context()); i.Host != "host-1" || i.State != hypervisor.StateRunning {
			t.Errorf("%s on %s", i.State, i.Host)
		}
		if err := b.SetGuest(vm.ID(), fake.Guest{Hangs: true}); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, err = vm.Shutdown(t.Context(), &hypervisor.ShutdownOptions{Timeout: time.Minute}).Wait(t.Context())
		demand(t, err, hypervisor.ErrTimeout, "Shutdown of a guest that hangs")
		if s, _ := b.State(vm.ID()); s != hypervisor.StateRunning || time.Since(begin) != time.Minute {
			t.Errorf("%s after %v", s, time.Since(begin))
		}
		wait(t, vm.Shutdown(t.Context(), &hypervisor.ShutdownOptions{Timeout: time.Minute, Force: true}))
		if s, _ := b.State(vm.ID()); s != hypervisor.StateOff {
			t.Errorf("%s after Force", s)
		}
	})
}

func TestGuestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fake.New(fake.Config{})
		c := open(t, b)
		vm := create(t, c, "a")
		wait(t, vm.Start(t.Context()))
		drift := func() time.Duration {
			t.Helper()
			r, err := vm.Clock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return r.Drift()
		}
		_ = b.SetGuest(vm.ID(), fake.Guest{ClockOffset: -2 * time.Second, ClockDrift: 0.001})
		time.Sleep(1000 * time.Second)
		if d := drift(); d != -time.Second {
			t.Errorf("drift %v, want -1s", d)
		}
		if err := vm.SetClock(t.Context(), time.Time{}); err != nil || drift() != 0 {
			t.Errorf("after SetClock: %v, %v", drift(), err)
		}
		_ = b.SetGuest(vm.ID(), fake.Guest{})
		snap := wait(t, vm.CreateSnapshot(t.Context(), "s", &hypervisor.SnapshotOptions{Memory: true}))
		wait(t, vm.Suspend(t.Context()))
		time.Sleep(time.Hour)
		wait(t, vm.Resume(t.Context()))
		if d := drift(); d != -time.Hour {
			t.Errorf("drift after an hour of suspension %v", d)
		}
		time.Sleep(time.Hour)
		wait(t, snap.Revert(t.Context(), nil))
		if d := drift(); d != -2*time.Hour {
			t.Errorf("drift after a revert to two hours ago %v", d)
		}
	})
}

// TestGuestLogin: it is in no log of calls, and a saved backend keeps it.
func TestGuestLogin(t *testing.T) {
	b := fake.New(fake.Config{})
	vm := create(t, open(t, b), "a")
	wait(t, vm.Start(t.Context()))
	if err := b.SetGuest(vm.ID(), fake.Guest{Login: hypervisor.Credentials{Username: "root", Password: "s3cret"}}); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := fake.Restore(data, fake.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []*fake.Backend{b, again} {
		vm := open(t, b).VM(vm.ID())
		for word, want := range map[hypervisor.Secret]error{"s3cret": nil, "other": hypervisor.ErrUnauthenticated} {
			if _, err := vm.Exec(t.Context(), hypervisor.ExecRequest{Path: "/bin/true", User: "root", Password: word}); !errors.Is(err, want) {
				t.Errorf("with %q: %v, want %v", string(word), err, want)
			}
		}
		if s := fmt.Sprintf("%+v", b.Calls()); strings.Contains(s, "s3cret") || !strings.Contains(s, "/bin/true") {
			t.Errorf("the log of calls: %s", s)
		}
	}
}
