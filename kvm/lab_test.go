//go:build cgo

package kvm

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
	"github.com/anyvisor/anyvisor/internal/lab/rpcproxy"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// One lab of two hosts serves all tests of the package.
var shared struct {
	sync.Mutex
	lab *kvmlab.Lab
	err error
}

func TestMain(m *testing.M) {
	if work := os.Getenv("ANYVISOR_TEST_CLIENT"); work != "" {
		if err := clientToKill(work); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	code := m.Run()
	if shared.lab != nil {
		if err := shared.lab.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the lab:", err)
			code = 1
		}
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// theLab starts the lab, or skips where none can run.
func theLab(t testing.TB) *kvmlab.Lab {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.lab == nil && shared.err == nil {
		ctx, stop := context.WithTimeout(context.Background(), 5*time.Minute)
		defer stop()
		if shared.lab, shared.err = kvmlab.Start(ctx, kvmlab.Config{Hosts: 2}); shared.err == nil {
			shared.err = oneDatastore(ctx, shared.lab)
		}
	}
	if shared.err != nil {
		lab.Skip(t, shared.err)
	}
	return shared.lab
}

// oneDatastore gives the shared folder's pool the same UUID on both hosts,
// which is how an administrator says that it is one datastore.
func oneDatastore(ctx context.Context, l *kvmlab.Lab) error {
	doc, err := l.Hosts[0].Virsh(ctx, "pool-dumpxml", "--inactive", "shared")
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"pool-destroy", "shared"}, {"pool-undefine", "shared"}, {"pool-define", l.WriteXML(doc)}, {"pool-start", "shared"}, {"pool-autostart", "shared"}} {
		if _, err := l.Hosts[1].Virsh(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

const serialDir = "/var/log/libvirt"

// config opens the lab's hosts as one Client.
func config(hosts ...*kvmlab.Host) Config {
	c := Config{DomainType: "qemu", SerialLogDir: serialDir, Peers: map[string]Peer{}}
	for _, h := range hosts {
		c.Hosts = append(c.Hosts, h.URI)
		c.Peers[h.URI] = Peer{URI: h.TCPURI, Migrate: "tcp://" + h.Address}
	}
	return c
}

// socketURI leads to a host through a proxy.
func socketURI(p *rpcproxy.Proxy) string { return "qemu+unix:///system?socket=" + p.Addr() }

func poolUUID(t testing.TB, h *kvmlab.Host, name string) hypervisor.DatastoreID {
	t.Helper()
	out, err := h.Virsh(context.Background(), "pool-uuid", name)
	if err != nil {
		t.Fatal(err)
	}
	return hypervisor.DatastoreID(strings.TrimSpace(out))
}

// spec describes the counting guest.
func spec(l *kvmlab.Lab, ds hypervisor.DatastoreID) func(string) hypervisor.VMSpec {
	return func(name string) hypervisor.VMSpec {
		return hypervisor.VMSpec{Name: name, CPUs: 1, MemoryBytes: 192 * hypervisor.MiB,
			Boot:      &hypervisor.DirectBoot{Kernel: l.Kernel, Initrd: l.Initrd, CommandLine: kvmlab.CommandLine},
			Disks:     []hypervisor.DiskSpec{{SizeBytes: 64 * hypervisor.MiB, Datastore: ds}},
			NICs:      []hypervisor.NICSpec{{}},
			Placement: hypervisor.Placement{Datastore: ds}}
	}
}

// virshOn runs virsh on the host that has the machine; an active one counts.
func virshOn(ctx context.Context, l *kvmlab.Lab, id hypervisor.VMID, args ...string) (string, error) {
	var found *kvmlab.Host
	for _, h := range l.Hosts {
		if s, err := h.Virsh(ctx, "domstate", string(id)); err == nil && (found == nil || strings.TrimSpace(s) != "shut off") {
			found = h
		}
	}
	if found == nil {
		return "", fmt.Errorf("machine %s: %w", id, hypervisor.ErrNotFound)
	}
	return found.Virsh(ctx, append([]string{args[0], string(id)}, args[1:]...)...)
}

// uptime asks the guest for its counter, by its agent and without the driver.
func uptime(ctx context.Context, l *kvmlab.Lab, id hypervisor.VMID) (int, error) {
	ask := func(command string) (map[string]any, error) {
		out, err := virshOn(ctx, l, id, "qemu-agent-command", "--timeout", "5", command)
		if err != nil {
			return nil, err
		}
		var r struct {
			Return map[string]any `json:"return"`
		}
		return r.Return, unjson(out, &r)
	}
	var n int
	err := lab.WaitFor(ctx, 100*time.Millisecond, func(context.Context) error {
		r, err := ask(`{"execute":"guest-exec","arguments":{"path":"cat","arg":["/run/tick"],"capture-output":true}}`)
		if err != nil {
			return err
		}
		pid := int(r["pid"].(float64))
		for range 20 {
			if r, err = ask(fmt.Sprintf(`{"execute":"guest-exec-status","arguments":{"pid":%d}}`, pid)); err != nil {
				return err
			}
			if r["exited"] == true {
				text, _ := r["out-data"].(string)
				n, err = strconv.Atoi(strings.TrimSpace(unbase64(text)))
				return err
			}
		}
		return errors.New("cat has not ended")
	})
	return n, err
}

// state asks virsh.
func platformState(ctx context.Context, l *kvmlab.Lab, id hypervisor.VMID) (hypervisor.PowerState, error) {
	s, err := virshOn(ctx, l, id, "domstate")
	if err != nil {
		return "", err
	}
	switch s = strings.TrimSpace(s); s {
	case "running":
		return hypervisor.StateRunning, nil
	case "paused":
		return hypervisor.StatePaused, nil
	case "shut off":
		info, err := virshOn(ctx, l, id, "dominfo")
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(info) {
			if k, v, _ := strings.Cut(line, ":"); k == "Managed save" && strings.TrimSpace(v) == "yes" {
				return hypervisor.StateSuspended, nil
			}
		}
		return hypervisor.StateOff, nil
	}
	return "", fmt.Errorf("virsh says %q", s)
}

// firstDisk is the path of the image that the machine's first disk is now.
func firstDisk(ctx context.Context, l *kvmlab.Lab, id hypervisor.VMID) (string, error) {
	doc, err := virshOn(ctx, l, id, "dumpxml")
	if err != nil {
		return "", err
	}
	var x struct {
		Disks []struct {
			Device string `xml:"device,attr"`
			Source struct {
				File string `xml:"file,attr"`
			} `xml:"source"`
		} `xml:"devices>disk"`
	}
	if err := xml.Unmarshal([]byte(doc), &x); err != nil {
		return "", err
	}
	for _, d := range x.Disks {
		if d.Device != "cdrom" {
			return d.Source.File, nil
		}
	}
	return "", errors.New("no disk")
}

// The content identity of a disk is a line at 1 MiB.
const contentAt = 1 << 20

func writeDisk(ctx context.Context, l *kvmlab.Lab, id hypervisor.VMID, content string) error {
	p, err := firstDisk(ctx, l, id)
	if err != nil {
		return err
	}
	return writeImage(ctx, l, p, content)
}

func writeImage(ctx context.Context, l *kvmlab.Lab, p, content string) error {
	f := filepath.Join(l.Dir, "content")
	if err := os.WriteFile(f, append([]byte(content), make([]byte, 512-len(content))...), 0o600); err != nil {
		return err
	}
	return run(ctx, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -s %s %d 512", f, contentAt), p)
}

func readDisk(ctx context.Context, l *kvmlab.Lab, id hypervisor.VMID) (string, error) {
	p, err := firstDisk(ctx, l, id)
	if err != nil {
		return "", err
	}
	return readImage(ctx, l, p)
}

func readImage(ctx context.Context, l *kvmlab.Lab, p string) (string, error) {
	f := filepath.Join(l.Dir, "content")
	if err := run(ctx, "qemu-img", "dd", "-U", "-f", "qcow2", "-O", "raw", "bs=512", fmt.Sprintf("skip=%d", contentAt/512), fmt.Sprintf("count=%d", contentAt/512+1), "if="+p, "of="+f); err != nil {
		return "", err
	}
	b, err := os.ReadFile(f)
	if err != nil || len(b) < 512 {
		return "", fmt.Errorf("%d bytes of content: %v", len(b), err)
	}
	return strings.TrimRight(string(b[:512]), "\x00"), nil
}

// ended waits for a task whose result doesn't matter.
func ended[T any](ctx context.Context, t *hypervisor.Task[T]) error {
	_, err := t.Wait(ctx)
	return err
}

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

// imageFiles lists every image of the lab.
func imageFiles(l *kvmlab.Lab) ([]string, error) {
	var out []string
	for _, dir := range []string{l.Shared, l.Hosts[0].Dir, l.Hosts[1].Dir} {
		files, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if f.Name() != ".keep" {
				out = append(out, filepath.Join(dir, f.Name()))
			}
		}
	}
	return out, nil
}

// volumeIDs lists the images of the lab's pools by their volume IDs.
func volumeIDs(t testing.TB, l *kvmlab.Lab) func(context.Context) ([]string, error) {
	t.Helper()
	pools := map[string]hypervisor.DatastoreID{l.Shared: poolUUID(t, l.Hosts[0], "shared")}
	for _, h := range l.Hosts {
		pools[h.Dir] = poolUUID(t, h, "default")
	}
	return func(context.Context) (ids []string, err error) {
		files, err := imageFiles(l)
		for _, f := range files {
			ids = append(ids, string(libvirtx.VolumeID(string(pools[filepath.Dir(f)]), filepath.Base(f))))
		}
		return ids, err
	}
}

// backend is the lab as the conformance suite sees it.
func backend(ctx context.Context, t testing.TB, l *kvmlab.Lab, hosts ...*kvmlab.Host) *hypervisortest.Backend {
	with := func(ctx context.Context, o *hypervisor.Options) (*hypervisor.Client, error) {
		d, err := open(ctx, config(hosts...))
		if err != nil {
			return nil, err
		}
		return hypervisor.New(ctx, hypervisortest.Wrap(ctx, d), o)
	}
	open := func(ctx context.Context) (*hypervisor.Client, error) { return with(ctx, nil) }
	c, err := open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &hypervisortest.Backend{
		Client: c, Reopen: open, Open: with, Spec: spec(l, poolUUID(t, l.Hosts[0], "shared")),
		AbsentVM: "0c0ffee0-0000-4000-8000-000000000000", EventWait: 2 * time.Minute,
		Booted: func(ctx context.Context, id hypervisor.VMID) error {
			_, err := uptime(ctx, l, id)
			return err
		},
		Uptime:    func(ctx context.Context, id hypervisor.VMID) (int, error) { return uptime(ctx, l, id) },
		WriteDisk: func(ctx context.Context, id hypervisor.VMID, s string) error { return writeDisk(ctx, l, id, s) },
		ReadDisk:  func(ctx context.Context, id hypervisor.VMID) (string, error) { return readDisk(ctx, l, id) },
		State: func(ctx context.Context, id hypervisor.VMID) (hypervisor.PowerState, error) {
			return platformState(ctx, l, id)
		},
		Images:  volumeIDs(t, l),
		Foreign: foreignCases(l),
		Chain:   func(ctx context.Context, id hypervisor.VMID) error { return sameChain(ctx, l, id) },
	}
}
