package kvmlab_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func domainXML(l *kvmlab.Lab, h *kvmlab.Host, name string) string {
	return `<domain type='qemu'>
  <name>` + name + `</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>` + l.Kernel + `</kernel><initrd>` + l.Initrd + `</initrd>
    <cmdline>` + kvmlab.CommandLine + ` tickdisk=vda</cmdline></os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <disk type='volume' device='disk'><driver name='qemu' type='qcow2'/><source pool='shared' volume='` + name + `.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <interface type='network'><source network='default'/><model type='virtio'/></interface>
    <serial type='file'><source path='` + h.Serial(name) + `' append='on'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='virtio'/>
  </devices>
</domain>`
}

func TestTwoHosts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real hosts and guests, which takes longer than -short allows")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	began := time.Now()
	l, err := kvmlab.Start(ctx, kvmlab.Config{Hosts: 2})
	if err != nil {
		lab.Skip(t, err)
	}
	defer l.Stop()
	t.Logf("lab up after %v", time.Since(began))
	a, b := l.Hosts[0], l.Hosts[1]
	virsh := func(h *kvmlab.Host, args ...string) string {
		t.Helper()
		out, err := h.Virsh(ctx, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	tick := func(h *kvmlab.Host, n int) int {
		t.Helper()
		got, err := h.WaitTick(ctx, "vm", n)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}

	if caps := virsh(a, "capabilities"); !strings.Contains(caps, a.UUID) || strings.Contains(caps, b.UUID) {
		t.Fatalf("capabilities of %s do not show its own UUID %s", a.Name, a.UUID)
	}
	virsh(a, "vol-create-as", "shared", "vm.qcow2", "64M", "--format", "qcow2")
	virsh(b, "pool-refresh", "shared")
	virsh(a, "define", l.WriteXML(domainXML(l, a, "vm")))
	virsh(a, "start", "vm")
	tick(a, 2)
	t.Logf("guest counts after %v", time.Since(began))

	if err := a.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Virsh(ctx, "list"); err == nil {
		t.Fatal("libvirtd answers after Kill")
	}
	if err := a.StartDaemon(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if s := virsh(a, "domstate", "vm"); s != "running" {
		t.Fatalf("guest is %q after its libvirtd was killed and restarted", s)
	}
	if s := virsh(a, "net-list", "--name"); s != "default" {
		t.Fatalf("active networks after restart: %q", s)
	}

	before := tick(a, 4)
	virsh(a, "migrate", "--live", "--p2p", "--unsafe", "--persistent", "--undefinesource", "vm", b.TCPURI)
	after := tick(b, before+1)
	text, err := b.ReadSerial("vm")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "READY") {
		t.Fatalf("guest booted again on %s instead of going on: %s", b.Name, text)
	}
	t.Logf("count %d before migration, %d after", before, after)
	if s := virsh(a, "list", "--all", "--name"); s != "" {
		t.Fatalf("source still has %q", s)
	}

	err = lab.WaitFor(ctx, 200*time.Millisecond, func(ctx context.Context) error {
		_, err := b.Virsh(ctx, "domtime", "vm", "--now")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	virsh(b, "shutdown", "vm", "--mode", "agent")
	waitState(t, ctx, b, "shut off")
	disk, err := os.ReadFile(filepath.Join(l.Shared, "vm.qcow2"))
	if err != nil || !strings.Contains(string(disk), "TICK 0000") {
		t.Fatalf("no counter on the guest's disk (%v)", err)
	}

	if err := b.ClearSerial("vm"); err != nil {
		t.Fatal(err)
	}
	virsh(b, "start", "vm")
	tick(b, 1)
	virsh(b, "shutdown", "vm", "--mode", "acpi")
	waitState(t, ctx, b, "shut off")

	virsh(a, "define", l.WriteXML(domainXML(l, a, "left-running")))
	virsh(a, "vol-create-as", "shared", "left-running.qcow2", "1M", "--format", "qcow2")
	virsh(a, "start", "left-running")
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, l.Dir)
}

func waitState(t *testing.T, ctx context.Context, h *kvmlab.Host, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	_, err := h.Virsh(ctx, "event", "vm", "lifecycle", "--timeout", "1")
	for ; ctx.Err() == nil; _, err = h.Virsh(ctx, "event", "vm", "lifecycle", "--timeout", "1") {
		if s, _ := h.Virsh(ctx, "domstate", "vm"); s == want {
			return
		}
	}
	t.Fatalf("guest does not get to %q: %v", want, err)
}

// nothingLeft looks for processes and mounts that have the lab's folder in their command line or path.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if line, err := os.ReadFile(p); err == nil && strings.Contains(string(line), dir) {
			t.Errorf("left running: %s: %s", p, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("left mounted below %s (%v)", dir, err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", dir, err)
	}
	links, err := exec.Command("ip", "-br", "link").Output()
	if err != nil || strings.Contains(string(links), filepath.Base(dir)) {
		t.Errorf("network left (%v): %s", err, links)
	}
}
