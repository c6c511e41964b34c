// Package krblab runs a real Kerberos KDC, that of MIT, with a realm, ports and a state folder of
// its own on loopback.
package krblab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/internal/lab"
)

// Packages are the Debian packages that the lab needs: the KDC, the tool that edits its database, kinit, and a clock
// to set.
var Packages = []string{"krb5-kdc", "krb5-admin-server", "krb5-user", "libfaketime"}

// Realm is the realm of every lab's KDC.
const Realm = "ANYVISOR.TEST"

// Config describes a KDC.
type Config struct {
	// ClockOffset is how far its clock is ahead of this machine's; negative is behind.
	ClockOffset time.Duration
}

// KDC is a running KDC. It ends when this process calls Stop.
type KDC struct {
	dir     string
	release func()
	cfg     Config
	cmd     *exec.Cmd
	ended   chan error
	said    *bytes.Buffer
	files   int
}

// Start installs the KDC, makes an empty realm and starts serving it. It needs Debian and root; elsewhere the error
// wraps [lab.ErrUnavailable]. Stop must be called at the end.
func Start(ctx context.Context, cfg Config) (*KDC, error) {
	if err := lab.Install(ctx, Packages...); err != nil {
		return nil, err
	}
	dir, release, err := lab.TempDir("avkrb", nil)
	if err != nil {
		return nil, err
	}
	k := &KDC{dir: dir, release: release, cfg: cfg}
	// A port that was free may be taken before the KDC gets it.
	for attempt := 0; ; attempt++ {
		err := k.serve(ctx)
		if err == nil {
			return k, nil
		}
		if attempt == 4 || ctx.Err() != nil {
			return nil, errors.Join(err, k.Stop())
		}
	}
}

// ForTest starts a KDC for the duration of a test, with users of one password and a service, and
// writes the service's key into a keytab. Where no lab is possible the test is skipped, or fails
// on CI.
func ForTest(tb testing.TB, cfg Config, password string, users []string, service string) (k *KDC, keytab string) {
	tb.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Minute)
	defer stop()
	k, err := Start(ctx, cfg)
	if err != nil {
		lab.Skip(tb, err)
	}
	tb.Cleanup(func() {
		if err := k.Stop(); err != nil {
			tb.Error(err)
		}
	})
	for _, u := range users {
		if err := k.AddUser(ctx, u, password); err != nil {
			tb.Fatal(err)
		}
	}
	if err := k.AddService(ctx, service); err != nil {
		tb.Fatal(err)
	}
	if keytab, err = k.Keytab(ctx, service); err != nil {
		tb.Fatal(err)
	}
	return k, keytab
}

