package vsphere

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/vsphere/vspheresim"
)

// TestExec: what a program prints comes back, over https from the host too, and its files in the guest are removed.
func TestExec(t *testing.T) {
	for _, c := range []struct {
		name  string
		model vspheresim.Model
		tls   bool
	}{{"vCenter", vspheresim.VCenter, false}, {"vCenter, TLS", vspheresim.VCenter, true}, {"ESXi", vspheresim.ESXi, false}} {
		t.Run(c.name, func(t *testing.T) {
			sim := startSim(t, vspheresim.Config{Model: c.model, TLS: c.tls, VMs: 1, Tools: true})
			url := simURL(sim.URL())
			if c.tls {
				url = "vsphere://" + sim.URL().User.String() + "@" + sim.URL().Host + "/?thumbprint=" + sim.Thumbprint()
			}
			cl, err := hypervisor.Open(t.Context(), url, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cl.Close() }()
			vm := firstVM(t, cl, "")
			v, err := vm.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var ran string
			g := vspheresim.Guest{Tools: true, User: "root", Password: "s3cret", Files: map[string]string{"/etc/motd": "hi"},
				Run: func(path, args string) vspheresim.Result {
					ran = path + " " + args
					return vspheresim.Result{ExitCode: 3, Stdout: "out\n", Stderr: "err\n"}
				}}
			if err := sim.SetGuest(v.Name, g); err != nil {
				t.Fatal(err)
			}
			req := hypervisor.ExecRequest{Path: "/bin/echo", Args: []string{"it's", "a b"}, User: "root", Password: "s3cret"}
			res, err := vm.Exec(t.Context(), req)
			if err != nil || res.ExitCode != 3 || string(res.Stdout) != "out\n" || string(res.Stderr) != "err\n" {
				t.Errorf("Exec returned %+v (%v)", res, err)
			}
			if !strings.HasPrefix(ran, "/bin/sh -c ") || !strings.Contains(ran, "/bin/echo") {
				t.Errorf("the guest ran %s", ran)
			}
			if l := sim.GuestFiles(v.Name); len(l) != 1 {
				t.Errorf("the guest's files are %v, want /etc/motd alone", l)
			}
			req.Password = "wrong"
			_, err = vm.Exec(t.Context(), req)
			if !errors.Is(err, hypervisor.ErrPermission) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("Exec with a wrong password: %v", err)
			}
			// What fails after the program ran leaves no files either.
			req.Password = "s3cret"
			for _, m := range []string{"StartProgramInGuest", "ListProcessesInGuest", "InitiateFileTransferFromGuest"} {
				sim.Fault(m, new(types.GuestPermissionDenied))
				if _, err := vm.Exec(t.Context(), req); !errors.Is(err, hypervisor.ErrPermission) {
					t.Errorf("Exec without the right to %s: %v (kind %s)", m, err, hypervisor.KindOf(err))
				}
				if l := sim.GuestFiles(v.Name); len(l) != 1 {
					t.Errorf("after %s failed the guest's files are %v", m, l)
				}
			}
			// What was begun when the caller gave up is undone when its answer comes.
			for _, m := range []string{"CreateTemporaryFileInGuest", "StartProgramInGuest"} {
				sim.ResetCalls()
				ctx, stop := context.WithCancel(t.Context())
				answer := make(chan struct{})
				sim.HoldAnswer(m, func() { stop(); <-answer })
				if _, err := vm.Exec(ctx, req); !errors.Is(err, context.Canceled) {
					t.Errorf("Exec whose context ended at %s: %v", m, err)
				}
				close(answer)
				if m == "StartProgramInGuest" {
					begun(t, sim, "TerminateProcessInGuest")
				}
				for end := time.Now().Add(hang); len(sim.GuestFiles(v.Name)) != 1; time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("after a late answer to %s the guest's files are %v", m, sim.GuestFiles(v.Name))
					}
				}
			}
			// Who gives up stops the program, in the background.
			sim.Delay("ListProcessesInGuest", time.Hour)
			sim.ResetCalls()
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := vm.Exec(ctx, req)
				done <- err
			}()
			begun(t, sim, "ListProcessesInGuest")
			stop()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("Exec whose context ended: %v", err)
			}
			begun(t, sim, "TerminateProcessInGuest")
			for end := time.Now().Add(hang); len(sim.GuestFiles(v.Name)) != 1; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("the guest's files are %v", sim.GuestFiles(v.Name))
				}
			}
			req.Timeout = 50 * time.Millisecond
			if _, err := vm.Exec(t.Context(), req); !errors.Is(err, hypervisor.ErrTimeout) {
				t.Errorf("Exec that outlasts its limit: %v", err)
			}
			sim.ClearFaults()
		})
	}
}

