package fake_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a backend under test; drivers on it are made by wrap.
type bench struct {
	cfg   fake.Config
	other *fake.Config // of the other Client; nil: none
	wrap  func(*fake.Driver) hypervisor.Driver
}

func (b bench) harness(label string) hypervisortest.Harness {
	return hypervisortest.Harness{Driver: "fake", Rung: hypervisortest.Fake, Label: label, Limit: time.Minute, New: b.backend, Empty: untold, Worlds: 4}
}

func (b bench) open(ctx context.Context, p *fake.Backend) (*hypervisor.Client, error) {
	var d hypervisor.Driver = p.Driver()
	if b.wrap != nil {
		d = b.wrap(d.(*fake.Driver))
	}
	return hypervisor.New(ctx, hypervisortest.Wrap(ctx, d), nil)
}

// openWith is open with options, which Backend.Open looks at first.
func (b bench) openWith(ctx context.Context, p *fake.Backend, o *hypervisor.Options) (*hypervisor.Client, error) {
	if b.cfg.Login != nil && o.Credentials == nil {
		with := *o
		with.Credentials = b.cfg.Login
		o = &with
	}
	c, err := p.Open(ctx, o)
	if err == nil {
		err = c.Close()
	}
	if err != nil {
		return nil, err
	}
	return hypervisor.New(ctx, hypervisortest.Wrap(ctx, p.Driver()), o)
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
		Client: must(b.open(t.Context(), p)),
		Reopen: func(ctx context.Context) (*hypervisor.Client, error) { return b.open(ctx, p) },
		Open: func(ctx context.Context, o *hypervisor.Options) (*hypervisor.Client, error) {
			return b.openWith(ctx, p, o)
		},
		Credentials: b.cfg.Login,
		AbsentVM:    "00000000-0000-4000-8000-000000000000",
		Spec: func(name string) hypervisor.VMSpec {
			s := hypervisor.VMSpec{Name: name, CPUs: 1, MemoryBytes: 256 * hypervisor.MiB,
				Disks: []hypervisor.DiskSpec{{SizeBytes: 64 * hypervisor.MiB}}, NICs: []hypervisor.NICSpec{{}}}
			if b.cfg.Disable[capability.BootDirect].Level != hypervisor.LevelNo {
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
		Foreign:    foreignCases(p),
		Slow:       func(d time.Duration) { p.SetDelay("*", d) },
		Device:     hypervisor.DeviceRequest{Vendor: "10de", Product: "2330"},
		VF:         hypervisor.DeviceRequest{Class: hypervisor.ClassNetwork, VirtualFunction: true},
		Profile:    hypervisor.DeviceRequest{Profile: "GRID M60-2Q"},
		Customized: func(_ context.Context, id hypervisor.VMID) (hypervisor.Customization, error) { return p.Customized(id) },
		Tuned:      func(_ context.Context, id hypervisor.VMID) (hypervisor.MigrateOptions, error) { return p.Migrated(id) },
		Hang: func(_ context.Context, id hypervisor.VMID) error {
			return p.SetGuest(id, fake.Guest{Hangs: true})
		},
		Crash: func(_ context.Context, id hypervisor.HostID, down bool) error {
			if down {
				return p.SetHostState(id, hypervisor.HostDown)
			}
			return p.SetHostState(id, hypervisor.HostUp)
		},
		Login:  hypervisor.Credentials{Username: "root", Password: "x"},
		Folder: "lab/machines",
		Replicate: func(_ context.Context, id hypervisor.VMID, r hypervisor.ReplicationInfo) error {
			return p.SetReplication(id, r)
		},
	}
	out.Break = breaker(p)
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
	out.Booted = func(_ context.Context, id hypervisor.VMID) error {
		if err := of(id).SetGuest(id, fake.Guest{NoTools: b.cfg.NoTools, Login: out.Login}); err != nil {
			return err
		}
		return of(id).WriteMemory(id, "1000")
	}
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

func TestConformance(t *testing.T) {
	hypervisortest.Run(t, everything().harness(""))
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
		"all fixed": {Uncancelable: []op.Name{op.VMClone, op.VMMigrate}},
	}
	for _, k := range capability.All() {
		cfgs["without "+string(k)] = fake.Config{Disable: map[capability.Name]hypervisor.Support{
			k: {Level: hypervisor.LevelNo, Reason: hypervisor.ReasonPlatform, Detail: "switched off"}}}
	}
	// The suite can't do without these: every area makes and removes machines.
	for _, k := range []capability.Name{capability.VMCreate, capability.VMDelete, capability.VMStart,
		capability.HostList, capability.DatastoreList, capability.SnapshotDisk} {
		delete(cfgs, "without "+string(k))
	}
	for name, cfg := range cfgs {
		t.Run(name, func(t *testing.T) {
			h := bench{cfg: cfg}.harness("")
			h.Repeat = 2
			h.Only = []string{"inventory", "lifecycle", "power", "reconfigure", "disks", "snapshots", "clones", "templates", "migration",
				"devices", "labels", "guest", "hosts", "availability", "volumes", "foreign", "refusals"}
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			for _, f := range hypervisortest.Check(ctx, h) {
				t.Error(fmt.Sprint(f))
			}
		})
	}
}
