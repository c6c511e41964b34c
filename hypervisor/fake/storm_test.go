package fake_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/internal/hostile"
)

func TestStorm(t *testing.T) {
	t.Parallel()
	b := fake.New(fake.Config{})
	hostile.Storm(t, hostile.World{
		Open: func(ctx context.Context) (*hypervisor.Client, error) { return b.Open(ctx, nil) },
		Strike: func(r *rand.Rand) {
			b.Fail(fake.Fault{Op: "vm.*", Nth: 1 + r.IntN(50), After: r.Float64(), Leftover: r.IntN(2) == 0, Err: context.DeadlineExceeded})
		},
		Calm:   b.Heal,
		Spec:   hypervisor.VMSpec{CPUs: 1, MemoryBytes: 64 * hypervisor.MiB, Disks: []hypervisor.DiskSpec{{SizeBytes: 64 * hypervisor.MiB}}},
		Images: func(context.Context) ([]string, error) { return text(b.Images()), nil },
	})
}

func text(ids []hypervisor.VolumeID) (out []string) {
	for _, id := range ids {
		out = append(out, string(id))
	}
	return out
}
