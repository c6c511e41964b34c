package xenlab_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/xenlab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const uuid = "0d9c7a52-5f9e-4a3e-9d43-7a55b0f2c101"

func TestTwoHosts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real hosts and guests, which takes longer than -short allows")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	defer cancel()
	began := time.Now()
	l, err := xenlab.Start(ctx, xenlab.Config{Hosts: 2})
	if err != nil {
		lab.Skip(t, err)
	}
	defer l.Stop()
	t.Logf("lab up after %v", time.Since(began))
	a, b := l.Hosts[0], l.Hosts[1]
	must := func(out string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	tick := func(h *xenlab.Host, n int) int {
		t.Helper()
		got, err := h.WaitTick(ctx, "vm", n)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if v := must(a.Virsh(ctx, "version")); !strings.Contains(v, "Running hypervisor: Xen") {
		t.Fatalf("not Xen: %s", v)
	}
	must(a.Virsh(ctx, "create", l.WriteXML(xenlab.GuestXML("pvh", "vm", uuid))))
	before := tick(a, 2)
	t.Logf("guest counts after %v", time.Since(began))
	must(a.Virsh(ctx, "migrate", "--live", "vm", b.URI, b.MigrateURI))
	t.Logf("migrated after %v", time.Since(began))
	after := tick(b, before+1)
	console, err := b.ReadConsole("vm")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(console), "READY") {
		t.Fatalf("guest booted again on %s instead of going on: %s", b.Name, console)
	}
	t.Logf("count %d before migration, %d after", before, after)
	if list := must(b.Run(ctx, "xl list")); !strings.Contains(list, "vm ") {
		t.Fatalf("xl on the destination does not know the guest:\n%s", list)
	}
	if list := must(a.Run(ctx, "xl list")); strings.Contains(list, "vm ") {
		t.Fatalf("xl on the source still has the guest:\n%s", list)
	}
	if info := must(a.Run(ctx, "xl info")); !strings.Contains(info, "pv_directio") {
		t.Fatalf("Xen sees no IOMMU:\n%s", info)
	}
	if devices := must(a.Virsh(ctx, "nodedev-list", "--cap", "pci")); devices == "" {
		t.Error("libvirt sees no PCI devices")
	}
	must(b.Virsh(ctx, "destroy", "vm"))

	for i, address := range []string{xenlab.RNG, xenlab.Display} {
		xml := strings.Replace(xenlab.GuestXML("pv", "owner", uuid), "<devices>", "<devices>"+hostdev(i+1), 1)
		must(a.Virsh(ctx, "create", l.WriteXML(xml)))
		if list := must(a.Run(ctx, "xl pci-list owner")); !strings.Contains(list, address) {
			t.Errorf("the guest was not given %s: %s", address, list)
		}
		must(a.Virsh(ctx, "destroy", "owner"))
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", l.Dir, err)
	}
	if err := noProcess(l.Dir); err != "" {
		t.Error("left running: " + err)
	}
}

// hostdev passes through the only function on a PCI bus.
func hostdev(bus int) string {
	return fmt.Sprintf(`<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='%d' slot='0' function='0'/></source></hostdev>`, bus)
}

func noProcess(dir string) string {
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		if line, err := os.ReadFile("/proc/" + p.Name() + "/cmdline"); err == nil && strings.Contains(string(line), dir) {
			return p.Name() + ": " + strings.ReplaceAll(string(line), "\x00", " ")
		}
	}
	return ""
}
