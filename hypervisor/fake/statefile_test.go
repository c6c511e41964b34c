package fake_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
)

// stateURL returns the URL for a state file that is not there yet, and its path.
func stateURL(t *testing.T) (url, path string) {
	path = filepath.Join(t.TempDir(), "lab.json")
	return "fake:///" + strings.TrimPrefix(filepath.ToSlash(path), "/"), path
}

// TestStateFile: what one Client made is there for the next, with its disks and
// the parameters of the first URL.
func TestStateFile(t *testing.T) {
	url, path := stateURL(t)
	ctx := t.Context()
	c, err := hypervisor.Open(ctx, url+"?hosts=3&edition=free", nil)
	if err != nil {
		t.Fatal(err)
	}
	vm := wait(t, c.CreateVM(ctx, hypervisor.VMSpec{Name: "kept", MemoryBytes: hypervisor.GiB, Disks: []hypervisor.DiskSpec{{SizeBytes: hypervisor.GiB}}, Start: true}))
	b, err := hypervisor.As[*fake.Backend](ctx, c, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.WriteDisk(vm.ID(), 0, "content"); err != nil {
		t.Fatal(err)
	}
	second, err := hypervisor.Open(ctx, url, nil)
	if err != nil {
		t.Fatal("a second Client in the same process:", err)
	}
	if _, err := second.FindVM(ctx, "kept"); err != nil {
		t.Error("the second Client has another backend:", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wait(t, second.CreateVM(ctx, hypervisor.VMSpec{Name: "late", MemoryBytes: hypervisor.GiB}))
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) != 2 { // with the lock
		t.Errorf("the folder has %v", left)
	}

	c, err = hypervisor.Open(ctx, url+"?edition=free&hosts=3", nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err = hypervisor.As[*fake.Backend](ctx, c, c)
	if err != nil {
		t.Fatal(err)
	}
	if disk, err := b.ReadDisk(vm.ID(), 0); err != nil || disk != "content" {
		t.Errorf("the disk has %q (%v)", disk, err)
	}
	if s, err := b.State(vm.ID()); err != nil || s != hypervisor.StateRunning {
		t.Errorf("the machine is %s (%v)", s, err)
	}
	if _, err := c.FindVM(ctx, "late"); err != nil {
		t.Error("what the last Client made:", err)
	}
	if hosts, err := hypervisor.Collect(c.Hosts(ctx)); err != nil || len(hosts) != 3 {
		t.Errorf("%d hosts (%v)", len(hosts), err)
	}
	if _, err := hypervisor.Open(ctx, url+"?hosts=2", nil); !errors.Is(err, hypervisor.ErrInvalidArgument) || !strings.Contains(err.Error(), "hosts=3") {
		t.Errorf("other parameters while it is open: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := hypervisor.Open(ctx, url+"?hosts=2", nil); !errors.Is(err, hypervisor.ErrInvalidArgument) {
		t.Errorf("other parameters: %v", err)
	}
	if _, err := hypervisor.Open(ctx, url, &hypervisor.Options{Require: []capability.Name{capability.MigrateLive}}); err == nil {
		t.Error("Require was not honoured")
	}
	if c, err = hypervisor.Open(ctx, url, nil); err != nil {
		t.Fatal("a failed Open left the lock:", err)
	}
	c.Close()
}

// TestStateFileRefused: a file that can't be used is left as it is, and nothing
// stays locked.
func TestStateFileRefused(t *testing.T) {
	newer, err := json.Marshal(map[string]any{"Format": 99})
	if err != nil {
		t.Fatal(err)
	}
	whole, err := json.Marshal(fake.New(fake.Config{}))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"empty": "", "corrupt": "{corrupt", "cut off": string(whole[:len(whole)/2]), "a newer format": string(newer)} {
		t.Run(name, func(t *testing.T) {
			url, path := stateURL(t)
			if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := hypervisor.Open(t.Context(), url, nil)
			if !errors.Is(err, hypervisor.ErrInvalidArgument) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove") {
				t.Errorf("Open: %v", err)
			}
			if left, _ := os.ReadFile(path); string(left) != data {
				t.Errorf("the file has now %q", left)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			c, err := hypervisor.Open(t.Context(), url, nil)
			if err != nil {
				t.Fatal("without the file:", err)
			}
			c.Close()
		})
	}
	url, _ := stateURL(t)
	if _, err := hypervisor.Open(t.Context(), strings.Replace(url, "lab.json", "none/lab.json", 1), nil); !errors.Is(err, hypervisor.ErrNotFound) || !strings.Contains(err.Error(), "folder") {
		t.Errorf("a folder that is not there: %v", err)
	}
}

// TestStateFileCannotBeWritten: Close reports that the state was not saved.
func TestStateFileCannotBeWritten(t *testing.T) {
	url, path := stateURL(t)
	c, err := hypervisor.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); !errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("Close: %v", err)
	}
}

// TestStateFileOfAnotherProcess: while one process has the file, another is
// refused and learns which one it is. A process that is killed keeps nobody
// away.
func TestStateFileOfAnotherProcess(t *testing.T) {
	if url := os.Getenv("ANYVISOR_STATE_URL"); url != "" { // the other process
		c, err := hypervisor.Open(t.Context(), url, nil)
		if err != nil {
			t.Fatal(hypervisor.KindOf(err), err)
		}
		if os.Getenv("ANYVISOR_STATE_KILLED") != "" {
			os.Exit(3)
		}
		c.Close()
		return
	}
	url, path := stateURL(t)
	other := func(env ...string) string {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run", "^TestStateFileOfAnotherProcess$")
		cmd.Env = append(append(os.Environ(), "ANYVISOR_STATE_URL="+url), env...)
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	c, err := hypervisor.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.ReadFile(path + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	if out := other(); !strings.Contains(out, "process "+strings.TrimSpace(string(lock))+" has this file open") || !strings.Contains(out, "busy") {
		t.Errorf("at the same time: %s", out)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if out := other(); !strings.Contains(out, "PASS") {
		t.Errorf("afterwards: %s", out)
	}
	other("ANYVISOR_STATE_KILLED=1")
	if out := other(); !strings.Contains(out, "PASS") {
		t.Errorf("after one was killed: %s", out)
	}
}
