package lab

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLastTick(t *testing.T) {
	for _, c := range []struct {
		console  string
		n, lines int
	}{
		{"", 0, 0},
		{"[    1.2] booting\nREADY 6.1\n", 0, 0},
		{"READY 6.1\nTICK 1 up=1\nTICK 2 up=2\n", 2, 2},
		{"TICK 11 up=1\nTICK 12", 11, 1}, // the last line may be cut inside its number
		{"TICK 9 up=1\nREADY\nTICK 1 up=1\n", 1, 2},
	} {
		if n, lines := LastTick([]byte(c.console)); n != c.n || lines != c.lines {
			t.Errorf("LastTick(%q) = %d, %d, want %d, %d", c.console, n, lines, c.n, c.lines)
		}
	}
}

// The archive has to be one that the reference program can unpack.
func TestInitrd(t *testing.T) {
	dir := t.TempDir()
	i := Initrd{
		"init":           {Content: []byte("#!/bin/sh\n")},
		"bin/sh":         {Link: "busybox"},
		"lib/a/b/module": {Content: bytes.Repeat([]byte("x"), 1001)},
		"empty":          {},
	}
	plain, packed := filepath.Join(dir, "a.cpio"), filepath.Join(dir, "a.cpio.gz")
	if err := errors.Join(i.WriteFile(plain), i.WriteFile(packed)); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(packed)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, want) {
		t.Errorf("gzipped archive differs from the plain one (%v)", err)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("no busybox to unpack the archive with")
	}
	out := t.TempDir()
	cmd := exec.Command(busybox, "cpio", "-i", "-F", plain)
	cmd.Dir = out
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	for name, e := range i {
		file := filepath.Join(out, name)
		if e.Link != "" {
			if got, err := os.Readlink(file); err != nil || got != e.Link {
				t.Errorf("%s links to %q (%v), want %q", name, got, err, e.Link)
			}
			continue
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, e.Content) {
			t.Errorf("%s holds %d bytes (%v), want %d", name, len(got), err, len(e.Content))
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("mode of %s: %v (%v)", name, info.Mode(), err)
		}
	}
}

func TestModules(t *testing.T) {
	root := t.TempDir()
	base := filepath.Join(root, "lib/modules/6.1")
	if err := os.MkdirAll(base, 0o755); err != nil {
		t.Fatal(err)
	}
	dep := "kernel/fs/ext4.ko: kernel/fs/jbd2.ko kernel/lib/crc16.ko\nkernel/fs/jbd2.ko: kernel/lib/crc16.ko\n" +
		"kernel/lib/crc16.ko:\nkernel/drivers/xen/xen-evtchn.ko:\n"
	err := errors.Join(
		os.WriteFile(filepath.Join(base, "modules.dep"), []byte(dep), 0o644),
		os.WriteFile(filepath.Join(base, "modules.builtin"), []byte("kernel/drivers/pci-stub.ko\n"), 0o644),
	)
	if err != nil {
		t.Fatal(err)
	}
	k := &Kernel{Version: "6.1", Root: root}
	files, err := k.Modules("ext4", "xen_evtchn", "pci_stub", "jbd2")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, moduleName(f))
	}
	if want := []string{"crc16", "jbd2", "ext4", "xen_evtchn"}; !slices.Equal(names, want) {
		t.Errorf("load order %v, want %v", names, want)
	}
	if _, err := k.Modules("nonesuch"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unknown module: %v", err)
	}
}

func TestCached(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	var built atomic.Int32
	build := func(_ context.Context, dir string) error {
		built.Add(1)
		return os.WriteFile(filepath.Join(dir, "f"), nil, 0o644)
	}
	boom := errors.New("boom")
	if _, err := Cached(t.Context(), "thing", "a", func(context.Context, string) error { return boom }); !errors.Is(err, boom) {
		if errors.Is(err, ErrUnavailable) {
			t.Skip(err)
		}
		t.Fatalf("failed build: %v", err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			dir, err := Cached(t.Context(), "thing", "a", build)
			if err == nil {
				_, err = os.Stat(filepath.Join(dir, "f"))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := built.Load(); n != 1 {
		t.Errorf("built %d times, want once", n)
	}
	if _, err := Cached(t.Context(), "thing", "b", build); err != nil || built.Load() != 2 {
		t.Errorf("another key: built %d times in all (%v), want 2", built.Load(), err)
	}
	root, _ := CacheDir()
	if left, _ := filepath.Glob(filepath.Join(root, "building-*")); left != nil {
		t.Errorf("half-built folders left: %v", left)
	}
}

func TestTempDirSweeps(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("TMPDIR", t.TempDir())
	dead, release, err := TempDir("avt", nil)
	if err != nil {
		if errors.Is(err, ErrUnavailable) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	release() // as the end of its process does
	alive, release, err := TempDir("avt", func(dir string) {
		if dir != dead {
			t.Errorf("swept %s, want %s", dir, dead)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("the dead lab's folder is still there (%v)", err)
	}
	_, release2, err := TempDir("avt", func(dir string) { t.Errorf("swept %s, which is in use", dir) })
	if err != nil {
		t.Fatal(err)
	}
	defer release2()
	if _, err := os.Stat(alive); err != nil {
		t.Error(err)
	}
}

func TestCommandError(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip(err)
	}
	_, err := Command(t.Context(), "sh", "-c", "echo reason >&2; exit 3")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "reason") {
		t.Errorf("error without status or reason: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Command(ctx, "sh", "-c", "sleep 60"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled command: %v", err)
	}
}

func TestWaitFor(t *testing.T) {
	calls := 0
	err := WaitFor(t.Context(), time.Microsecond, func(context.Context) error {
		if calls++; calls < 3 {
			return io.EOF
		}
		return nil
	})
	if err != nil || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = WaitFor(ctx, time.Microsecond, func(context.Context) error { cancel(); return io.EOF })
	if !errors.Is(err, context.Canceled) || !errors.Is(err, io.EOF) {
		t.Errorf("cancelled: %v", err)
	}
}
