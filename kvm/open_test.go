package kvm

import (
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

func TestParseURL(t *testing.T) {
	for in, want := range map[string][]string{
		"kvm:///system":      {"qemu:///system"},
		"kvm:///session":     {"qemu:///session"},
		"kvm://h1,h2/system": {"qemu://h1/system", "qemu://h2/system"},
		"kvm+ssh://root@h1,h2:2222/system?keyfile=/k":                {"qemu+ssh://root@h1:2222/system?keyfile=%2Fk&no_tty=1", "qemu+ssh://root@h2:2222/system?keyfile=%2Fk&no_tty=1"},
		"kvm+tcp://[::1]/system":                                     {"qemu+tcp://[::1]/system"},
		"kvm+unix:///system?socket=/a&socket=/b&domaintype=qemu":     {"qemu+unix:///system?socket=%2Fa", "qemu+unix:///system?socket=%2Fb"},
		"kvm+test:///default":                                        {"test:///default"},
		"kvm://h/system?insecure=true&pkipath=/p":                    {"qemu://h/system?no_verify=1&pkipath=%2Fp"},
		"kvm+ssh://h/system?no_tty=0&insecure=false":                 {"qemu+ssh://h/system?no_tty=0"},
		"kvm+tls://u:secret@h/system?domaintype=kvm&seriallogdir=/x": {"qemu+tls://u@h/system"},
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseURL(u)
		if err != nil || !slices.Equal(got.Hosts, want) {
			t.Errorf("parseURL(%s) = %q, %v; want %q", in, got.Hosts, err, want)
		}
	}
	u, err := url.Parse("kvm+tls://u:secret@h/system?domaintype=kvm&seriallogdir=/x")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseURL(u)
	if err != nil || got.DomainType != "kvm" || got.SerialLogDir != "/x" || got.Username != "u" || got.Password != "secret" {
		t.Errorf("parseURL reads %+v, %v", got, err)
	}
	for _, in := range []string{"kvm://h", "kvm+carrier-pigeon:///system", "kvm:///system?domaintype=xen", "kvm://h1,,h2/system", "kvm+x://u:secret@h/system",
		"kvm://h/system?nonsense=secret", "kvm://h/system?no_verify=1", "kvm://h/system?insecure=secret", "kvm+tcp://h/system?insecure=1", "kvm:///system?insecure=1",
		"kvm://h/system?pkipath=/a&pkipath=/b", "kvm+unix:///system?socket=/a&socket=/b&keyfile=1&keyfile=2"} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		_, err = parseURL(u)
		if hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument || strings.Contains(err.Error(), "secret") {
			t.Errorf("parseURL(%s): %v, want ErrInvalidArgument without the password", in, err)
		}
	}
}

// TestConfigHidesItsPassword also where a libvirt URI has one.
func TestConfigHidesItsPassword(t *testing.T) {
	c := Config{Hosts: []string{"qemu+tls://u:s3cret@h/system", "%zz:s3cret"}, Username: "u", Password: "s3cret"}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "c", c)
	for _, s := range []string{fmt.Sprintf("%v %+v %#v", c, c, c), log.String()} {
		if strings.Contains(s, "s3cret") || !strings.Contains(s, "@h/system") {
			t.Errorf("a Config prints as %s", s)
		}
	}
}

func TestPeers(t *testing.T) {
	cfg := Config{Sysfs: func(uri string) Sysfs { return nil }}
	if sysfsOf(cfg, "qemu+ssh://h/system") != nil || sysfsOf(cfg, "test:///default") != nil {
		t.Error("a way to the files of a remote host, or of the test driver")
	}
	if sysfsOf(cfg, "qemu:///system") == nil || sysfsOf(cfg, "qemu+unix:///system?socket=/a") == nil {
		t.Error("no way to this machine's files")
	}
}
