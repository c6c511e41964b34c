// Package winelab runs Windows test binaries under Wine, so that code for Windows alone is tested
// on a Debian machine.
package winelab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/anyvisor/anyvisor/internal/lab"
)

// Packages are the Debian packages that the lab needs: the 64-bit half of Wine.
var Packages = []string{"wine", "wine64"}

// Lab is a Wine prefix of its own.
type Lab struct {
	prefix  string
	tmp     string
	release func()
}

// Result is the outcome of a program.
type Result struct {
	Code   int    // exit code
	Output string // standard output and standard error together
}

// Start installs Wine and makes a prefix from the cached one. It needs Debian and root; elsewhere the error wraps
// lab.ErrUnavailable. Stop must be called at the end.
func Start(ctx context.Context) (*Lab, error) {
	if err := lab.Install(ctx, Packages...); err != nil {
		return nil, err
	}
	version, err := lab.Command(ctx, "dpkg-query", "-W", "-f", "${Version}", "wine64")
	if err != nil {
		return nil, err
	}
	base, err := lab.Cached(ctx, "wine", version+" prefix 1", build)
	if err != nil {
		return nil, err
	}
	tmp, release, err := lab.TempDir("avw", func(dir string) { endServer(filepath.Join(dir, "prefix")) })
	if err != nil {
		return nil, err
	}
	l := &Lab{prefix: filepath.Join(tmp, "prefix"), tmp: tmp, release: release}
	// Each lab has a prefix, and so a Wine server, of its own.
	if _, err := lab.Command(ctx, "cp", "-a", "--reflink=auto", filepath.Join(base, "prefix"), l.prefix); err != nil {
		return nil, errors.Join(err, l.Stop())
	}
	return l, nil
}

// build makes a prefix in which Go programs start.
func build(ctx context.Context, dir string) error {
	prefix := filepath.Join(dir, "prefix")
	defer endServer(prefix)
	if r, err := run(ctx, prefix, dir, "wineboot", "-i"); err != nil || r.Code != 0 {
		return fmt.Errorf("wineboot: exit code %d, %w: %s", r.Code, err, r.Output)
	}
	// Since Go 1.21 every program gets random numbers from this DLL, which Wine 8 lacks.
	dll := forwarder("bcryptprimitives.dll", "ProcessPrng", "ADVAPI32.SystemFunction036")
	to := filepath.Join(prefix, "drive_c", "windows", "system32", "bcryptprimitives.dll")
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	return os.WriteFile(to, dll, 0o755)
}

// Run runs a Windows program with ctx as its time limit. An error means that the program could
// not be run or did not end in time; an exit code other than 0 is in the result.
func (l *Lab) Run(ctx context.Context, dir, program string, args ...string) (Result, error) {
	return run(ctx, l.prefix, dir, append([]string{program}, args...)...)
}

// Test builds a package's tests for Windows and runs them in the package's folder.
func (l *Lab) Test(ctx context.Context, pkgDir string, args ...string) (Result, error) {
	bin := filepath.Join(l.tmp, fmt.Sprintf("%d.test.exe", time.Now().UnixNano()))
	defer os.Remove(bin)
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", bin, ".")
	cmd.Dir = pkgDir
	cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return Result{}, fmt.Errorf("build tests of %s for Windows: %w: %s", pkgDir, err, out)
	}
	return l.Run(ctx, pkgDir, bin, args...)
}

// Stop ends the Wine server and removes the prefix.
func (l *Lab) Stop() error {
	endServer(l.prefix)
	err := os.RemoveAll(l.tmp)
	l.release()
	return err
}

// run starts a program under Wine. Its output goes to a file: Wine's server inherits a pipe and would keep it open.
func run(ctx context.Context, prefix, dir string, args ...string) (Result, error) {
	out, err := os.CreateTemp("", "wine-out-")
	if err != nil {
		return Result{}, err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := exec.CommandContext(ctx, "wine", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = environment(prefix)
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		endServer(prefix)
		err = ctx.Err()
	}
	text, rerr := os.ReadFile(out.Name())
	r := Result{Code: cmd.ProcessState.ExitCode(), Output: string(bytes.ToValidUTF8(text, nil))}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return r, errors.Join(err, rerr)
}

func environment(prefix string) []string {
	return append(os.Environ(), "WINEPREFIX="+prefix, "WINEARCH=win64", "WINEDEBUG=-all", "WINEDLLOVERRIDES=mscoree,mshtml=d", "DISPLAY=")
}

// endServer ends all programs of a prefix.
func endServer(prefix string) {
	if _, err := os.Stat(prefix); err != nil {
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	for _, server := range []string{"wineserver", "/usr/lib/wine/wineserver64", "/usr/lib/wine/wineserver"} {
		path, err := exec.LookPath(server)
		if err != nil {
			continue
		}
		for _, how := range []string{"-k", "-w"} {
			cmd := exec.CommandContext(ctx, path, how)
			cmd.Env = environment(prefix)
			_ = cmd.Run() // exits with 1 when none runs
		}
		return
	}
}
