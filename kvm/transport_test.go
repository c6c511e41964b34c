//go:build cgo

package kvm

import (
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestTransports opens both hosts by URL in every way that libvirt has.
func TestTransports(t *testing.T) {
	l := theLab(t)
	ctx := t.Context()
	pki, err := l.ClientPKI(true)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := l.ClientPKI(false)
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := l.ClientPKI(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"clientcert.pem", "clientkey.pem"} {
		if err := os.Remove(nobody + "/" + f); err != nil {
			t.Fatal(err)
		}
	}
	ssh, err := l.StartSSH(ctx)
	if err != nil {
		t.Fatal(err)
	}
	empty := l.Dir + "/known_nobody"
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(ssh.Command)
	if err != nil {
		t.Fatal(err)
	}
	naive := l.Dir + "/ssh-naive"
	if err := os.WriteFile(naive, []byte(strings.ReplaceAll(string(script), ssh.KnownHosts, empty)), 0o700); err != nil {
		t.Fatal(err)
	}
	other := l.Dir + "/other-key"
	if err := run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other); err != nil {
		t.Fatal(err)
	}
	both := l.Hosts[0].Address + "," + l.Hosts[1].Address
	q := func(pairs ...string) string {
		v := url.Values{"domaintype": {"qemu"}}
		for i := 0; i < len(pairs); i += 2 {
			v.Add(pairs[i], pairs[i+1])
		}
		return "/system?" + v.Encode()
	}
	for _, c := range []struct {
		name, url string
		want      error
	}{
		{"unix", "kvm+unix://" + q("socket", l.Hosts[0].Socket, "socket", l.Hosts[1].Socket), nil},
		{"tcp", "kvm+tcp://" + both + q(), nil},
		{"tls", "kvm+tls://" + both + q("pkipath", pki), nil},
		{"tls is the default", "kvm://" + both + q("pkipath", pki), nil},
		{"tls of an unknown authority", "kvm+tls://" + both + q("pkipath", stranger), hypervisor.ErrUnauthenticated},
		{"tls without a client's certificate", "kvm+tls://" + both + q("pkipath", nobody), hypervisor.ErrUnauthenticated},
		{"ssh", "kvm+ssh://root@" + both + q("keyfile", ssh.Key, "command", ssh.Command), nil},
		{"ssh to unknown hosts", "kvm+ssh://root@" + both + q("keyfile", ssh.Key, "command", naive), hypervisor.ErrUnauthenticated},
		{"ssh with a key that the hosts don't know", "kvm+ssh://root@" + both + q("keyfile", other, "command", ssh.Command), hypervisor.ErrUnauthenticated},
		{"libssh to unknown hosts", "kvm+libssh://root@" + both + q("keyfile", ssh.Key, "sshauth", "privkey", "known_hosts", empty), hypervisor.ErrUnauthenticated},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			client, err := hypervisor.Open(ctx, c.url, nil)
			t.Logf("after %v: %v", time.Since(began), err)
			if c.want != nil {
				if !errors.Is(err, c.want) {
					t.Errorf("Open: %v (kind %s), want %v", err, hypervisor.KindOf(err), c.want)
				}
				if err == nil {
					client.Close()
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			hosts, err := hypervisor.Collect(client.Hosts(ctx))
			if err != nil || len(hosts) != 2 {
				t.Fatalf("hosts %+v, %v", hosts, err)
			}
			for i, h := range hosts {
				if h.State != hypervisor.HostUp || string(h.ID) != l.Hosts[i].UUID {
					t.Errorf("host %d is %+v, want %s up", i, h, l.Hosts[i].UUID)
				}
			}
			if _, err := hypervisor.Collect(client.VMs(ctx, nil)); err != nil {
				t.Error(err)
			}
		})
	}
	// A URL with hosts in it says all that a migration between them needs.
	c, err := hypervisor.Open(ctx, "kvm+tcp://"+both+q(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	vm := running(t, ctx, l, c, spec(l, poolUUID(t, l.Hosts[0], "shared"))("by-url"))
	i, err := vm.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	to := hypervisor.HostID(l.Hosts[0].UUID)
	if i.Host == to {
		to = hypervisor.HostID(l.Hosts[1].UUID)
	}
	if r, err := vm.Migrate(ctx, hypervisor.MigrateOptions{Host: to}).Wait(ctx); err != nil || r.Method != "live, peer to peer" {
		t.Errorf("a migration between the hosts of a URL: %+v, %v", r, err)
	}
}
