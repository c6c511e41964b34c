//go:build cgo

package kvm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
	"github.com/anyvisor/anyvisor/internal/lab/rpcproxy"
)

// TestMain runs this when the test starts itself: a client that begins work,
// prints the task, and waits to be killed.
func clientToKill(work string) error {
	ctx := context.Background()
	f := strings.Fields(os.Getenv("ANYVISOR_TEST_HOSTS"))
	cfg := Config{DomainType: "qemu", SerialLogDir: serialDir, Peers: map[string]Peer{}}
	for i := 0; i+2 < len(f); i += 3 {
		cfg.Hosts = append(cfg.Hosts, f[i])
		cfg.Peers[f[i]] = Peer{URI: f[i+1], Migrate: "tcp://" + f[i+2]}
	}
	c, err := Open(ctx, cfg, nil)
	if err != nil {
		return err
	}
	vm := c.VM(hypervisor.VMID(os.Getenv("ANYVISOR_TEST_VM")))
	var id hypervisor.TaskID
	switch work {
	case "clone":
		t := vm.Clone(ctx, "killed-clone", &hypervisor.CloneOptions{Token: "killed-clone"})
		if t.Err() != nil {
			return t.Err()
		}
		id = t.ID()
	case "migrate":
		// Slow enough to be found under way: QEMU sends no more than this in a
		// second, and the guest has used tens of times as much memory.
		t := vm.Migrate(ctx, hypervisor.MigrateOptions{Host: hypervisor.HostID(os.Getenv("ANYVISOR_TEST_TO")), BandwidthBytes: hypervisor.MiB})
		if t.Err() != nil {
			return t.Err()
		}
		for s, err := range t.Progress(ctx) {
			if err != nil || s.Done {
				return fmt.Errorf("migration ended early: %+v %v", s, err)
			}
			if s.BytesTotal > 0 { // it is under way
				break
			}
		}
		id = t.ID()
	}
	fmt.Println(id)
	time.Sleep(time.Hour)
	return nil
}

// startClient starts a client that begins work and prints the task. The
// function that it returns kills it.
func startClient(t *testing.T, l *kvmlab.Lab, uris []string, work string, vm hypervisor.VMID, to hypervisor.HostID) (hypervisor.TaskID, func()) {
	t.Helper()
	var hosts []string
	for i, h := range l.Hosts {
		hosts = append(hosts, uris[i], h.TCPURI, h.Address)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "ANYVISOR_TEST_CLIENT="+work, "ANYVISOR_TEST_HOSTS="+strings.Join(hosts, " "), "ANYVISOR_TEST_VM="+string(vm), "ANYVISOR_TEST_TO="+string(to))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	cmd.Stderr = &text
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the client did not begin: %v %s", err, text.String())
	}
	return hypervisor.TaskID(strings.TrimSpace(line)), func() {
		t.Helper()
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
	}
}

// killedClone kills a client's clone of a machine when it has sent a request
// of the given kind and begun, in a phase that is seen at the host.
func killedClone(t *testing.T, ctx context.Context, l *kvmlab.Lab, vm hypervisor.VMID, procedure uint32, begun func(clone string) error) hypervisor.TaskID {
	t.Helper()
	var uris []string
	sent := make(chan struct{}, len(l.Hosts))
	var watching sync.WaitGroup
	over, stop := context.WithCancel(ctx)
	defer func() { stop(); watching.Wait() }()
	for _, h := range l.Hosts {
		p := rpcproxy.New(t, "unix", h.Socket)
		uris = append(uris, socketURI(p))
		passed := p.HoldAfter(procedure)
		watching.Go(func() {
			select {
			case <-passed:
				sent <- struct{}{}
			case <-over.Done():
			}
		})
	}
	id, kill := startClient(t, l, uris, "clone", vm, "")
	select {
	case <-sent:
	case <-ctx.Done():
		t.Fatalf("the client does not send request %d", procedure)
	}
	clone := strings.Split(string(id), ":")[2]
	if err := lab.WaitFor(ctx, 50*time.Millisecond, func(context.Context) error { return begun(clone) }); err != nil {
		t.Fatal(err)
	}
	kill()
	return id
}

// copyBegun says that a clone's image is there.
func copyBegun(l *kvmlab.Lab) func(clone string) error {
	return func(clone string) error {
		files, err := imageFiles(l)
		if err == nil && !slices.ContainsFunc(files, func(f string) bool { return strings.HasPrefix(filepath.Base(f), clone+".") }) {
			err = errors.New("the clone has no image")
		}
		return err
	}
}

// cleanedUp waits for the task of a killed client's clone and demands that it
// was given up and left nothing.
func cleanedUp(t *testing.T, ctx context.Context, l *kvmlab.Lab, c *hypervisor.Client, id hypervisor.TaskID, before []string) {
	t.Helper()
	task, err := c.Task(ctx, id)
	if err != nil {
		t.Fatalf("Task(%s) of a client that was killed: %v", id, err)
	}
	_, err = task.Wait(ctx)
	var e *hypervisor.Error
	if !errors.Is(err, hypervisor.ErrCanceled) || !errors.As(err, &e) {
		t.Fatalf("the killed client's clone: %v, want ErrCanceled", err)
	}
	if len(e.Leftover) > 0 {
		t.Errorf("the finder left %v", e.Leftover)
	}
	after, err := imageFiles(l)
	if err != nil || len(after) != len(before) {
		t.Errorf("images before: %q, after the clean-up: %q (%v)", before, after, err)
	}
}

