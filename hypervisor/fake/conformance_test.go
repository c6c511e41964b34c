package fake_test

import (
	"context"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a backend under test; drivers on it are made by wrap.
type bench struct {
	cfg   fake.Config
	other *fake.Config // of the other Client; nil: none
	wrap  func(*fake.Driver) hypervisor.Driver
	unfit bool // without the means to look behind the API
}

func (b bench) harness(label string) hypervisortest.Harness {
	return hypervisortest.Harness{Driver: "fake", Rung: hypervisortest.Fake, Label: label, Limit: time.Minute, New: b.backend}
}

func (b bench) open(ctx context.Context, p *fake.Backend) (*hypervisor.Client, error) {
	var d hypervisor.Driver = p.Driver()
	if b.wrap != nil {
		d = b.wrap(d.(*fake.Driver))
	}
	return hypervisor.New(ctx, d, nil)
}

func (b bench) backend(t hypervisortest.T) *hypervisortest.Backend {
	p := fake.New(b.cfg)
	must := func(c *hypervisor.Client, err error) *hypervisor.Client {
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		return c
	}
	out := &hypervisortest.Backend{
		Client:   must(b.open(t.Context(), p)),
		Reopen:   func(ctx context.Context) (*hypervisor.Client, error) { return b.open(ctx, p) },
		AbsentVM: "00000000-0000-4000-8000-000000000000",
		Spec: func(name string) hypervisor.VMSpec {
			s := hypervisor.VMSpec{Name: name, CPUs: 1, MemoryBytes: 256 * hypervisor.MiB,
				Disks: []hypervisor.DiskSpec{{SizeBytes: 64 * hypervisor.MiB}}, NICs: []hypervisor.NICSpec{{}}}
			if b.cfg.Disable[hypervisor.BootDirect].Level != hypervisor.No {
				s.Boot = &hypervisor.DirectBoot{Kernel: "/boot/vmlinuz"}
			}
			return s
		},
		EventWait: 2 * time.Second,
		WriteDisk: func(_ context.Context, id hypervisor.VMID, s string) error { return p.WriteDisk(id, 0, s) },
		ReadDisk:  func(_ context.Context, id hypervisor.VMID) (string, error) { return p.ReadDisk(id, 0) },
		State:     func(_ context.Context, id hypervisor.VMID) (hypervisor.PowerState, error) { return p.State(id) },
		Images: func(context.Context) (out []string, err error) {
			for _, id := range p.Images() {
				out = append(out, string(id))
			}
			return out, nil
		},
		Slow:    func(d time.Duration) { p.SetDelay("*", d) },
		Device:  hypervisor.DeviceRequest{Vendor: "10de", Product: "2330"},
		VF:      hypervisor.DeviceRequest{Class: hypervisor.NetworkCard, VirtualFunction: true},
		Profile: hypervisor.DeviceRequest{Profile: "GRID M60-2Q"},
	}
	platforms := []*fake.Backend{p}
	if b.other != nil {
		o := fake.New(*b.other)
		platforms = append(platforms, o)
		out.Other = must(b.open(t.Context(), o))
		t.Cleanup(func() {
			if err := out.Other.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	out.Uptime = func(_ context.Context, id hypervisor.VMID) (int, error) {
		var d time.Duration
		var err error
		for _, p := range platforms {
			if d, err = p.Uptime(id); err == nil {
				break
			}
		}
		return int(d), err
	}
	if b.unfit {
		out.WriteDisk, out.ReadDisk, out.Uptime, out.State, out.Images, out.Slow = nil, nil, nil, nil, nil, nil
	}
	return out
}

func whole() bench { return bench{other: &fake.Config{}} }

func TestConformance(t *testing.T) {
	hypervisortest.Run(t, whole().harness(""))
}
