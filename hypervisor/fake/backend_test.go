package fake_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fake.New(fake.Config{EventLog: 4})
		c := open(t, b)
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		next := func(token string, want hypervisor.EventType) hypervisor.Event {
			t.Helper()
			for e, err := range c.Watch(ctx, token) {
				if err != nil {
					t.Fatal(err)
				}
				if e.Type != hypervisor.EventTaskChanged {
					if e.Type != want {
						t.Errorf("event %+v, want %s", e, want)
					}
					return e
				}
			}
			t.Fatal("the watch ended")
			return hypervisor.Event{}
		}
		var first hypervisor.Event
		done := make(chan struct{})
		go func() { first = next("", hypervisor.EventVMCreated); close(done) }()
		synctest.Wait()
		vm := create(t, c, "a")
		<-done
		wait(t, vm.Start(ctx))
		if e := next(first.Token, hypervisor.EventVMState); e.State != hypervisor.StateRunning {
			t.Errorf("resumed with %+v", e)
		}
		for range 10 {
			wait(t, vm.Reset(ctx))
		}
		next(first.Token, hypervisor.EventResync) // the log was trimmed
		next("nonsense", hypervisor.EventResync)
	})
}

func TestJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fake.New(fake.Config{Seed: 7, Delays: map[op.Name]time.Duration{op.VMClone: time.Hour}})
		c := open(t, b)
		ctx := t.Context()
		vm := create(t, c, "a", func(s *hypervisor.VMSpec) { s.Token, s.Labels = "tok", map[string]string{"k": "v"} })
		_ = b.WriteDisk(vm.ID(), 0, "first")
		wait(t, vm.CreateSnapshot(ctx, "s", nil))
		_ = b.WriteDisk(vm.ID(), 0, "second")
		wait(t, vm.AttachDevice(ctx, hypervisor.DeviceRequest{Vendor: "10de", Product: "2330"}))
		wait(t, vm.Start(ctx))
		_ = b.WriteMemory(vm.ID(), "ram")
		open1 := vm.Clone(ctx, "half", nil)
		if open1.Err() != nil {
			t.Fatal(open1.Err())
		}
		data, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		r, err := fake.Restore(data, fake.Config{})
		if err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(r)
		if err != nil || !bytes.Equal(drop(t, data, "Tasks"), drop(t, again, "Tasks")) {
			t.Errorf("a restored backend is another one (%v):\n%s\n%s", err, data, again)
		}
		c2 := open(t, r)
		i1, _ := vm.Info(ctx)
		i2, err := c2.VM(vm.ID()).Info(ctx)
		i1.ReadAt, i2.ReadAt, i1.Tasks = time.Time{}, time.Time{}, nil
		i1.CreatedAt, i2.CreatedAt = i1.CreatedAt.UTC(), i2.CreatedAt.UTC()
		if err != nil || !reflect.DeepEqual(i1, i2) {
			t.Errorf("restored: %+v (%v)\nwant %+v", i2, err, i1)
		}
		ram, _ := r.ReadMemory(vm.ID())
		disk, _ := r.ReadDisk(vm.ID(), 0)
		if ram != "ram" || disk != "second" {
			t.Errorf("memory %q, disk %q", ram, disk)
		}
		// The clone was under way: it failed and what it had made is named.
		half, err := c2.Task(ctx, open1.ID())
		if err != nil {
			t.Fatal(err)
		}
		_, err = half.Wait(ctx)
		demand(t, err, hypervisor.ErrUnavailable, "the task in progress")
		var e *hypervisor.Error
		if errors.As(err, &e); len(e.Leftover) != 1 || !slices.Contains(r.Images(), hypervisor.VolumeID(e.Leftover[0].ID)) {
			t.Errorf("left: %v of %v", e.Leftover, r.Images())
		}
		wait(t, c2.VM(vm.ID()).PowerOff(ctx))
		s, err := c2.VM(vm.ID()).FindSnapshot(ctx, "s")
		if err != nil {
			t.Fatal(err)
		}
		wait(t, s.Revert(ctx, nil))
		if disk, _ := r.ReadDisk(vm.ID(), 0); disk != "first" {
			t.Errorf("after Revert: %q", disk)
		}
		for _, bad := range []string{"", "{}", `{"Format":99}`} {
			if _, err := fake.Restore([]byte(bad), fake.Config{}); err == nil {
				t.Errorf("Restore of %q succeeded", bad)
			}
		}
	})
}

// drop takes a member out of the state in JSON.
func drop(t *testing.T, data []byte, key string) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	delete(m["State"].(map[string]any), key)
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// One seed, one history.
func TestSeed(t *testing.T) {
	ids := func(seed uint64) (out []hypervisor.VMID) {
		c := open(t, fake.New(fake.Config{Seed: seed}))
		for range 3 {
			out = append(out, create(t, c, "a").ID())
		}
		return out
	}
	if a, b, other := ids(1), ids(1), ids(2); !slices.Equal(a, b) || slices.Equal(a, other) {
		t.Errorf("seeds 1, 1, 2: %v, %v, %v", a, b, other)
	}
}

// urls numbers the backends that URLs name: they live as long as the process.
var urls int

func TestURL(t *testing.T) {
	for _, bad := range []string{"fake://name/path", "fake://?hosts=0", "fake://?delay=-1s", "fake://?edition=gold", "fake://?seed=x", "fake://?unknown=1"} {
		_, err := hypervisor.Open(t.Context(), bad, nil)
		demand(t, err, hypervisor.ErrInvalidArgument, bad)
	}
	urls++
	url := fmt.Sprintf("fake://shared-%d", urls)
	a, err := hypervisor.Open(t.Context(), url+"?hosts=3", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := hypervisor.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	create(t, a, "seen")
	if _, err := b.FindVM(t.Context(), "seen"); err != nil {
		t.Errorf("a named backend is shared: %v", err)
	}
	if _, err := hypervisor.Open(t.Context(), url+"?hosts=2", nil); !errors.Is(err, hypervisor.ErrInvalidArgument) {
		t.Errorf("other parameters: %v", err)
	}
}
