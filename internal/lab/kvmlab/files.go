package kvmlab

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/anyvisor/anyvisor/internal/lab"
)

// writeFiles makes the host's folder. qemu.conf turns off everything that would need a full
// system or affect things that both hosts share: other users, file ownership, security labels,
// virtlogd, cgroups.
func (h *Host) writeFiles() error {
	pki := filepath.Join(h.root, "pki")
	if err := h.lab.authority.issue(pki, "server", h.Name, x509.ExtKeyUsageServerAuth, h.Address); err != nil {
		return err
	}
	libvirtd := fmt.Sprintf(`host_uuid = %q
listen_tls = 1
ca_file = %q
cert_file = %q
key_file = %q
listen_tcp = 1
listen_addr = "0.0.0.0"
auth_tcp = "none"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "root"
max_clients = 500
max_workers = 40
max_client_requests = 40
`, h.UUID, pki+"/cacert.pem", pki+"/servercert.pem", pki+"/serverkey.pem")
	const qemu = `user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = [ ]
migration_address = "0.0.0.0"
`
	passwd, err := withAccount("/etc/passwd", "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin\n")
	if err != nil {
		return err
	}
	passwd = strings.Replace(passwd, ":/root:", ":"+h.home()+":", 1)
	group, err := withAccount("/etc/group", "libvirt-qemu:x:64055:\nkvm:x:64056:\n")
	if err != nil {
		return err
	}
	hosts := "127.0.0.1 localhost\n"
	for i := range 2 {
		hosts += fmt.Sprintf("%s kvm%d\n", h.lab.wire.address(i), i+1)
	}
	for name, text := range map[string]string{
		"etc/libvirt/libvirtd.conf": libvirtd,
		"etc/libvirt/qemu.conf":     qemu,
		"etc/libvirt/libvirt.conf":  "",
		"passwd":                    passwd,
		"group":                     group,
		"hosts":                     hosts,
		"var/log/libvirt/.keep":     "",
		"pool/.keep":                "",
		"home/.keep":                "",
	} {
		file := filepath.Join(h.root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if filepath.Base(name) == ".keep" {
			continue
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// withAccount adds lines to an account file for names that it lacks: libvirtd looks up the
// user libvirt-qemu before it reads its configuration, and Debian makes that user only with
// the package that brings system services.
func withAccount(file, lines string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	text := strings.TrimRight(string(b), "\n") + "\n"
	for line := range strings.Lines(lines) {
		name, _, _ := strings.Cut(line, ":")
		if !strings.Contains("\n"+text, "\n"+name+":") {
			text += line
		}
	}
	return text, nil
}

// QEMU's capabilities take seconds to probe. libvirt keeps them in files that it checks against
// the QEMU and libvirt binaries and the kernel, so an old one does no harm.
const capabilities = "var/cache/libvirt/qemu/capabilities"

func seedCapabilities(h *Host) {
	if cache, err := lab.CacheDir(); err == nil {
		lab.CopyFiles(filepath.Join(h.root, capabilities), filepath.Join(cache, "qemu-capabilities")) // what is missing is probed again
	}
}

func keepCapabilities(h *Host) {
	if cache, err := lab.CacheDir(); err == nil {
		lab.CopyFiles(filepath.Join(cache, "qemu-capabilities"), filepath.Join(h.root, capabilities))
	}
}

func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
