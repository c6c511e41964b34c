//go:build cgo

package kvm

import (
	"context"
	"errors"
	"testing"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// TestBuiltin uses libvirt's test driver: no daemon, no root, no guest.
func TestBuiltin(t *testing.T) {
	ctx := t.Context()
	c, err := hypervisor.Open(ctx, "kvm+test:///default", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	all, err := hypervisor.Collect(c.VMs(ctx, &hypervisor.ListOptions{Detail: hypervisor.DetailBrief}))
	if err != nil || len(all) != 1 || all[0].Name != "test" || all[0].State != hypervisor.StateRunning || all[0].CPUs != 2 || all[0].MemoryBytes != 2*hypervisor.GiB {
		t.Errorf("the test driver's machines: %+v, %v; want one named test that runs with 2 CPUs and 2 GiB", all, err)
	}
	hosts, err := hypervisor.Collect(c.Hosts(ctx))
	if err != nil || len(hosts) != 1 || hosts[0].MemoryBytes <= 0 || hosts[0].CPU.Threads != 16 {
		t.Errorf("the test driver's hosts: %+v, %v", hosts, err)
	}
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "made", MemoryBytes: 64 * hypervisor.MiB, Labels: map[string]string{"a": "<&>"}}).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		f    func(context.Context) *hypervisor.Task[hypervisor.None]
		want hypervisor.PowerState
	}{{vm.Start, hypervisor.StateRunning}, {vm.Pause, hypervisor.StatePaused}, {vm.Resume, hypervisor.StateRunning}, {vm.Suspend, hypervisor.StateSuspended}, {vm.Start, hypervisor.StateRunning}, {vm.PowerOff, hypervisor.StateOff}} {
		if _, err := s.f(ctx).Wait(ctx); err != nil {
			t.Fatal(err)
		}
		if i, err := vm.Info(ctx); err != nil || i.State != s.want || i.Labels["a"] != "<&>" {
			t.Errorf("the machine is %s with %v (%v), want %s", i.State, i.Labels, err, s.want)
		}
	}
	if _, err := vm.CreateSnapshot(ctx, "s", nil).Wait(ctx); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("a snapshot of a machine without disks: %v, want ErrUnsupported", err)
	}
	if s, err := c.Supports(ctx, capability.MigrateLive, hypervisor.Ref{}); err != nil || s.Level != hypervisor.LevelNo || s.Reason == "" {
		t.Errorf("Supports of migration: %+v, %v", s, err)
	}
	tpl, err := vm.MarkTemplate(ctx).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if i, err := tpl.Info(ctx); err != nil || i.MemoryBytes != 64*hypervisor.MiB {
		t.Errorf("the template is %+v (%v)", i, err)
	}
	if _, err := tpl.Delete(ctx, hypervisor.DeleteDisks).Wait(ctx); err != nil {
		t.Error(err)
	}
	if _, err := c.FindVM(ctx, "made"); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("FindVM of what was deleted: %v", err)
	}
}

