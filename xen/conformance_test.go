package xen

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config(sim *xapisim.Sim) Config {
	return Config{Host: strings.TrimPrefix(sim.URL(), "https://"), Thumbprint: sim.Thumbprint(), Username: sim.User(), Password: hypervisor.Secret(sim.Password())}
}

// openSim opens a Client on a simulated pool, as Open does.
func openSim(ctx context.Context, sim *xapisim.Sim, o *hypervisor.Options) (*hypervisor.Client, error) {
	return openConfig(ctx, config(sim), o)
}

func openConfig(ctx context.Context, cfg Config, o *hypervisor.Options) (*hypervisor.Client, error) {
	d, err := open(ctx, cfg, o)
	if err != nil { // in the form that users get
		return Open(ctx, cfg, o)
	}
	return hypervisor.New(ctx, hypervisortest.Wrap(ctx, d), o)
}

// backend puts the suite's view of the truth over a simulated pool.
type backend struct{ sim *xapisim.Sim }

func (b backend) field(class, id, name string) (any, error) { return b.sim.Field(class, id, name) }

// firstDisk finds the image of a machine's first disk.
func (b backend) firstDisk(id hypervisor.VMID) (string, error) {
	vbds, err := b.field("VM", string(id), "VBDs")
	if err != nil {
		return "", err
	}
	best, image := "", ""
	for _, r := range vbds.([]any) {
		dev, err := b.field("VBD", r.(string), "userdevice")
		if err != nil {
			return "", err
		}
		vdi, err := b.field("VBD", r.(string), "VDI")
		if err != nil {
			return "", err
		}
		if best == "" || dev.(string) < best {
			best, image = dev.(string), vdi.(string)
		}
	}
	if image == "" {
		return "", fmt.Errorf("machine %s has no disk", id)
	}
	return image, nil
}

func (b backend) write(_ context.Context, id hypervisor.VMID, content string) error {
	img, err := b.firstDisk(id)
	if err != nil {
		return err
	}
	return b.sim.WriteDisk(img, 0, content)
}

func (b backend) read(_ context.Context, id hypervisor.VMID) (string, error) {
	img, err := b.firstDisk(id)
	if err != nil {
		return "", err
	}
	blocks, err := b.sim.ReadDisk(img)
	return blocks[0], err
}

// booted writes a number into the fresh RAM of a guest.
func (b backend) booted(_ context.Context, id hypervisor.VMID) error {
	return b.sim.SetMemory(string(id), "up 100")
}

// uptime is that number, one more each time; 0 when RAM is fresh.
func (b backend) uptime(_ context.Context, id hypervisor.VMID) (int, error) {
	s, ok := strings.CutPrefix(b.sim.Memory(string(id)), "up ")
	if !ok {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, err
	}
	return n + 1, b.sim.SetMemory(string(id), fmt.Sprint("up ", n+1))
}

func (b backend) state(_ context.Context, id hypervisor.VMID) (hypervisor.PowerState, error) {
	s, err := b.field("VM", string(id), "power_state")
	if err != nil {
		return "", fmt.Errorf("%w: %w", hypervisor.ErrNotFound, err)
	}
	return state(s.(string)), nil
}

func (b backend) images(context.Context) ([]string, error) {
	var out []string
	for _, r := range b.sim.Refs("VDI") {
		managed, err := b.field("VDI", r, "managed")
		if err != nil {
			return nil, err
		}
		uuid, err := b.field("VDI", r, "uuid")
		if err != nil {
			return nil, err
		}
		if managed == true { // hidden bases are the storage manager's
			out = append(out, uuid.(string))
		}
	}
	return out, nil
}

func spec(name string) hypervisor.VMSpec {
	return hypervisor.VMSpec{Name: name, CPUs: 1, MemoryBytes: 256 * hypervisor.MiB, Disks: []hypervisor.DiskSpec{{SizeBytes: 64 * hypervisor.MiB}},
		NICs: []hypervisor.NICSpec{{}}}
}

// connectWLB gives the pool a scheduler.
func connectWLB(ctx context.Context, t hypervisortest.T, sim *xapisim.Sim, c *hypervisor.Client) {
	rpc, _ := hypervisor.As[*Session](t.Context(), c, c)
	err := rpc.Call(ctx, nil, "pool.initialize_wlb", "wlb.example:8012", "wlb", "secret", sim.User(), sim.Password())
	if err == nil {
		err = rpc.Call(ctx, nil, "pool.set_wlb_enabled", sim.Refs("pool")[0], true)
	}
	if err != nil {
		t.Fatalf("connect Workload Balancing: %v", err)
	}
}

