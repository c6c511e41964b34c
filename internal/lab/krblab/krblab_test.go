//go:build linux

package krblab

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/internal/lab"
)

// TestKDC: the realm knows what was put into it and nothing else, and nothing is left after Stop.
func TestKDC(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	k, err := Start(ctx, Config{})
	if err != nil {
		lab.Skip(t, err)
	}
	ended := false
	defer func() {
		if !ended {
			k.Stop()
		}
	}()
	if err := k.AddUser(ctx, "ann", "secret"); err != nil {
		t.Fatal(err)
	}
	if err := k.AddService(ctx, "HTTP/localhost"); err != nil {
		t.Fatal(err)
	}
	cache, err := k.Login(ctx, "ann", "secret")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := k.run(ctx, "kvno", "-c", "FILE:"+cache, "HTTP/localhost"); err != nil || !strings.Contains(out, "kvno = 1") {
		t.Errorf("a ticket for the service: %s %v", out, err)
	}
	if _, err := k.run(ctx, "kvno", "-c", "FILE:"+cache, "HTTP/elsewhere"); err == nil || !strings.Contains(err.Error(), "not found in Kerberos database") {
		t.Errorf("a ticket for nobody: %v", err)
	}
	if _, err := k.Login(ctx, "ann", "wrong"); err == nil || !strings.Contains(err.Error(), "Password incorrect") {
		t.Errorf("a wrong password: %v", err)
	}
	tab, err := k.Keytab(ctx, "HTTP/localhost")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := k.run(ctx, "klist", "-k", tab); err != nil || !strings.Contains(out, "HTTP/localhost@"+Realm) {
		t.Errorf("keytab: %s %v", out, err)
	}
	conf, err := os.ReadFile(k.Config())
	if err != nil {
		t.Fatal(err)
	}
	_, addr, _ := strings.Cut(string(conf), "kdc = ")
	addr, _, _ = strings.Cut(addr, "\n")
	dir, pid := k.dir, k.cmd.Process.Pid
	ended = true
	if err := k.Stop(); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Errorf("%s still answers", addr)
	}
	if err := syscall.Kill(pid, 0); err == nil {
		t.Errorf("process %d still runs", pid)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is left", dir)
	}
}

// TestClock: a KDC whose clock is a day behind gives tickets that have ended by ours.
func TestClock(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	k, err := Start(ctx, Config{ClockOffset: -48 * time.Hour})
	if err != nil {
		lab.Skip(t, err)
	}
	defer k.Stop()
	if err := k.AddUser(ctx, "ann", "secret"); err != nil {
		t.Fatal(err)
	}
	cache, err := k.Login(ctx, "ann", "secret")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", k.cmd.Process.Pid)); err != nil || string(out) != "krb5kdc\n" {
		t.Errorf("Stop would end %q: %v", out, err)
	}
	if _, err := lab.Command(ctx, "klist", "-s", cache); err == nil {
		t.Error("the ticket has not ended")
	}
}
