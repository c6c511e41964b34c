//go:build cgo

package kvm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/internal/lab/kvmlab"
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
	c, err := Open(ctx, cfg)
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
		t := vm.Migrate(ctx, hypervisor.MigrateOptions{Host: hypervisor.HostID(os.Getenv("ANYVISOR_TEST_TO")), BandwidthBytes: 8 * hypervisor.MiB})
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

// startAndKill starts a client and kills it when it has begun.
func startAndKill(t *testing.T, l *kvmlab.Lab, work string, vm hypervisor.VMID, to string, after time.Duration) hypervisor.TaskID {
	t.Helper()
	var hosts []string
	for _, h := range l.Hosts {
		hosts = append(hosts, h.URI, h.TCPURI, h.Address)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "ANYVISOR_TEST_CLIENT="+work, "ANYVISOR_TEST_HOSTS="+strings.Join(hosts, " "), "ANYVISOR_TEST_VM="+string(vm), "ANYVISOR_TEST_TO="+to)
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
	time.Sleep(after)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	return hypervisor.TaskID(strings.TrimSpace(line))
}

// TestClientKilled kills clients in the middle of work; another finds it.
func TestClientKilled(t *testing.T) {
	l := theLab(t)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	c, err := Open(ctx, config(l.Hosts...))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := spec(l, poolUUID(t, l.Hosts[0], "shared"))("killed")
	s.Disks[0].SizeBytes = 2 * hypervisor.GiB
	vm, err := c.CreateVM(ctx, s).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	info, err := vm.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// Content, so that a copy takes a while.
	image, err := firstDisk(ctx, l, vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := run(ctx, "qemu-io", "-f", "qcow2", "-c", "write -P 170 0 700M", image); err != nil {
		t.Fatal(err)
	}

	t.Run("clone", func(t *testing.T) {
		before, err := imageFiles(l)
		if err != nil {
			t.Fatal(err)
		}
		id := startAndKill(t, l, "clone", vm.ID(), "", 100*time.Millisecond)
		task, err := c.Task(ctx, id)
		if err != nil {
			t.Fatalf("Task(%s) of a client that was killed: %v", id, err)
		}
		ref, err := task.Wait(ctx)
		var e *hypervisor.Error
		switch {
		case err == nil:
			t.Fatalf("the clone of a killed client finished as %s: kill it earlier", ref)
		case !errors.Is(err, hypervisor.ErrCanceled) || !errors.As(err, &e):
			t.Fatalf("the killed client's clone: %v, want ErrCanceled", err)
		case len(e.Leftover) > 0:
			t.Errorf("the finder left %v", e.Leftover)
		}
		after, err := imageFiles(l)
		if err != nil {
			t.Fatal(err)
		}
		if len(after) != len(before) {
			t.Errorf("images before: %q, after the clean-up: %q", before, after)
		}
		// The same call again, by its token, does it.
		again, err := vm.Clone(ctx, "killed-clone", &hypervisor.CloneOptions{Token: "killed-clone"}).Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.Delete(ctx, hypervisor.DeleteDisks, nil).Wait(ctx); err != nil {
			t.Error(err)
		}
	})

	t.Run("migrate", func(t *testing.T) {
		if _, err := vm.Start(ctx).Wait(ctx); err != nil {
			t.Fatal(err)
		}
		n, err := uptime(ctx, l, vm.ID())
		if err != nil {
			t.Fatal(err)
		}
		to := l.Hosts[0].UUID
		if string(info.Host) == to {
			to = l.Hosts[1].UUID
		}
		id := startAndKill(t, l, "migrate", vm.ID(), to, 0)
		task, err := c.Task(ctx, id)
		if err != nil {
			t.Fatalf("Task(%s) of a client that was killed: %v", id, err)
		}
		moving := false
		for s, err := range task.Progress(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			moving = moving || s.BytesTotal > 0 && !s.Done
		}
		if !moving {
			t.Error("the migration had ended before it was found: lower its bandwidth")
		}
		if _, err := task.Wait(ctx); err != nil {
			t.Fatalf("the migration of a killed client: %v", err)
		}
		if i, err := vm.Info(ctx); err != nil || string(i.Host) != to || i.State != hypervisor.Running {
			t.Errorf("after the migration the machine is %s on %s (%v), want %s", i.State, i.Host, err, to)
		}
		if m, err := uptime(ctx, l, vm.ID()); err != nil || m < n {
			t.Errorf("the guest's counter is %d (%v), it was %d", m, err, n)
		}
	})
	for _, after := range []time.Duration{50 * time.Millisecond, 800 * time.Millisecond} {
		t.Run("clone of a running machine after "+after.String(), func(t *testing.T) { killedHotClone(t, ctx, l, c, vm, after) })
	}
	if _, err := vm.Delete(ctx, hypervisor.DeleteDisks, &hypervisor.DeleteOptions{Force: true}).Wait(ctx); err != nil {
		t.Error(err)
	}
}

// killedHotClone kills a client while the source has overlays for the copy.
func killedHotClone(t *testing.T, ctx context.Context, l *kvmlab.Lab, c *hypervisor.Client, vm *hypervisor.VM, killAfter time.Duration) {
	before, err := imageFiles(l)
	if err != nil {
		t.Fatal(err)
	}
	at, err := firstDisk(ctx, l, vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	n, err := uptime(ctx, l, vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Task(ctx, startAndKill(t, l, "clone", vm.ID(), "", killAfter))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := task.Wait(ctx); !errors.Is(err, hypervisor.ErrCanceled) {
		t.Fatalf("the killed client's clone of a running machine: %v, want ErrCanceled", err)
	}
	after, err := imageFiles(l)
	if err != nil {
		t.Fatal(err)
	}
	now, err := firstDisk(ctx, l, vm.ID())
	if err != nil || now != at || len(after) != len(before) {
		t.Errorf("the source is on %s (%v), it was on %s; images before %q, now %q", now, err, at, before, after)
	}
	if m, err := uptime(ctx, l, vm.ID()); err != nil || m < n {
		t.Errorf("the guest's counter is %d (%v), it was %d", m, err, n)
	}
}
