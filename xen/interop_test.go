package xen

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// foreign runs a program of a Debian package against the pool.
func (w *world) foreign(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	pem := filepath.Join(t.TempDir(), "pool.pem")
	if err := os.WriteFile(pem, w.sim.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+pem, "PYTHONWARNINGS=ignore")
	out, err := cmd.Output()
	return string(out), err
}

// TestForeignClients lets clients that are not ours read and drive a machine
// that the driver made; the driver sees what they did.
func TestForeignClients(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Debian packages: ", lab.XAPIClients)
	}
	if err := lab.Install(t.Context(), lab.XAPIClients...); err != nil {
		lab.Skip(t, err)
	}
	ctx := settled(t)
	w := newWorld(t, xapisim.Config{Hosts: 2})
	s := spec("driver-made")
	s.Labels = map[string]string{"tier": "web"}
	vm := ok[*hypervisor.VM](t)(w.c.CreateVM(ctx, s).Wait(ctx))

	out, err := w.foreign(t, "/usr/bin/python3", "testdata/driver_made.py", w.sim.URL(), w.sim.User(), w.sim.Password(), string(vm.ID()))
	if err != nil {
		t.Fatal(err)
	}
	var seen struct {
		Name, Memory, VCPUs, Tier, Snapshot, Power string
		Disks                                      []string
		Networks                                   int
	}
	if err := json.Unmarshal([]byte(out), &seen); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if seen.Name != "driver-made" || seen.Memory != "268435456" || seen.VCPUs != "1" || seen.Tier != "web" || seen.Power != "Running" ||
		len(seen.Disks) != 1 || seen.Disks[0] != "67108864" || seen.Networks != 1 {
		t.Errorf("os-xenapi sees %+v", seen)
	}
	i := ok[hypervisor.VMInfo](t)(vm.Info(ctx))
	if i.State != hypervisor.StateRunning || i.Labels["seen-by"] != "os-xenapi" || i.Snapshots != 1 || string(i.CurrentSnapshot) != seen.Snapshot {
		t.Errorf("after os-xenapi the driver sees %+v", i)
	}
	if err := wait(ctx, vm.Snapshot(hypervisor.SnapshotID(seen.Snapshot)).Delete(ctx, nil)); err != nil {
		t.Errorf("deleting its snapshot: %v", err)
	}

	for _, c := range []struct {
		action string
		want   hypervisor.PowerState
	}{{"off", hypervisor.StateOff}, {"on", hypervisor.StateRunning}, {"reboot", hypervisor.StateRunning}} {
		ram := w.sim.Memory(string(vm.ID()))
		if out, err := w.foreign(t, "fence_xenapi", "-s", w.sim.URL(), "-l", w.sim.User(), "-p", w.sim.Password(), "-n", "driver-made", "-o", c.action); err != nil {
			t.Fatalf("fence_xenapi %s: %v %s", c.action, err, out)
		}
		if i := ok[hypervisor.VMInfo](t)(vm.Info(ctx)); i.State != c.want {
			t.Errorf("after fence_xenapi %s the driver sees %s", c.action, i.State)
		}
		if w.sim.Memory(string(vm.ID())) == ram {
			t.Errorf("fence_xenapi %s left the RAM as it was", c.action)
		}
	}
	if err := wait(ctx, vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true})); err != nil {
		t.Error(err)
	}
}