// TestExecElsewhere: output is read from the host that runs the machine, and
// from no other address that a server names.
func TestExecElsewhere(t *testing.T) {
	var asked atomic.Int32
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer trap.Close()
	sim, cl := once(t, vspheresim.Config{VMs: 1, Tools: true})
	vm := firstVM(t, cl, "")
	v, err := vm.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.SetGuest(v.Name, vspheresim.Guest{Tools: true, User: "root", Password: "s3cret"}); err != nil {
		t.Fatal(err)
	}
	req := hypervisor.ExecRequest{Path: "/bin/true", User: "root", Password: "s3cret"}
	if _, err := vm.Exec(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*url.URL){
		"another host": func(u *url.URL) {
			u.Host = strings.TrimPrefix(trap.URL, "http://127.0.0.1")
			u.Host = "127.0.0.2" + u.Host
		},
		"another protocol": func(u *url.URL) { u.Scheme = "ftp" },
		"encryption":       func(u *url.URL) { u.Scheme = "https" },
		"a user":           func(u *url.URL) { u.User = url.UserPassword("a", "s3cret") },
		"a closed port":    func(u *url.URL) { u.Host = "localhost:1" },
		"no host":          func(u *url.URL) { u.Host = "" },
	} {
		sim.RedirectFiles(change)
		if _, err := vm.Exec(t.Context(), req); !errors.Is(err, hypervisor.ErrUnavailable) || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "token") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
}

// TestExecWindows: no output, and that is said.
func TestExecWindows(t *testing.T) {
	sim, c := once(t, vspheresim.Config{Tools: true})
	s := spec("windows")
	s.GuestOS, s.Start = "windows", true
	vm, err := c.CreateVM(t.Context(), s).Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s, err := vm.Supports(t.Context(), capability.GuestExec); err != nil || s.Level != hypervisor.LevelPartial || s.Reason != hypervisor.ReasonPlatform {
		t.Errorf("Supports: %+v (%v)", s, err)
	}
	if err := sim.SetGuest("windows", vspheresim.Guest{Tools: true, Run: func(path, args string) vspheresim.Result {
		return vspheresim.Result{ExitCode: 4, Stdout: path + " " + args}
	}}); err != nil {
		t.Fatal(err)
	}
	res, err := vm.Exec(t.Context(), hypervisor.ExecRequest{Path: `C:\Windows\System32\whoami.exe`, User: "u", Password: "p"})
	if err != nil || res.ExitCode != 4 || len(res.Stdout)+len(res.Stderr) != 0 {
		t.Errorf("Exec returned %+v (%v)", res, err)
	}
}

// TestQuote: what a shell of Linux and a program of Windows make of arguments.
func TestQuote(t *testing.T) {
	for _, c := range []struct{ arg, linux, windows string }{
		{"a", "a", "a"}, {"", "''", `""`}, {"a b", "'a b'", `"a b"`}, {"[ab]", "'[ab]'", "[ab]"}, {"it's", `'it'\''s'`, "it's"},
		{`C:\Program Files\x`, `'C:\Program Files\x'`, `"C:\Program Files\x"`}, {`C:\a b\`, `'C:\a b\'`, `"C:\a b\\"`}, {`C:\a\`, `'C:\a\'`, `C:\a\`},
		{`say "hi"`, `'say "hi"'`, `"say \"hi\""`}, {`a\\"b`, `'a\\"b'`, `"a\\\\\"b"`}, {"^x", "'^x'", "^x"}, {"a=b", "'a=b'", "a=b"}, {"ä", "'ä'", "ä"}, {"a\tb", "'a\tb'", "\"a\tb\""},
	} {
		if got := quote([]string{c.arg}); got != c.linux {
			t.Errorf("%q is %s on Linux, want %s", c.arg, got, c.linux)
		}
		if got := quoteWindows([]string{c.arg}); got != c.windows {
			t.Errorf("%q is %s on Windows, want %s", c.arg, got, c.windows)
		}
	}
}
