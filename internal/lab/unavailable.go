package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// ErrUnavailable is wrapped by every error that means "this machine can't host a lab", as
// opposed to a lab that should have worked and did not.
var ErrUnavailable = errors.New("lab not available here")

// CheckMachine checks whether labs can run here at all: Linux on x86-64, root, and Debian's
// package tools. The error wraps [ErrUnavailable].
func CheckMachine() error {
	switch {
	case runtime.GOOS != "linux" || runtime.GOARCH != "amd64":
		return fmt.Errorf("%w: labs need Linux on amd64, this is %s/%s", ErrUnavailable, runtime.GOOS, runtime.GOARCH)
	case os.Geteuid() != 0:
		return fmt.Errorf("%w: labs need root for namespaces and mounts, this is uid %d", ErrUnavailable, os.Geteuid())
	}
	for _, tool := range []string{"apt-get", "dpkg", "unshare", "nsenter", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: labs need a Debian system, and %s is missing", ErrUnavailable, tool)
		}
	}
	return nil
}

// Skip ends the test because of err. The test is skipped if err wraps [ErrUnavailable] on a
// developer's machine, and failed otherwise. With CI=true a lab that is not available is a
// failure too, so that a rung can't disappear unnoticed.
func Skip(tb testing.TB, err error) {
	tb.Helper()
	if errors.Is(err, ErrUnavailable) && os.Getenv("CI") != "true" {
		tb.Skip(err)
	}
	tb.Fatal(err)
}

// SkipMain is like [Skip], for a TestMain, which has no test to skip. It reports whether the
// binary may continue without the lab.
func SkipMain(err error) (goOn bool) {
	fmt.Fprintln(os.Stderr, err)
	return errors.Is(err, ErrUnavailable) && os.Getenv("CI") != "true"
}
