package lab

import (
	"os"
	"os/exec"
	"slices"
	"testing"
)

// TestKilledTestIsSweptAfter: the folder for temporary files is the same
// before a test and after it was killed and run again.
func TestKilledTestIsSweptAfter(t *testing.T) {
	if os.Getenv("LAB_TEMP_DIES") != "" {
		if _, _, err := TempDir("avtest", nil); err != nil {
			t.Fatal(err)
		}
		p, _ := os.FindProcess(os.Getpid())
		_ = p.Kill()
		select {}
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	list := func() (out []string) {
		l, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range l {
			out = append(out, e.Name())
		}
		return out
	}
	before := list()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledTestIsSweptAfter$")
	cmd.Env = append(os.Environ(), "LAB_TEMP_DIES=1")
	if err := cmd.Run(); err == nil {
		t.Fatal("the process was to be killed")
	}
	if len(list()) != len(before)+1 {
		t.Fatalf("the killed process has left %v", list())
	}
	again, release, err := TempDir("avtest", nil)
	if err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(again)
	release()
	if after := list(); !slices.Equal(before, after) {
		t.Errorf("before: %v, after: %v", before, after)
	}
}
