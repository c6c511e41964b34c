package vsphere

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// simURL is the address of a simulator as this driver takes it.
func simURL(u *url.URL) string {
	p, _ := u.User.Password()
	out := url.URL{Scheme: "vsphere", Host: u.Host, User: url.UserPassword(u.User.Username(), p), RawQuery: "plainhttp=true"}
	if u.Scheme == "https" {
		out.RawQuery = "insecure=true"
	}
	return out.String()
}

func openSim(ctx context.Context, u *url.URL) (*hypervisor.Client, error) {
	return openWith(ctx, u, &hypervisor.Options{})
}

// openWith is openSim with options.
func openWith(ctx context.Context, u *url.URL, o *hypervisor.Options) (*hypervisor.Client, error) {
	at, err := url.Parse(simURL(u))
	if err != nil {
		return nil, err
	}
	d, err := openURL(ctx, at, o)
	if err != nil { // in the form that users get
		return hypervisor.Open(ctx, at.String(), o)
	}
	return hypervisor.New(ctx, hypervisortest.Wrap(ctx, d), o)
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

// isoImage names a CD image, which the simulator does not open.
func isoImage(t hypervisortest.T, c *hypervisor.Client) hypervisor.VolumeID {
	t.Helper()
	for ds, err := range c.Datastores(t.Context()) {
		if err != nil {
			t.Fatalf("%v", err)
		}
		return hypervisor.VolumeID(string(ds.ID) + "/install.iso")
	}
	return ""
}

func spec(name string) hypervisor.VMSpec {
	return hypervisor.VMSpec{Name: name, CPUs: 1, MemoryBytes: 256 * hypervisor.MiB,
		Disks: []hypervisor.DiskSpec{{SizeBytes: 64 * hypervisor.MiB}}, NICs: []hypervisor.NICSpec{{}}}
}

func simLogin(u *url.URL) *hypervisor.Credentials {
	p, _ := u.User.Password()
	return &hypervisor.Credentials{Username: u.User.Username(), Password: hypervisor.Secret(p)}
}

func simBackend(t hypervisortest.T, sim *vspheresim.Sim, other *vspheresim.Sim) *hypervisortest.Backend {
	t.Helper()
	c, err := openSim(t.Context(), sim.URL())
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	b := &hypervisortest.Backend{
		Client: c,
		ISO:    isoImage(t, c),
		Reopen: func(ctx context.Context) (*hypervisor.Client, error) { return openSim(ctx, sim.URL()) },
		Open: func(ctx context.Context, o *hypervisor.Options) (*hypervisor.Client, error) {
			return openWith(ctx, sim.URL(), o)
		},
		Credentials: simLogin(sim.URL()),
		Spec:        spec,
		AbsentVM:    "vm-999999",
		Slow:        func(d time.Duration) { sim.SetTaskDelay("*", d) },
		Device:      hypervisor.DeviceRequest{Vendor: "10de", Product: "2330"},
		Profile:     hypervisor.DeviceRequest{Profile: "grid_a100-40c"},
		VF:          hypervisor.DeviceRequest{Vendor: "8086", Product: "1572", VirtualFunction: true},
	}
	guest := func(ctx context.Context, id hypervisor.VMID, deaf bool) error {
		v, err := c.VM(id).Info(ctx)
		if err != nil {
			return err
		}
		return sim.SetGuest(v.Name, vspheresim.Guest{Tools: true, Deaf: deaf, User: b.Login.Username, Password: string(b.Login.Password), Run: shell})
	}
	b.Login = hypervisor.Credentials{Username: "root", Password: "x"}
	b.Booted = func(ctx context.Context, id hypervisor.VMID) error { return guest(ctx, id, false) }
	b.Hang = func(ctx context.Context, id hypervisor.VMID) error { return guest(ctx, id, true) }
	b.Customized = func(_ context.Context, id hypervisor.VMID) (hypervisor.Customization, error) {
		return guestTold(sim, id)
	}
	b.Crash = func(ctx context.Context, id hypervisor.HostID, down bool) error {
		h, err := c.Host(id).Info(ctx)
		if err != nil {
			return err
		}
		return sim.DropHost(h.Name, !down)
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
	looker, err := openSim(t.Context(), sim.URL())
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = looker.Close() })
	b.Images = func(ctx context.Context) ([]string, error) {
		c := looker
		var out []string
		for v, err := range c.Volumes(ctx, "") {
			if err != nil {
				return nil, err
			}
			out = append(out, string(v.ID))
		}
		return out, nil
	}
	b.Foreign = foreignCases(t, sim, b)
	return b
}

