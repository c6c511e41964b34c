package fake_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// TestResultNotRead: work that is done, and whose result could not be read in
// time, is found by its task.
func TestResultNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fake.New(fake.Config{})
		c, err := b.Open(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		vm, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "web", MemoryBytes: hypervisor.GiB}).Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.Fail(fake.Fault{Op: op.VMInfo, Lost: fake.NoAnswer, Count: -1})
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		k := vm.AttachNIC(ctx, hypervisor.NICSpec{})
		_, err = k.Wait(ctx)
		var d *hypervisor.DetachedError
		if !errors.As(err, &d) || d.Task != k.ID() || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v, want a DetachedError with task %s", err, k.ID())
		}
		b.Heal()
		if n, err := k.Wait(t.Context()); err != nil || n.ID == "" {
			t.Errorf("the result afterwards: %+v, %v", n, err)
		}
		again, err := c.Task(t.Context(), d.Task)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
