package kvmlab

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anyvisor/anyvisor/internal/lab"
)

//go:embed host.sh
var hostScript string

// Host is one libvirt host of the lab.
type Host struct {
	Name    string // also its host name: kvm1, kvm2
	UUID    string // as in its capabilities
	URI     string // qemu+unix, for this machine
	Socket  string // path of the socket in URI
	TCPURI  string // qemu+tcp, for this machine and the other host; the desturi of peer-to-peer migration. Its libvirtd has TLS too, see ClientPKI
	Address string // IP address in TCPURI, for a migrate URI tcp://ADDRESS
	Dir     string // folder of its pool "default"

	lab    *Lab
	number int
	root   string // on this machine; parts of it are mounted over /etc, /var and /run of the host

	mu      sync.Mutex // serializes commands to the host's first process
	unshare *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Reader
	pid     int // of the host's first process, as seen from here
}

func newHost(l *Lab, number int) *Host {
	name := fmt.Sprintf("kvm%d", number+1)
	root := filepath.Join(l.Dir, name)
	h := &Host{
		Name: name, UUID: newUUID(), Address: l.wire.address(number), Dir: filepath.Join(root, "pool"),
		lab: l, number: number, root: root, Socket: filepath.Join(root, "run/libvirt/libvirt-sock"),
	}
	h.URI = "qemu+unix:///system?socket=" + h.Socket
	h.TCPURI = "qemu+tcp://" + h.Address + "/system"
	return h
}

// boot brings the host from nothing to a libvirtd that answers and has its pools and network.
func (h *Host) boot(ctx context.Context) error {
	if err := h.writeFiles(); err != nil {
		return err
	}
	seedCapabilities(h)
	h.unshare = exec.Command("unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc", "--net",
		"bash", "-c", hostScript, "labhost", h.root, h.Name)
	h.unshare.Env = append(os.Environ(), "LC_ALL=C")
	out, err := os.Create(filepath.Join(h.root, "host.err"))
	if err != nil {
		return err
	}
	defer out.Close()
	h.unshare.Stderr = out
	if h.orders, err = h.unshare.StdinPipe(); err != nil {
		return err
	}
	answers, err := h.unshare.StdoutPipe()
	if err != nil {
		return err
	}
	h.answers = bufio.NewReader(answers)
	if err := h.unshare.Start(); err != nil {
		return err
	}
	if err := h.await(ctx, "ready"); err != nil {
		said, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%w: its namespaces can't be made: %w: %s", lab.ErrUnavailable, err, said)
	}
	if h.pid, err = onlyChild(h.unshare.Process.Pid); err != nil {
		return err
	}
	if err := h.lab.wire.plug(ctx, h.number, h.pid); err != nil {
		return err
	}
	if err := h.StartDaemon(ctx); err != nil {
		return err
	}
	if err := h.define(ctx); err != nil {
		return err
	}
	keepCapabilities(h)
	return nil
}

