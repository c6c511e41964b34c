package vsphere

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// simURL is the address of a simulator as this driver takes it.
func simURL(u *url.URL) string {
	p, _ := u.User.Password()
	out := url.URL{Scheme: "vsphere", Host: u.Host, User: url.UserPassword(u.User.Username(), p), RawQuery: "plain=true"}
	if u.Scheme == "https" {
		out.RawQuery = "insecure=true"
	}
	return out.String()
}

func openSim(ctx context.Context, u *url.URL) (*hypervisor.Client, error) {
	return hypervisor.Open(ctx, simURL(u), nil)
}

var testGPU = vspheresim.GPU{VendorID: 0x10de, DeviceID: 0x2330, Vendor: "NVIDIA", Product: "H100", MemoryMB: 81920, Passthrough: true}

func simConfig(m vspheresim.Model) vspheresim.Config {
	return vspheresim.Config{
		Model: m, VMs: 2, Tools: true,
		GPUs: []vspheresim.GPU{
			testGPU,
			{VendorID: 0x10de, DeviceID: 0x20b5, Vendor: "NVIDIA", Product: "A100", MemoryMB: 81920, Profiles: []string{"grid_a100-40c", "grid_a100-80c"}},
			{VendorID: 0x8086, DeviceID: 0x1572, Vendor: "Intel", Product: "X710", Class: 0x0200, VirtualFunctions: 8},
		},
	}
}

func spec(name string) hypervisor.VMSpec {
	return hypervisor.VMSpec{Name: name, CPUs: 1, MemoryBytes: 256 * hypervisor.MiB,
		Disks: []hypervisor.DiskSpec{{SizeBytes: 64 * hypervisor.MiB}}, NICs: []hypervisor.NICSpec{{}}}
}

func simBackend(t hypervisortest.T, sim *vspheresim.Sim, other *vspheresim.Sim) *hypervisortest.Backend {
	t.Helper()
	c, err := openSim(t.Context(), sim.URL())
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	b := &hypervisortest.Backend{
		Client:   c,
		Reopen:   func(ctx context.Context) (*hypervisor.Client, error) { return openSim(ctx, sim.URL()) },
		Spec:     spec,
		AbsentVM: "vm-999999",
		Slow:     func(d time.Duration) { sim.SetTaskDelay("*", d) },
		Device:   hypervisor.DeviceRequest{Vendor: "10de", Product: "2330"},
		Profile:  hypervisor.DeviceRequest{Profile: "grid_a100-40c"},
		VF:       hypervisor.DeviceRequest{Vendor: "8086", Product: "1572", VirtualFunction: true},
	}
	// The guests answer to programs as a shell would to "exit 7".
	b.Booted = func(ctx context.Context, id hypervisor.VMID) error {
		v, err := c.VM(id).Info(ctx)
		if err != nil {
			return err
		}
		return sim.SetGuest(v.Name, vspheresim.Guest{Tools: true, Run: func(_, args string) (r vspheresim.Result) {
			if strings.Contains(args, "exit 7") {
				r.ExitCode = 7
			}
			return r
		}})
	}
	reveal(b, sim, other)
	// A network card offers functions only after it was prepared.
	one := 1 // so that a second machine finds none left
	for x, err := range c.Devices(t.Context(), &hypervisor.DeviceFilter{Vendor: "8086", Product: "1572"}) {
		if err != nil {
			t.Fatalf("devices: %v", err)
		}
		if x.VFs == 0 {
			if _, err := c.PrepareDevice(t.Context(), x.ID, hypervisor.DevicePreparation{VFs: &one}).Wait(t.Context()); err != nil {
				t.Fatalf("prepare: %v", err)
			}
		}
	}
	if other != nil {
		o, err := openSim(t.Context(), other.URL())
		if err != nil {
			t.Fatalf("open the other: %v", err)
		}
		t.Cleanup(func() { _ = o.Close() })
		b.Other = o
	}
	b.Images = func(ctx context.Context) ([]string, error) {
		c, err := openSim(ctx, sim.URL())
		if err != nil {
			return nil, err
		}
		defer func() { _ = c.Close() }()
		var out []string
		for v, err := range c.Volumes(ctx, "") {
			if err != nil {
				return nil, err
			}
			out = append(out, string(v.ID))
		}
		return out, nil
	}
	return b
}

func startSim(t *testing.T, c vspheresim.Config) *vspheresim.Sim {
	t.Helper()
	sim, err := vspheresim.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	return sim
}

func TestConformanceVCenter(t *testing.T) {
	sim := startSim(t, simConfig(vspheresim.VCenter))
	other := startSim(t, simConfig(vspheresim.VCenter))
	setHA(t, sim, haOn(1))
	hypervisortest.Run(t, hypervisortest.Harness{
		Driver: "vsphere", Rung: hypervisortest.Simulator, Label: "vCenter",
		New: func(t hypervisortest.T) *hypervisortest.Backend { return simBackend(t, sim, other) },
	})
}

func TestConformanceESXi(t *testing.T) {
	cfg := simConfig(vspheresim.ESXi)
	cfg.VMs = 0 // nobody can take machines over when the host goes into maintenance
	sim := startSim(t, cfg)
	hypervisortest.Run(t, hypervisortest.Harness{
		Driver: "vsphere", Rung: hypervisortest.Simulator, Label: "ESXi",
		Unproven: map[hypervisor.Capability]string{
			hypervisor.TaskResume: "the suite's long task is a clone, which ESXi does not have",
			hypervisor.TaskCancel: "the suite's long task is a clone, which ESXi does not have",
		},
		New: func(t hypervisortest.T) *hypervisortest.Backend {
			b := simBackend(t, sim, nil)
			b.AbsentVM = "999999"
			return b
		},
	})
}

// once makes a client on a fresh simulator for one test.
func once(t *testing.T, c vspheresim.Config) (*vspheresim.Sim, *hypervisor.Client) {
	t.Helper()
	sim := startSim(t, c)
	cl, err := openSim(t.Context(), sim.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	return sim, cl
}

func firstVM(t *testing.T, c *hypervisor.Client, prefix string) *hypervisor.VM {
	t.Helper()
	for v, err := range c.VMs(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(v.Name, prefix) {
			return c.VM(v.ID)
		}
	}
	t.Fatalf("no machine named %s…", prefix)
	return nil
}
