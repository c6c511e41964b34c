package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// XAPIClients are the Debian packages with other people's XAPI clients, for tests of xapisim.
var XAPIClients = []string{"python3", "python3-os-xenapi", "fence-agents"}

// Install makes sure that these Debian packages are installed, without their recommendations. It
// does not use the network if all of them are.
func Install(ctx context.Context, packages ...string) error {
	if err := CheckMachine(); err != nil {
		return err
	}
	if len(missing(ctx, packages)) == 0 {
		return nil
	}
	unlock, err := lockApt()
	if err != nil {
		return err
	}
	defer unlock()
	need := missing(ctx, packages)
	if len(need) == 0 {
		return nil
	}
	if err := aptUpdate(ctx); err != nil {
		return err
	}
	args := append(aptArgs("install", "-y", "-q", "--no-install-recommends"), need...)
	if _, err := Command(ctx, "apt-get", args...); err != nil {
		return fmt.Errorf("install %s: %w", strings.Join(need, " "), err)
	}
	return nil
}

// Unpack downloads one Debian package and unpacks its files into dir, without installing it.
func Unpack(ctx context.Context, pkg, dir string) error {
	unlock, err := lockApt()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := Command(ctx, "apt-cache", "show", "--no-all-versions", pkg); err != nil {
		if err := aptUpdate(ctx); err != nil {
			return err
		}
	}
	tmp, release, err := TempDir("anyvisor-deb-", nil)
	if err != nil {
		return err
	}
	defer release()
	defer os.RemoveAll(tmp)
	// As root, apt would warn that its unprivileged user can't write into tmp.
	if _, err := CommandIn(ctx, tmp, "apt-get", aptArgs("-o", "APT::Sandbox::User=root", "download", pkg)...); err != nil {
		return err
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if len(debs) != 1 {
		return fmt.Errorf("apt-get download %s gave %d files", pkg, len(debs))
	}
	_, err = Command(ctx, "dpkg", "-x", debs[0], dir)
	return err
}

func missing(ctx context.Context, packages []string) (need []string) {
	for _, p := range packages {
		status, err := Command(ctx, "dpkg-query", "-W", "-f", "${db:Status-Status}", p)
		if err != nil || status != "installed" {
			need = append(need, p)
		}
	}
	return need
}

func aptUpdate(ctx context.Context) error {
	_, err := Command(ctx, "apt-get", aptArgs("update", "-q")...)
	return err
}

// aptArgs makes apt wait for another one to finish instead of failing at once.
func aptArgs(args ...string) []string {
	return append([]string{"-o", "DPkg::Lock::Timeout=600"}, args...)
}

func lockApt() (func(), error) {
	dir, err := CacheDir()
	if err != nil {
		return nil, err
	}
	return lockFile(filepath.Join(dir, "apt.lock"))
}