// shell is what programs in the guests do: those that the suite runs.
func shell(_, args string) (r vspheresim.Result) {
	_, args, _ = strings.Cut(args, "/bin/sh -c ")
	script, _, _ := strings.Cut(strings.ReplaceAll(args, `'\''`, ""), " 1>")
	switch script = strings.Trim(script, "' "); {
	case strings.HasPrefix(script, "exit "):
		n, err := strconv.Atoi(strings.TrimPrefix(script, "exit "))
		if err != nil {
			n = 2
		}
		r.ExitCode = int32(n)
	case strings.HasPrefix(script, "sleep "):
		r.Takes, _ = time.ParseDuration(strings.TrimPrefix(script, "sleep ") + "s")
	case script == "echo out":
		r.Stdout = "out\n"
	case script == "echo err >&2":
		r.Stderr = "err\n"
	default:
		r.ExitCode = 127
	}
	return r
}

// guestTold is what the guest of a machine was customized with.
func guestTold(sim *vspheresim.Sim, id hypervisor.VMID) (c hypervisor.Customization, err error) {
	spec, err := sim.Customization(string(id))
	if err != nil || spec == nil {
		return c, err
	}
	switch x := spec.Identity.(type) {
	case *types.CustomizationLinuxPrep:
		c.HostName = x.HostName.(*types.CustomizationFixedName).Name + "." + x.Domain
	case *types.CustomizationSysprep:
		c.HostName = x.UserData.ComputerName.(*types.CustomizationFixedName).Name
		c.Windows = &hypervisor.WindowsCustomization{TimeZone: int(x.GuiUnattended.TimeZone), Workgroup: x.Identification.JoinWorkgroup,
			Owner: x.UserData.FullName, Organization: x.UserData.OrgName}
	}
	for _, s := range spec.GlobalIPSettings.DnsServerList {
		c.DNS = append(c.DNS, netip.MustParseAddr(s))
	}
	for _, n := range spec.NicSettingMap {
		ip, ok := n.Adapter.Ip.(*types.CustomizationFixedIp)
		if !ok {
			c.Addresses = append(c.Addresses, netip.Prefix{})
			continue
		}
		mask := net.IPMask(net.ParseIP(n.Adapter.SubnetMask).To4())
		bits, _ := mask.Size()
		c.Addresses = append(c.Addresses, netip.PrefixFrom(netip.MustParseAddr(ip.IpAddress), bits))
		for _, g := range n.Adapter.Gateway {
			c.Gateway = netip.MustParseAddr(g)
		}
	}
	return c, nil
}

func startSim(t hypervisortest.T, c vspheresim.Config) *vspheresim.Sim {
	t.Helper()
	sim, err := vspheresim.Start(c)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(sim.Close)
	return sim
}

// silent says where the area contexts is run.
var silent = map[string]string{"contexts": "TestContexts runs it"}

func TestConformanceVCenter(t *testing.T) {
	sim := startSim(t, simConfig(vspheresim.VCenter))
	other := startSim(t, simConfig(vspheresim.VCenter))
	setHA(t, sim, haOn(1))
	hypervisortest.Run(t, hypervisortest.Harness{
		Driver: "vsphere", Rung: hypervisortest.Simulator, Label: "vCenter", Empty: untold, Refused: unheard, NotYet: silent,
		New: func(t hypervisortest.T) *hypervisortest.Backend { return simBackend(t, sim, other) },
	})
}

func TestConformanceESXi(t *testing.T) {
	cfg := simConfig(vspheresim.ESXi)
	cfg.VMs = 0 // nobody can take machines over when the host goes into maintenance
	sim := startSim(t, cfg)
	hypervisortest.Run(t, hypervisortest.Harness{
		Driver: "vsphere", Rung: hypervisortest.Simulator, Label: "ESXi", Empty: and(untold, untoldESXi), Refused: and(unheard, unheardESXi), NotYet: silent,
		Unproven: map[capability.Name]string{
			capability.TaskResume: "the suite's long task is a clone, which ESXi does not have",
			capability.TaskCancel: "the suite's long task is a clone, which ESXi does not have",
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
