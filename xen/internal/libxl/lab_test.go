//go:build cgo

package libxl

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/hypervisortest"
	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/rpcproxy"
	"github.com/anyvisor/anyvisor/internal/lab/xenlab"
	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// One lab of two hosts serves all tests of the package.
var shared struct {
	sync.Mutex
	lab *xenlab.Lab
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.lab != nil {
		for _, h := range shared.lab.Hosts {
			for _, end := range h.Ends() {
				fmt.Fprintln(os.Stderr, h.Name+":", end)
			}
		}
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
func theLab(t testing.TB) *xenlab.Lab {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real hosts and guests, which takes longer than -short allows")
	}
	shared.Lock()
	defer shared.Unlock()
	if shared.lab == nil && shared.err == nil {
		ctx, stop := context.WithTimeout(context.Background(), 9*time.Minute)
		defer stop()
		if shared.lab, shared.err = xenlab.Start(ctx, xenlab.Config{Hosts: 2}); shared.err == nil {
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
func oneDatastore(ctx context.Context, l *xenlab.Lab) error {
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

// openHosts opens some of the lab's hosts as one Client.
func openHosts(ctx context.Context, p2p bool, hosts ...*xenlab.Host) (*hypervisor.Client, error) {
	cfg := Config{Peers: map[string]Peer{}}
	for _, h := range hosts {
		cfg.Hosts = append(cfg.Hosts, h.URI)
		p := Peer{Migrate: h.MigrateURI}
		if p2p {
			p.URI = h.PeerURI
		}
		cfg.Peers[h.URI] = p
	}
	return Open(ctx, cfg, nil)
}

// throughProxy puts a proxy before a host.
func throughProxy(t testing.TB, h *xenlab.Host) *rpcproxy.Proxy {
	t.Helper()
	u, err := url.Parse(h.URI)
	if err != nil {
		t.Fatal(err)
	}
	return rpcproxy.New(t, "tcp", u.Host)
}

func proxyURI(p *rpcproxy.Proxy) string { return "xen+tcp://" + p.Addr() + "/" }

func poolUUID(t testing.TB, h *xenlab.Host, name string) hypervisor.DatastoreID {
	t.Helper()
	out, err := h.Virsh(context.Background(), "pool-uuid", name)
	if err != nil {
		t.Fatal(err)
	}
	return hypervisor.DatastoreID(strings.TrimSpace(out))
}

// guest describes the counting guest.
func guest(kind, name string, ds hypervisor.DatastoreID) hypervisor.VMSpec {
	return hypervisor.VMSpec{Name: name, CPUs: 1, MemoryBytes: 160 * hypervisor.MiB, Machine: kind,
		Boot:      &hypervisor.DirectBoot{Kernel: xenlab.GuestKernel, Initrd: xenlab.GuestInitrd, CommandLine: "console=hvc0 quiet nokaslr mitigations=off"},
		Disks:     []hypervisor.DiskSpec{{SizeBytes: 64 * hypervisor.MiB, Datastore: ds}},
		NICs:      []hypervisor.NICSpec{{}},
		Placement: hypervisor.Placement{Datastore: ds}}
}

// seen is what virsh says of a machine.
type seen struct {
	host        *xenlab.Host
	state, name string
	saved       bool
}

// look asks virsh on every host for a machine; an active one counts. It is one
// command for each host, since each takes a host a third of a second.
func look(ctx context.Context, l *xenlab.Lab, id hypervisor.VMID) (seen, error) {
	all := make([]seen, len(l.Hosts))
	var wg sync.WaitGroup
	for i, h := range l.Hosts {
		wg.Go(func() {
			// The last command decides how virsh ends.
			out, err := h.Virsh(ctx, fmt.Sprintf("list --uuid --inactive --with-managed-save; domstate %[1]s; domname %[1]s", id))
			lines := slices.DeleteFunc(strings.Split(out, "\n"), func(s string) bool { return strings.TrimSpace(s) == "" })
			if n := len(lines); err == nil && n >= 2 {
				all[i] = seen{h, strings.TrimSpace(lines[n-2]), strings.TrimSpace(lines[n-1]), slices.Contains(lines[:n-2], string(id))}
			}
		})
	}
	wg.Wait()
	var found seen
	for _, s := range all {
		if s.host != nil && (found.host == nil || s.state != "shut off") {
			found = s
		}
	}
	if found.host == nil {
		return found, fmt.Errorf("machine %s: %w", id, hypervisor.ErrNotFound)
	}
	return found, nil
}

// platformState is virsh's word for a machine's state.
func platformState(ctx context.Context, l *xenlab.Lab, id hypervisor.VMID) (hypervisor.PowerState, error) {
	s, err := look(ctx, l, id)
	switch {
	case err != nil:
		return "", err
	case s.state == "running" || s.state == "idle":
		return hypervisor.StateRunning, nil
	case s.state == "paused":
		return hypervisor.StatePaused, nil
	case s.state == "shut off" && s.saved:
		return hypervisor.StateSuspended, nil
	case s.state == "shut off":
		return hypervisor.StateOff, nil
	}
	return "", fmt.Errorf("virsh says %q", s.state)
}

// count waits for the guest's next count on the console, so that what an
// earlier boot or another host left in the log does not count.
func count(ctx context.Context, l *xenlab.Lab, id hypervisor.VMID) (int, error) {
	s, err := look(ctx, l, id)
	if err != nil {
		return 0, err
	}
	read := func() (tick, lines int, err error) {
		text, err := s.host.ReadConsole(s.name)
		if errors.Is(err, fs.ErrNotExist) { // it has printed nothing yet
			err = nil
		}
		tick, lines = lab.LastTick(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
		return tick, lines, err
	}
	_, before, err := read()
	if err != nil {
		return 0, err
	}
	n := 0
	limit, stop := context.WithTimeout(ctx, 2*time.Minute)
	defer stop()
	err = lab.WaitFor(limit, 100*time.Millisecond, func(context.Context) error {
		tick, lines, err := read()
		if err == nil && lines <= before {
			err = fmt.Errorf("the guest on %s does not count on: %d lines as before", s.host.Name, lines)
		}
		n = tick
		return err
	})
	return n, err
}

// onFirstDisk runs a shell command on the image of a machine's first disk:
// out here where that is possible, else on its host, which is slow.
func onFirstDisk(ctx context.Context, l *xenlab.Lab, id hypervisor.VMID, command string) (string, error) {
	s, err := look(ctx, l, id)
	if err != nil {
		return "", err
	}
	doc, err := s.host.Virsh(ctx, "dumpxml", string(id))
	if err != nil {
		return "", err
	}
	var x struct {
		Disks []struct {
			Source struct {
				File string `xml:"file,attr"`
			} `xml:"source"`
		} `xml:"devices>disk"`
	}
	if err := xml.Unmarshal([]byte(doc), &x); err != nil {
		return "", err
	}
	if len(x.Disks) == 0 {
		return "", errors.New("no disk")
	}
	image := x.Disks[0].Source.File
	if name, ok := strings.CutPrefix(image, xenlab.SharedDir+"/"); ok {
		here := filepath.Join(l.Shared, name)
		info, err := lab.Command(ctx, "qemu-img", "info", "-U", "--output=json", here)
		if err != nil {
			return "", err
		}
		if !strings.Contains(info, `"backing-filename"`) { // its path makes sense on the host only
			return lab.Command(ctx, "sh", "-c", "image='"+here+"'; content='"+filepath.Join(l.Dir, "content")+"'; "+command)
		}
	}
	return s.host.Run(ctx, "image='"+image+"'; content=/tmp/content; "+command)
}

// The content identity of a disk is a line at 1 MiB, padded to a sector.
const contentAt = 1 << 20

func writeDisk(ctx context.Context, l *xenlab.Lab, id hypervisor.VMID, content string) error {
	_, err := onFirstDisk(ctx, l, id, fmt.Sprintf(`printf '%%-512s' "%s" >"$content" && qemu-io -f qcow2 -c "write -s $content %d 512" "$image"`, content, contentAt))
	return err
}

func readDisk(ctx context.Context, l *xenlab.Lab, id hypervisor.VMID) (string, error) {
	out, err := onFirstDisk(ctx, l, id, fmt.Sprintf(`qemu-img dd -U -f qcow2 -O raw bs=512 skip=%d count=%d if="$image" of="$content" && head -c 512 "$content"`, contentAt/512, contentAt/512+1))
	return strings.TrimRight(out, " \x00"), err
}

// images lists the images of the lab's pools by their volume IDs.
func images(t testing.TB, l *xenlab.Lab) func(context.Context) ([]string, error) {
	t.Helper()
	id := func(pool hypervisor.DatastoreID, name string) string {
		return string(libvirtx.VolumeID(string(pool), name))
	}
	shared := poolUUID(t, l.Hosts[0], "shared")
	var local []hypervisor.DatastoreID
	for _, h := range l.Hosts {
		local = append(local, poolUUID(t, h, "default"))
	}
	return func(ctx context.Context) ([]string, error) {
		files, err := os.ReadDir(l.Shared)
		if err != nil {
			return nil, err
		}
		var out []string
		for _, f := range files {
			out = append(out, id(shared, f.Name()))
		}
		for i, h := range l.Hosts {
			text, err := h.Run(ctx, "ls "+xenlab.ImageDir)
			if err != nil {
				return nil, err
			}
			for _, f := range strings.Fields(text) {
				out = append(out, id(local[i], f))
			}
		}
		return out, nil
	}
}

// backend is the lab as the conformance suite sees it.
func backend(t testing.TB, l *xenlab.Lab) *hypervisortest.Backend {
	open := func(ctx context.Context) (*hypervisor.Client, error) { return openHosts(ctx, false, l.Hosts...) }
	c, err := open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ds := poolUUID(t, l.Hosts[0], "shared")
	first, err := c.FindHost(context.Background(), l.Hosts[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	return &hypervisortest.Backend{
		Client: c, Reopen: open,
		Spec:   func(name string) hypervisor.VMSpec { return guest(pvh, name, ds) },
		Device: hypervisor.DeviceRequest{ID: libvirtx.DeviceID(first.ID(), xenlab.RNG)},
		DeviceSpec: func(name string) hypervisor.VMSpec {
			s := guest(pv, name, ds)
			s.Placement.Host = first.ID()
			return s
		},
		AbsentVM: "0c0ffee0-0000-4000-8000-000000000000", EventWait: time.Minute,
		Booted: func(ctx context.Context, id hypervisor.VMID) error {
			n, err := count(ctx, l, id)
			if err == nil && n == 0 {
				err = errors.New("the guest counts nothing")
			}
			return err
		},
		Uptime:    func(ctx context.Context, id hypervisor.VMID) (int, error) { return count(ctx, l, id) },
		WriteDisk: func(ctx context.Context, id hypervisor.VMID, s string) error { return writeDisk(ctx, l, id, s) },
		ReadDisk:  func(ctx context.Context, id hypervisor.VMID) (string, error) { return readDisk(ctx, l, id) },
		State: func(ctx context.Context, id hypervisor.VMID) (hypervisor.PowerState, error) {
			return platformState(ctx, l, id)
		},
		Images:  images(t, l),
		Foreign: foreignCases(l),
	}
}
