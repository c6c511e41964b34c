package libvirtx

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"
)

// answerLimit is the time that a host may take until its first byte.
const answerLimit = 5 * time.Second

// hellos are the first messages of a client on a transport, so that the
// server answers.
var hellos = map[string]struct {
	port  string
	hello func(context.Context, net.Conn) error
}{
	"tcp": {"16509", helloRPC}, "tls": {"16514", helloTLS}, "": {"16514", helloTLS},
	"ssh": {"22", helloSSH}, "libssh": {"22", helloSSH}, "libssh2": {"22", helloSSH},
}

// answers finds out whether a server answers at a libvirt URI: libvirt's own
// connecting has no time limit, and can't be interrupted.
func answers(ctx context.Context, u *url.URL) error {
	_, transport, _ := strings.Cut(u.Scheme, "+")
	t, ok := hellos[transport]
	if u.Hostname() == "" || !ok {
		return nil
	}
	port := t.port
	if u.Port() != "" {
		port = u.Port()
	}
	ctx, stop := context.WithTimeout(ctx, answerLimit)
	defer stop()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return fmt.Errorf("host does not answer: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if err := t.hello(ctx, c); err != nil && ctx.Err() != nil {
		return fmt.Errorf("port %s of the host accepts connections and does not answer: is it libvirt's?", port)
	}
	return nil // libvirt reports any other problem better
}

// helloRPC asks for the authentication methods, as libvirt does first
// (remote_protocol.x: REMOTE_PROC_AUTH_LIST). A packet is length, program,
// version, procedure, type, serial number and status.
func helloRPC(ctx context.Context, c net.Conn) error {
	var call []byte
	for _, word := range []uint32{28, 0x20008086, 1, 66, 0, 0, 0} {
		call = binary.BigEndian.AppendUint32(call, word)
	}
	if _, err := c.Write(call); err != nil {
		return err
	}
	return helloSSH(ctx, c)
}

// helloSSH waits for the first byte: here the server speaks first (RFC 4253, 4.2).
func helloSSH(_ context.Context, c net.Conn) error {
	_, err := c.Read(make([]byte, 1))
	return err
}

// helloTLS begins a handshake and breaks it off at the server's first byte.
func helloTLS(ctx context.Context, c net.Conn) error {
	return tls.Client(firstByte{c}, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx) //nolint:gosec // nothing is sent
}

type firstByte struct{ net.Conn }

func (f firstByte) Read([]byte) (int, error) {
	if err := helloSSH(context.Background(), f.Conn); err != nil {
		return 0, err
	}
	return 0, io.EOF
}
