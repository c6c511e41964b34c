package hvsim_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv"
	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestOSWinAndDriver: os-win lists, checkpoints, powers and migrates machines that this module's driver made, and the driver
// sees what became of them.
func TestOSWinAndDriver(t *testing.T) {
	sim := start(t, hvsim.Config{Hosts: make([]hvsim.HostConfig, 2)})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, sim.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := hyperv.Config{Username: "Administrator", Password: hypervisor.Secret(sim.Password()), CA: ca}
	for _, h := range sim.Hosts() {
		u, err := url.Parse(h.URL())
		if err != nil {
			t.Fatal(err)
		}
		cfg.Hosts = append(cfg.Hosts, u.Host)
	}
	ctx := context.Background()
	c, err := hyperv.Open(ctx, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	var hosts []hypervisor.HostInfo
	for h, err := range c.Hosts(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	if len(hosts) != 2 {
		t.Fatalf("%+v", hosts)
	}
	src, dst := hosts[0], hosts[1]
	vm, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "it's <web> & 'db'", MemoryBytes: 512 << 20, CPUs: 2, Placement: hypervisor.Placement{Host: src.ID},
		Disks: []hypervisor.DiskSpec{{SizeBytes: 1 << 30}}, Labels: map[string]string{"tier": "web"}}).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := c.CreateVM(ctx, hypervisor.VMSpec{Name: "web-02", MemoryBytes: 512 << 20, Placement: hypervisor.Placement{Host: src.ID}, Disks: []hypervisor.DiskSpec{{SizeBytes: 1 << 30}}}).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := plain.CreateSnapshot(ctx, "by the driver", nil).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const running = 2
	calls := [][]any{
		{src.Name, "vmutils", "list_instances"},
		{src.Name, "vmutils", "get_vm_snapshots", "web-02", "by the driver"},
		{src.Name, "vmutils", "take_vm_snapshot", "web-02", "by os-win"},
		{src.Name, "vmutils", "set_vm_state", "web-02", running},
		{src.Name, "livemigration", "live_migrate_vm", "web-02", dst.Name, true},
		{dst.Name, "vmutils", "list_instances"},
	}
	got := osWin(t, sim, calls)
	for n, a := range got {
		if a.Error != "" {
			t.Errorf("%v: %s %s", calls[n], a.Error, a.Text)
		}
	}
	if len(got) != len(calls) || t.Failed() {
		t.Fatalf("%+v", got)
	}
	names, _ := got[0].Result.([]any)
	if len(names) != 2 || names[0] != "it's <web> & 'db'" || names[1] != "web-02" {
		t.Errorf("os-win lists %v", names)
	}
	if l, _ := got[1].Result.([]any); len(l) != 1 {
		t.Errorf("os-win finds %v", l)
	}
	info, err := plain.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if info.State != hypervisor.StateRunning || info.Host != dst.ID || info.CPUs != 1 {
		t.Errorf("%+v", info)
	}
	l, err := plain.Snapshots(ctx)
	if err != nil || len(l) != 2 || l[0].ID != snap.ID() || l[1].Name != "by os-win" || l[1].Parent != snap.ID() {
		t.Errorf("%+v %v", l, err)
	}
	if info, err = vm.Info(ctx); err != nil || info.Host != src.ID || info.Labels["tier"] != "web" {
		t.Errorf("%+v %v", info, err)
	}
	// And the driver continues with what os-win left.
	if _, err := plain.PowerOff(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
}