func newBackend(t hypervisortest.T, cfg xapisim.Config, other bool) (*hypervisortest.Backend, *xapisim.Sim) {
	start := func() (*xapisim.Sim, *hypervisor.Client) {
		sim, err := xapisim.Start(cfg)
		if err != nil {
			t.Fatalf("start the pool: %v", err)
		}
		t.Cleanup(sim.Close)
		c, err := openSim(t.Context(), sim, &hypervisor.Options{})
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		return sim, c
	}
	sim, c := start()
	b := backend{sim}
	hb := &hypervisortest.Backend{
		Client: c, Spec: spec, AbsentVM: "00000000-0000-4000-8000-000000000000", EventWait: 10 * time.Second,
		Reopen: func(ctx context.Context) (*hypervisor.Client, error) { return openSim(ctx, sim, &hypervisor.Options{}) },
		Open: func(ctx context.Context, o *hypervisor.Options) (*hypervisor.Client, error) {
			return openSim(ctx, sim, o)
		},
		Credentials: &hypervisor.Credentials{Username: sim.User(), Password: hypervisor.Secret(sim.Password())},
		Booted:      b.booted, WriteDisk: b.write, ReadDisk: b.read, Uptime: b.uptime, State: b.state, Images: b.images,
		Slow:   func(d time.Duration) { sim.SetDuration("*", d) },
		Device: hypervisor.DeviceRequest{Class: hypervisor.ClassNetwork}, Foreign: foreignCases(t, b, c),
	}
	hb.Hang = func(context.Context, hypervisor.VMID) error {
		h := sim.Hold("VM.clean_shutdown", 1)
		t.Cleanup(h.Release)
		return nil
	}
	for _, g := range cfg.GPUs {
		switch g.Model {
		case "M60":
			for d, err := range c.Devices(t.Context(), &hypervisor.DeviceFilter{Class: hypervisor.ClassDisplay, Assignable: true}) {
				if err != nil {
					t.Fatalf("Devices: %v", err)
				}
				if len(d.Profiles) > 0 {
					hb.Profile = hypervisor.DeviceRequest{Profile: d.Profiles[0].ID}
					hb.Device = hypervisor.DeviceRequest{Vendor: d.Vendor, Product: d.Product}
				}
			}
		}
	}
	if slices.Contains(cfg.Restrictions, "gpu") {
		hb.Device = hypervisor.DeviceRequest{Class: hypervisor.ClassNetwork}
	}
	if other {
		osim, oc := start()
		t.Cleanup(func() { _ = oc.Close() })
		hb.Other = oc
		inner := hb.Uptime
		hb.Uptime = func(ctx context.Context, id hypervisor.VMID) (int, error) {
			if _, err := b.state(ctx, id); err != nil {
				return backend{osim}.uptime(ctx, id)
			}
			return inner(ctx, id)
		}
	}
	return hb, sim
}

// silent says where the area contexts is run.
var silent = map[string]string{"contexts": "TestContexts runs it"}

func TestConformance(t *testing.T) {
	pool := xapisim.Config{Hosts: 3, GPUs: []xapisim.GPU{{Model: "M60"}}}
	for label, h := range map[string]hypervisortest.Harness{
		"pool": {Unproven: map[capability.Name]string{},
			New: func(t hypervisortest.T) *hypervisortest.Backend {
				hb, sim := newBackend(t, pool, true)
				connectWLB(t.Context(), t, sim, hb.Client)
				return hb
			}},
		"single host": {Unproven: map[capability.Name]string{capability.MigrateCross: "shown by the pool"},
			New: func(t hypervisortest.T) *hypervisortest.Backend {
				hb, _ := newBackend(t, xapisim.Config{Hosts: 1, NoIOMMU: true}, false)
				return hb
			}},
		"restricted": {Unproven: map[capability.Name]string{},
			New: func(t hypervisortest.T) *hypervisortest.Backend {
				hb, _ := newBackend(t, xapisim.Config{Hosts: 2, Edition: "free", GPUs: pool.GPUs,
					Restrictions: []string{"vgpu", "storage_xen_motion", "checkpoint", "dmc", "gpu", "wlb", "xha", "set_vcpus_number_live"}}, false)
				return hb
			}},
	} {
		t.Run(label, func(t *testing.T) {
			h.Driver, h.Rung, h.Label, h.NotYet = "xapi", hypervisortest.Simulator, label, silent
			h.Empty, h.Refused = and(untold, untoldHere[label]), and(unheard, nil)
			if label == "restricted" { // its device is a network card
				delete(h.Empty, "TaskState.Notes")
				delete(h.Refused, "DeviceRequest.ID")
			}
			hypervisortest.Run(t, h)
		})
	}
}
