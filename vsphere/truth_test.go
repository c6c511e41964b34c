package vsphere

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// truth lets the suite look behind the API of simulators: at what the disks and the memory of machines really hold.
type truth struct{ sim, other *vspheresim.Sim }

// reveal gives a backend the truth about its machines, on top of what it does when a guest has booted. other may be nil.
func reveal(b *hypervisortest.Backend, sim, other *vspheresim.Sim) {
	t, booted := truth{sim, other}, b.Booted
	b.WriteDisk, b.ReadDisk, b.Uptime, b.State = t.write, t.read, t.uptime, t.state
	b.Booted = func(ctx context.Context, id hypervisor.VMID) error {
		if booted != nil {
			if err := booted(ctx, id); err != nil {
				return err
			}
		}
		return sim.SetMemory(string(id), "up 100")
	}
}

func (t truth) write(_ context.Context, id hypervisor.VMID, content string) error {
	return t.sim.WriteDisk(string(id), 0, content)
}

func (t truth) read(_ context.Context, id hypervisor.VMID) (string, error) {
	return t.sim.ReadDisk(string(id), 0)
}

// uptime is the number that Booted left in the memory of the guest, one more each time; 0 when the memory is fresh. A machine that has
// gone to the other vCenter is there and not here.
func (t truth) uptime(_ context.Context, id hypervisor.VMID) (int, error) {
	at := t.sim
	if _, err := at.PowerState(string(id)); err != nil && t.other != nil {
		at = t.other
	}
	m, err := at.Memory(string(id))
	if err != nil {
		return 0, err
	}
	s, ok := strings.CutPrefix(m, "up ")
	if !ok {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, err
	}
	return n + 1, at.SetMemory(string(id), fmt.Sprint("up ", n+1))
}

func (t truth) state(_ context.Context, id hypervisor.VMID) (hypervisor.PowerState, error) {
	s, err := t.sim.PowerState(string(id))
	if err != nil {
		return "", fmt.Errorf("%w: %w", hypervisor.ErrNotFound, err)
	}
	return stateOf(s), nil
}

// TestContentFollowsDisks: a disk that is kept keeps what it holds, a machine made from an image begins with a copy of it, and a
// grown disk is the same disk.
func TestContentFollowsDisks(t *testing.T) {
	for name, model := range map[string]vspheresim.Model{"vCenter": vspheresim.VCenter, "ESXi": vspheresim.ESXi} {
		t.Run(name, func(t *testing.T) {
			sim, c := once(t, vspheresim.Config{Model: model})
			ctx := t.Context()
			src, err := c.CreateVM(ctx, spec("source")).Wait(ctx)
			if err != nil {
				t.Fatal(err)
			}
			hold := func(vm *hypervisor.VM, want, after string) {
				t.Helper()
				if got, err := sim.ReadDisk(string(vm.ID()), 0); err != nil || got != want {
					t.Errorf("after %s the disk holds %q, want %q (%v)", after, got, want, err)
				}
			}
			if err := sim.WriteDisk(string(src.ID()), 0, "golden"); err != nil {
				t.Fatal(err)
			}
			i, err := src.Info(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := src.DetachDisk(ctx, i.Disks[0].ID, hypervisor.KeepDisks).Wait(ctx); err != nil {
				t.Fatal(err)
			}
			image := i.Disks[0].Volume
			s := spec("deployed")
			s.Disks = []hypervisor.DiskSpec{{Image: image, SizeBytes: 128 * hypervisor.MiB}}
			vm, err := c.CreateVM(ctx, s).Wait(ctx)
			if err != nil {
				t.Fatal(err)
			}
			hold(vm, "golden", "a deployment from an image that grows")
			if err := sim.WriteDisk(string(vm.ID()), 0, "changed"); err != nil {
				t.Fatal(err)
			}
			if _, err := src.AttachDisk(ctx, hypervisor.DiskSpec{Volume: image}).Wait(ctx); err != nil {
				t.Fatal(err)
			}
			hold(src, "golden", "detach, deploy and attach")
			hold(vm, "changed", "a write to the deployed machine")
		})
	}
}
