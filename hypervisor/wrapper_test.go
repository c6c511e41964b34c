package hypervisor_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// least is a driver as somebody outside may write it: what it has nothing to
// say to comes from BaseDriver.
type least struct{ hypervisor.BaseDriver }

func (least) Describe() hypervisor.Description { return hypervisor.Description{Driver: "least"} }
func (least) ListVMs(context.Context, hypervisor.VMQuery) (hypervisor.VMPage, error) {
	return hypervisor.VMPage{}, nil
}
func (least) GetVM(_ context.Context, id hypervisor.VMID) (hypervisor.VMInfo, error) {
	return hypervisor.VMInfo{}, hypervisor.Errorf(hypervisor.ErrNotFound, id.Ref(), "no such machine")
}

func TestBaseDriver(t *testing.T) {
	c, err := hypervisor.New(t.Context(), least{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Supports(t.Context(), capability.CloneFull, hypervisor.Ref{})
	if err != nil || s.Level != hypervisor.LevelNo || s.Reason != hypervisor.ReasonNotImplemented {
		t.Errorf("Supports: %+v, %v", s, err)
	}
	var u *hypervisor.UnsupportedError
	if _, err := c.VM("1").Clone(t.Context(), "copy", nil).Wait(t.Context()); !errors.As(err, &u) || u.Capability != capability.CloneFull {
		t.Errorf("Clone: %v", err)
	}
	if _, err := c.VM("1").Start(t.Context()).Wait(t.Context()); !errors.As(err, &u) || u.Capability != capability.VMStart {
		t.Errorf("Start: %v", err)
	}
	if _, err := c.Task(t.Context(), "1"); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("Task: %v", err)
	}
	if _, err := hypervisor.As[int](t.Context(), c, c); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("As: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// shy is a wrapper that changes one call of one ability.
type shy struct{ hypervisor.Driver }

func (s shy) Unwrap() hypervisor.Driver { return s.Driver }
func (s shy) Clone(context.Context, hypervisor.VMID, hypervisor.CloneRequest) (hypervisor.DriverTask, error) {
	return nil, hypervisor.Errorf(hypervisor.ErrPermission, hypervisor.Ref{}, "not today")
}

// TestWrapperKeepsAbilities: a wrapper changes what it implements and keeps
// all the rest of the driver below it, also through two of them.
func TestWrapperKeepsAbilities(t *testing.T) {
	b := fake.New(fake.Config{})
	c, err := hypervisor.New(t.Context(), shy{shy{b.Driver()}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	vm, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "x", MemoryBytes: hypervisor.GiB}).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Clone(t.Context(), "copy", nil).Wait(t.Context()); !errors.Is(err, hypervisor.ErrPermission) {
		t.Errorf("Clone: %v", err)
	}
	if _, err := vm.CreateSnapshot(t.Context(), "snap", nil).Wait(t.Context()); err != nil {
		t.Errorf("CreateSnapshot: %v", err)
	}
	if d, ok := hypervisor.Ability[hypervisor.Migrator](shy{least{}}); ok {
		t.Errorf("a wrapper makes up the ability %T", d)
	}
}

// TestTaskSaysWhatItIs: a task knows its operation, object and start, also one
// that was found again, and keeps what was measured of a migration.
func TestTaskSaysWhatItIs(t *testing.T) {
	b := fake.New(fake.Config{Delays: map[op.Name]time.Duration{"*": 20 * time.Millisecond}})
	c, err := b.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	vm, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "x", MemoryBytes: hypervisor.GiB, Placement: hypervisor.Placement{Host: "host-1"}}).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	task := vm.Migrate(t.Context(), hypervisor.MigrateOptions{Host: "host-2"})
	second, err := b.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	again, err := second.Task(t.Context(), task.ID())
	if err != nil {
		t.Fatal(err)
	}
	if again.Migration() != nil {
		t.Error("a migration that runs has measurements")
	}
	if _, err := again.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	for who, k := range map[string]interface {
		Op() op.Name
		Object() hypervisor.Ref
		Started() time.Time
	}{"its own": task, "found again": again} {
		if k.Op() != op.VMMigrate || k.Object().ID != string(vm.ID()) || k.Started().Before(begin.Add(-time.Second)) || k.Started().After(time.Now()) {
			t.Errorf("%s: %s of %s since %v", who, k.Op(), k.Object(), k.Started())
		}
	}
	if m := again.Migration(); m == nil || m.Host != "host-2" {
		t.Errorf("the task found again keeps %+v", m)
	}
	failed := c.VM("").Start(t.Context())
	if failed.Op() != op.VMStart {
		t.Errorf("a task that never began is %q", failed.Op())
	}
}
