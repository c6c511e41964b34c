package fake_test

import (
	"context"
	"fmt"
	"strconv"
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
		Replicate: func(_ context.Context, id hypervisor.VMID, r hypervisor.ReplicationInfo) error {
			return p.SetReplication(id, r)
		},
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
	// The guest's counter lives in its memory: a boot sets it to 1000, every
	// look at it adds one.
	of := func(id hypervisor.VMID) *fake.Backend {
		for _, x := range platforms {
			if _, err := x.State(id); err == nil {
				return x
			}
		}
		return p
	}
	out.Booted = func(_ context.Context, id hypervisor.VMID) error { return of(id).WriteMemory(id, "1000") }
	out.Uptime = func(_ context.Context, id hypervisor.VMID) (int, error) {
		ram, err := of(id).ReadMemory(id)
		if err != nil {
			return 0, err
		}
		n, _ := strconv.Atoi(ram) // nothing: a boot that just began
		return n + 1, of(id).WriteMemory(id, strconv.Itoa(n+1))
	}
	return out
}

func whole() bench { return bench{other: &fake.Config{}} }

func TestConformance(t *testing.T) {
	hypervisortest.Run(t, whole().harness(""))
}

// TestEditions: what an edition lacks, or a Config switches off, is refused
// with its reason, one at a time and all together.
func TestEditions(t *testing.T) {
	cfgs := map[string]fake.Config{
		"standard": {Edition: "standard"}, "free": {Edition: "free"},
		"one host":  {Hosts: fake.DefaultHosts(1)},
		"no IOMMU":  {Hosts: []fake.Host{{NoIOMMU: true, Cores: 64, MemoryBytes: hypervisor.TiB, Devices: []fake.Device{fake.H100("0000:81:00.0", 0, 1)}}}},
		"no tools":  {NoTools: true},
		"unique":    {UniqueNames: true},
		"HA":        {HA: true},
		"all fixed": {Uncancelable: []string{"vm.clone", "migrate"}},
	}
	for _, k := range hypervisor.Capabilities() {
		cfgs["without "+string(k)] = fake.Config{Disable: map[hypervisor.Capability]hypervisor.Support{
			k: {Level: hypervisor.No, Reason: hypervisor.ReasonPlatform, Detail: "switched off"}}}
	}
	// The suite can't do without these: every area makes and removes machines.
	for _, k := range []hypervisor.Capability{hypervisor.VMCreate, hypervisor.VMDelete, hypervisor.SnapshotDisk} {
		delete(cfgs, "without "+string(k))
	}
	for name, cfg := range cfgs {
		t.Run(name, func(t *testing.T) {
			h := bench{cfg: cfg}.harness("")
			h.Repeat = 2
			h.Only = []string{"inventory", "lifecycle", "power", "reconfigure", "disks", "snapshots", "clones", "templates", "migration",
				"devices", "labels", "guest", "hosts", "availability", "volumes", "refusals"}
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			for _, f := range hypervisortest.Check(ctx, h) {
				t.Error(fmt.Sprint(f))
			}
		})
	}
}
