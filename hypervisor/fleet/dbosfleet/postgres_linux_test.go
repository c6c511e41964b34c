package dbosfleet_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor/fleet"
	"github.com/anyvisor/anyvisor/hypervisor/fleet/fleettest"
)

// postgres starts a server in a temporary folder, for this test alone, and
// returns the URL of its database.
func postgres(t *testing.T) string {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		t.Skip("PostgreSQL is not installed: apt-get install postgresql")
	}
	bin := slices.Max(bins)
	// The path of its socket may be 107 bytes long, and the folder belongs to
	// the server's user.
	dir, err := os.MkdirTemp("", "anyvisor-pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 { // the server refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.SysProcAttr, cmd.Dir = attr, dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	data := filepath.Join(dir, "data")
	run("initdb", "-D", data, "-U", "fleet", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8")
	server := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=300")
	server.SysProcAttr, server.Dir = attr, dir
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGQUIT) // at once
		_ = server.Wait()
	})
	for i := 0; ; i++ {
		cmd := exec.Command(filepath.Join(bin, "psql"), "-h", dir, "-U", "fleet", "-d", "postgres", "-qc", "CREATE DATABASE fleet")
		cmd.SysProcAttr, cmd.Dir = attr, dir
		out, err := cmd.CombinedOutput()
		if err == nil {
			return "postgres://fleet@/fleet?host=" + dir
		}
		if i > 600 {
			t.Fatalf("the server has not started: %v: %s", err, out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestPostgres(t *testing.T) {
	url := postgres(t)
	// One database for all rows: their plans have different IDs.
	fleettest.Run(t, fleettest.Harness{Machines: 100, New: func(t *testing.T) func() fleet.Engine {
		return func() fleet.Engine { return openEngine(t, url) }
	}})
}

// TestThreeWorkers has three workers on one database. The one that works is
// killed six times, and another takes over each time.
func TestThreeWorkers(t *testing.T) {
	url := postgres(t)
	socket := filepath.Join(t.TempDir(), "s")
	p := newPlatform(t)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go p.serve(l)
	lives := map[int]*life{}
	add := func() {
		w := spawn(t, url, socket)
		lives[w.cmd.Process.Pid] = w
	}
	for range 3 {
		add()
	}
	const kills = 6
	var taken []time.Duration
	for i := range kills {
		begin := time.Now()
		var pid int
		for n := 1 + rand.IntN(4*machines/(kills+4)); n > 0; n-- {
			select {
			case <-p.called:
			case <-time.After(60 * time.Second):
				t.Fatalf("kill %d: no call for 60 s: %v", i, said(lives))
			}
			if !begin.IsZero() {
				taken, begin = append(taken, time.Since(begin)), time.Time{}
			}
			pid = p.caller()
		}
		w := lives[pid]
		if w == nil {
			t.Fatalf("process %d works, which is none of the workers", pid)
		}
		if err := w.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = w.cmd.Wait() // killed
		delete(lives, pid)
		for len(p.called) > 0 {
			<-p.called
		}
		add()
	}
	for pid, w := range lives {
		if err := w.cmd.Wait(); err != nil {
			t.Errorf("worker %d: %v: %s", pid, err, w.stderr.String())
		}
	}
	p.verify(t)
	slices.Sort(taken)
	t.Logf("from a kill to the first step of another worker: median %v, at most %v", taken[len(taken)/2], taken[len(taken)-1])
}

func said(lives map[int]*life) string {
	var out []string
	for pid, w := range lives {
		out = append(out, fmt.Sprint(pid, ": ", w.stderr.String()))
	}
	return strings.Join(out, "; ")
}
