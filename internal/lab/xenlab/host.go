package xenlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/qemu"
)

// Host is one Xen host of the lab.
type Host struct {
	Name       string // also its host name: xen1, xen2
	URI        string // xen+tcp, for this machine
	SSHURI     string // xen+ssh with the lab's key, for this machine; slow
	PeerURI    string // xen+tcp as the other host sees it: the desturi of peer-to-peer migration
	MigrateURI string // tcp://, where the other host sends a guest's memory
	SSHPort    int    // on 127.0.0.1, user root

	number  int
	dir     string
	key     string
	machine *qemu.Machine
}

const (
	hostMemory = 1280 // MiB
	dom0Memory = 560
	// Without la57 and smap because a PV dom0 crashes with them under QEMU 7.2's emulation,
	// without rdtscp because Xen can't emulate that for PVH guests. Without xsave and so AVX
	// because the emulation now and then refuses AVX code, which glibc uses where it can: a
	// guest's init was seen to end so (vmovd, invalid opcode), and libvirtd in dom0 is not safe
	// from it either.
	cpu = "max,-la57,-smap,-rdtscp,-xsave,-avx,-avx2,-fma,-f16c"
)

func (h *Host) powerOn(img *image) (err error) {
	if err := os.Mkdir(h.file("consoles"), 0o755); err != nil {
		return err
	}
	ports := make([]int, 2)
	for i := range ports {
		if ports[i], err = qemu.FreePort(); err != nil {
			return err
		}
	}
	h.SSHPort = ports[0]
	h.URI = fmt.Sprintf("xen+tcp://127.0.0.1:%d/", ports[1])
	h.SSHURI = fmt.Sprintf("xen+ssh://root@127.0.0.1:%d/system?keyfile=%s&no_verify=1", h.SSHPort, h.key)
	h.PeerURI = fmt.Sprintf("xen+tcp://10.99.0.%d/", h.number)
	h.MigrateURI = fmt.Sprintf("tcp://10.99.0.%d", h.number)
	wire := func(host int) string { return filepath.Join(h.dir, fmt.Sprintf("wire%d", host)) }
	h.machine, err = qemu.Start(h.Name, h.dir,
		"-machine", "q35", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", cpu, "-smp", "1", "-m", strconv.Itoa(hostMemory),
		"-uuid", fmt.Sprintf("5e000000-0000-4000-8000-%012d", h.number),
		// Interrupt remapping is left out: Xen does not work with QEMU's.
		"-device", "intel-iommu,intremap=off",
		"-kernel", img.xen,
		"-append", fmt.Sprintf("console=com1 dom0_mem=%dM,max:%dM dom0_max_vcpus=1 iommu=no-intremap noreboot loglvl=warning", dom0Memory, dom0Memory),
		"-initrd", fmt.Sprintf("%s console=hvc0 quiet mitigations=off nokaslr net.ifnames=0 cryptomgr.notests lab.host=%d,%s", img.kernel, h.number, img.initrd),
		"-drive", "file="+img.disk+",format=raw,if=none,id=root,snapshot=on,cache=unsafe", "-device", "virtio-blk-pci,drive=root,addr=3",
		"-netdev", fmt.Sprintf("user,id=n0,hostfwd=tcp:127.0.0.1:%d-:22,hostfwd=tcp:127.0.0.1:%d-:16509", ports[0], ports[1]),
		"-device", "virtio-net-pci,netdev=n0,addr=4,romfile=",
		"-netdev", fmt.Sprintf("dgram,id=n1,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", wire(h.number), wire(3-h.number)),
		"-device", fmt.Sprintf("virtio-net-pci,netdev=n1,addr=5,romfile=,mac=52:54:00:99:00:%02x", h.number),
		"-virtfs", "local,path="+filepath.Join(h.dir, "shared")+",mount_tag=shared,security_model=none",
		// Tests read guests' consoles outside, which costs the host nothing.
		"-virtfs", "local,path="+h.file("consoles")+",mount_tag=consoles,security_model=none",
		// For passthrough, each behind a root port of its own, so that they can be reset: RNG and
		// Display.
		"-device", "pcie-root-port,id=rp1,chassis=1,slot=1,addr=10", "-device", "virtio-rng-pci,bus=rp1,addr=0",
		"-device", "pcie-root-port,id=rp2,chassis=2,slot=2,addr=11", "-device", "bochs-display,bus=rp2,addr=0,romfile=",
	)
	return err
}

func (h *Host) waitReady(ctx context.Context) error {
	err := h.machine.Wait(ctx, "waiting for libvirtd", func(ctx context.Context) error {
		if text, _ := os.ReadFile(h.machine.Console); bytes.Contains(text, []byte("Domain 0 crashed")) {
			h.machine.Stop()
		}
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		_, err := h.Virsh(ctx, "list")
		return err
	})
	if err != nil {
		return fmt.Errorf("xenlab: %w", err)
	}
	for _, args := range [][]string{
		{"pool-define-as", "default", "dir", "--target", ImageDir}, {"pool-start", "default"}, {"pool-autostart", "default"},
		{"pool-define-as", "shared", "dir", "--target", SharedDir}, {"pool-start", "shared"}, {"pool-autostart", "shared"},
	} {
		if _, err := h.Virsh(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) stop() {
	if h.machine == nil {
		return
	}
	// Otherwise the connection that ssh keeps open would outlive the host.
	if _, err := os.Stat(h.file("ssh")); err == nil {
		exec.Command("ssh", "-q", "-o", "ControlPath="+h.file("ssh"), "-O", "exit", "root@127.0.0.1").Run()
	}
	h.machine.Stop()
}

// Virsh runs this machine's virsh on the host and returns its standard output without trailing space.
func (h *Host) Virsh(ctx context.Context, args ...string) (string, error) {
	out, err := lab.Command(ctx, "virsh", append([]string{"-q", "-c", h.URI}, args...)...)
	return strings.TrimRight(out, " \n"), err
}

// Run runs a shell command line as root in dom0 and returns its standard output.
func (h *Host) Run(ctx context.Context, command string) (string, error) {
	return lab.Command(ctx, "ssh", "-q", "-i", h.key, "-p", strconv.Itoa(h.SSHPort),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=60",
		"-o", "ControlMaster=auto", "-o", "ControlPersist=600", "-o", "ControlPath="+h.file("ssh"),
		"root@127.0.0.1", command)
}

// ReadConsole returns what guests of this name printed on their console on this host.
func (h *Host) ReadConsole(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(h.file("consoles"), "guest-"+name+".log"))
}

// Ends returns how often libvirtd ended on the host, and how.
func (h *Host) Ends() []string {
	text, _ := os.ReadFile(h.machine.Console) // without a file there is nothing to report
	return endLine.FindAllString(string(text), -1)
}

var endLine = regexp.MustCompile(`DOM0 libvirtd ended with [^\r\n]*`)

// WaitTick waits until the counting guest has counted to at least n on this host, and returns its
// newest count.
func (h *Host) WaitTick(ctx context.Context, name string, n int) (tick int, err error) {
	err = h.machine.Wait(ctx, "waiting for guest "+name, func(context.Context) error {
		text, err := h.ReadConsole(name)
		if err != nil {
			return err
		}
		if bytes.Contains(text, []byte("Kernel panic")) {
			return errors.New("guest panicked: " + string(text))
		}
		if tick, _ = lab.LastTick(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))); tick < max(n, 1) {
			return fmt.Errorf("guest %s on %s has counted to %d, not %d; console: %q", name, h.Name, tick, n, text[max(0, len(text)-300):])
		}
		return nil
	})
	return tick, err
}