// TestClientKilled kills clients in the middle of work; another finds it.
func TestClientKilled(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 15*time.Minute)
	defer stop()
	c, err := Open(ctx, config(l.Hosts...), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	vm, err := c.CreateVM(ctx, spec(l, poolUUID(t, l.Hosts[0], "shared"))("killed")).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	image, err := firstDisk(ctx, l, vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	before, err := imageFiles(l)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("clone", func(t *testing.T) {
		// Its copy continues until the finder waits for it.
		i, err := vm.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		h := l.Hosts[slices.IndexFunc(l.Hosts, func(h *kvmlab.Host) bool { return h.UUID == string(i.Host) })]
		release, err := h.HoldCopies(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		id := killedClone(t, ctx, l, vm.ID(), rpcproxy.VolumeCreateFrom, func(clone string) error {
			out, err := h.Virsh(ctx, "vol-list", "shared")
			if err == nil && !strings.Contains(out, clone+".") {
				err = fmt.Errorf("no volume of the clone in %s", out)
			}
			return err
		})
		// Its name is taken, and the error says by what.
		if _, err := vm.Clone(ctx, "killed-clone", nil).Wait(ctx); !errors.Is(err, hypervisor.ErrExists) || !strings.Contains(err.Error(), string(id)) {
			t.Errorf("a clone of the same name: %v, want ErrExists and task %s", err, id)
		}
		task, err := c.Task(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		for s, err := range task.Progress(ctx) {
			if err != nil || s.Done {
				t.Fatalf("the finder did not wait for the copy: %+v %v", s, err)
			}
			if strings.HasPrefix(s.Phase, "waiting for a copy") {
				break
			}
		}
		if err := release(); err != nil {
			t.Fatal(err)
		}
		cleanedUp(t, ctx, l, c, id, before)
		// The same call again, by its token, does it.
		again, err := vm.Clone(ctx, "killed-clone", &hypervisor.CloneOptions{Token: "killed-clone"}).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
			t.Error(err)
		}
	})
	if _, err := vm.Start(ctx).Wait(ctx); err != nil {
		t.Fatal(err)
	}
	t.Run("migrate", func(t *testing.T) { killedMigration(t, ctx, l, c, vm) })
	for _, p := range []struct {
		phase     string
		procedure uint32
		begun     func(string) error
	}{
		{"overlay made", rpcproxy.SnapshotCreate, func(string) error {
			now, err := firstDisk(ctx, l, vm.ID())
			if err == nil && now == image {
				err = errors.New("the source has no overlay")
			}
			return err
		}},
		{"copy under way", rpcproxy.VolumeCreateFrom, copyBegun(l)},
		{"overlay merged back", rpcproxy.BlockCommit, func(string) error {
			out, err := virshOn(ctx, l, vm.ID(), "blockjob", "vda", "--raw")
			if err == nil && !strings.Contains(out, "Active Block Commit") {
				err = fmt.Errorf("no commit under way: %s", out)
			}
			return err
		}},
	} {
		t.Run("clone of a running machine, "+p.phase, func(t *testing.T) {
			n, err := uptime(ctx, l, vm.ID())
			if err != nil {
				t.Fatal(err)
			}
			cleanedUp(t, ctx, l, c, killedClone(t, ctx, l, vm.ID(), p.procedure, p.begun), before)
			if now, err := firstDisk(ctx, l, vm.ID()); err != nil || now != image {
				t.Errorf("the source is on %s (%v), it was on %s", now, err, image)
			}
			if m, err := uptime(ctx, l, vm.ID()); err != nil || m < n {
				t.Errorf("the guest's counter is %d (%v), it was %d", m, err, n)
			}
		})
	}
	if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx); err != nil {
		t.Error(err)
	}
}

// killedMigration kills a client in the middle of a migration and demands that
// another finds it and sees it to its end.
func killedMigration(t *testing.T, ctx context.Context, l *kvmlab.Lab, c *hypervisor.Client, vm *hypervisor.VM) {
	n, err := uptime(ctx, l, vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	info, err := vm.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	from, to := l.Hosts[0], l.Hosts[1]
	if from.UUID != string(info.Host) {
		from, to = to, from
	}
	id, kill := startClient(t, l, []string{l.Hosts[0].URI, l.Hosts[1].URI}, "migrate", vm.ID(), hypervisor.HostID(to.UUID))
	kill()
	task, err := c.Task(ctx, id)
	if err != nil {
		t.Fatalf("Task(%s) of a client that was killed: %v", id, err)
	}
	moving := false
	for s, err := range task.Progress(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if !moving && s.BytesTotal > 0 && !s.Done {
			moving = true
			if _, err := from.Virsh(ctx, "migrate-setspeed", string(vm.ID()), "10000"); err != nil { // seen: it may end now
				t.Fatal(err)
			}
		}
	}
	if !moving {
		t.Error("the migration was not found under way")
	}
	if _, err := task.Wait(ctx); err != nil {
		t.Fatalf("the migration of a killed client: %v", err)
	}
	if i, err := vm.Info(ctx); err != nil || string(i.Host) != to.UUID || i.State != hypervisor.StateRunning {
		t.Errorf("after the migration the machine is %s on %s (%v), want %s", i.State, i.Host, err, to.UUID)
	}
	if m, err := uptime(ctx, l, vm.ID()); err != nil || m < n {
		t.Errorf("the guest's counter is %d (%v), it was %d", m, err, n)
	}
}
