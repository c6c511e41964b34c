package kvmlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/anyvisor/anyvisor/internal/lab"
)

// SSH describes how to reach the hosts' sshd.
type SSH struct {
	Key        string // file with the private key of a user that the hosts let in as root
	KnownHosts string // file with the hosts' keys
	// Command is a program to call instead of ssh, which knows only the hosts in KnownHosts.
	Command string
}

// StartSSH starts an sshd on every host.
func (l *Lab) StartSSH(ctx context.Context) (*SSH, error) {
	s := &SSH{Key: filepath.Join(l.Dir, "ssh-key"), KnownHosts: filepath.Join(l.Dir, "known_hosts"), Command: filepath.Join(l.Dir, "ssh")}
	if _, err := lab.Command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.Key); err != nil {
		return nil, err
	}
	public, err := os.ReadFile(s.Key + ".pub")
	if err != nil {
		return nil, err
	}
	known := ""
	for _, h := range l.Hosts {
		key := filepath.Join(h.root, "ssh-host-key")
		out, err := lab.Command(ctx, "dropbearkey", "-t", "ed25519", "-f", key)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "ssh-ed25519" {
				known += h.Address + " ssh-ed25519 " + f[1] + "\n"
			}
		}
		dir := filepath.Join(h.home(), ".ssh")
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "authorized_keys"), public, 0o600)); err != nil {
			return nil, err
		}
		// It enters the background by itself, with the log on its standard error.
		if _, err := h.Run(ctx, "dropbear", "-s", "-r", key, "-p", h.Address+":22", "-P", filepath.Join(h.root, "dropbear.pid")); err != nil {
			return nil, fmt.Errorf("sshd of %s: %w", h.Name, err)
		}
	}
	script := "#!/bin/sh\nexec ssh -F none -o UserKnownHostsFile=" + s.KnownHosts + " -o GlobalKnownHostsFile=none \"$@\"\n"
	return s, errors.Join(os.WriteFile(s.KnownHosts, []byte(known), 0o600), os.WriteFile(s.Command, []byte(script), 0o700))
}

// home is the home folder of the host's root, instead of this machine's.
func (h *Host) home() string { return filepath.Join(h.root, "home") }
