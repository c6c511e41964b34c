package vfiolab_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/vfiolab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPassthrough(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a real host and guest, which takes longer than -short allows")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	began := time.Now()
	l, err := vfiolab.Start(ctx)
	if err != nil {
		lab.Skip(t, err)
	}
	defer l.Stop()
	t.Logf("lab up after %v", time.Since(began))
	must := func(out string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	contains := func(what, text string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %q in:\n%s", what, w, text)
			}
		}
	}
	contains("capabilities", must(l.Virsh(ctx, "capabilities")), "<iommu support='yes'/>")
	for address, id := range map[string]string{vfiolab.Display: "0x1234", vfiolab.NVMe: "0x1b36", vfiolab.VGA: "0x1002"} {
		xml := must(l.Virsh(ctx, "nodedev-dumpxml", vfiolab.NodeDevice(address)))
		contains(address, xml, "<vendor id='"+id+"'", "<iommuGroup")
		if n := strings.Count(xml[strings.Index(xml, "<iommuGroup"):], "<address"); n != 1 {
			t.Errorf("%s shares its IOMMU group: %s", address, xml)
		}
	}
	contains("mediated device types", must(l.Virsh(ctx, "nodedev-dumpxml", vfiolab.NodeDevice(vfiolab.VGA))), "<type id='"+vfiolab.Profile+"'>", "<deviceAPI>vfio-pci</deviceAPI>")
	must(l.Run(ctx, "echo 4 >/sys/bus/pci/devices/"+vfiolab.NVMe+"/sriov_numvfs"))
	contains("SR-IOV", must(l.Virsh(ctx, "nodedev-dumpxml", vfiolab.NodeDevice(vfiolab.NVMe))), "virt_functions", "slot='0x00' function='0x4'")

	must(l.Virsh(ctx, "define", l.WriteXML(l.GuestXML("vm", vfiolab.Display, "0000:02:00.1"))))
	must(l.Virsh(ctx, "start", "vm"))
	t.Logf("guest started after %v", time.Since(began))
	contains("driver", must(l.Virsh(ctx, "nodedev-dumpxml", vfiolab.NodeDevice(vfiolab.Display))), "<name>vfio-pci</name>")
	contains("info pci", must(l.Virsh(ctx, "qemu-monitor-command", "vm", "--hmp", "info pci")), "1234:1111", "1b36:0010")
	if _, err := l.Virsh(ctx, "create", l.WriteXML(l.GuestXML("second", vfiolab.Display)), "--paused"); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("the same device for a second guest: %v", err)
	}
	ids, err := l.WaitDevices(ctx, "vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("guest listed its devices after %v", time.Since(began))
	contains("the guest's own list", strings.Join(ids, " "), "1234:1111", "1b36:0010")
	must(l.Virsh(ctx, "destroy", "vm"))
	contains("driver after the guest's end", must(l.Virsh(ctx, "nodedev-dumpxml", vfiolab.NodeDevice(vfiolab.Display))), "<name>bochs-drm</name>")
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", l.Dir, err)
	}
}