// TestNative takes a connection from outside and hands native objects out.
func TestNative(t *testing.T) {
	ctx := t.Context()
	conn, err := libvirt.NewConnect("test:///default")
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(ctx, []*libvirt.Connect{conn}, nil)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := c.FindVM(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	dom, err := hypervisor.As[*libvirt.Domain](t.Context(), c, vm)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := dom.GetName(); err != nil || name != "test" {
		t.Errorf("the domain's name is %q (%v)", name, err)
	}
	if err := dom.Free(); err != nil {
		t.Error(err)
	}
	if native, err := hypervisor.As[*libvirt.Connect](t.Context(), c, c); err != nil || native != conn {
		t.Error("the connection behind the Client is another one")
	}
	if _, err := hypervisor.As[*testing.T](t.Context(), c, c); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Error("As gives out what it does not have")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if alive, err := conn.IsAlive(); err != nil || !alive {
		t.Errorf("Close ended a connection that is not its own: %v", err)
	}
	if n, err := conn.Close(); err != nil || n != 0 {
		t.Errorf("%d references to the connection are left (%v)", n, err)
	}
}

// freed hands the native object behind v to use, and frees it.
func freed[T interface{ Free() error }](t *testing.T, c *hypervisor.Client, v interface{ Ref() hypervisor.Ref }, name func(T) (string, error), want string) {
	t.Helper()
	n, err := hypervisor.As[T](t.Context(), c, v)
	if err != nil {
		t.Errorf("As of %s: %v", v.Ref(), err)
		return
	}
	if got, err := name(n); err != nil || got != want {
		t.Errorf("%s is %q (%v), want %q", v.Ref(), got, err, want)
	}
	if err := n.Free(); err != nil {
		t.Error(err)
	}
}

func refused[T any](t *testing.T, c *hypervisor.Client, v interface{ Ref() hypervisor.Ref }, want error) {
	t.Helper()
	if _, err := hypervisor.As[T](t.Context(), c, v); !errors.Is(err, want) {
		t.Errorf("As[%T] of %s: %v, want %v", *new(T), v.Ref(), err, want)
	}
}

// TestAs reaches libvirt's objects, and names those that are not there.
func TestAs(t *testing.T) {
	ctx := t.Context()
	conn, err := libvirt.NewConnect("test:///default")
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(ctx, []*libvirt.Connect{conn}, nil)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := c.FindVM(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	snapshots := func(dom *libvirt.Domain, name string) {
		t.Helper()
		s, err := dom.CreateSnapshotXML("<domainsnapshot><name>"+name+"</name></domainsnapshot>", 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Free(); err != nil {
			t.Error(err)
		}
	}
	dom, err := hypervisor.As[*libvirt.Domain](ctx, c, vm)
	if err != nil {
		t.Fatal(err)
	}
	snapshots(dom, "before")
	other, err := conn.DomainDefineXML("<domain type='test'><name>other</name><memory>1024</memory><os><type>hvm</type></os></domain>")
	if err != nil {
		t.Fatal(err)
	}
	snapshots(other, "after")

	freed(t, c, vm, (*libvirt.Domain).GetName, "test")
	freed(t, c, hypervisor.SnapshotID("before"), (*libvirt.DomainSnapshot).GetName, "before")
	freed(t, c, hypervisor.NetworkID("network:default"), (*libvirt.Network).GetName, "default")
	stores, err := hypervisor.Collect(c.Datastores(ctx))
	if err != nil || len(stores) == 0 {
		t.Fatalf("%d datastores, %v", len(stores), err)
	}
	freed(t, c, stores[0].ID, (*libvirt.StoragePool).GetUUIDString, string(stores[0].ID))
	pool, err := conn.LookupStoragePoolByUUIDString(string(stores[0].ID))
	if err != nil {
		t.Fatal(err)
	}
	vol, err := pool.StorageVolCreateXML("<volume><name>disk</name><capacity>1048576</capacity></volume>", 0)
	if err != nil {
		t.Fatal(err)
	}
	freed(t, c, hypervisor.VolumeID(string(stores[0].ID)+"/disk"), (*libvirt.StorageVol).GetName, "disk")
	hosts, err := hypervisor.Collect(c.Hosts(ctx))
	if err != nil || len(hosts) != 1 {
		t.Fatalf("%d hosts, %v", len(hosts), err)
	}
	if native, err := hypervisor.As[*libvirt.Connect](ctx, c, hosts[0].ID); err != nil || native != conn {
		t.Errorf("the host's connection is another one (%v)", err)
	}

	refused[*libvirt.Domain](t, c, hypervisor.VMID("0c0ffee0-0000-4000-8000-000000000000"), hypervisor.ErrNotFound)
	refused[*libvirt.Domain](t, c, c, hypervisor.ErrUnsupported)
	refused[*libvirt.DomainSnapshot](t, c, hypervisor.SnapshotID("none"), hypervisor.ErrNotFound)
	refused[*libvirt.DomainSnapshot](t, c, vm, hypervisor.ErrUnsupported)
	refused[*libvirt.StoragePool](t, c, hypervisor.DatastoreID("0c0ffee0-0000-4000-8000-000000000000"), hypervisor.ErrNotFound)
	refused[*libvirt.StorageVol](t, c, hypervisor.VolumeID(string(stores[0].ID)+"/none"), hypervisor.ErrNotFound)
	refused[*libvirt.StorageVol](t, c, hypervisor.VolumeID("none"), hypervisor.ErrNotFound)
	refused[*libvirt.Network](t, c, hypervisor.NetworkID("network:none"), hypervisor.ErrNotFound)
	refused[*libvirt.Network](t, c, hypervisor.NetworkID("bridge:br0"), hypervisor.ErrUnsupported)
	refused[*libvirt.Connect](t, c, hypervisor.HostID("none"), hypervisor.ErrNotFound)
	refused[*libvirt.Connect](t, c, vm, hypervisor.ErrUnsupported)
	snapshots(other, "before")
	refused[*libvirt.DomainSnapshot](t, c, hypervisor.SnapshotID("before"), hypervisor.ErrAmbiguous)
	gone, stop := context.WithCancel(ctx)
	stop()
	if _, err := hypervisor.As[*libvirt.Domain](gone, c, vm); !errors.Is(err, context.Canceled) {
		t.Errorf("As with an ended context: %v", err)
	}

	if err := errors.Join(vol.Free(), pool.Free(), other.Free(), dom.Free(), c.Close()); err != nil {
		t.Error(err)
	}
	if n, err := conn.Close(); err != nil || n != 0 {
		t.Errorf("%d references to the connection are left (%v)", n, err)
	}
}

// TestNewRefuses what a Client of given connections can't honour.
func TestNewRefuses(t *testing.T) {
	conn, err := libvirt.NewConnect("test:///default")
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]*hypervisor.Options{
		"credentials":          {Credentials: &hypervisor.Credentials{Username: "u", Password: "p"}},
		"a missing capability": {Require: []capability.Name{capability.DeviceVGPU}},
	} {
		if _, err := New(t.Context(), []*libvirt.Connect{conn}, o); err == nil {
			t.Errorf("New with %s succeeds", name)
		}
	}
	if _, err := New(t.Context(), nil, nil); !errors.Is(err, hypervisor.ErrInvalidArgument) {
		t.Errorf("New of nothing: %v", err)
	}
	if n, err := conn.Close(); err != nil || n != 0 {
		t.Errorf("%d references to the connection are left (%v)", n, err)
	}
}

// TestUnreachable opens hosts that are not there.
func TestUnreachable(t *testing.T) {
	ctx := t.Context()
	for _, uri := range []string{"qemu+unix:///system?socket=/nonexistent/sock", "qemu+tcp://127.0.0.1:9/system"} {
		_, err := Open(ctx, Config{Hosts: []string{uri}}, nil)
		if !errors.Is(err, hypervisor.ErrUnavailable) {
			t.Errorf("Open(%s, nil): %v, want ErrUnavailable", uri, err)
		}
	}
	c, err := Open(ctx, Config{Hosts: []string{"qemu+tcp://127.0.0.1:9/system", "test:///default"}}, nil)
	if err != nil {
		t.Fatalf("Open with one host of two down: %v", err)
	}
	defer c.Close()
	hosts, err := hypervisor.Collect(c.Hosts(ctx))
	if err != nil || len(hosts) != 2 || hosts[0].State != hypervisor.HostDown || hosts[0].Detail == "" || hosts[1].State != hypervisor.HostUp {
		t.Errorf("hosts %+v, %v; want one down with a detail, and one up", hosts, err)
	}
	if _, err := c.FindVM(ctx, "test"); err != nil {
		t.Errorf("FindVM on the host that is up: %v", err)
	}
	if _, err := c.VM("0c0ffee0-0000-4000-8000-000000000000").Info(ctx); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("Info of a machine that may be on the host that is down: %v, want ErrUnavailable", err)
	}
	if _, err := Open(ctx, Config{}, nil); !errors.Is(err, hypervisor.ErrInvalidArgument) {
		t.Errorf("Open of nothing: %v", err)
	}
	if _, err := Open(ctx, Config{Hosts: []string{"test:///default", "test:///default"}}, nil); !errors.Is(err, hypervisor.ErrInvalidArgument) {
		t.Errorf("Open of one host twice: %v", err)
	}
}

// TestMissingNetwork checks a move of a machine on a libvirt network that the
// other host has, and on one that it lacks.
func TestMissingNetwork(t *testing.T) {
	d, err := open(t.Context(), Config{Hosts: []string{"test:///default"}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	h := d.(*driver).Members[0]
	on := func(network string) libvirtxml.DomainInterface {
		return libvirtxml.DomainInterface{Source: &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: network}}}
	}
	m := &move{d: d.(*driver), dd: d.(*driver), src: h, dst: h, live: &libvirtxml.Domain{Name: "guest", UUID: "0c0ffee0-0000-4000-8000-000000000000",
		Devices: &libvirtxml.DomainDeviceList{Interfaces: []libvirtxml.DomainInterface{on("default"), on("absent")}}}}
	f, err := h.Identify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := libvirtx.Do(t.Context(), h.Conn, 6, func(c *libvirt.Connect) (struct{}, error) { return struct{}{}, m.checkHost(c, f, f) }); err != nil {
		t.Fatal(err)
	}
	if b := m.report.Blockers; len(b) != 1 || b[0].Reason != hypervisor.ReasonNetworkMissing || b[0].Object.ID != "network:absent" {
		t.Errorf("blockers are %+v, want network:absent alone", b)
	}
}