// define makes the pools and the network, which then start with every libvirtd.
func (h *Host) define(ctx context.Context) error {
	network := h.lab.WriteXML("<network><name>default</name><forward mode='bridge'/><bridge name='br0'/></network>")
	for _, args := range [][]string{
		{"pool-define-as", "default", "dir", "--target", h.Dir}, {"pool-start", "default"}, {"pool-autostart", "default"},
		{"pool-define-as", "shared", "dir", "--target", h.lab.Shared}, {"pool-start", "shared"}, {"pool-autostart", "shared"},
		{"net-define", network}, {"net-start", "default"}, {"net-autostart", "default"},
		{"capabilities"}, // QEMU is probed now, not in the first test
	} {
		if _, err := h.Virsh(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// Virsh runs virsh on this host and returns its standard output without trailing space.
func (h *Host) Virsh(ctx context.Context, args ...string) (string, error) {
	out, err := lab.Command(ctx, "virsh", append([]string{"-q", "-c", h.URI}, args...)...)
	return strings.TrimRight(out, " \n"), err
}

// Run runs a program inside the host: its network, mounts and processes.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	return lab.Command(ctx, "nsenter", append([]string{"--target", strconv.Itoa(h.pid), "--all", name}, args...)...)
}

// Restart ends libvirtd and starts it again. Guests keep running meanwhile.
func (h *Host) Restart(ctx context.Context) error {
	if err := h.StopDaemon(ctx); err != nil {
		return err
	}
	return h.StartDaemon(ctx)
}

// StopDaemon ends libvirtd in order. Its sockets then refuse connections.
func (h *Host) StopDaemon(ctx context.Context) error { return h.order(ctx, "stop") }

// Kill ends libvirtd at once, as a crash would.
func (h *Host) Kill(ctx context.Context) error { return h.order(ctx, "kill") }

// StartDaemon starts libvirtd and waits until it answers.
func (h *Host) StartDaemon(ctx context.Context) error {
	if err := h.order(ctx, "start"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	err := lab.WaitFor(ctx, 20*time.Millisecond, func(ctx context.Context) error {
		_, err := h.Virsh(ctx, "list")
		return err
	})
	if err != nil {
		return fmt.Errorf("libvirtd of %s: %w: %s", h.Name, err, h.DaemonLog())
	}
	return nil
}

// DaemonLog returns the last 4 kB that libvirtd wrote.
func (h *Host) DaemonLog() string {
	b, _ := os.ReadFile(filepath.Join(h.root, "libvirtd.out"))
	return string(b[max(0, len(b)-4096):])
}

// HoldCopies makes copies of images on this host wait once their file exists, from now until
// release is called.
func (h *Host) HoldCopies(ctx context.Context) (release func() error, err error) {
	script, real, hold := filepath.Join(h.root, "qemu-img"), filepath.Join(h.root, "qemu-img.real"), filepath.Join(h.root, "hold-copies")
	if _, err := os.Stat(real); err != nil { // the first time
		text := "#!/bin/sh\nif [ \"$1\" = convert ] && [ -e " + hold + " ]; then\n\tfor to; do :; done\n\t: >>\"$to\"\n" +
			"\twhile [ -e " + hold + " ]; do sleep 0.1; done\nfi\nexec " + real + " \"$@\"\n"
		if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
			return nil, err
		}
		if _, err := h.Run(ctx, "sh", "-ec", "p=$(command -v qemu-img); cp $p "+real+"; mount --bind "+script+" $p"); err != nil {
			return nil, err
		}
	}
	return func() error { return os.RemoveAll(hold) }, os.WriteFile(hold, nil, 0o600)
}

func (h *Host) order(ctx context.Context, order string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := io.WriteString(h.orders, order+"\n"); err != nil {
		return err
	}
	return h.await(ctx, "done "+order)
}

// await reads one answer of the host's first process. If ctx ends, the host is ended too: its
// answers could no longer be matched.
func (h *Host) await(ctx context.Context, want string) error {
	stop := context.AfterFunc(ctx, func() { h.unshare.Process.Kill() })
	defer stop()
	line, err := h.answers.ReadString('\n')
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("waiting for %q: %w", want, err)
	}
	if got := strings.TrimSpace(line); got != want {
		return fmt.Errorf("host said %q instead of %q", got, want)
	}
	return nil
}

// halt ends the host's first process, and with it everything that runs in its PID namespace.
func (h *Host) halt() error {
	if h.unshare == nil || h.unshare.Process == nil {
		return nil
	}
	h.orders.Close()
	timer := time.AfterFunc(10*time.Second, func() { h.unshare.Process.Kill() })
	defer timer.Stop()
	h.unshare.Wait() // its exit status does not matter: the namespace is gone in any case
	h.unshare = nil
	return nil
}

// onlyChild returns the process that unshare forked.
func onlyChild(parent int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