// serve makes the realm on the first call, and starts the KDC on a free port.
func (k *KDC) serve(ctx context.Context) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	files := map[string]string{
		"krb5.conf": `[libdefaults]
 default_realm = ` + Realm + `
 dns_lookup_kdc = false
 dns_lookup_realm = false
 dns_canonicalize_hostname = false
 rdns = false
 udp_preference_limit = 1
[realms]
 ` + Realm + ` = {
  kdc = ` + port + `
 }
[domain_realm]
 localhost = ` + Realm + `
 127.0.0.1 = ` + Realm + `
[logging]
 kdc = STDERR
`,
		"kdc.conf": `[kdcdefaults]
 kdc_listen = ` + port + `
 kdc_tcp_listen = ` + port + `
[realms]
 ` + Realm + ` = {
  database_name = ` + k.path("principal") + `
  key_stash_file = ` + k.path("stash") + `
  acl_file = ` + k.path("acl") + `
  supported_enctypes = aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha1-96:normal
  default_principal_flags = +preauth
 }
`,
	}
	for name, text := range files {
		if err := os.WriteFile(k.path(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if _, err := os.Stat(k.path("principal")); err != nil {
		if _, err := k.run(ctx, "kdb5_util", "create", "-s", "-r", Realm, "-P", "master"); err != nil {
			return err
		}
	}
	k.said, k.ended = &bytes.Buffer{}, make(chan error, 1)
	k.cmd = k.command(context.Background(), "krb5kdc", "-n", "-r", Realm)
	k.cmd.Stdout, k.cmd.Stderr = k.said, k.said
	endWithParent(k.cmd)
	if err := k.cmd.Start(); err != nil {
		k.cmd = nil
		return err
	}
	go func(cmd *exec.Cmd, ended chan<- error) { ended <- cmd.Wait() }(k.cmd, k.ended)
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	return lab.WaitFor(ctx, 20*time.Millisecond, func(ctx context.Context) error {
		select {
		case err := <-k.ended:
			k.cmd = nil
			stop()
			return fmt.Errorf("krb5kdc ended: %v: %s", err, k.said)
		default:
		}
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", port)
		if err == nil {
			c.Close()
		}
		return err
	})
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (k *KDC) path(name string) string { return filepath.Join(k.dir, name) }

// Config is the path of a krb5.conf that names this KDC.
func (k *KDC) Config() string { return k.path("krb5.conf") }

// AddUser makes a principal with a password.
func (k *KDC) AddUser(ctx context.Context, name, password string) error {
	_, err := k.run(ctx, "kadmin.local", "-r", Realm, "addprinc", "-pw", password, name)
	return err
}

// AddService makes a principal with a random key.
func (k *KDC) AddService(ctx context.Context, name string) error {
	_, err := k.run(ctx, "kadmin.local", "-r", Realm, "addprinc", "-randkey", name)
	return err
}

// Rekey gives a principal a new random key, like a host of a domain gets every month, and leaves
// only that key in the keytab.
func (k *KDC) Rekey(ctx context.Context, name, keytab string) error {
	if err := os.Remove(keytab); err != nil {
		return err
	}
	_, err := k.run(ctx, "kadmin.local", "-r", Realm, "ktadd", "-k", keytab, name)
	return err
}

// Keytab writes the present keys of principals into a new file.
func (k *KDC) Keytab(ctx context.Context, names ...string) (string, error) {
	file := k.file("keytab")
	_, err := k.run(ctx, "kadmin.local", append([]string{"-r", Realm, "ktadd", "-norandkey", "-k", file}, names...)...)
	return file, err
}

// Login gets a user's ticket with kinit by the KDC's clock and returns the credential cache.
func (k *KDC) Login(ctx context.Context, user, password string) (string, error) {
	file := k.file("ccache")
	cmd := k.command(ctx, "kinit", "-c", "FILE:"+file, user)
	cmd.Stdin = strings.NewReader(password + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("kinit %s: %w: %s", user, err, out)
	}
	return file, nil
}

func (k *KDC) file(kind string) string {
	k.files++
	return k.path(fmt.Sprintf("%s-%d", kind, k.files))
}

// Environment returns the environment that other programs need to find the KDC.
func (k *KDC) Environment() []string {
	return append(os.Environ(), "KRB5_CONFIG="+k.Config(), "KRB5_KDC_PROFILE="+k.path("kdc.conf"), "KRB5RCACHENAME=none:", "LC_ALL=C")
}

// command makes a command that uses the KDC's files and clock.
func (k *KDC) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.WaitDelay = k.Environment(), 5*time.Second
	if s := int(k.cfg.ClockOffset.Seconds()); s != 0 {
		// Without faketime's own program, which stays between: ending it would leave the KDC.
		cmd.Env = append(cmd.Env, "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", fmt.Sprintf("FAKETIME=%+d", s))
	}
	return cmd
}

func (k *KDC) run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := k.command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return string(out), nil
}

// Stop ends the KDC and removes its files.
func (k *KDC) Stop() error {
	if k.cmd != nil {
		_ = k.cmd.Process.Kill()
		<-k.ended
		k.cmd = nil
	}
	err := os.RemoveAll(k.dir)
	k.release()
	return err
}
