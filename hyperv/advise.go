package hyperv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
	"github.com/anyvisor/anyvisor/hyperv/internal/wsman"
	"github.com/anyvisor/anyvisor/hypervisor"
)

// WinRM's ports. A fresh Windows server listens on HTTP alone.
const (
	portHTTP  = 5985
	portHTTPS = 5986
)

// advise adds to the error of a first connection what has to be switched on.
func (h *host) advise(ctx context.Context, err error) error {
	var conn *wsman.ConnectionError
	switch {
	case cim.KindOf(err) == cim.Permission:
		return hypervisor.Errorf(hypervisor.ErrPermission, h.id.Ref(), "the host knows the account and refuses it: it must be an administrator of the host, or a member of Hyper-V Administrators and of Remote Management Users: %w", err)
	case h.cfg.Transport != TransportWSMan || !errors.As(err, &conn) || conn.Sent || ctx.Err() != nil:
		return err
	}
	why := h.otherPort(ctx)
	if why == "" {
		return err
	}
	return &hypervisor.Error{Kind: hypervisor.ErrUnavailable, Object: h.id.Ref(), Unsent: true, Err: fmt.Errorf("%s: %w", why, err)}
}

const (
	useHTTP  = "set PlainHTTP (plainhttp=true), with which messages are sealed by NTLM or Kerberos"
	useHTTPS = "leave PlainHTTP (plainhttp=true) out"
)

// otherPort looks whether WinRM answers on its other port, and says what to
// change. It returns "" if there is nothing to say.
func (h *host) otherPort(ctx context.Context) string {
	plain, secure := h.cfg.ports()
	name, port, other := string(h.id), secure, plain
	if h.cfg.PlainHTTP {
		port, other = plain, secure
	}
	if n, p, err := net.SplitHostPort(name); err == nil {
		name = n
		if given, _ := strconv.Atoi(p); given == other { // this port speaks the other protocol
			if h.cfg.PlainHTTP {
				return fmt.Sprintf("port %d is WinRM's port for HTTPS: %s", other, useHTTPS)
			}
			return fmt.Sprintf("port %d is WinRM's port for HTTP: %s, or use port %d", other, useHTTP, port)
		} else if given != port {
			return ""
		}
	}
	if !listens(ctx, name, other) {
		return fmt.Sprintf("neither port %d nor port %d answers: switch WinRM on (winrm quickconfig), and open the port in the host's firewall", port, other)
	}
	if h.cfg.PlainHTTP {
		return fmt.Sprintf("port %d (HTTP) does not answer, port %d (HTTPS) does: %s, or make a listener for HTTP (winrm quickconfig)", port, other, useHTTPS)
	}
	return fmt.Sprintf("port %d (HTTPS) does not answer, port %d (HTTP) does, as on a fresh Windows: %s, or make a listener for HTTPS with a certificate (winrm quickconfig -transport:https)", port, other, useHTTP)
}

// ports are WinRM's ports for HTTP and HTTPS. Tests have their own.
func (c *Config) ports() (plain, secure int) {
	if c.winrm != [2]int{} {
		return c.winrm[0], c.winrm[1]
	}
	return portHTTP, portHTTPS
}

func listens(ctx context.Context, host string, port int) bool {
	c, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	c.Close()
	return true
}
