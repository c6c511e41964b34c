package hypervisor_test

import (
	"errors"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

// TestEmptyID: an object without an ID is refused before the driver is asked.
func TestEmptyID(t *testing.T) {
	b, ctx := fake.New(fake.Config{}), t.Context()
	c, err := b.Open(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := len(b.Calls())
	second := func(_ any, err error) error { return err }
	for name, err := range map[string]error{
		"VM.Info":         second(c.VM("").Info(ctx)),
		"VM.Supports":     second(c.VM("").Supports(ctx, capability.SnapshotDisk)),
		"VM.Snapshots":    second(c.VM("").Snapshots(ctx)),
		"VM.Start":        c.VM("").Start(ctx).Err(),
		"Template.Info":   second(c.Template("").Info(ctx)),
		"Template.Deploy": c.Template("").Deploy(ctx, "vm", nil).Err(),
		"Host.Supports":   second(c.Host("").Supports(ctx, capability.HostMaintenance)),
		"Task":            second(c.Task(ctx, "")),
		"As":              second(hypervisor.As[*fake.Backend](ctx, c, hypervisor.VMID(""))),
	} {
		if !errors.Is(err, hypervisor.ErrInvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(b.Calls()) - before; n > 0 {
		t.Errorf("the driver was called %d times", n)
	}
}
