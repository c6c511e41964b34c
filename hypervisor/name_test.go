package hypervisor_test

import (
	"context"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

// TestNewNames: names that show as others than they are, or are folders, are
// refused before the driver is asked.
func TestNewNames(t *testing.T) {
	b := fake.New(fake.Config{})
	c, err := b.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	vm, err := c.CreateVM(t.Context(), hypervisor.VMSpec{Name: "one", MemoryBytes: hypervisor.GiB}).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var store hypervisor.DatastoreID
	for s, err := range c.Datastores(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		store = s.ID
	}
	b.ForgetCalls()
	for _, name := range []string{".", "..", "\u202egnp.exe", "a\u2066b"} {
		for what, call := range map[string]func(context.Context) error{
			"machine": func(ctx context.Context) error {
				_, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: name, MemoryBytes: hypervisor.GiB}).Wait(ctx)
				return err
			},
			"clone":    func(ctx context.Context) error { _, err := vm.Clone(ctx, name, nil).Wait(ctx); return err },
			"snapshot": func(ctx context.Context) error { _, err := vm.CreateSnapshot(ctx, name, nil).Wait(ctx); return err },
			"new name": func(ctx context.Context) error {
				_, err := vm.Reconfigure(ctx, hypervisor.Changes{Name: name}).Wait(ctx)
				return err
			},
			"volume": func(ctx context.Context) error {
				_, err := c.CreateVolume(ctx, hypervisor.VolumeSpec{Name: name, Datastore: store, SizeBytes: hypervisor.GiB}).Wait(ctx)
				return err
			},
		} {
			if err := call(t.Context()); hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument {
				t.Errorf("%s %q: %v, want ErrInvalidArgument", what, name, err)
			}
		}
	}
	if calls := b.Calls(); len(calls) > 0 {
		t.Errorf("the driver was called: %+v", calls)
	}
}
